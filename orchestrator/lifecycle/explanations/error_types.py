"""The explanations of all error types but those of tools, which are named after what they raise."""

from typing import Final

from orchestrator.lifecycle.explanations.explanation import Explanation


def _of_type(name: str, status: int, meaning: str, remedy: str, test: str = "", *, happens: str = "") -> Explanation:
    return Explanation(
        name, "error type", meaning, remedy, test, happens, status=status, page="orchestrator/api/README.md#statuses"
    )


ERROR_TYPES: Final = (
    _of_type(
        "UnknownPlugin", 404, "no plugin has this name", "`GET /v1/plugins` lists all plugins", "call any other name"
    ),
    _of_type(
        "UnknownTool", 404, "the plugin has no tool of this name", "the error lists its tools", "call any other tool"
    ),
    _of_type("UnknownRun", 404, "no run has this id", "`GET /v1/runs` lists the runs", "ask for any other id"),
    _of_type(
        "UnknownFile",
        404,
        "the run gave no such file, or it is stored no longer",
        "call again, or raise `ORCHESTRATOR_RESULTS_MAX_AGE`",
        "ask for any other name",
    ),
    _of_type("UnknownRoute", 404, "no route has this path", "`/docs` lists all routes", "request any other path"),
    _of_type("MethodNotAllowed", 405, "the route does not take this method", "`/docs` lists the methods of each route"),
    _of_type(
        "NotAcceptable",
        406,
        "the run ended well, and its result has no file that `Accept` takes, nor is JSON taken",
        "the result is in the envelope; accept JSON too",
        "send `Accept: image/png` to a tool that gives no picture",
    ),
    _of_type("RangeNotSatisfiable", 416, "the file has no bytes of this `Range`", "`Content-Range` has its length"),
    _of_type(
        "BadRequest",
        400,
        "the body is no JSON, form or gzip, or its head is broken",
        "correct the body",
        "send `{` as application/json",
    ),
    _of_type(
        "UnsupportedMediaType",
        415,
        "the body's type or its encoding is not supported",
        "send JSON, a form, or the upload's own type to a tool with one upload",
    ),
    _of_type(
        "InvalidArguments",
        422,
        "the arguments do not fit the tool's schema; the plugin keeps running",
        "`GET /v1/plugins/{name}/tools` has the schema",
        "send an argument that the tool does not have",
    ),
    _of_type(
        "InvalidInput",
        422,
        "the tool refused its input; the plugin keeps running",
        "the error is the tool's own sentence",
        'with orchestrator.fault("detector", "InvalidInput"): ...',
        happens="the tool raises `InvalidInput`",
    ),
    _of_type(
        "InvalidRequest",
        422,
        "the request itself is wrong: a query parameter, or a field of a command",
        "the error names it",
    ),
    _of_type("InvalidRunId", 422, "`X-Run-Id` is not 32 lowercase hexadecimal digits", "send such an id, or none"),
    _of_type(
        "RunIdTaken",
        409,
        "a run of this id exists already",
        "look it up: it is made once",
        "send the same `X-Run-Id` twice",
    ),
    _of_type(
        "RunNotFinished",
        409,
        "the run has no result yet",
        "`Retry-After`, or `?wait=`",
        "ask for the result of a run at once",
    ),
    _of_type(
        "Cancelled",
        409,
        "the run was cancelled",
        "call again, if it is still wanted",
        'with orchestrator.slow("detector", "1m"): ...',
        happens="start a run asynchronously and cancel it",
    ),
    _of_type(
        "NoResult", 404, "no result of the run is stored", "results are stored for `ORCHESTRATOR_RESULTS_MAX_AGE`"
    ),
    _of_type("NotStored", 503, "the disk of the state folder has no room", "free space, then call again"),
    _of_type(
        "NoPostMortem", 404, "no post-mortem of this instance is stored", "`GET …/health` has that of the last one"
    ),
    _of_type("NoInstance", 404, "the plugin has no instance of this generation", "health lists its instances"),
    _of_type(
        "NotQuarantined", 409, "the GPU is not in a quarantine that an operator can end", "`GET /v1/gpus` lists them"
    ),
    _of_type(
        "RestartRefused",
        409,
        "there can be no new instance, and the old one serves on",
        "fix what the error names, then restart again",
    ),
    _of_type("UpdateUnderWay", 409, "an update of the plugin is under way", "wait for its end, or stop the plugin"),
    _of_type("NothingToRevert", 409, "the plugin has no former release", "`update` it first"),
    _of_type("UnknownWebhook", 404, "no webhook has this name", "`orchestrator hooks list`"),
    _of_type(
        "UnknownDelivery",
        404,
        "the webhook has no delivery of this id, or not any more",
        "`orchestrator hooks deliveries NAME`",
    ),
    _of_type("DeliveryPending", 409, "the delivery has not ended: it is attempted again by itself", "wait for its end"),
    _of_type("NotParked", 409, "a run executes or waits, or the plugin takes none", "park it when it is idle"),
    _of_type(
        "TooLarge",
        413,
        "the uploads are over the plugin's `limits.scratch`, or over 128 MiB for a `bytes` parameter",
        "send less, or raise the limit",
    ),
    _of_type(
        "QueueFull",
        429,
        "as many runs wait for the plugin as may",
        "try again after `Retry-After`; raise `queue`, `concurrency` or `replicas`",
        'with orchestrator.queue_full("detector"): ...',
        happens="runs that do not end until the block does take every place",
    ),
    _of_type(
        "RateExceeded",
        429,
        "the key has made as many runs as it may",
        "try again after `Retry-After`; `orchestrator keys change NAME --rate 10/s`",
    ),
    _of_type(
        "TooBusy",
        429,
        "the run could not be executed in time behind the batches before it",
        "try again after `Retry-After`",
    ),
    _of_type(
        "TooManyReaders", 429, "too many follow the events", "try again later; raise `ORCHESTRATOR_EVENT_READERS`"
    ),
    _of_type(
        "TooManyRequests",
        503,
        "too many requests are being answered",
        "try again after `Retry-After`; raise `ORCHESTRATOR_MAX_CONNECTIONS`",
    ),
    _of_type(
        "TooManyWrongKeys",
        429,
        "too many wrong keys came from this address",
        "try again after `Retry-After`, with the right one",
    ),
    _of_type(
        "HostUnreachable",
        503,
        "a front cannot reach the host, or lost it under the request (502; a run's state is unknown then)",
        "`GET /v1/hosts` says why; after 503 send it again, after 502 look at `GET /v1/runs/{run_id}` first",
    ),
    _of_type(
        "HostRequired",
        409,
        "the plugin is on several hosts, and the command means one",
        "send it again with the header `X-Host`",
    ),
    _of_type(
        "NoSuitableHost",
        409,
        "no host of the front takes the plugin, or the one that is named does not",
        "the error says why of each host, as `orchestrator explain NAME` does",
    ),
    _of_type(
        "MoveFailed",
        409,
        "the plugin did not serve on the new host, and serves on the old one",
        "the error says why; correct that on the new host, then move it again",
    ),
    _of_type("NothingToMove", 409, "the plugin serves on no other host", "`orchestrator start NAME` starts it"),
    _of_type(
        "HostSilent",
        409,
        "the host that the plugin is to leave does not answer: it may serve there",
        "wait until it is back, or `orchestrator move NAME --to HOST --force`",
    ),
    _of_type(
        "HostAnswers",
        409,
        "only a host that does not answer can be forgotten, or left by force",
        "drain it and take it out of hosts.yaml; move the plugin without `--force`",
    ),
    _of_type(
        "HostsInFile",
        409,
        "the front's hosts.yaml is the list of its hosts",
        "add the host there, by the lines of `orchestrator hosts add NAME ADDRESS`",
    ),
    _of_type(
        "StaleEpoch",
        409,
        "the plugin was moved by force again since: another front did it",
        "look at the plugin's placement, then give the command again",
    ),
    _of_type("UnknownHost", 404, "no host of the front has this name", "`GET /v1/hosts` lists all hosts"),
    _of_type("KeyRequired", 401, "the request has no API key", "send `Authorization: Bearer KEY`", "send no key"),
    _of_type(
        "KeyRefused",
        401,
        "the API key is unknown, revoked or over its date",
        "`orchestrator keys list`",
        "send another key",
    ),
    _of_type(
        "KeyForSomePlugins",
        403,
        "webhooks and hosts are of all plugins, and the key is for some alone",
        "use a key with `--plugins '*'`",
    ),
    _of_type("RoleTooSmall", 403, "the key does not have the right that this needs", "`orchestrator keys change NAME`"),
    _of_type(
        "UnknownUser", 403, "the proxy names a user that no key stands for", "`orchestrator keys add NAME --by-proxy`"
    ),
    _of_type(
        "ForeignHost",
        403,
        "without an API key, the request names another host than this one",
        "`ORCHESTRATOR_ALLOWED_HOSTS`, or use keys",
    ),
    _of_type("ForeignPage", 403, "a page of another site sent the request", "`ORCHESTRATOR_ALLOWED_ORIGINS`"),
    _of_type(
        "InvalidOutput",
        502,
        "what the plugin answered is no result",
        "as of `INVALID_OUTPUT`",
        'with orchestrator.fault("detector", "INVALID_OUTPUT"): ...',
        happens="the tool returns an object that is no JSON",
    ),
    _of_type(
        "PluginUnavailable",
        503,
        "the plugin takes no runs; `reason_code` and `error` say why",
        "fix the cause, then restart the plugin; with `Retry-After` the orchestrator is stopping: call again",
        'with orchestrator.fault("detector", "STOPPED"): ...',
        happens="the plugin is stopped by the API",
    ),
    _of_type(
        "InstanceEnded",
        503,
        "the run had begun, and its instance was ended under it; `reason_code` says why",
        "call again if the tool may run twice; `@tool(idempotent=True)` and `Prefer: retry` have it sent again",
    ),
    _of_type("LogsUnavailable", 503, "the engine gives no logs now", "start the engine, then ask again"),
    _of_type("RuntimeDefect", 502, "a defect of the plugin runtime", "its container's log has the details; report it"),
    _of_type("InternalError", 500, "a defect in the orchestrator", "its log has the details; report it"),
)
