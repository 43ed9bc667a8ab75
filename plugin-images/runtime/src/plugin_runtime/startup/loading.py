"""How a plugin is loaded, in this order: packages, model files, GPU, import, construction, `validate()`, tools."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from plugin_runtime.authoring import options_of
from plugin_runtime.shared.limits import SPARE_PIDS, runs_let_in
from plugin_runtime.startup import failures
from plugin_runtime.startup.checks import Check, check_cache, check_models, check_packages
from plugin_runtime.startup.failures import Failure, explain_call, explain_gpu_memory, explain_import
from plugin_runtime.startup.libraries import missing_libraries
from plugin_runtime.startup.own_code import missing_packages
from plugin_runtime.tools.awaiting import is_awaitable, wait_for_set_up
from plugin_runtime.tools.gpu_memory import ran_out_of_gpu_memory
from plugin_runtime.tools.plugin_errors import plugin_traceback
from plugin_runtime.tools.toolset import UnfitTool, collect_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plugin_runtime.shared.environment import Environment
    from plugin_runtime.tools.toolset import Tool


class StartFailure(Exception):  # noqa: N818 - the outcome of a start, with the reason for the operator
    """The plugin cannot be used. `traceback` is the plugin's own, None where none of its code failed."""

    def __init__(self, failure: Failure, traceback: str | None = None) -> None:
        super().__init__(failure.reason)
        self.failure = failure
        self.traceback = traceback


class Start(NamedTuple):
    """One start. `report` is called with all checks so far, whenever there is a new one."""

    environment: Environment
    report: Callable[[list[Check]], None]
    checks: list[Check]
    advice: Callable[[BaseException], str]
    """What is to be added to the reason of a failure."""

    def passed(self, name: str, detail: str) -> None:
        """Record a step that passed."""
        self.checks.append(Check(name, ok=True, detail=detail))
        self.report(self.checks)

    def failed(self, name: str, failure: Failure, error: BaseException | None = None) -> StartFailure:
        """Record a step that failed. Returns the exception to raise."""
        if error is not None:
            failure = failure._replace(reason=failure.reason + self.advice(error))
        self.checks.append(Check(name, ok=False, detail=failure.reason))
        self.report(self.checks)
        return StartFailure(failure, plugin_traceback(error) if error is not None else None)


class StartedPlugin(NamedTuple):
    """`close` is called before the container is stopped; None where the plugin has none."""

    tools: Mapping[str, Tool]
    close: Callable[[], Any] | None


def start_plugin(
    environment: Environment, report: Callable[[list[Check]], None], advice: Callable[[BaseException], str]
) -> StartedPlugin:
    """Raises StartFailure."""
    start = Start(environment, report, [], advice)
    check_surroundings(start)
    plugin_class = import_class(start)
    plugin = construct(start, plugin_class)
    validate(start, plugin)
    try:
        tools = collect_tools(plugin)
        require_pids(tools, environment)
    except UnfitTool as error:
        raise start.failed("tools", Failure(failures.INIT_ERROR, str(error))) from None
    return StartedPlugin(tools, find_close(plugin))


def require_pids(tools: Mapping[str, Tool], environment: Environment) -> None:
    """Raises UnfitTool where the container has no room for the threads of a batched tool's calls."""
    limit = environment.limits.get("pids")
    for tool in tools.values():
        size = tool.batch.size if tool.batch is not None else 0
        needed = runs_let_in(environment.concurrency, size) + SPARE_PIDS
        if limit is not None and size and needed > limit:
            raise UnfitTool(
                f"tool {tool.name}: with `batch` {size} and `concurrency` {environment.concurrency} up to "
                f"{needed - SPARE_PIDS} calls wait or execute at once, each in a thread; set `limits.pids` in "
                f"plugin.yaml, which is {limit:g}, to at least {needed}, or a smaller `batch`"
            )


def check_surroundings(start: Start) -> None:
    """Check packages, models and the GPU, all of them even after a fault. Raises StartFailure."""
    package_checks, package_failure = check_packages(start.environment.packages)
    model_checks, model_failure = check_models(start.environment.models)
    start.checks.extend([*package_checks, *model_checks])
    if start.environment.cache_dir is not None:
        start.checks.append(check_cache(start.environment.cache_dir, start.environment.max_cache))
    if start.checks:
        start.report(start.checks)
    failure = package_failure or model_failure
    if start.environment.requires_gpu:
        from plugin_runtime.startup.gpu_probe import check_gpu  # noqa: PLC0415 - a plugin without a GPU need not pay for it

        gpu_checks, gpu_failure = check_gpu()
        start.checks.extend(gpu_checks)
        start.report(start.checks)
        failure = gpu_failure or failure  # without a GPU the rest need not be fixed
    if failure is not None:
        raise StartFailure(failure)


def import_class(start: Start) -> Any:
    """Raises StartFailure."""
    module_name, _, class_name = start.environment.entrypoint.partition(":")
    try:
        module = importlib.import_module(module_name)
        plugin_class = getattr(module, class_name, None)
    except BaseException as error:
        if ran_out_of_gpu_memory(error, has_gpu=start.environment.requires_gpu):
            failure = explain_gpu_memory(error, f"importing {module_name}", module_name)
        else:
            libraries, packages = missing_libraries(error), missing_packages(error, module_name)
            failure = explain_import(error, module_name, libraries, start.environment.models, packages)
        raise start.failed("import", failure, error) from error
    if not isinstance(plugin_class, type):
        fault = f"has no class {class_name}" if plugin_class is None else f"has a {class_name} that is no class"
        reason = f"module {module_name} {fault}; correct `entrypoint` in plugin.yaml"
        raise start.failed("import", Failure(failures.IMPORT_ERROR, reason))
    start.passed("import", f"{start.environment.entrypoint} imported")
    return plugin_class


def construct(start: Start, plugin_class: Any) -> object:
    """Raises StartFailure."""
    try:
        plugin: object = plugin_class()
    except BaseException as error:
        raise start.failed("init", _explain(start, error, failures.INIT_ERROR, "__init__"), error) from error
    start.passed("init", "constructed")
    return plugin


def validate(start: Start, plugin: object) -> None:
    """Raises StartFailure."""
    name = type(plugin).__name__
    try:
        method = getattr(plugin, "validate", None)
    except BaseException as error:
        raise start.failed("validate", _explain(start, error, failures.VALIDATE_ERROR, "validate"), error) from error
    if not callable(method):
        reason = f"{name} has no validate() method; add one that loads the models and raises what is wrong"
        raise start.failed("validate", Failure(failures.VALIDATE_MISSING, reason))
    try:
        returned = method()
        if is_awaitable(returned):
            returned = wait_for_set_up(returned)
    except BaseException as error:
        raise start.failed("validate", _explain(start, error, failures.VALIDATE_ERROR, "validate"), error) from error
    if inspect.isgenerator(returned) or inspect.isasyncgen(returned):
        reason = f"{name}.validate() is a generator, so none of its code has run; make it a function without `yield`"
        raise start.failed("validate", Failure(failures.VALIDATE_ERROR, reason))
    if is_awaitable(returned):
        reason = f"{name}.validate() returned a {type(returned).__name__} that nothing awaits; await it in validate()"
        raise start.failed("validate", Failure(failures.VALIDATE_ERROR, reason))
    start.passed("validate", "passed")


def find_close(plugin: object) -> Callable[[], Any] | None:
    """The plugin's method `close`, unless that is a tool."""
    method = getattr(type(plugin), "close", None)
    if not callable(method) or options_of(method) is not None:
        return None
    close: Callable[[], Any] = plugin.close  # type: ignore[attr-defined]
    return close


def _explain(start: Start, error: BaseException, code: str, method: str) -> Failure:
    module, _, class_name = start.environment.entrypoint.partition(":")
    what, missing = f"{class_name}.{method}()", missing_libraries(error)
    if ran_out_of_gpu_memory(error, has_gpu=start.environment.requires_gpu):
        return explain_gpu_memory(error, what, module)
    return explain_call(error, code, what, module, start.environment.models, missing=missing)
