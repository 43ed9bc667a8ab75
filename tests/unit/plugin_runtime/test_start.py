"""A plugin that cannot start says why, with its checks; the supervisor goes on answering."""

import contextlib
import gzip
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import plugin_runtime
import pytest

pytestmark = pytest.mark.slow

GOOD = """
    from plugin_runtime import tool

    class Plugin:
        def validate(self): pass

        @tool
        def hello(self, name: str = "you") -> str:
            \"\"\"Greet.\"\"\"
            return f"hello {name}"
"""
BROKEN = Path(__file__).parents[2] / "fixtures" / "plugins" / "model-corrupt" / "models"
# source, environment, expected code, expected part of the sentence, the check that failed
FAILURES = {
    "package missing": (
        GOOD,
        {"packages": ["json", "not_there_x"]},
        "PACKAGE_MISSING",
        "not_there_x",
        "package:not_there_x",
    ),
    "model missing": (GOOD, {"models": {"m": "/nowhere/m.pt"}}, "MODEL_MISSING", "m.pt", "model:m"),
    "model corrupt": (GOOD, {"models": {"m": str(BROKEN / "weights.pt")}}, "MODEL_CORRUPT", "only zeros", "model:m"),
    "model folder corrupt": (
        GOOD,
        {"models": {"m": str(BROKEN)}},
        "MODEL_CORRUPT",
        "(models/weights.pt) has only zeros",
        "model:m",
    ),
    "no module": (GOOD, {"entrypoint": "absent:Plugin"}, "IMPORT_ERROR", "absent", "import"),
    "no class": (GOOD, {"entrypoint": "plugin:Other"}, "IMPORT_ERROR", "has no class Other", "import"),
    "no class but a function": ("def Plugin(): pass", {}, "IMPORT_ERROR", "no class", "import"),
    "import raises": ("raise ValueError('bad')", {}, "IMPORT_ERROR", "ValueError: bad", "import"),
    "import exits": ("import sys; sys.exit(0)", {}, "IMPORT_ERROR", "sys.exit(0)", "import"),
    "import of a package": ("import not_there_y", {}, "PACKAGE_MISSING", "not_there_y", "import"),
    "the GPU's memory": (
        "class Plugin:\n  def validate(self): raise RuntimeError('CUDA out of memory. Tried to allocate 9 GiB')",
        {},
        "GPU_OUT_OF_MEMORY",
        "Plugin.validate() ran out of memory on the GPU: raised RuntimeError: CUDA out of memory",
        "validate",
    ),
    "the GPU's memory at the import": (
        "raise RuntimeError('CUDA error: out of memory')",
        {},
        "GPU_OUT_OF_MEMORY",
        "importing plugin ran out of memory on the GPU",
        "import",
    ),
    "imports of packages": (
        "import json, not_there_y.z\nfrom not_there_z import a\nimport not_there_y\nimport msgspec",
        {},
        "PACKAGE_MISSING",
        "the packages not_there_y and not_there_z are not installed (imported by plugin); add them to requirements.txt",
        "import",
    ),
    "a part of a package": (
        "import json.absent, not_there_y",
        {},
        "PACKAGE_MISSING",
        "the installed package json has no module json.absent",
        "import",
    ),
    "cuda": (
        "import ctypes; ctypes.CDLL('libcudart.so.99')",
        {},
        "CUDA_UNAVAILABLE",
        "libcudart.so.99 is missing (needed by plugin)",
        "import",
    ),
    "init raises": ("class Plugin:\n    def __init__(self): 1 / 0", {}, "INIT_ERROR", "ZeroDivisionError", "init"),
    "init exits": ("class Plugin:\n    def __init__(self): raise SystemExit", {}, "INIT_ERROR", "sys.exit", "init"),
    "no validate": ("class Plugin: pass", {}, "VALIDATE_MISSING", "no validate()", "validate"),
    "validate is no method": ("class Plugin:\n    validate = 3", {}, "VALIDATE_MISSING", "no validate()", "validate"),
    "validate raises": (
        "class Plugin:\n    def validate(self): raise KeyboardInterrupt",
        {},
        "VALIDATE_ERROR",
        "KeyboardInterrupt",
        "validate",
    ),
    "a tool without hints": (
        "from plugin_runtime import tool\nclass Plugin:\n    validate = print\n    @tool\n    def t(self, a): pass",
        {},
        "INIT_ERROR",
        "tool t, parameter a has no type hint",
        "tools",
    ),
}


@pytest.mark.parametrize(("source", "environment", "code", "part", "check"), FAILURES.values(), ids=FAILURES)
def test_a_failed_start_explains_itself(launch, source, environment, code, part, check):
    runtime = launch(source, **environment)
    status = runtime.settled()
    assert status["phase"] == "failed"
    assert status["reason_code"] == code
    assert part in status["reason"]
    assert [entry["name"] for entry in status["checks"] if not entry["ok"]] == [check]
    assert part in runtime.log.read_text()


def test_every_package_and_model_is_checked_even_after_a_fault(launch, tmp_path):
    (tmp_path / "good.bin").write_bytes(b"x" * 100)
    models = {"a": "/nowhere", "b": str(tmp_path / "good.bin")}
    status = launch(GOOD, packages=["no_a", "json", "no_b", "json.no_c"], models=models).settled()
    assert {entry["name"]: entry["ok"] for entry in status["checks"]} == {
        "package:no_a": False,
        "package:json": True,
        "package:no_b": False,
        "package:json.no_c": False,
        "model:a": False,
        "model:b": True,
    }
    assert status["reason_code"] == "PACKAGE_MISSING"
    assert "no_a" in status["reason"]
    assert "no_b" in status["reason"]


def test_a_declared_model_that_validate_cannot_open_is_model_missing(launch, tmp_path):
    model = tmp_path / "m.bin"
    model.write_bytes(b"x" * 100)
    source = """
        import os
        from plugin_runtime import model_path

        class Plugin:
            def validate(self):
                os.unlink(model_path("m"))
                model_path("m").read_bytes()
    """
    assert launch(source, models={"m": str(model)}).settled()["reason_code"] == "MODEL_MISSING"


def test_a_truncated_model_names_itself_and_the_plugins_line(launch, tmp_path):
    """Two models are loaded; the one that is cut off is told, with the line that loads it."""
    whole = pickle.dumps(list(range(1000)))
    (tmp_path / "good.pkl").write_bytes(gzip.compress(whole))
    (tmp_path / "cut.pkl").write_bytes(gzip.compress(whole)[:-40])
    source = """
        import gzip
        import pickle
        from plugin_runtime import model_path

        class Plugin:
            def validate(self):
                self.good = self.load("good")
                self.cut = self.load("cut")

            def load(self, name):
                with gzip.open(model_path(name)) as file:
                    return pickle.load(file)
    """
    models = {name: str(tmp_path / f"{name}.pkl") for name in ("good", "cut")}
    status = launch(source, models=models).settled()
    assert (status["phase"], status["reason_code"]) == ("failed", "MODEL_CORRUPT")
    assert status["reason"].startswith("model 'cut' (cut.pkl) is broken: EOFError: Compressed file ended before the")
    assert ", at plugin.py:" in status["reason"]


def test_a_folder_is_a_model(launch, tmp_path):
    """`model_path` is the folder, with all that is in it."""
    (tmp_path / "hub" / "tokenizer").mkdir(parents=True)
    (tmp_path / "hub" / "config.json").write_text('{"size": 3}')
    (tmp_path / "hub" / "tokenizer" / "vocab.txt").write_text("a")
    source = """
        from plugin_runtime import model_path, tool

        class Plugin:
            def validate(self):
                folder = model_path("hub")
                assert folder.is_dir()
                assert (folder / "tokenizer" / "vocab.txt").read_text() == "a"
    """
    status = launch(source, models={"hub": str(tmp_path / "hub")}).settled()
    assert status["phase"] == "ready"
    assert {"name": "model:hub", "ok": True, "detail": "2 files that fit what their names say"} in status["checks"]


def test_the_traceback_of_a_failed_start_has_the_plugins_frames_only(launch):
    status = launch("def f():\n    raise ValueError('bad')\nf()\n").settled()
    assert status["traceback"].startswith("Traceback (most recent call last):\n  File ")
    assert "plugin.py" in status["traceback"]
    assert "plugin_runtime" not in status["traceback"]
    assert "importlib" not in status["traceback"]


def test_a_failed_start_stays_reported_after_the_worker_has_exited(launch):
    runtime = launch("raise ValueError('bad')")
    runtime.settled()
    status = runtime.until(lambda status: status["worker"]["exit_code"] is not None)
    assert (status["phase"], status["reason_code"], status["worker"]["exit_code"]) == ("failed", "IMPORT_ERROR", 1)
    assert not (runtime.run_dir / "tools.sock").exists()


@pytest.mark.parametrize(
    ("source", "exit_code", "number"),
    [
        ("import os; os._exit(7)", 7, None),
        ("import ctypes; ctypes.string_at(0)", None, signal.SIGSEGV),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None, signal.SIGKILL),
    ],
    ids=["os._exit", "segfault", "killed"],
)
def test_a_worker_that_dies_at_import_without_a_word_is_exited(launch, source, exit_code, number):
    status = launch(source).settled()
    assert status["phase"] == "exited"
    assert (status["worker"]["exit_code"], status["worker"]["signal"]) == (exit_code, number)
    assert status["reason_code"] is None


def test_a_ready_plugin_shows_its_checks_and_tools_and_serves_at_once(launch, tmp_path):
    (tmp_path / "good.bin").write_bytes(b"x" * 100)
    runtime = launch(GOOD, packages=["json"], models={"m": str(tmp_path / "good.bin")})
    status = runtime.settled()
    names = ["package:json", "model:m", "import", "init", "validate"]
    assert [(entry["name"], entry["ok"]) for entry in status["checks"]] == [(name, True) for name in names]
    (hello,) = status["tools"]
    assert hello["name"] == "hello"
    assert hello["description"] == "Greet."
    assert hello["streaming"] is False
    assert runtime.result("hello") == "hello you"  # tools.sock listens before `ready` is reported


def test_the_watch_stream_reports_readiness_at_once(launch, tmp_path):
    """Nobody polls: a watcher knows within milliseconds."""
    source = f"""
        import os, time

        class Plugin:
            def validate(self):
                while not os.path.exists({str(tmp_path / "go")!r}):
                    time.sleep(0.001)
    """
    runtime = launch(source)
    runtime.listening()
    with contextlib.closing(runtime.watch()) as lines:
        assert next(lines)["phase"] == "starting"
        time.sleep(0.3)
        (tmp_path / "go").touch()
        begin = time.monotonic()
        assert next(status for status in lines if status["phase"] == "ready")
        assert time.monotonic() - begin < 1  # not at the next look, three seconds later


def test_sockets_are_open_to_whoever_reaches_the_folder(launch):
    runtime = launch(GOOD).ready()
    for name in ("control.sock", "tools.sock"):
        assert (runtime.run_dir / name).stat().st_mode & 0o777 == 0o666


def test_the_orchestrator_is_notified_once_the_control_socket_listens(launch, tmp_path):
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"{folder}/n")
        listener.settimeout(10)
        script = f"import os, runpy; os.environ['NOTIFY_SOCKET'] = {folder + '/n'!r}"
        runtime = launch("import time; time.sleep(60)", files={"sitecustomize.py": script})
        assert listener.recv(100) == b"READY=1"
        assert runtime.status()["phase"] == "starting"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"PLUGIN_RUN_DIR": "/tmp/" + "x" * 100}, "choose a shorter PLUGIN_RUN_DIR"),
        ({"PLUGIN_ENTRYPOINT": ""}, "package.module"),
    ],
)
def test_a_runtime_that_cannot_begin_says_why_in_one_line(tmp_path, variables, says):
    environment = {"PLUGIN_ENTRYPOINT": "a:B", "PLUGIN_RUN_DIR": str(tmp_path), "PATH": os.environ["PATH"]} | variables
    done = subprocess.run(
        [sys.executable, "-m", "plugin_runtime"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_plugin_runs_without_a_container_by_arguments(launch, tmp_path):
    (tmp_path / "plug.py").write_text("class P:\n    def validate(self): pass\n")
    with tempfile.TemporaryDirectory() as folder:
        words = ["--entrypoint", "plug:P", "--run-dir", folder, "--package", "json"]
        with subprocess.Popen([sys.executable, "-m", "plugin_runtime", *words], cwd=tmp_path) as process:
            try:
                deadline = time.monotonic() + 10
                while not Path(folder, "control.sock").exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(f"{folder}/control.sock")
                    connection.sendall(b"GET /status HTTP/1.1\r\nConnection: close\r\n\r\n")
                    answer = b"".join(iter(lambda: connection.recv(65536), b""))
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["protocol"] == 1
            finally:
                process.terminate()


def test_importing_the_package_loads_nothing_heavy():
    """The orchestrator imports it for model_files, the health check for speed."""
    script = "import sys, plugin_runtime, plugin_runtime.startup.model_files; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PYTHONPATH": str(Path(plugin_runtime.__file__).parents[1]),
        },
    )
    assert loaded.returncode == 0, loaded.stderr
    assert not {"msgspec", "python_multipart", "asyncio", "email", "ssl", "threading"} & set(loaded.stdout.split())
