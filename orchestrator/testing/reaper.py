"""Testcontainers' reaper (Ryuk), which clears up after a killed test process: used where its image can be had."""

import logging
from typing import Final

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import Reaper
from testcontainers.core.docker_client import DockerClient

_PATIENCE: Final = 20
"""Seconds in which a registry must say something."""

_log = logging.getLogger(__name__)


def use_if_it_can_be_had(engine: DockerClient) -> None:
    """Turn it off for this process where its image is not here and no registry has it.

    A test process that ends, in whatever way but SIGKILL, clears up by itself.
    """
    if testcontainers_config.ryuk_disabled or Reaper._instance is not None:  # noqa: SLF001 - it has no other way to ask
        return
    image = testcontainers_config.hub_image_name_prefix + testcontainers_config.ryuk_image
    if engine.client.images.list(name=image):
        return
    asking = DockerClient(timeout=_PATIENCE)
    try:
        asking.client.images.pull(image)
    except OSError as error:  # docker's and requests' errors are kinds of it
        testcontainers_config.ryuk_disabled = True
        _log.warning("Ryuk is off: its image %s is not here and cannot be pulled (%s)", image, error)
    finally:
        asking.client.close()
