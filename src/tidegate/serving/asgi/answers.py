"""Answers of the HTTP door: JSON messages, and failures by the one table of statuses."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from tidegate.errors import ModelError, TidegateError
from tidegate.serving.asgi.bodies import CODINGS
from tidegate.serving.errors import EncodingError, SlowClientError, message_of, status_of
from tidegate.serving.rest import to_json

__all__ = ["Headers", "Send", "send", "send_failure", "send_json"]

Headers: TypeAlias = list[tuple[bytes, bytes]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log = logging.getLogger("tidegate.serving")

_JSON = (b"content-type", b"application/json")
# A message may quote what the client sent.
_LONGEST = 2000


async def send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Sends a whole answer."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_json(
    to: Send, message: object, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Sends a message as JSON."""
    await send(to, status, [_JSON, *headers], to_json(message))


async def send_failure(to: Send, error: BaseException, *, during: str) -> None:
    """Sends what a client is told of an error, and logs what it is not told.

    Args:
        to: Of ASGI.
        error: What the request ended with.
        during: What was being done, for the log.
    """
    status = status_of(error)
    headers: Headers = []
    if status.retry_after is not None:
        headers.append((b"retry-after", b"%d" % status.retry_after))
    if status.http == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, EncodingError):
        headers.append((b"accept-encoding", ", ".join(CODINGS).encode()))
    if isinstance(error, SlowClientError):
        headers.append((b"connection", b"close"))  # the rest of its body may still come
    if status.http == 500:
        _log_failure(error, during)
    await send_json(to, {"error": message_of(error)[:_LONGEST]}, status.http, headers)


def _log_failure(error: BaseException, during: str) -> None:
    """Once for each failure of a model, which all requests of its batch share."""
    if not isinstance(error, TidegateError):
        _log.error("%s failed", during, exc_info=error)
        return
    cause = error.__cause__ if isinstance(error, ModelError) else None
    if cause is not None:
        if getattr(cause, "_tidegate_logged", False):
            return
        cause._tidegate_logged = True  # type: ignore[attr-defined]
    _log.error("%s failed: %s", during, error, exc_info=cause)
