"""Follows hosts.yaml: hosts that are added are joined, others forgotten, and keys that are replaced count."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from orchestrator.front.hosts import Hosts
from orchestrator.front.hosts_file import HostsFileError, read_hosts_file

CHECK_SECONDS: Final = 2.0
"""Between two looks at the file and the keys that it names."""

_log = logging.getLogger(__name__)


async def watch_hosts_file(path: Path, hosts: Hosts) -> None:
    """For ever. While the file cannot be used, the hosts stay as they are, and the log says why."""
    said = ""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        try:
            found = await asyncio.to_thread(read_hosts_file, path)
            await hosts.update(found.hosts)
            said = ""
        except HostsFileError as error:
            if str(error) != said:
                _log.warning("%s The hosts stay as they are.", error)
            said = str(error)
