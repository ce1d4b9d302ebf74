"""The measured grpc.aio services: one handler with the model called in it, and with a batcher.

A request is 64 float32 numbers as bytes, an answer 10 likewise: nothing is measured but gRPC itself
and what stands behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import numpy as np

from benchmarks.serving.batchers import Model, batching

SERVICE = "benchmarks.Perceptron"
METHOD = "Predict"

Handler = Callable[[bytes, Any], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def handling(model: Model, kind: str) -> AsyncIterator[Handler]:
    """The handler of one kind."""
    if kind == "alone":

        async def alone(request: bytes, context: Any) -> bytes:
            outputs: bytes = model(np.frombuffer(request, np.float32)[None])[0].tobytes()
            return outputs

        yield alone
        return
    async with batching(kind, model) as submit:

        async def batched(request: bytes, context: Any) -> bytes:
            outputs: bytes = (await submit(np.frombuffer(request, np.float32))).tobytes()
            return outputs

        yield batched


async def serve(model: Model, kind: str, listening: Callable[[int], None]) -> None:
    """Serve on a port of the loopback interface, which `listening` is told, until it is ended."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    async with contextlib.AsyncExitStack() as stack:
        if kind == "door":
            from benchmarks.serving.doors import add_grpc_door

            add_grpc_door(server, model)
        else:
            handler = grpc.unary_unary_rpc_method_handler(
                await stack.enter_async_context(handling(model, kind))
            )
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
            )
        await server.start()
        listening(port)
        await server.wait_for_termination()
