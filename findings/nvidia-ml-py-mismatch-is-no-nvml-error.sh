#!/usr/bin/env bash
# nvidia-ml-py: the error of a function that the driver is too old for is not of the same tree as all its other errors.
#
# Seen with nvidia-ml-py 13.615.71 on Python 3.11, with a libnvidia-ml.so.1 that has what a driver before 510 has (nvmlInit, a device, and
# nvmlDeviceGetComputeRunningProcesses up to _v2, not _v3):
#   nvmlDeviceGetComputeRunningProcesses(handle)      NVMLLibraryMismatchError, and `except NVMLError` does not catch it
#   nvmlDeviceGetComputeRunningProcesses_v2(handle)   []
#   any other function that the library lacks         NVMLError_FunctionNotFound, an NVMLError
# Code that guards each look with `except NVMLError`, as the binding's examples do, ends there on old drivers, and only for this family of functions.
#
# Needs python3 with venv, a C compiler and a package index; no GPU. Exits 0 while the behaviour is as described, 1 once it has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check nvidia-ml-py==13.615.71

cat >"$work/nvml.c" <<'C'
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)1; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, void *infos) { *count = 0; return 0; }
C
cc -shared -fPIC -w -o "$work/libnvidia-ml.so.1" "$work/nvml.c"

LD_LIBRARY_PATH="$work" "$work/venv/bin/python" - <<'PYTHON'
import sys

import pynvml

pynvml.nvmlInit()
device = pynvml.nvmlDeviceGetHandleByIndex(0)


def outcome(function):
    try:
        return function(device), None
    except Exception as error:
        return type(error).__name__, isinstance(error, pynvml.NVMLError)


seen = {name: outcome(getattr(pynvml, name)) for name in (
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetComputeRunningProcesses_v2",
    "nvmlDeviceGetPersistenceMode",
)}
for name, (what, is_nvml_error) in seen.items():
    print(f"{name:42} {what}  NVMLError: {is_nvml_error}")
expected = [("NVMLLibraryMismatchError", False), ([], None), ("NVMLError_FunctionNotFound", True)]
sys.exit(0 if list(seen.values()) == expected else "the behaviour has changed")
PYTHON
