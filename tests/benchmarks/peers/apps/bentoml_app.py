"""A service, with a process, for each plugin; where there are several, a gateway before them."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import bentoml
import workload

_THREADS = 16


class Tools:
    plugin = ""

    def __init__(self) -> None:
        workload.load(self.plugin)

    @bentoml.api
    def echo(self, text: str) -> str:
        return workload.echo(text)

    @bentoml.api
    def digest(self, data: Path) -> str:
        return workload.digest(data.read_bytes())

    @bentoml.api
    def items(self, number: int) -> Generator[str, None, None]:
        for item in workload.items(number):
            yield f"{item}\n"

    @bentoml.api
    def burn(self, milliseconds: int) -> float:
        return workload.burn(milliseconds)

    @bentoml.api
    def die(self) -> None:
        workload.die()


def _service(number: int, plugin: str) -> Any:
    made = type(f"Tools{number}", (Tools,), {"plugin": plugin, "__module__": __name__})
    return bentoml.service(made, name=f"tools{number}", workers=1, threads=_THREADS)


def _gateway(services: dict[str, Any]) -> Any:
    """Two calls of each plugin, by its name."""
    members: dict[str, Any] = {"__module__": __name__}

    def add(number: int, plugin: str, service: Any) -> None:
        async def echo(self: Any, text: str) -> str:
            return await getattr(self, f"plugin{number}").to_async.echo(text)

        async def die(self: Any) -> None:
            await getattr(self, f"plugin{number}").to_async.die()

        members[f"plugin{number}"] = bentoml.depends(service)
        for function in (echo, die):
            name = f"{function.__name__}{number}"
            route = f"/{plugin}/{function.__name__}"
            function.__name__ = name  # the service finds its method by this name
            members[name] = bentoml.api(function, route=route)

    for number, (plugin, service) in enumerate(services.items()):
        add(number, plugin, service)
    return bentoml.service(type("Gateway", (), members), name="gateway", workers=1)


_services = {plugin: _service(number, plugin) for number, plugin in enumerate(workload.PLUGINS)}
globals().update({f"Tools{number}": service for number, service in enumerate(_services.values())})
service = _services[workload.PLUGINS[0]] if len(_services) == 1 else _gateway(_services)
