"""The JSON bodies of commands: read strictly, as the arguments of runs are."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from orchestrator.formatting import quoted


class CommandRoute(APIRoute):
    """A route whose body, if it has one, is JSON in which no object has a name twice, however deep."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        """Raises `JSONDecodeError` and `HTTPException`, both of which `problems` answers."""
        body = await self.body()
        try:
            return json.loads(body, object_pairs_hook=_without_repeats)
        except UnicodeDecodeError as error:
            raise json.JSONDecodeError("it is not UTF-8", "", error.start) from None
        except RecursionError:
            raise json.JSONDecodeError("it is nested too deeply", "", 0) from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Decoders take the last, without a word.
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        raise HTTPException(422, f"{quoted(repeated[0])} stands twice in one object")
    return dict(pairs)
