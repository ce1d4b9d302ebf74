"""Server reflection for tidegate's services, whose descriptors lie in a pool of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pool

from tidegate.serving._proto.pool import POOL

try:
    from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "reflection over gRPC needs grpcio-reflection: pip install 'tidegate[serve]', or do "
        "without it: reflection=False",
        name=error.name,
    ) from error

__all__ = ["add_reflection"]

# How late an open stream may learn that the server drains, in seconds.
_PAUSE = 0.2


class _Pools:
    """Looks into tidegate's pool, and then into the process's own, where other services are."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def find(*arguments: Any) -> Any:
            try:
                return getattr(POOL, name)(*arguments)
            except (KeyError, TypeError):  # TypeError: a descriptor of the other pool
                return getattr(descriptor_pool.Default(), name)(*arguments)

        return find


class _Servicer(reflection.aio.ReflectionServicer):  # type: ignore[misc, name-defined]
    """Ends the streams of clients that ask nothing more once the server drains."""

    def __init__(self, services: Iterable[str], draining: Callable[[], bool]) -> None:
        super().__init__(services, pool=_Pools())
        self._draining = draining

    async def ServerReflectionInfo(  # noqa: N802
        self, request_iterator: Any, unused_context: Any
    ) -> AsyncIterator[Any]:
        """A stream of questions and answers."""
        asked = _until(self._draining, request_iterator)
        async for response in super().ServerReflectionInfo(asked, unused_context):
            yield response


async def _until(draining: Callable[[], bool], requests: Any) -> AsyncIterator[Any]:
    """The requests of a stream, until the server drains."""
    stream = aiter(requests)
    while True:
        reading = asyncio.ensure_future(anext(stream))
        try:
            while not reading.done():
                await asyncio.wait([reading], timeout=_PAUSE)
                if draining() and not reading.done():
                    return
            yield reading.result()
        except StopAsyncIteration:
            return
        finally:
            reading.cancel()


def add_reflection(services: Iterable[str], server: Any, draining: Callable[[], bool]) -> None:
    """Lets clients such as grpcurl ask which services there are.

    Args:
        services: Names of all services of the server; reflection itself is added.
        server: A ``grpc.aio`` or a ``grpc.server()``, not started yet.
        draining: Whether the server drains: open streams would hold it up.
    """
    names = (*services, reflection.SERVICE_NAME)
    if isinstance(server, grpc.aio.Server):
        servicer = _Servicer(names, draining)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    else:
        reflection.enable_server_reflection(names, server, pool=_Pools())  # type: ignore[arg-type]
