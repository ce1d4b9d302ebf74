"""Answers of the HTTP door: JSON messages, and failures by the one table of statuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from tidegate.serving.asgi.bodies import CODINGS
from tidegate.serving.errors import (
    EncodingError,
    SlowClientError,
    log_failure,
    message_of,
    status_of,
)
from tidegate.serving.rest import to_json

__all__ = ["Headers", "Send", "send", "send_failure", "send_json"]

Headers: TypeAlias = list[tuple[bytes, bytes]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

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
    log_failure(error, during)
    await send_json(to, {"error": message_of(error)[:_LONGEST]}, status.http, headers)
