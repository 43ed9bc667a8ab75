"""The real runtime as a program of the memory engine: a plugin class runs in a process of its own, without an engine.

harness.add("reader", program=RealRuntime(SOURCE))     # SOURCE has the class `Plugin`
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import textwrap
from pathlib import Path

from orchestrator.containers.memory import ProgramHandle
from orchestrator.containers.spec import ContainerSpec


class RealRuntime:
    """The program of an image. Its end takes its process along."""

    def __init__(self, source: str) -> None:
        self.source = textwrap.dedent(source)
        self.run_dir: Path | None = None
        """Of the container started last: where its sockets are."""

    async def __call__(self, spec: ContainerSpec, handle: ProgramHandle) -> int:
        target = spec.environment["PLUGIN_RUN_DIR"]
        self.run_dir = next(mount.source for mount in spec.mounts if mount.target == target)
        with tempfile.TemporaryDirectory(prefix="real-") as folder:
            (Path(folder) / "plugin.py").write_text(self.source)
            environment = {
                **spec.environment,
                "PATH": os.environ["PATH"],
                "PYTHONPATH": folder,
                "PLUGIN_ENTRYPOINT": "plugin:Plugin",
                "PLUGIN_RUN_DIR": str(self.run_dir),
                "PLUGIN_SCRATCH_DIR": f"{folder}/scratch",
                "NOTIFY_SOCKET": str(self.run_dir / "notify.sock"),
            }
            # Another program in its folder may start the runtime.
            program = [f"{self.run_dir}{path.removeprefix(target)}" for path in spec.entrypoint[-1:]]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *(program or ("-m", "plugin_runtime")),
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
            terminated = asyncio.create_task(self._pass_on(handle, process))
            try:
                return await process.wait()
            finally:
                terminated.cancel()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    @staticmethod
    async def _pass_on(handle: ProgramHandle, process: asyncio.subprocess.Process) -> None:
        await handle.terminated()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
