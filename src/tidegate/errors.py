"""Everything that tidegate raises of its own.

TidegateError
├── ConfigError (ValueError)          a setting that cannot be
├── InputError (ValueError)           a request that the model cannot take
├── ClosedError (RuntimeError)        the batcher is closed
├── ForkedProcessError (RuntimeError) the batcher belongs to the parent process
├── QueueFullError                    no room, try again later
├── DeadlineError (TimeoutError)      the request's timeout passed while it waited
├── DeviceError (RuntimeError)        a GPU failed, and with it all that was on its way there
└── ModelError                        the model raised; its exception is the cause
    └── OutputError                   the model answered, but not one row per request

Waiting too long in ``Future.result(timeout)`` is the builtin ``TimeoutError`` and leaves the
request alone; a cancelled request raises ``CancelledError``, as asyncio and concurrent.futures do.
"""

from __future__ import annotations

__all__ = [
    "ClosedError",
    "ConfigError",
    "DeadlineError",
    "DeviceError",
    "ForkedProcessError",
    "InputError",
    "ModelError",
    "OutputError",
    "QueueFullError",
    "TidegateError",
]


class TidegateError(Exception):
    """Base of all errors of tidegate."""


class ConfigError(TidegateError, ValueError):
    """A setting has a value that it cannot have."""


class InputError(TidegateError, ValueError):
    """A request does not look like what the batcher takes; it never entered a batch.

    Attributes:
        expected: What the batcher takes, in words: structure, shape, dtype.
        given: What came, in words.
    """

    def __init__(self, message: str, *, expected: str = "", given: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.given = given


class ClosedError(TidegateError, RuntimeError):
    """The batcher was closed before the request could run."""


class ForkedProcessError(TidegateError, RuntimeError):
    """The batcher was made before a fork; its threads live in the parent only."""


class QueueFullError(TidegateError):
    """The queue holds ``max_queue_size`` rows already."""


class DeadlineError(TidegateError, TimeoutError):
    """The request's timeout passed while it waited in the queue."""


class DeviceError(TidegateError, RuntimeError):
    """A GPU failed; CUDA's error is ``__cause__``, and nothing runs there in this process again."""


class ModelError(TidegateError):
    """The model raised while it ran the request's batch; its exception is ``__cause__``."""


class OutputError(ModelError):
    """The model's answer does not hold one row per request.

    Attributes:
        expected: Number of rows the model was called with, or None if rows are not the matter.
        given: Number of rows it returned, or None.
    """

    def __init__(
        self, message: str, *, expected: int | None = None, given: int | None = None
    ) -> None:
        super().__init__(message)
        self.expected = expected
        self.given = given


def said(error: BaseException) -> str:
    """Kind and text of an exception of somebody else, whose text is code that may raise as well."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__
