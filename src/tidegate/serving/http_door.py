"""The HTTP door: uvicorn on a socket, drained so that no request that was taken goes unanswered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Generator
from typing import Any

import uvicorn

from tidegate.serving import connections

__all__ = ["HttpDoor"]

# What a client that was just let in, or just answered, is given to send its next request in.
_LINGER = 0.25
_LINGERS = 25
_CLOSE = (b"connection", b"close")


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpDoor:
    """An ASGI application on a listening socket.

    Args:
        app: The application.
        listening: The socket; the door closes it.
        url: What clients connect to, for messages.
        tls: For HTTPS, or None.
        max_connections: At a time; requests on more are answered 503.
        keep_alive: Seconds that a connection may be idle between requests.
        receive_timeout: Seconds that a client may take to send a request, and to take any part of
            an answer.
    """

    def __init__(
        self,
        app: Any,
        listening: socket.socket,
        *,
        url: str,
        tls: ssl.SSLContext | None,
        max_connections: int,
        keep_alive: float,
        receive_timeout: float,
    ) -> None:
        self.url = url
        self._socket = listening
        self._receive_timeout = receive_timeout
        self._config = uvicorn.Config(
            app,
            http=connections.protocol_class(),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=max_connections + 1,  # it counts the one that asks, too
            # uvicorn hands it to loop.call_later(), which takes fractions as well.
            timeout_keep_alive=keep_alive,  # type: ignore[arg-type]
            h11_max_incomplete_event_size=connections.MOST_HEADERS,
        )
        self._config.load()
        self._config.ssl = tls  # made once for both doors, and checked
        self._server = _Server(self._config)
        self._serving: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begins to take requests."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
            await asyncio.sleep(0)
        state = self._server.server_state
        self._watching = asyncio.create_task(connections.watch(state, self._receive_timeout))

    def announce_end(self) -> None:
        """Asks clients not to reuse their connections: each answer closes its own from now on."""
        self._config.encoded_headers.append(_CLOSE)
        # What uvicorn would do at its next tick, within a second.
        state = self._server.server_state
        state.default_headers = [*state.default_headers, _CLOSE]

    async def close(self) -> None:
        """Takes no new connections; returns when every request that came is answered."""
        if self._serving is None:
            return
        loop = asyncio.get_running_loop()
        # Who has connected by now is let in: closing the socket would reset it.
        waiting = self._accept_all()
        for server in self._server.servers:
            server.close()
        for accepted in waiting:
            with contextlib.suppress(OSError):  # it is gone again
                await loop.connect_accepted_socket(self._protocol, accepted, ssl=self._config.ssl)
        for _ in range(_LINGERS):
            if not any(map(_idle, self._server.server_state.connections)):
                break
            await asyncio.sleep(_LINGER / _LINGERS)
        self._server.should_exit = True
        await asyncio.wait([self._serving])
        self._stop_watching()

    async def abort(self) -> None:
        """Ends all connections, answered or not."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it is meant
        self._server.should_exit = self._server.force_exit = True
        for connection in list(self._server.server_state.connections):
            connections.reset(connection.transport)
        self._stop_watching()

    def discard(self) -> None:
        """Closes the socket, if nobody has."""
        self._socket.close()

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def _accept_all(self) -> list[socket.socket]:
        accepted = []
        with contextlib.suppress(OSError):  # BlockingIOError: that was the last
            while True:
                connection, _ = self._socket.accept()
                connection.setblocking(False)
                accepted.append(connection)
        return accepted

    def _protocol(self) -> asyncio.Protocol:
        """A connection as uvicorn makes it."""
        make: Any = self._config.http_protocol_class
        made: asyncio.Protocol = make(
            config=self._config, server_state=self._server.server_state, app_state={}
        )
        return made


def _idle(connection: Any) -> bool:
    """True if no request is under way on a connection."""
    return connection.cycle is None or connection.cycle.response_complete
