"""The checks before plugin code is imported: packages and model files. A fault stops none of the others, so that an
operator sees all faults at once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

from plugin_runtime.shared.disk_usage import measured
from plugin_runtime.shared.limits import not_held
from plugin_runtime.startup.failures import LIMITS_UNSUPPORTED, PACKAGE_MISSING, Failure
from plugin_runtime.startup.model_files import check_model
from plugin_runtime.tools.plugin_errors import message_of
from plugin_runtime.tools.scratch import size_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Check(NamedTuple):
    """One entry of `checks` in the status object."""

    name: str
    ok: bool
    detail: str


def check_limits(wanted: Mapping[str, float], found: Mapping[str, float | None]) -> Failure | None:
    """The failure to report where the kernel does not hold the container to what it must be held to."""
    missing = not_held(wanted, found)
    if not missing:
        return None
    named = " and ".join("swap (`limits.memory`)" if name == "swap" else f"`limits.{name}`" for name in missing)
    reason = f"the container engine does not hold the container to {named}; see what its kernel can limit"
    return Failure(LIMITS_UNSUPPORTED, reason)


def check_cache(folder: str, max_bytes: int) -> Check:
    """Whether the cache can be written. One that has grown over its size since the last start is cleared."""
    used = measured(folder)
    detail = f"{size_text(used)} of {size_text(max_bytes)} in use"
    if used > max_bytes:
        clear(folder)
        detail = f"it held {size_text(used)}, over its {size_text(max_bytes)} (`cache`), and was cleared"
    if not os.access(folder, os.W_OK | os.X_OK):
        detail = f"the user {os.geteuid()} cannot write to {folder}: the image must have it as a folder of that user"
        return Check("cache", ok=False, detail=detail)
    return Check("cache", ok=True, detail=detail)


def clear(folder: str) -> None:
    """Remove all that a folder holds, as far as that succeeds. Symbolic links are removed, not followed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108 - one of many


def check_package(name: str) -> Check:
    """Whether a package can be found, without importing it."""
    # The parents of a dotted name are imported all the same, and may raise anything.
    try:
        found = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        found = False
    except BaseException as error:  # noqa: BLE001 - code of a foreign package runs here
        return Check(
            f"package:{name}", ok=False, detail=f"looking for it raised {type(error).__name__}: {message_of(error)}"
        )
    return Check(f"package:{name}", found, "found" if found else "not installed")


def check_packages(names: Iterable[str]) -> tuple[list[Check], Failure | None]:
    """One check per name, and the failure to report."""
    checks = [check_package(name) for name in names]
    missing = [check for check in checks if not check.ok]
    if not missing:
        return checks, None
    if len(missing) == 1 and missing[0].detail == "not installed":
        reason = f"the package {missing[0].name.removeprefix('package:')} is not installed; add it to requirements.txt"
    else:
        listed = ", ".join(f"{check.name.removeprefix('package:')} ({check.detail})" for check in missing)
        reason = f"packages of the manifest cannot be used: {listed}; add them to requirements.txt"
    return checks, Failure(PACKAGE_MISSING, reason)


def check_models(models: Mapping[str, str]) -> tuple[list[Check], Failure | None]:
    """One check per model, and the failure to report: the first fault's code, every fault's sentence."""
    found = {name: check_model(name, path) for name, path in models.items()}
    checks = [Check(f"model:{name}", ok=check.failure is None, detail=check.detail) for name, check in found.items()]
    faults = [check.failure for check in found.values() if check.failure is not None]
    if not faults:
        return checks, None
    return checks, Failure(faults[0].code, "; ".join(fault.reason for fault in faults))
