"""HTTP connections that end when their headers are too long or their client is too slow.

uvicorn bounds the headers with one of its two parsers only, and no time but that between requests.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn.server import ServerState

__all__ = ["MOST_HEADERS", "protocol_class", "reset", "watch"]

MOST_HEADERS = 64 * 1024
"""Bytes that a request may have besides its body."""

# A body may come in chunks of one byte, five more around each; more than this is no chunked body.
_MOST_FRAMING = 8
_FORGET = struct.pack("ii", 1, 0)
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


def protocol_class() -> type[asyncio.Protocol]:
    """Uvicorn's protocol, on the faster parser if httptools is installed, with bounded headers."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        from uvicorn.protocols.http.h11_impl import H11Protocol

        return H11Protocol  # bounded by uvicorn.Config(h11_max_incomplete_event_size)

    class Bounded(HttpToolsProtocol):
        """Counts what comes besides bodies: the parser keeps all of it, however long it is."""

        _besides = 0
        _allowed = MOST_HEADERS

        def data_received(self, data: bytes) -> None:
            self._besides += len(data)
            super().data_received(data)
            if self._besides > self._allowed and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

        def on_headers_complete(self) -> None:
            self._besides = 0
            self._allowed = MOST_HEADERS
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._besides -= len(body)
            self._allowed += _MOST_FRAMING * len(body)
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._besides = 0
            self._allowed = MOST_HEADERS
            super().on_message_complete()

    return Bounded


async def watch(state: ServerState, seconds: float) -> None:
    """Ends connections whose client keeps the server waiting, for as long as it is not cancelled.

    Args:
        state: uvicorn's, with its connections.
        seconds: That a client may take to send a request, and to take any part of an answer.
    """
    since: dict[Any, tuple[object, float]] = {}
    while True:
        await asyncio.sleep(seconds / 4)
        now = time.monotonic()
        awaited = {each: _awaited(each) for each in state.connections}
        since = {
            each: (what, since[each][1] if each in since and since[each][0] == what else now)
            for each, what in awaited.items()
            if what is not None
        }
        for connection, (_, start) in since.items():
            if now - start >= seconds:
                reset(connection.transport)


def reset(transport: asyncio.Transport) -> None:
    """Ends a connection, and has the kernel forget what its client has not taken."""
    number = transport.get_extra_info("socket").fileno()
    if number != -1:
        with socket.socket(fileno=os.dup(number)) as same:  # uvloop's own have no such option
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET)
    transport.abort()


def _awaited(connection: Any) -> object:
    """What the client of a connection has to do next; equal until it has done it; or None."""
    unsent = connection.transport.get_write_buffer_size()
    if unsent:
        return ("take", unsent)
    cycle = connection.cycle
    if cycle is None:
        return "send the first request"
    if cycle.response_complete:  # between requests uvicorn's own timer runs
        return None if connection.timeout_keep_alive_task is not None else ("send headers", cycle)
    return ("send a body", cycle) if cycle.more_body else None
