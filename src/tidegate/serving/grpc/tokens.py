"""Interceptors that ask every call for a token, for both kinds of server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from tidegate.serving.authentication import Tokens
from tidegate.serving.errors import AuthenticationError
from tidegate.serving.grpc.calls import Handler, refusal

__all__ = ["AioTokenInterceptor", "TokenInterceptor"]

# Probes and balancers have no token, and learn no more than whether the server is up.
_OPEN = "/grpc.health.v1.Health/"


def _refused(tokens: Tokens, details: Any) -> AuthenticationError | None:
    """Why a call is refused, or None."""
    if details.method.startswith(_OPEN):
        return None
    authorization: str | None = None
    for key, value in details.invocation_metadata:
        if key == "authorization":
            authorization = value
            break
    try:
        tokens.check(authorization)
    except AuthenticationError as error:
        return error
    return None


class AioTokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Lets calls of a ``grpc.aio`` server through that carry one of `tokens`; see TokenInterceptor.

    Args:
        tokens: Those accepted.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler]], handler_call_details: Any
    ) -> Handler:
        """The method's own handler, or one that refuses before it reads a message."""
        error = _refused(self._tokens, handler_call_details)
        if error is not None:
            return refusal(error, loops=True)
        return await continuation(handler_call_details)


class TokenInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Lets calls of a ``grpc.server()`` through that carry one of `tokens`.

    The metadata ``authorization: Bearer <token>`` carries it. Every service of the server is
    guarded but the health check, which load balancers and probes ask without a token.

    Args:
        tokens: Those accepted.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def intercept_service(
        self, continuation: Callable[[Any], Handler], handler_call_details: Any
    ) -> Handler:
        """The method's own handler, or one that refuses before it reads a message."""
        error = _refused(self._tokens, handler_call_details)
        return continuation(handler_call_details) if error is None else refusal(error, loops=False)
