"""Methods as handlers of either kind of server, for `grpc.aio` and for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from tidegate.errors import DeadlineError, TidegateError
from tidegate.serving.errors import UnsupportedError, log_failure, message_of, status_of
from tidegate.serving.grpc.methods import Answer, Begin

__all__ = ["failure", "for_loops", "for_threads", "refusal"]

_CODES = {code.name: code for code in grpc.StatusCode}
# A status travels in a header, of which clients take a few KiB, and what a client sent may be part
# of its text.
_MOST_TEXT = 1000
# The deadline of a call that has none lies this far off, or further.
_FOREVER = 1e9

Trailers = tuple[tuple[str, str], ...]
Handler = Any  # grpc's stubs make generics of classes that cannot be subscripted


def failure(error: BaseException) -> tuple[grpc.StatusCode, str, Trailers]:
    """What a call that failed with `error` ends with: code, details, trailers."""
    status = status_of(error)
    log_failure(error, "a call")
    trailers: Trailers = ()
    if status.retry_after is not None and status.grpc == "RESOURCE_EXHAUSTED":
        # Clients with a retry policy wait that long. An unavailable server says nothing: another
        # may be asked at once.
        trailers = (("grpc-retry-pushback-ms", str(1000 * status.retry_after)),)
    details = message_of(error)
    if len(details) > _MOST_TEXT:
        details = details[:_MOST_TEXT] + "..."
    return _CODES[status.grpc], details, trailers


def for_loops(method: Answer | None, begin: Begin | None = None) -> Handler:
    """A handler for `grpc.aio` of a method that answers at once, or of one that waits.

    A call that is cancelled, by its client, by its deadline or with its connection, cancels the
    task, and the task its request.
    """

    async def answer(message: bytes, context: Any) -> bytes:
        assert method is not None
        try:
            return method(message)
        except Exception as error:
            return await _abort(context, error)

    async def wait(message: bytes, context: Any) -> bytes:
        assert begin is not None
        try:
            begun = begin(message, context.time_remaining())
            return begun.finish(await begun.pending)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            return await _abort(context, error)

    behaviour: Callable[[bytes, Any], Awaitable[bytes]] = answer if begin is None else wait
    return grpc.unary_unary_rpc_method_handler(behaviour)


async def _abort(context: Any, error: Exception) -> bytes:
    await context.abort(*failure(error))
    raise AssertionError("abort() raises")


def for_threads(method: Answer | None, begin: Begin | None = None) -> Handler:
    """The same for `grpc.server()`: a call's thread waits for its answer."""

    def answer(message: bytes, context: Any) -> bytes:
        assert method is not None
        try:
            return method(message)
        except Exception as error:
            return _abort_thread(context, error)

    def wait(message: bytes, context: Any) -> bytes:
        assert begin is not None
        try:
            begun = begin(message, _remaining(context))
            future = begun.pending.future
            if not context.add_callback(future.cancel):
                future.cancel()  # the call is over already
            try:
                return begun.finish(begun.pending.result(_remaining(context)))
            except TimeoutError:
                if future.done():  # with this, or only now
                    return begun.finish(begun.pending.result())
                future.cancel()
                raise DeadlineError("the call's deadline passed before its answer came") from None
        except Exception as error:
            return _abort_thread(context, error)

    return grpc.unary_unary_rpc_method_handler(answer if begin is None else wait)


def _remaining(context: Any) -> float | None:
    seconds: float | None = context.time_remaining()
    return None if seconds is None or seconds > _FOREVER else seconds


def _abort_thread(context: Any, error: Exception) -> bytes:
    code, details, trailers = failure(error)
    context.set_trailing_metadata(trailers)
    context.abort(code, details)
    raise AssertionError("abort() raises")


def refusal(error: TidegateError, *, loops: bool) -> Handler:
    """A handler that ends any call with `error`, before anything of its message is read."""
    code, details, _ = failure(error)

    async def refuse_in_loop(messages: Any, context: Any) -> Any:
        await context.abort(code, details)
        yield b""  # makes it a stream, which starts without a message

    def refuse(messages: Any, context: Any) -> Any:
        context.abort(code, details)

    return grpc.stream_stream_rpc_method_handler(refuse_in_loop if loops else refuse)


def unimplemented(method: str, *, loops: bool) -> Handler:
    """A handler for a method that the protocol has, and this server does not."""
    return refusal(UnsupportedError(f"this server has no {method}"), loops=loops)
