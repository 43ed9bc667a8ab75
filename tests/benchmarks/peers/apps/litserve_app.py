"""A LitAPI, with a worker process, for each plugin; where loads are run, another one that streams."""

from collections.abc import Iterator
from typing import Any

import litserve as ls
import workload
from fastapi import Request


class Tools(ls.LitAPI):
    """JSON, or a form with one file."""

    plugin = ""

    def setup(self, device: str) -> None:
        workload.load(self.plugin)

    def decode_request(self, request: Request) -> Any:
        if "data" in request:
            return {"tool": "digest", "content": request["data"].file.read()}
        return request

    def predict(self, arguments: Any) -> Any:
        if "content" in arguments:
            return workload.digest(arguments["content"])
        return workload.answer(arguments)

    def encode_response(self, output: Any) -> Any:
        return {"result": output}


class Items(ls.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: Request) -> int:
        return request["number"]

    def predict(self, number: int) -> Iterator[str]:
        yield from workload.items(number)

    def encode_response(self, output):  # its annotation would become FastAPI's response model, and a generator is none
        for item in output:
            yield f"{item}\n"


def _class(number: int, plugin: str) -> type[Tools]:
    """A class of its own for each plugin; the worker process finds it by its name."""
    made = type(f"Tools{number}", (Tools,), {"plugin": plugin, "__module__": __name__})
    globals()[made.__name__] = made
    return made


_classes = {plugin: _class(number, plugin) for number, plugin in enumerate(workload.PLUGINS)}

if __name__ == "__main__":
    apis: list[ls.LitAPI] = [of_plugin(api_path=f"/{plugin}") for plugin, of_plugin in _classes.items()]
    if workload.FOR_LOAD:
        apis += [Items(api_path=f"/{plugin}/items", stream=True) for plugin in _classes]
    server = ls.LitServer(apis, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=workload.PORT, num_api_servers=1, generate_client_file=False, log_level="warning")
