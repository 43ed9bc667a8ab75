"""The files of a new plugin: ready to start, and with tests that pass at once. Pure."""

import keyword
import struct
import sys
import zlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

_TAKEN: Final = frozenset({"tests", "samples", "plugin_runtime", "orchestrator", "pytest", "yaml"})
"""Import names that the plugin's own would hide."""


class Kind(StrEnum):
    """What the plugin's first tool takes and gives."""

    TEXT = "text"
    IMAGE = "image"
    STREAM = "stream"


def scaffold(name: str, kind: Kind) -> Mapping[str, bytes]:
    """Relative path → content. `name` is a DNS label."""
    package, class_name = package_of(name), "".join(part.capitalize() for part in name.split("-"))
    if not class_name[0].isalpha():
        class_name = f"Plugin{class_name}"
    tool = _TOOLS[kind]
    words = {"@NAME@": name, "@PACKAGE@": package, "@CLASS@": class_name, **tool}

    def filled(text: str) -> bytes:
        for word, content in words.items():
            text = text.replace(word, content)
        return text.lstrip("\n").encode()

    files = {
        "plugin.yaml": filled(_MANIFEST),
        f"{package}/__init__.py": filled('"""The plugin @NAME@."""\n'),
        f"{package}/plugin.py": filled(tool["@PLUGIN@"]),
        "requirements.txt": b"# What the plugin imports, one a line, as pip wants it: numpy>=2\n",
        "samples/calls.yaml": filled(_CALLS),
        "tests/conftest.py": filled(_CONFTEST),
        "tests/test_plugin.py": filled(_TESTS),
    }
    if kind is Kind.IMAGE:
        files["samples/sample.png"] = _png(32, 20)
    return files


def package_of(name: str) -> str:
    """The import name for a plugin's name."""
    package = name.replace("-", "_")
    taken = package in sys.stdlib_module_names or package in _TAKEN or keyword.iskeyword(package)
    return package if package[0].isalpha() and not taken else f"plugin_{package}"


def _png(width: int, height: int) -> bytes:
    """A grey picture that gets lighter to the right."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + bytes(255 * x // width for x in range(width))) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


_MANIFEST: Final = """
# Every field is described by `orchestrator schema`; what is left out has a sensible default.
name: @NAME@
version: 0.1.0
description: @ABOUT@
entrypoint: @PACKAGE@.plugin:@CLASS@
limits:
  timeout: 30s
  memory: 256MiB
"""

_CALLS: Final = """
# Calls that must work in the plugin's container; tests/test_plugin.py makes every one of them.
@CALL@
"""

_TEXT: Final = '''
"""@ABOUT@"""

from plugin_runtime import InvalidInput, tool


class @CLASS@:
    """What is set up here lives as long as the container."""

    def validate(self) -> None:
        """Load models here, and raise what is wrong: the plugin is then FAILED and says why."""

    @tool
    def count_words(self, text: str) -> dict[str, int]:
        """Count the words of a text."""
        if not text.strip():
            raise InvalidInput("the text is empty")  # the caller is told 422, the plugin goes on
        return {"words": len(text.split())}
'''

_IMAGE: Final = '''
"""@ABOUT@"""

import struct

from plugin_runtime import InvalidInput, tool

_PNG = b"\\x89PNG\\r\\n\\x1a\\n"


class @CLASS@:
    """What is set up here lives as long as the container."""

    def validate(self) -> None:
        """Load models here, and raise what is wrong: the plugin is then FAILED and says why."""

    @tool
    def measure(self, image: bytes) -> dict[str, int]:
        """Tell the size of a PNG picture."""
        if not image.startswith(_PNG) or len(image) < 24:
            raise InvalidInput("this is no PNG picture")  # the caller is told 422, the plugin goes on
        width, height = struct.unpack(">II", image[16:24])
        return {"width": width, "height": height}
'''

_STREAM: Final = '''
"""@ABOUT@"""

from collections.abc import Iterator

from plugin_runtime import InvalidInput, Progress, tool


class @CLASS@:
    """What is set up here lives as long as the container."""

    def validate(self) -> None:
        """Load models here, and raise what is wrong: the plugin is then FAILED and says why."""

    @tool
    def count(self, to: int = 3) -> Iterator[Progress | int]:
        """Count; each number is sent as it comes."""
        if to < 1:
            raise InvalidInput("expected a number of at least 1")  # the caller is told 422, the plugin goes on
        for number in range(1, to + 1):
            yield number
            yield Progress(number / to, f"{number} of {to}")
'''

_TOOLS: Final[Mapping[Kind, Mapping[str, str]]] = {
    Kind.TEXT: {
        "@PLUGIN@": _TEXT,
        "@ABOUT@": "Counts the words of a text.",
        "@CALL@": '- tool: count_words\n  arguments: {text: to be or not to be}\n  expect: {contains: "6"}',
        "@GOOD@": 'assert plugin.count_words("to be or not to be") == {"words": 6}',
        "@BAD@": 'plugin.count_words(" ")',
    },
    Kind.IMAGE: {
        "@PLUGIN@": _IMAGE,
        "@ABOUT@": "Measures pictures.",
        "@CALL@": '- tool: measure\n  files: {image: sample.png}\n  expect: {contains: "32"}',
        "@GOOD@": 'assert plugin.measure((SAMPLES / "sample.png").read_bytes()) == {"width": 32, "height": 20}',
        "@BAD@": 'plugin.measure(b"GIF89a")',
    },
    Kind.STREAM: {
        "@PLUGIN@": _STREAM,
        "@ABOUT@": "Counts, and tells how far it is.",
        "@CALL@": '- tool: count\n  arguments: {to: 3}\n  expect: {contains: "3", min_items: 3}',
        "@GOOD@": "assert [item for item in plugin.count(3) if isinstance(item, int)] == [1, 2, 3]",
        "@BAD@": "list(plugin.count(0))",
    },
}

_CONFTEST: Final = '''
"""The plugin's code on the path, and an orchestrator of its own where a container engine is there."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.client import Client, Unreachable

PLUGIN = Path(__file__).parents[1]
sys.path.insert(0, str(PLUGIN))


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Speaks to an orchestrator that runs this plugin alone. The first time the plugin's image is built."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine is here")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="po-") as home:
        plugins = Path(home, "plugins")
        plugins.mkdir()
        (plugins / PLUGIN.name).symlink_to(PLUGIN)
        settings = {"PORT": str(port), "PLUGINS_DIRS": str(plugins), "STATE_DIR": f"{home}/s", "RUN_DIR": f"{home}/r"}
        environment = os.environ | {f"ORCHESTRATOR_{name}": value for name, value in settings.items()}
        server = subprocess.Popen([sys.executable, "-m", "orchestrator", "serve", "--stop-plugins"], env=environment)
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                while server.poll() is None and not answers(client):
                    time.sleep(0.1)
                client.start("@NAME@", wait=600)
                yield client
        finally:
            server.terminate()
            server.wait(60)


def answers(client: Client) -> bool:
    try:
        client.plugins()
    except Unreachable:
        return False
    return True
'''

_TESTS: Final = '''
"""The class by itself, and the plugin in its container."""

from pathlib import Path

import pytest
import yaml
from @PACKAGE@.plugin import @CLASS@
from plugin_runtime import InvalidInput

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.fixture
def plugin():
    plugin = @CLASS@()
    plugin.validate()
    return plugin


def test_good_input_gives_a_result(plugin):
    @GOOD@


def test_bad_input_is_refused_and_not_an_error(plugin):
    with pytest.raises(InvalidInput):
        @BAD@


@pytest.mark.parametrize("call", yaml.safe_load((SAMPLES / "calls.yaml").read_text()))
def test_it_works_in_its_container(client, call):
    files = {parameter: SAMPLES / file for parameter, file in call.get("files", {}).items()}
    result = client.run("@NAME@", call["tool"], **files, **call.get("arguments", {}))
    assert call["expect"]["contains"] in str(result)
    assert client.health("@NAME@")["state"] == "RUNNING"
'''
