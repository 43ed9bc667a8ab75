"""A plugin's own code, read where its image is built: what its entrypoint needs has to compile, and nothing else."""

import subprocess
import sys
import textwrap

import pytest
from plugin_runtime.startup.own_code import main, read_code

BROKEN = "def f(:\n"
PYTHON_2 = "print 'hello'\n"


@pytest.fixture
def read(tmp_path):
    def read(**files):
        for name, text in files.items():
            path = (
                tmp_path / f"{name.replace('__init__', '/_INIT_').replace('__', '/').replace('_INIT_', '__init__')}.py"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text) if isinstance(text, bytes) else path.write_text(textwrap.dedent(text))
        return read_code("hello.plugin", str(tmp_path))

    return read


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import os\n\ndef f(:\n", "hello/plugin.py, line 3: invalid syntax: `def f(:`"),
        (
            "if True:\nx = 1\n",
            "hello/plugin.py, line 2: expected an indented block after 'if' statement on line 1: `x = 1`",
        ),
        ("x = 'a\n", "hello/plugin.py, line 1: unterminated string literal (detected at line 1): `x = 'a`"),
        ("return 1\n", "hello/plugin.py, line 1: 'return' outside function: `return 1`"),
        ("def f():\n    x = 1\n    nonlocal x\n", "hello/plugin.py, line 3: "),
        (b"x = '\xff'\n", "hello/plugin.py"),
        (b"x = 1\0\n", "hello/plugin.py"),
        ("async def f():\n    await = 1\n", "hello/plugin.py, line 2: invalid syntax: `await = 1`"),
    ],
)
def test_what_does_not_compile_is_named_with_its_line(read, source, sentence):
    (fault,) = read(hello__plugin=source).faults
    assert fault.startswith(sentence)


@pytest.mark.parametrize(
    "statement",
    [
        "from . import broken",
        "from .broken import x",
        "import hello.broken",
        "from hello import broken as b",
        "import broken",
    ],
)
def test_what_the_entrypoint_imports_has_to_compile_too(read, statement):
    name = "broken" if statement == "import broken" else "hello__broken"
    (fault,) = read(hello__init__="", hello__plugin=f"{statement}\n", **{name: BROKEN}).faults
    assert fault.startswith(f"{name.replace('__', '/')}.py, line 1: ")


def test_all_faults_are_named_at_once(read):
    code = read(hello__init__=BROKEN, hello__plugin="from .deep.inner import x\n", hello__deep__inner=BROKEN)
    assert [fault.partition(",")[0] for fault in code.faults] == ["hello/__init__.py", "hello/deep/inner.py"]
    code = read(hello__init__="from . import more\n", hello__more=BROKEN, hello__plugin=BROKEN, hello__deep__inner="")
    assert [fault.partition(",")[0] for fault in code.faults] == ["hello/plugin.py", "hello/more.py"]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "try:\n    from . import broken\nexcept SyntaxError:\n    broken = None\n",
        "import sys\nif sys.version_info[0] == 2:\n    from . import broken\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import broken\n",
        "def later():\n    from . import broken\n",
        "from . import other\n",
        "from .package import broken\n",
        "import json\n",
        "assert (1, 'always true')\n",  # a SyntaxWarning
    ],
)
def test_code_that_is_not_certain_to_be_imported_refuses_nothing(read, source):
    """Templates, code for other Pythons: a plugin's folder may hold any file."""
    code = read(
        hello__init__="",
        hello__plugin=source,
        hello__broken=BROKEN,
        hello__other="",
        hello__package__init__="broken = 1\n",
        hello__package__broken=PYTHON_2,
        json=PYTHON_2,
        templates__model=PYTHON_2,
        unused=PYTHON_2,
    )
    assert code.faults == []


def test_the_packages_that_the_code_needs_are_found(read):
    source = """
        import os, yaml, yaml.nodes
        import a.b as c
        from d.e import f
        from . import more
        try:
            import maybe
        except ImportError: ...
    """
    more, helper = "import numpy\nimport helper\n", "import zlib\n"
    code = read(hello__init__="", hello__plugin=source, hello__more=more, helper=helper)
    assert sorted(code.packages) == ["a", "d", "numpy", "yaml"]


def test_the_programs_last_line_says_what_fails_the_build(read, tmp_path, capfd):
    assert not read(hello__plugin="x = 1\n").faults
    assert main("hello.plugin", str(tmp_path)) == 0
    (tmp_path / "hello" / "plugin.py").write_text("def f(:\n")
    command = [sys.executable, "-I", "-m", "plugin_runtime.startup.own_code", "hello.plugin", str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == 1
    said = "ERROR: the plugin's code does not compile: hello/plugin.py, line 1: invalid syntax: `def f(:`\n"
    assert capfd.readouterr().out == said
