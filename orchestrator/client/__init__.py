"""A typed client of the orchestrator's HTTP API, blocking and asynchronous. Imports nothing else of `orchestrator`.

with Client() as client:
    text = client.run("ocr", "read_text", image=Path("page.png"))
"""

from orchestrator.client.async_client import AsyncClient, AsyncRunHandle
from orchestrator.client.errors import (
    AccessDenied,
    ApiError,
    FileNotSaved,
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
from orchestrator.client.files import AsyncResultFile, ResultFile
from orchestrator.client.models import (
    Begun,
    End,
    Envelope,
    FileReference,
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
    "AsyncResultFile",
    "AsyncRunHandle",
    "Begun",
    "Client",
    "End",
    "Envelope",
    "FileNotSaved",
    "FileReference",
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
    "ResultFile",
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
