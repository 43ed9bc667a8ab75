"""One plugin. `run` is asynchronous, so that a server has several slots. A second runner streams."""

import workload
from cog import AsyncConcatenateIterator, BaseRunner, streaming


class Tools(BaseRunner):
    def setup(self) -> None:
        workload.load(workload.PLUGINS[0])

    async def run(self, tool: str, text: str = "", data: str = "", milliseconds: int = 0) -> str:
        return str(workload.answer({"tool": tool, "text": text, "data": data, "milliseconds": milliseconds}))


class Items(BaseRunner):
    @streaming
    async def run(self, number: int) -> AsyncConcatenateIterator[str]:
        for item in workload.items(number):
            yield item
