"""What a door answers when a request fails: the one table from exceptions to statuses."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import sys
from dataclasses import dataclass

from tidegate.errors import (
    ClosedError,
    DeadlineError,
    ForkedProcessError,
    InputError,
    ModelError,
    QueueFullError,
    TidegateError,
)

__all__ = [
    "STATUSES",
    "AuthenticationError",
    "EncodingError",
    "SlowClientError",
    "Status",
    "TooLargeError",
    "UnknownModelError",
    "UnsupportedError",
    "log_failure",
    "message_of",
    "status_of",
]

_log = logging.getLogger("tidegate.serving")


class UnknownModelError(TidegateError, LookupError):
    """No model of that name, or no such version of it, is on offer."""


class TooLargeError(InputError):
    """A message or a tensor is larger than the server takes; nothing was allocated for it."""


class EncodingError(InputError):
    """A body has a content type or a content encoding that the server does not read."""


class SlowClientError(TidegateError, TimeoutError):
    """A client took longer to send its request than the server waits for it."""


class UnsupportedError(TidegateError):
    """The protocol has it, and this server does not."""


class AuthenticationError(TidegateError):
    """The token is missing or wrong."""


@dataclass(frozen=True)
class Status:
    """One outcome in the terms of both protocols.

    Attributes:
        http: HTTP status code.
        grpc: Name of a ``grpc.StatusCode``.
        retry_after: Seconds after which to try again, or None if that would not help.
    """

    http: int
    grpc: str
    retry_after: int | None = None


_CANCELLED = Status(499, "CANCELLED")
# The first line whose class an exception is an instance of holds.
STATUSES: tuple[tuple[type[BaseException], Status], ...] = (
    (TooLargeError, Status(413, "RESOURCE_EXHAUSTED")),
    (EncodingError, Status(415, "INVALID_ARGUMENT")),
    (InputError, Status(400, "INVALID_ARGUMENT")),
    (AuthenticationError, Status(401, "UNAUTHENTICATED")),
    (UnknownModelError, Status(404, "NOT_FOUND")),
    (SlowClientError, Status(408, "DEADLINE_EXCEEDED")),
    (UnsupportedError, Status(501, "UNIMPLEMENTED")),
    (QueueFullError, Status(429, "RESOURCE_EXHAUSTED", retry_after=1)),
    (DeadlineError, Status(504, "DEADLINE_EXCEEDED")),
    (ClosedError, Status(503, "UNAVAILABLE", retry_after=1)),
    (ForkedProcessError, Status(503, "UNAVAILABLE")),
    (ModelError, Status(500, "INTERNAL")),
    # 499 is what proxies log for a client that hung up; nobody is left to read it.
    (concurrent.futures.CancelledError, _CANCELLED),
)
_UNEXPECTED = Status(500, "INTERNAL")


def status_of(error: BaseException) -> Status:
    """The status for an exception; for one that is in no line of the table, 500 and INTERNAL."""
    # Not in the table, since importing asyncio takes 4 MB: what it has raised, it has imported.
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        return _CANCELLED
    return next((status for kind, status in STATUSES if isinstance(error, kind)), _UNEXPECTED)


def message_of(error: BaseException) -> str:
    """What a client is told.

    Errors of tidegate speak for themselves. Of any other, and of a model's, only the kind is told:
    its text may hold what is none of the client's business.
    """
    if isinstance(error, ModelError) and error.__cause__ is not None:
        return f"the model failed with {type(error.__cause__).__name__}"
    if isinstance(error, TidegateError):
        return str(error)
    return f"the request failed with {type(error).__name__}"


def log_failure(error: BaseException, during: str) -> None:
    """Logs what a client is not told, with its traceback; nothing for other errors.

    A failure of a model is logged once: all requests of its batch share it.

    Args:
        error: What a request ended with.
        during: What was being done.
    """
    if status_of(error).http != 500:
        return
    if not isinstance(error, ModelError):
        _log.error("%s failed", during, exc_info=error)
        return
    cause = error.__cause__
    if cause is not None:
        if getattr(cause, "_tidegate_logged", False):
            return
        with contextlib.suppress(AttributeError):  # of an exception with slots
            cause._tidegate_logged = True  # type: ignore[attr-defined]
    _log.error("%s failed: %s", during, error, exc_info=cause)
