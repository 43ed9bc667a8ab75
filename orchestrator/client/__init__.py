"""A client of the orchestrator for programs, blocking and asynchronous. Must not know: anything else of this package.

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
    Gpus,
    Item,
    LifecycleEvent,
    Plugin,
    PluginDetail,
    Progress,
    Run,
    StreamEvent,
    Tool,
)
from orchestrator.client.sync_client import Client, RunHandle
from orchestrator.client.wire import FormText, Upload

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
