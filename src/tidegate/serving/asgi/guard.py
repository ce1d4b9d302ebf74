"""The HTTP door's outermost layer: who may ask, and a line in the log for each answer."""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from tidegate.serving.asgi import answers
from tidegate.serving.authentication import Tokens
from tidegate.serving.errors import AuthenticationError

__all__ = ["AccessLog", "Guard"]

# What probes ask, which have no tokens; the answers tell nothing about models.
_OPEN = ("/v2/health/live", "/v2/health/ready")


def _path_within(scope: Scope) -> str:
    """The path below where the app is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class Guard:
    """Lets requests through that carry a token, and those that need none.

    Args:
        app: What it guards.
        tokens: The accepted ones.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401, or lets the app answer."""
        if scope["type"] == "http" and _path_within(scope) not in _OPEN:
            given = dict(scope["headers"]).get(b"authorization")
            try:
                self._tokens.check(None if given is None else given.decode("latin-1"))
            except AuthenticationError as error:
                await answers.send_failure(send, error, during="authentication")
                return
        await self._app(scope, receive, send)


class AccessLog:
    """Writes one line for each answer: client, method, path, status, bytes, milliseconds.

    Args:
        app: What it writes about.
        logger: Where to; the level is INFO.
    """

    def __init__(self, app: ASGIApp, logger: logging.Logger) -> None:
        self._app = app
        self._logger = logger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets the app answer, and writes the line."""
        if scope["type"] != "http" or not self._logger.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, size = 0, 0

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            client = scope.get("client")
            self._logger.info(
                "%s %s %r %d %d B %.2f ms",
                client[0] if client else "-",
                scope["method"],
                scope["path"],
                status,
                size,
                (time.perf_counter() - began) * 1e3,
            )
