"""What a plugin's author imports: `tool`, `InvalidInput`, `Progress`, `Upload`, `File`, `cancelled`, `models`,
`model_path`, `secret`, `trace_context`.

`supervising` and `worker` are the two processes of a container. The worker loads the plugin with `startup` and reads
calls with `tools`; `http` and `shared` serve both processes. `gateway` and `healthcheck` are programs of their own.
"""

# The supervisor, the gateway and the orchestrator import this package too: it starts nothing and loads no third-party
# module.
from plugin_runtime.authoring import File, InvalidInput, Progress, Upload, model_path, models, secret, tool
from plugin_runtime.run_context import cancelled, trace_context

__all__ = [
    "File",
    "InvalidInput",
    "Progress",
    "Upload",
    "cancelled",
    "model_path",
    "models",
    "secret",
    "tool",
    "trace_context",
]

__version__ = "0.1.0"
"""Of the runtime and of the orchestrator, which ships it."""
