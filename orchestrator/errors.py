"""The error tree. Errors that several packages use are defined here, the others where they are raised.

OrchestratorError
├── ManifestError                a plugin.yaml that cannot be used
├── BuildError                   an image that could not be built
├── EngineError                  what the container engine answered
│   ├── EngineUnreachableError       no answer, or none in time
│   │   └── EngineAddressError           DOCKER_HOST, or a docker context, that names no engine to speak to
│   ├── NotFoundError                no such container or image
│   ├── DeviceRequestError           a device request that the engine cannot serve
│   └── EngineRefusedError           anything else it refused
├── ChannelError                 the connection to a plugin container broke
├── CallerDisconnectedError      the caller no longer waits for the run's answer
├── RunAbortedError              a run was cancelled, and its end is waited for no longer
├── TransitionError              a lifecycle step that the table does not hold
├── StaleGenerationError         a report about an instance that has been replaced
│
├── access       KeyFileError
├── api          TooManyReadersError
├── deployment   StateFolderError
├── front        HostsFileError, HostUnreachableError
├── loader       SamplesError, SecretMissingError
├── models       ModelStoreError, PullError
├── sandbox      BodyError
├── supervisor   AdoptionRefusedError, InstanceEndedError, ReleaseStoreError, SocketPathError, UpdateRefusedError
├── tools        QueueFullError, RunLostError
└── webhooks     WebhooksFileError

Foreign exceptions (docker, httptools, requests, OSError) are turned into these where they arise and nowhere else.
"""


class OrchestratorError(Exception):
    """Base of all; its text is a sentence for the operator."""


class ManifestError(OrchestratorError):
    """A manifest that cannot be used; its text names file, field and what was expected."""


class BuildError(OrchestratorError):
    """An image build that failed. `tail` holds the last lines of the build's output."""

    def __init__(self, message: str, tail: str = "") -> None:
        super().__init__(message)
        self.tail = tail


class EngineError(OrchestratorError):
    """The container engine did not do what was requested."""


class EngineUnreachableError(EngineError):
    """The engine gave no answer, or none in time."""


class EngineAddressError(EngineUnreachableError):
    """The settings that name the engine cannot be used; its text says which, and what to do."""


class NotFoundError(EngineError):
    """The engine knows no such container or image."""


class DeviceRequestError(EngineError):
    """The engine cannot serve the device request (no nvidia driver, no CDI spec)."""


class EngineRefusedError(EngineError):
    """The engine answered with an error."""


class ChannelError(OrchestratorError):
    """The connection to a plugin container could not be made, or broke."""


class CallerDisconnectedError(OrchestratorError):
    """The caller of a run has disconnected, or does not take its stream."""


class RunAbortedError(OrchestratorError):
    """A cancelled run that did not start, or did not end within its grace."""


class TransitionError(OrchestratorError):
    """A lifecycle step that the transition table does not hold."""


class StaleGenerationError(OrchestratorError):
    """A report about an instance that has been replaced by a newer one."""
