"""Gateways: containers beside plugins' own that bring their sockets here by TCP, where a Unix socket cannot cross.

A plugin's container keeps its `network: none`. Its sockets lie in a volume in the engine's memory that its gateway sees
too; the gateway alone is on a network, and its one port is published on the loopback of the engine's machine. Gateway
and volume are named after the container, so that who knows it can remove them.
"""

import platform
import sys
from collections.abc import Mapping
from typing import Any, Final

from plugin_runtime.gateway import PORT, TOKEN_FILE

from orchestrator.containers.docker_engine import bodies
from orchestrator.containers.spec import BindMount, ContainerSpec, EngineInfo, Gateway

LABEL_GATEWAY: Final = "plugin-orchestrator.gateway"
"""On a plugin's container: the name of its gateway, and of the volume that the two share."""
LABEL_OF: Final = "plugin-orchestrator.gateway-of"
"""On a gateway and a volume: the name of the plugin's container."""
NETWORK: Final = "plugin-orchestrator"
"""One for all gateways, on which none reaches another: Docker's addresses run out after some thirty networks."""
NETWORK_OPTIONS: Final = {
    "com.docker.network.bridge.enable_icc": "false",
    "com.docker.network.bridge.enable_ip_masquerade": "false",  # nothing goes out from here
}
VOLUME_OPTIONS: Final = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=1777,nosuid,nodev,noexec"}

_PORT: Final = f"{PORT}/tcp"
_MEMORY: Final = 128 * 1024 * 1024
_USER: Final = "65531:65531"
_MARK: Final = "gateway."
"""Before its plugin's labels: it must not be taken for the plugin's container, and be found by what it belongs to."""
_VIRTUAL_MACHINE: Final = "docker desktop"


def sockets_cross(info: EngineInfo, *, inside: bool) -> bool:
    """Whether a Unix socket in a folder of this machine can be reached from the engine's containers: whether they have
    the same kernel. `inside`: the orchestrator runs in one of these containers itself.
    """
    if inside:
        return True
    if sys.platform != "linux" or _VIRTUAL_MACHINE in info.operating_system.lower():
        return False
    return not info.kernel or info.kernel == platform.release()


def gateway_name(container_name: str) -> str:
    return f"{container_name}-gateway"


def gateway_labels(labels: Mapping[str, str], of: str) -> dict[str, str]:
    return {LABEL_OF: of, **marked(labels)}


def marked(labels: Mapping[str, str]) -> dict[str, str]:
    """By which labels the gateways of containers with these can be found."""
    return {f"{_MARK}{name}": value for name, value in labels.items()}


def with_sockets(body: dict[str, Any], spec: ContainerSpec, gateway: Gateway) -> dict[str, Any]:
    """A container's body, with the volume of its sockets."""
    name = gateway_name(spec.name)
    volume = {
        "Type": "volume",
        "Source": name,
        "Target": gateway.folder,
        "VolumeOptions": {"NoCopy": True},
    }
    host = body["HostConfig"]
    return {
        **body,
        "Labels": {**body["Labels"], LABEL_GATEWAY: name},
        "HostConfig": {**host, "Mounts": [*host.get("Mounts", ()), volume]},
    }


def gateway_body(
    spec: ContainerSpec, gateway: Gateway, extra_labels: Mapping[str, str], *, selinux: bool
) -> dict[str, Any]:
    """The body of the gateway of `spec`'s container; `extra_labels` are for it as they are for all others."""
    own = ContainerSpec(
        name=gateway_name(spec.name),
        image=gateway.image,
        labels={**extra_labels, **gateway_labels(spec.labels, spec.name)},
        environment={},
        memory=_MEMORY,
        pids=16,
        user=_USER,
        mounts=(BindMount(gateway.token_file, TOKEN_FILE),),
        entrypoint=("python", "-I", "-m", "plugin_runtime.gateway"),
    )
    body = with_sockets(bodies.create_body(own, selinux=selinux), spec, gateway)
    del body["Labels"][LABEL_GATEWAY]
    host = {
        **body["HostConfig"],
        "NetworkMode": NETWORK,
        "PortBindings": {_PORT: [{"HostIp": "127.0.0.1", "HostPort": ""}]},
    }
    return {**body, "Healthcheck": {"Test": ["NONE"]}, "ExposedPorts": {_PORT: {}}, "HostConfig": host}


def published_port(answer: Any) -> int | None:
    """From `GET /containers/{id}/json` of a gateway; None while it has none."""
    try:
        return int(answer["NetworkSettings"]["Ports"][_PORT][0]["HostPort"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
