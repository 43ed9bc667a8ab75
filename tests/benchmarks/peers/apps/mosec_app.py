"""A worker process for each plugin, one call at a time; where loads are run, another one that streams."""

import json
from typing import Any

import workload
from mosec import Runtime, Server, SSEWorker, Worker


class Tools(Worker):
    """JSON in and out; anything that is no JSON object is an upload, taken as it came."""

    plugin = ""

    def __init__(self) -> None:
        super().__init__()
        workload.load(self.plugin)

    def deserialize(self, data: bytes) -> Any:
        return json.loads(data) if data[:1] == b"{" else data

    def forward(self, data: Any) -> Any:
        return {"result": workload.answer(data) if isinstance(data, dict) else workload.digest(data)}


class Items(SSEWorker):
    def forward(self, data: Any) -> Any:
        for item in workload.items(data["number"]):
            self.send_stream_event(item)
        return data


def _class(number: int, plugin: str) -> type[Tools]:
    """A class of its own for each plugin; the worker process finds it by its name."""
    made = type(f"Tools{number}", (Tools,), {"plugin": plugin, "__module__": __name__})
    globals()[made.__name__] = made
    return made


_classes = {plugin: _class(number, plugin) for number, plugin in enumerate(workload.PLUGINS)}

if __name__ == "__main__":
    routes = {f"/{plugin}": [Runtime(of_plugin)] for plugin, of_plugin in _classes.items()}
    if workload.FOR_LOAD:
        routes |= {f"/{plugin}/items": [Runtime(Items)] for plugin in _classes}
    server = Server()
    server.register_runtime(routes)
    server.run()
