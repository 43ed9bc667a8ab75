"""Bodies as clients and browsers send them: compressed, as forms, several files, with the files' own names."""

import gzip
import json
import zlib

import pytest

SOURCE = """
    import dataclasses
    from pathlib import Path
    from plugin_runtime import Upload, tool

    @dataclasses.dataclass
    class Box:
        x: int

        def __post_init__(self):
            if self.x >= 100:
                raise {100: KeyError, 101: SystemExit, 102: ZeroDivisionError, 103: AssertionError}[self.x]("too far")

    class Plugin:
        def validate(self): pass

        @tool
        def box(self, box: Box, more: list[Box] = []) -> int:
            return box.x

        @tool
        def add(self, a: int, b: int = 2, flag: bool = False) -> list:
            return [a, b, flag]

        @tool
        def size(self, image: bytes = b"default", language: str = "eng") -> list:
            return [len(image), language]

        @tool
        def stored(self, video: Path, n: int = 1) -> list:
            return [video.name, video.stat().st_size]

        @tool
        def several(self, files: list[Path], images: list[bytes] | None = None) -> list:
            names = [file.name for file in files]
            return [names, [file.read_text() for file in files], [len(image) for image in images or ()]]

        @tool
        def uploaded(self, file: Upload) -> dict:
            with file.open() as opened:
                start = opened.read(3).decode("latin-1")
            return {"filename": file.filename, "type": file.content_type, "size": file.size, "start": start,
                    "path": file.path.name, "read": len(file.read_bytes())}

        @tool
        def numbers(self, w: float, n: int, more: list[float] = []) -> list:
            return [w, n, more]

        @tool
        def one_or_more(self, data: bytes | list[bytes], paths: list[Path] | None = None) -> list:
            return [len(each) for each in data] if isinstance(data, list) else [-len(data)]

        @tool
        def all_uploaded(self, files: list[Upload]) -> list:
            return [[file.filename, file.content_type, file.path.name] for file in files]

        @tool
        def browser(self, image: bytes = b"default", mask: bytes | None = None, video: Path | None = None,
                    n: int = 1, agree: bool = False, note: str = "none") -> list:
            return [image.decode(), mask, video is None, n, agree, note]
"""
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def runtime(launch_once):
    return launch_once(SOURCE, max_scratch=str(4 * MIB)).ready()


def raw_deflate(data):
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


CODINGS = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "upper case": ("GZIP", gzip.compress),
    "with identity": ("identity, gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
    "members": ("gzip", lambda data: gzip.compress(data[:3]) + gzip.compress(data[3:])),
    "padded": ("gzip", lambda data: gzip.compress(data) + b"\0" * 50),
}
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="language"\r\n\r\nfra\r\n'
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + b"x" * 70_000 + b"\r\n--b--\r\n"
)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with length"])
def test_a_compressed_body_is_read_as_the_body_it_was(runtime, coding, chunked):
    name, compress = CODINGS[coding]

    def post(tool, body, content_type):
        data = compress(body)
        content = (data[at : at + 9] for at in range(0, len(data), 9)) if chunked else data
        headers = {"content-type": content_type, "content-encoding": name}
        return runtime.post(tool, content=content, headers=headers).json()["result"]

    assert post("add", b'{"a": 1}', "application/json") == [1, 2, False]
    assert post("size", b"y" * 5000, "image/png") == [5000, "eng"]
    assert post("stored", b"y" * 5000, "video/mp4") == ["video.mp4", 5000]
    assert post("size", FORM, "multipart/form-data; boundary=b") == [70_000, "fra"]
    assert post("add", b"a=1&b=3", "application/x-www-form-urlencoded") == [1, 3, False]


def post_as(runtime, tool, body, content_type, coding):
    return runtime.post(tool, content=body, headers={"content-type": content_type, "content-encoding": coding})


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"garbage"),
        ("gzip", gzip.compress(b'{"a": 1}')[:-4]),
        ("gzip", gzip.compress(b'{"a": 1}')[:12]),
        ("gzip", gzip.compress(b'{"a": 1}') + b"more"),
        ("gzip", b'{"a": 1}'),
        ("deflate", zlib.compress(b'{"a": 1}')[:-2]),
        ("deflate", zlib.compress(b'{"a": 1}') + b"more"),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "image/png"])
def test_what_is_no_gzip_is_a_bad_request(runtime, coding, body, content_type):
    tool = "add" if content_type == "application/json" else "size"
    answer = post_as(runtime, tool, body, content_type, coding)
    assert (answer.status_code, answer.json()["kind"]) == (400, "bad_request")
    assert "Content-Encoding" in answer.json()["error"]


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "gzip, deflate", "x", "gzip;q=1"])
def test_any_other_coding_is_unsupported(runtime, coding):
    answer = post_as(runtime, "size", b"abc", "image/png", coding)
    assert (answer.status_code, answer.json()["kind"]) == (415, "unsupported_media_type")
    assert "gzip, deflate, identity" in answer.json()["error"]


@pytest.mark.parametrize(
    ("tool", "content_type"),
    [("add", "application/json"), ("size", "image/png"), ("stored", "video/mp4"), ("stored", "multipart/form-data")],
)
def test_a_bomb_is_too_large(runtime, tool, content_type):
    """Whatever it is sent as: 300 MiB of 300 KB."""
    body = gzip.compress(bytes(300 * MIB), 9)
    if content_type == "multipart/form-data":
        content_type += "; boundary=b"
        body = gzip.compress(b"--b--\r\n") + body  # behind the end of the form
    answer = post_as(runtime, tool, body, content_type, "gzip")
    assert (answer.status_code, answer.json()["kind"]) == (413, "too_large")
    assert runtime.result("add", a=1) == [1, 2, False]


def test_an_empty_body_may_be_called_compressed(runtime):
    assert post_as(runtime, "size", b"", "application/json", "gzip").json()["result"] == [7, "eng"]


@pytest.mark.parametrize("x", [100, 101, 102, 103])
def test_no_value_that_makes_an_authors_type_raise_ends_the_plugin(runtime, x):
    pid = runtime.status()["worker"]["pid"]
    for answer in (
        runtime.run("box", box={"x": x}),
        runtime.run("box", box={"x": 1}, more=[{"x": 1}, {"x": x}]),
        runtime.post("box", data={"box": json.dumps({"x": x})}),
        runtime.post("box", files={"box": (None, json.dumps({"x": x}))}),
        runtime.post(f'box?box={{"x":{x}}}'),
    ):
        assert (answer.status_code, answer.json()["kind"]) == (422, "invalid_arguments")
        assert "too far" in answer.json()["error"]
    assert runtime.result("box", box={"x": 5}) == 5
    assert runtime.status()["worker"]["pid"] == pid


BROKEN_RUNTIME = """
    import sys
    from plugin_runtime import tool
    sys.modules["python_multipart"] = None

    class Plugin:
        def validate(self): pass

        @tool
        def size(self, image: bytes) -> int:
            return len(image)
"""


def test_a_defect_in_reading_arguments_is_answered_and_logged(launch):
    runtime = launch(BROKEN_RUNTIME).ready()
    for headers in ({}, {"x-run-keep": "1", "x-run-id": "r1"}):
        answer = runtime.post("size", files={"image": ("a", b"abc")}, headers=headers)
        assert (answer.status_code, answer.json()["kind"]) == (500, "defect")
    assert "ModuleNotFoundError" in runtime.log.read_text()
    assert runtime.post("size", content=b"abc", headers={"content-type": "image/png"}).json()["result"] == 3
    assert runtime.client("tools").get("/runs/r1").json()["kind"] == "defect"


BROKEN_SERVICE = """
    from plugin_runtime import tool
    import plugin_runtime.worker.tool_service as service

    class Plugin:
        def validate(self):
            service.UploadFolder = None

        @tool
        def nothing(self) -> None: ...
"""


def test_any_other_defect_in_serving_a_call_is_answered_and_logged(launch):
    runtime = launch(BROKEN_SERVICE).ready()
    for _ in range(2):
        answer = runtime.run("nothing")
        assert (answer.status_code, answer.json()["kind"]) == (500, "defect")
    assert "TypeError" in runtime.log.read_text()
    assert runtime.status()["phase"] == "ready"


# Forms


def form(*parts):
    body = b"".join(b"--b\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--b--\r\n"
    return {"content": body, "headers": {"content-type": "multipart/form-data; boundary=b"}}


def test_a_browsers_form_with_nothing_filled_in_gives_the_defaults(runtime):
    empty = form(
        b'name="image"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n',
        b'name="mask"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n',
        b'name="video"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n',
        b'name="n"\r\n\r\n',
    )
    assert runtime.post("browser", **empty).json()["result"] == ["default", None, True, 1, False, "none"]
    filled = form(
        b'name="image"; filename=""\r\n\r\nabc',
        b'name="mask"\r\n\r\n',
        b'name="n"\r\n\r\n5',
        b'name="agree"\r\n\r\non',
        b'name="note"\r\n\r\n',
    )
    assert runtime.post("browser", **filled).json()["result"] == ["abc", None, True, 5, True, ""]


def test_a_file_that_is_required_and_was_not_chosen_is_missing(runtime):
    answer = runtime.post("stored", **form(b'name="video"; filename=""\r\n\r\n'))
    assert (answer.status_code, answer.json()["error"][:29]) == (422, "parameter 'video' is missing:")
    assert runtime.post("several", **form(b'name="files"; filename=""\r\n\r\n')).status_code == 422


@pytest.mark.parametrize("tool", ["size", "stored", "several", "uploaded", "browser"])
@pytest.mark.parametrize("head", [b"", b"\r\nContent-Type: text/plain; charset=utf-8"])
def test_the_text_of_a_field_is_no_file(runtime, tool, head):
    """`curl -F photo=x.jpg` without the `@`: what was meant is in no tool's hands."""
    name = {"size": "image", "stored": "video", "several": "files", "uploaded": "file", "browser": "mask"}[tool]
    answer = runtime.post(tool, **form(b'name="%s"%s\r\n\r\nx.jpg' % (name.encode(), head)))
    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid_arguments")
    assert f"parameter {name!r} is an upload" in answer.json()["error"]
    assert f"send it as a file: curl -F {name}=@x.jpg" in answer.json()["error"]
    binary = runtime.post(tool, **form(b'name="%s"\r\n\r\n\x89PNG' % name.encode()))
    assert f"curl -F {name}=@FILE" in binary.json()["error"]


@pytest.mark.parametrize("text", [b"aGVsbG8", b"aGVsbG8=", b"data:text/plain;base64,aGVsbG8=", b"aGVs\nbG8="])
def test_the_text_of_a_field_is_base64_as_in_json(runtime, text):
    answer = runtime.post("size", **form(b'name="image"\r\n\r\n' + text))
    assert answer.json()["result"] == [5, "eng"]
    assert runtime.post("several", **form(b'name="files"\r\n\r\n' + text)).status_code == 422
    several = form(b'name="files"; filename="a"\r\n\r\na', *[b'name="images"\r\n\r\n' + text] * 2)
    assert runtime.post("several", **several).json()["result"][2] == [5, 5]
    listed = form(b'name="files"; filename="a"\r\n\r\na', b'name="images"\r\n\r\n["aGk=", "1234"]')
    assert runtime.post("several", **listed).json()["result"][2] == [2, 3]


def test_one_file_several_or_none_may_be_texts(runtime):
    def result(*texts):
        return runtime.post("one_or_more", **form(*(b'name="data"\r\n\r\n' + text for text in texts))).json()["result"]

    assert [result(b"[]"), result(b"aGk="), result(b"aGk=", b"aGk="), result(b'["aGk="]')] == [[], [-2], [2, 2], [2]]
    none = form(b'name="data"\r\n\r\n[]', b'name="paths"\r\n\r\n[]')
    assert runtime.post("one_or_more", **none).json()["result"] == []
    assert runtime.run("one_or_more", data=[]).json()["result"] == []


def test_a_part_that_is_typed_as_a_file_needs_no_file_name(runtime):
    part = b'name="file"\r\nContent-Type: image/png\r\n\r\nx.jpg'
    assert runtime.post("uploaded", **form(part)).json()["result"]["size"] == 5


def test_a_file_that_is_missing_in_a_form_is_said_to_be_sent_as_one(runtime):
    for answer in (runtime.post("stored", data={"n": "1"}), runtime.post("stored", **form(b'name="video"\r\n\r\n'))):
        assert answer.json()["error"] == "parameter 'video' is missing: send it as a file: curl -F video=@FILE"


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"w": ".2", "n": "+3"}, [0.2, 3, []]),
        ({"w": "+1.", "n": "1_000"}, [1.0, 1000, []]),
        ({"w": " 1e3 ", "n": "007"}, [1000.0, 7, []]),
        ({"w": "1_0.5", "n": "1e3", "more": [".5", "+2", "3"]}, [10.5, 1000, [0.5, 2, 3]]),
        ({"w": "-.5", "n": "-1_0", "more": ".5"}, [-0.5, -10, [0.5]]),
    ],
)
def test_a_number_is_whatever_python_takes_for_one(runtime, fields, result):
    assert runtime.post("numbers", data=fields).json()["result"] == result


@pytest.mark.parametrize("fields", [{"n": ".5"}, {"n": "0x10"}, {"n": "1__0"}, {"n": "three"}, {"w": "1,5"}])
def test_what_is_no_number_is_refused(runtime, fields):
    answer = runtime.post("numbers", data={"w": "1", "n": "1", **fields})
    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid_arguments")


def test_an_empty_file_with_a_name_is_a_file(runtime):
    assert runtime.post("browser", files={"image": ("a.txt", b"")}).json()["result"][0] == ""


def urlencoded(runtime, tool, body):
    return runtime.post(tool, content=body, headers={"content-type": "application/x-www-form-urlencoded"})


def test_a_urlencoded_form_is_a_form(runtime):
    assert urlencoded(runtime, "add", b"a=1&b=&flag=on").json()["result"] == [1, 2, True]
    assert urlencoded(runtime, "browser", b"n=5&note=a+b%21").json()["result"] == [
        "default",
        None,
        True,
        5,
        False,
        "a b!",
    ]
    assert "no parameter named 'c'" in urlencoded(runtime, "add", b"a=1&c=2").json()["error"]
    assert urlencoded(runtime, "add", b"a=%ff").status_code == 400
    json_by_mistake = urlencoded(runtime, "add", b'{"a": 1}')
    assert json_by_mistake.status_code == 415
    assert "Content-Type: application/json" in json_by_mistake.json()["error"]


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b"language=fra", [7, "fra"]),
        (b"language=fra&image=aGk", [2, "fra"]),
        (b"language=", [7, ""]),
        (b"language=fra&other=1", [20, "eng"]),
        (b"\x89PNG\r\n\x1a\n=", [9, "eng"]),
        (b"other=1", [7, "eng"]),
        (b"plain text, & more", [18, "eng"]),
        (b"x" * 300_000, [300_000, "eng"]),
        (b"x=" * 300_000, [600_000, "eng"]),
        (b"language=\xff", [10, "eng"]),
    ],
)
def test_a_tool_with_one_upload_takes_curls_default_type_for_either(runtime, body, result):
    assert urlencoded(runtime, "size", body).json()["result"] == result


# Files


def test_several_files_of_one_parameter_come_in_order(runtime):
    files = [
        ("files", ("b.nii.gz", b"one")),
        ("images", ("i", b"1")),
        ("files", ("a.TXT", b"two")),
        ("files", ("c", b"three")),
        ("images", ("j", b"22")),
    ]
    names = ["files-1.nii.gz", "files-2.txt", "files-3"]
    assert runtime.post("several", files=files).json()["result"] == [names, ["one", "two", "three"], [1, 2]]
    assert runtime.post("several", files=files[:1]).json()["result"] == [["files-1.nii.gz"], ["one"], []]
    twice = [("video", ("a", b"1")), ("video", ("b", b"2"))]
    assert "takes one upload" in runtime.post("stored", files=twice).json()["error"]


def test_one_raw_body_is_a_list_of_one(runtime, launch_once):
    source = """
        from pathlib import Path
        from plugin_runtime import tool

        class Plugin:
            def validate(self): pass

            @tool
            def one(self, files: list[Path]) -> list:
                return [file.name for file in files]
    """
    plugin = launch_once(source).ready()
    assert plugin.post("one", content=b"x", headers={"content-type": "audio/mpeg"}).json()["result"] == ["files-1.mp3"]


def test_an_upload_knows_its_name_type_and_size(runtime):
    answer = runtime.post("uploaded", files={"file": ("Übersicht 1.ome.tiff", b"abcdef", "image/tiff")})
    assert answer.json()["result"] == {
        "filename": "Übersicht 1.ome.tiff",
        "type": "image/tiff",
        "size": 6,
        "start": "abc",
        "path": "file.ome.tiff",
        "read": 6,
    }
    files = [("files", ("../../etc/a.txt", b"1", "text/plain")), ("files", ("C:\\x\\b.PNG", b"2", "image/png"))]
    assert runtime.post("all_uploaded", files=files).json()["result"] == [
        ["a.txt", "text/plain", "files-1.txt"],
        ["b.PNG", "image/png", "files-2.png"],
    ]


@pytest.mark.parametrize(
    ("disposition", "filename", "path"),
    [
        ('attachment; filename="scan.nii.gz"', "scan.nii.gz", "file.nii.gz"),
        ("attachment; filename=a.mov", "a.mov", "file.mov"),
        ("inline; filename*=UTF-8''%C3%BCber.mp4", "über.mp4", "file.mp4"),
        ("attachment", "", "file.mp3"),
        ('attachment; filename="../../x.tar.gz"', "x.tar.gz", "file.tar.gz"),
        ("nonsense;;;=", "", "file.mp3"),
        ("", "", "file.mp3"),
    ],
)
def test_a_raw_body_is_named_by_its_content_disposition(runtime, disposition, filename, path):
    headers = {"content-type": "audio/mpeg; x=y", "content-disposition": disposition}
    result = runtime.post("uploaded", content=b"abc", headers=headers).json()["result"]
    assert (result["filename"], result["path"], result["type"]) == (filename, path, "audio/mpeg; x=y")
