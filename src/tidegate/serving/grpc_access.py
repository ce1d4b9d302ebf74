"""A line in the log for each gRPC call; only servers that keep an access log load this."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

__all__ = ["AccessLog"]

_log = logging.getLogger("tidegate.access")
_NAMES: dict[Any, str] = {code.value[0]: code.name for code in grpc.StatusCode}
_FIRST_FIELD = 0x0A  # of a message, if that is a string
_MOST_NAME = 127  # bytes, whose length is then one byte


class AccessLog(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Writes client, method, model, status and milliseconds of each call."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """The method's handler, with a line written when it has ended."""
        handler = await continuation(handler_call_details)
        if handler is None:
            _log.info("- gRPC %r - UNIMPLEMENTED", handler_call_details.method)
            return None
        method = handler_call_details.method
        if handler.request_streaming or handler.response_streaming:
            return _streaming(method, handler)
        behaviour = handler.unary_unary

        async def call(message: bytes, context: Any) -> Any:
            began = time.perf_counter()
            cancelled = False
            try:
                return await behaviour(message, context)
            except asyncio.CancelledError:
                cancelled = True
                raise
            finally:
                _write(method, _model(method, message), context, began, cancelled)

        return grpc.unary_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )


def _streaming(method: str, handler: Any) -> Any:
    """The same for calls with a stream in either direction."""
    kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
    behaviour = getattr(handler, kind)
    if not handler.response_streaming:
        return handler  # nobody here has such methods

    async def call(messages: Any, context: Any) -> AsyncIterator[Any]:
        began = time.perf_counter()
        cancelled = False
        try:
            async for message in behaviour(messages, context):
                yield message
        except (asyncio.CancelledError, GeneratorExit):
            cancelled = True
            raise
        finally:
            _write(method, "-", context, began, cancelled)

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(call, handler.request_deserializer, handler.response_serializer)


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _write(method: str, model: str, context: Any, began: float, cancelled: bool) -> None:
    code = context.code()
    status = "CANCELLED" if cancelled else _NAMES.get(getattr(code, "value", (code,))[0], "OK")
    milliseconds = (time.perf_counter() - began) * 1e3
    _log.info("%s gRPC %r %s %s %.2f ms", context.peer(), method, model, status, milliseconds)


def _model(method: str, message: Any) -> str:
    """The model's name: the first field of every message that has one, and written first."""
    if (
        isinstance(message, bytes)
        and len(message) > 2
        and message[0] == _FIRST_FIELD
        and message[1] <= _MOST_NAME
        and "/inference." in method
    ):
        return repr(message[2 : 2 + message[1]].decode(errors="replace"))
    return "-"
