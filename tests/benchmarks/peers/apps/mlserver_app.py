"""A model of MLServer for each plugin; all of them in one worker process. Arguments are inputs of one string each."""

from collections.abc import AsyncIterator
from typing import Any

import workload
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Tools(MLModel):
    async def load(self) -> bool:
        workload.load(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return self._response(str(workload.answer(_arguments(payload))))

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            for item in workload.items(_arguments(payload)["number"]):
                yield self._response(item)

    def _response(self, text: str) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("result", [text])])


def _arguments(payload: InferenceRequest) -> dict[str, Any]:
    """Inputs of one string each; numbers are written as such."""
    arguments: dict[str, Any] = {item.name: StringCodec.decode_input(item)[0] for item in payload.inputs}
    for name in ("number", "milliseconds"):
        if name in arguments:
            arguments[name] = int(arguments[name])
    return arguments
