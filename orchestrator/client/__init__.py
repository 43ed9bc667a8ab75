"""A typed client of the orchestrator's HTTP API, blocking and asynchronous. Imports nothing else of `orchestrator`.

with Client() as client:
    text = client.run("ocr", "read_text", image=Path("page.png"))
"""

from orchestrator.client.async_client import AsyncClient, AsyncRunHandle
from orchestrator.client.errors import (
    AccessDenied,
    ApiError,
    InvalidRequest,
    NotFound,
    PluginError,
    PluginTimeout,
    PluginUnavailable,
    QueueFull,
    RestartRefused,
    RunCancelled,
    RunNotFinished,
    ServerError,
    TooManyRequests,
    UnexpectedAnswer,
    Unreachable,
)
from orchestrator.client.models import (
    Begun,
    End,
    Envelope,
    FormText,
    Gpus,
    Item,
    LifecycleEvent,
    Plugin,
    PluginDetail,
    Progress,
    Run,
    StreamEvent,
    Tool,
    Upload,
)
from orchestrator.client.sync_client import Client, RunHandle

__all__ = [
    "AccessDenied",
    "ApiError",
    "AsyncClient",
    "AsyncRunHandle",
    "Begun",
    "Client",
    "End",
    "Envelope",
    "FormText",
    "Gpus",
    "InvalidRequest",
    "Item",
    "LifecycleEvent",
    "NotFound",
    "Plugin",
    "PluginDetail",
    "PluginError",
    "PluginTimeout",
    "PluginUnavailable",
    "Progress",
    "QueueFull",
    "RestartRefused",
    "Run",
    "RunCancelled",
    "RunHandle",
    "RunNotFinished",
    "ServerError",
    "StreamEvent",
    "TooManyRequests",
    "Tool",
    "UnexpectedAnswer",
    "Unreachable",
    "Upload",
]
