"""All plugins in the server's own process, on its event loop, as a model's `predict` is."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import workload
from kserve import Model, ModelServer


class Tools(Model):
    """`predict` as the documentation has it: synchronous."""

    def load(self) -> bool:
        workload.load(self.name)
        self.ready = True
        return self.ready

    def predict(self, payload: dict[str, Any], headers: dict[str, str] | None = None, **_: Any) -> Any:
        (arguments,) = payload["instances"]
        if arguments["tool"] == "items":
            return _stream(arguments["number"])
        return {"predictions": [workload.answer(arguments)]}


async def _stream(number: int) -> AsyncIterator[str]:
    for item in workload.items(number):
        yield f"{item}\n"


if __name__ == "__main__":
    models = [Tools(plugin) for plugin in workload.PLUGINS]
    for model in models:
        model.load()
    logging.disable(logging.INFO)
    ModelServer(http_port=workload.PORT, enable_grpc=False, workers=1, access_log_format=None).start(models)
