"""Makes the calls of a plugin's samples/calls.yaml as any client does, and says what of the answer is unexpected."""

import httpx

from orchestrator.loader.expectations import difference
from orchestrator.loader.samples import Sample
from support.live import LiveOrchestrator


def answer_to(live: LiveOrchestrator, plugin: str, sample: Sample, **options: object) -> httpx.Response:
    content_type, body = sample.body()
    path = f"/v1/plugins/{plugin}/tools/{sample.call.tool}/run"
    return live.client.post(path, content=body, headers={"Content-Type": content_type}, **options)


def unexpected(sample: Sample, response: httpx.Response) -> str | None:
    envelope = response.json()
    return difference(
        sample.call.expect,
        status=response.status_code,
        result=envelope["result"],
        error=envelope["error"],
        files=[(file["media_type"], file["size"]) for file in envelope["files"]],
    )
