"""The plugin of pytest: fixtures and options for the tests of other projects, see testing/README.md.

pytest loads it wherever this project is installed, also without the extra `testing`: what needs that is imported late.
"""

import os
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from orchestrator.testing import Orchestrator

_FIXTURE: Final = "orchestrator"
_FOLDER: Final = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
"""Of the process that pytest-xdist starts its workers from: what the workers share."""
_BEGAN: Final = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("orchestrator", "plugin orchestrator")
    group.addoption("--orchestrator-image", metavar="IMAGE", help="image of the orchestrator; by default it is built")
    group.addoption(
        "--orchestrator-url",
        metavar="URL",
        help="an orchestrator that runs already, with ORCHESTRATOR_API_KEY; none is started",
    )


@pytest.fixture(scope="session")
def orchestrator_plugins(pytestconfig: pytest.Config) -> Any:
    """The plugins of the fixture `orchestrator`: what `OrchestratorContainer` takes. Override it."""
    return pytestconfig.rootpath / "plugins"


@pytest.fixture(scope="session")
def orchestrator_options() -> dict[str, Any]:
    """Further arguments of `OrchestratorContainer`, such as {"gpus": "24GiB"}. Override it."""
    return {}


@pytest.fixture(scope="session")
def orchestrator(
    pytestconfig: pytest.Config, orchestrator_plugins: Any, orchestrator_options: dict[str, Any]
) -> "Iterator[Orchestrator]":
    """An orchestrator with the plugins, for all tests of the session."""
    from orchestrator.testing import OrchestratorContainer, RunningOrchestrator  # noqa: PLC0415 - see the head
    from orchestrator.testing.shared import shared_orchestrator  # noqa: PLC0415

    options = dict(orchestrator_options)
    if image := pytestconfig.getoption("--orchestrator-image"):
        options |= {"image": image}
    worker: dict[str, Any] | None = getattr(pytestconfig, "workerinput", None)
    with ExitStack() as stack:
        if url := pytestconfig.getoption("--orchestrator-url"):
            yield stack.enter_context(RunningOrchestrator(url, os.environ.get("ORCHESTRATOR_API_KEY", "")))
        elif worker is None:
            yield stack.enter_context(OrchestratorContainer(orchestrator_plugins, **options))
        else:
            owner, folder = int(worker["orchestrator_owner"]), Path(worker["orchestrator_folder"])
            yield stack.enter_context(
                shared_orchestrator(folder, lambda: OrchestratorContainer(orchestrator_plugins, owner=owner, **options))
            )


# pytest-xdist: its workers share one orchestrator, which the process that has started them removes


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where the orchestrator's address is, or is to be written."""
    if _FOLDER not in node.config.stash:
        node.config.stash[_FOLDER] = tempfile.TemporaryDirectory(prefix="orchestrator-")
    folder = node.config.stash[_FOLDER]
    node.workerinput |= {"orchestrator_owner": os.getpid(), "orchestrator_folder": folder.name}


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the workers shared."""
    folder = config.stash.get(_FOLDER, None)
    if folder is None:
        return
    from orchestrator.testing.shared import remove_shared  # noqa: PLC0415 - see the head

    remove_shared(Path(folder.name))
    folder.cleanup()


# What a failed test is reported with


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_BEGAN] = time.time()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    used: Any = getattr(item, "funcargs", {}).get(_FIXTURE)
    if call.when == "call" and report.failed and used is not None:
        from orchestrator.testing import Orchestrator  # noqa: PLC0415 - see the head
        from orchestrator.testing.failure_report import sections  # noqa: PLC0415

        if isinstance(used, Orchestrator):  # the fixture may be another of this name
            report.sections += sections(used, since=item.stash[_BEGAN])
    return report
