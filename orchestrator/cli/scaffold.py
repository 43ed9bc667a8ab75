"""`new` and `schema`: the files of a new plugin, whose tests pass at once, and the manifest's JSON Schema."""

import keyword
import re
import struct
import sys
import zlib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from orchestrator.cli.console import console, fail, misused, program_name, show_json
from orchestrator.cli.settings import read_settings
from orchestrator.loader.manifest import Manifest
from orchestrator.loader.plugin_loader import PluginLoader
from orchestrator.settings import Settings

_RESERVED: Final = frozenset({"tests", "samples", "plugin_runtime", "orchestrator", "pytest", "yaml"})
"""Import names that the plugin's package would shadow."""


class Kind(StrEnum):
    """Input and output of the plugin's first tool."""

    TEXT = "text"
    IMAGE = "image"
    STREAM = "stream"


def new(
    name: Annotated[str, typer.Argument(help="A DNS label: lower-case letters, digits and hyphens.")],
    *,
    kind: Annotated[Kind, typer.Option(help="What the first tool takes and gives.")] = Kind.TEXT,
    into: Annotated[
        Path | None, typer.Option(help="Folder to create it in; by default the first of ORCHESTRATOR_PLUGINS_DIRS.")
    ] = None,
) -> None:
    """Create a new plugin: manifest, class, sample, and tests that pass at once."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        misused(repr(name), "expected lower-case letters, digits and hyphens, such as page-counter")
    settings = read_settings()
    existing = {plugin.name for plugin in PluginLoader(settings.plugins_dirs).discover()}
    if name in existing:
        fail(f"A plugin named {name!r} exists already. Choose another name.")
    folder = (into or settings.plugins_dirs[0]) / package_of(name)
    if folder.exists():
        fail(f"{folder} exists already. Remove it, or choose another name.")
    try:
        for path, content in scaffold(name, kind).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    except OSError as error:
        fail(f"Cannot create {folder}: {error.strerror}")
    program = program_name()
    steps = {
        f"{Path(program).with_name('pytest')} {folder}": "run its tests, also in a container if an engine is running",
        f"{program} dev {name}": "start it, and restart it whenever a file is saved",
        f"{program} tools {name}": "list its tools, once it has started",
    }
    width = max(map(len, steps))
    lines = (f"  {step:<{width}}   {what}" for step, what in steps.items())
    console.print("\n".join((f"Created {folder}/. Next, try:", *lines)), markup=False, soft_wrap=True)


def schema(
    *,
    openapi: Annotated[bool, typer.Option("--openapi", help="Print the API's description (OpenAPI) instead.")] = False,
) -> None:
    """Print the JSON Schema of plugin.yaml, for editors."""
    if openapi:
        from orchestrator.app import create_app  # noqa: PLC0415  # takes a second to import

        show_json(create_app(Settings()).openapi())
    else:
        show_json(Manifest.model_json_schema())


def scaffold(name: str, kind: Kind) -> Mapping[str, bytes]:
    """Relative path → content of a new plugin's files. `name` is a DNS label."""
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
        "requirements.txt": b"# Packages for the image, one per line, with the exact version: numpy==2.4.6\n",
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
    reserved = package in sys.stdlib_module_names or package in _RESERVED or keyword.iskeyword(package)
    return package if package[0].isalpha() and not reserved else f"plugin_{package}"


def _png(width: int, height: int) -> bytes:
    """A grey gradient."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + bytes(255 * x // width for x in range(width))) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


_MANIFEST: Final = """
# `orchestrator schema` describes every field. Fields that are left out have defaults.
name: @NAME@
version: 0.1.0
description: @ABOUT@
entrypoint: @PACKAGE@.plugin:@CLASS@

# What an exception that a tool raises does, InvalidInput aside, which only refuses the caller's input:
#   strict     the plugin is FAILED and takes no calls until an operator restarts it: nothing goes on in a broken state
#   tolerant   that caller gets the error, it is counted, and the plugin goes on: for tools whose libraries raise for
#              inputs that they cannot read
# A timeout, the memory limit and a crash end the plugin under either.
failure_policy: strict

limits:
  timeout: 30s
  memory: 256MiB
"""

_CALLS: Final = """
# Calls that must succeed in the plugin's container. tests/test_plugin.py makes each of them.
@CALL@
"""

_TEXT: Final = '''
"""@ABOUT@"""

from plugin_runtime import InvalidInput, tool


class @CLASS@:
    """Created once when the container starts. Its attributes last as long as the container."""

    def validate(self) -> None:
        """Load models and check that everything works. An exception here makes the plugin FAILED with that reason."""

    # The type hints become the tool's JSON Schema, the docstring its description.
    @tool
    def count_words(self, text: str) -> dict[str, int]:
        """Count the words of a text."""
        if not text.strip():
            raise InvalidInput("the text is empty")  # the caller gets status 422, the plugin goes on
        return {"words": len(text.split())}
'''

_IMAGE: Final = '''
"""@ABOUT@"""

import struct

from plugin_runtime import InvalidInput, tool

_PNG = b"\\x89PNG\\r\\n\\x1a\\n"


class @CLASS@:
    """Created once when the container starts. Its attributes last as long as the container."""

    def validate(self) -> None:
        """Load models and check that everything works. An exception here makes the plugin FAILED with that reason."""

    # The type hints become the tool's JSON Schema, the docstring its description.
    @tool
    def measure(self, image: bytes) -> dict[str, int]:
        """Measure a PNG picture: width and height in pixels."""
        if not image.startswith(_PNG) or len(image) < 24:
            raise InvalidInput("this is not a PNG picture")  # the caller gets status 422, the plugin goes on
        width, height = struct.unpack(">II", image[16:24])
        return {"width": width, "height": height}
'''

_STREAM: Final = '''
"""@ABOUT@"""

from collections.abc import Iterator

from plugin_runtime import InvalidInput, Progress, tool


class @CLASS@:
    """Created once when the container starts. Its attributes last as long as the container."""

    def validate(self) -> None:
        """Load models and check that everything works. An exception here makes the plugin FAILED with that reason."""

    # The type hints become the tool's JSON Schema, the docstring its description.
    @tool
    def count(self, to: int = 3) -> Iterator[Progress | int]:
        """Count up to a number. Each yielded value is sent to the caller at once."""
        if to < 1:
            raise InvalidInput("expected a number of at least 1")  # the caller gets status 422, the plugin goes on
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
        "@ABOUT@": "Counts, and reports its progress.",
        "@CALL@": '- tool: count\n  arguments: {to: 3}\n  expect: {contains: "3", min_items: 3}',
        "@GOOD@": "assert [item for item in plugin.count(3) if isinstance(item, int)] == [1, 2, 3]",
        "@BAD@": "list(plugin.count(0))",
    },
}

_CONFTEST: Final = '''
"""Makes the plugin's code importable, and starts an orchestrator for the tests if a container engine runs."""

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
    """A client of an orchestrator that runs this plugin alone. The first time, the plugin's image is built."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no container engine is running")
    with socket.create_server(("127.0.0.1", 0)) as probe:  # port 0: the system chooses a free one
        port = probe.getsockname()[1]
    # A short path: the paths of sockets below it are limited to 107 bytes.
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
"""Tests of the class alone, and of the plugin in its container."""

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


def test_valid_input_gives_a_result(plugin):
    @GOOD@


def test_invalid_input_is_refused_without_failing_the_plugin(plugin):
    with pytest.raises(InvalidInput):
        @BAD@


@pytest.mark.parametrize("call", yaml.safe_load((SAMPLES / "calls.yaml").read_text()))
def test_a_sample_call_works_in_the_container(client, call):
    files = {parameter: SAMPLES / file for parameter, file in call.get("files", {}).items()}
    result = client.run("@NAME@", call["tool"], **files, **call.get("arguments", {}))
    assert call["expect"]["contains"] in str(result)
    assert client.health("@NAME@")["state"] == "RUNNING"
'''
