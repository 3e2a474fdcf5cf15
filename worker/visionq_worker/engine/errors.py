"""What can go wrong in an engine, as types. Messages are safe to show; causes are chained.

EngineError            the engine has no completion for a request
├── RequestRefused       it was never taken: refused at submit, and would be again
│   ├── RequestTooLong     prompt and new tokens exceed the context or the cache
│   └── RequestInvalid     ids, images or options that the model cannot take
├── RequestFailed        it was taken and failed alone
├── DeviceFull           it does not fit into the device's memory at present; another try may
├── EngineClosed         the engine is going down; another one may answer
└── EngineBroken         the device hangs or is spoilt: the process has to be restarted
"""

from __future__ import annotations


class EngineError(Exception):
    """The engine could not answer this request. `is_transient`: another try may succeed."""

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class RequestRefused(EngineError):
    """The request cannot be run by this engine, now or later."""


class RequestTooLong(RequestRefused):
    """Prompt and new tokens together do not fit."""


class RequestInvalid(RequestRefused):
    """The request contradicts itself or the model."""


class RequestFailed(EngineError):
    """The model failed on this request; the others went on."""


class DeviceFull(EngineError):
    """The device's memory does not hold this request at present."""

    def __init__(self, message: str = "the device ran out of memory") -> None:
        super().__init__(message, is_transient=True)


class EngineClosed(EngineError):
    """The engine is closed."""

    def __init__(self, message: str = "the engine is closed") -> None:
        super().__init__(message, is_transient=True)


class EngineBroken(EngineError):
    """The device is lost to this process; every request in hand ended with this."""

    def __init__(self, message: str) -> None:
        super().__init__(message, is_transient=True)
