"""grpc.health.v1.Health over the models' own state: asked when a client asks, never kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tidegate.errors import TidegateError
from tidegate.serving.errors import UnknownModelError, UnsupportedError
from tidegate.serving.grpc import messages
from tidegate.serving.grpc.calls import Handler, failure, for_loops, for_threads, refusal
from tidegate.serving.models import Models

try:
    from grpc_health.v1 import health_pb2
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "health checks over gRPC need grpcio-health-checking: pip install 'tidegate[serve]', or do "
        "without them: health=False",
        name=error.name,
    ) from error

__all__ = ["HEALTH", "handlers"]

HEALTH = "grpc.health.v1.Health"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
# How late a watcher may learn of a change, in seconds.
_PAUSE = 0.2


class Health:
    """Answers for the whole server (the empty name), its services and each model.

    Args:
        models: What is on offer.
        services: Names of services that are as healthy as the whole.
    """

    def __init__(self, models: Models, services: tuple[str, ...]) -> None:
        self._models = models
        self._whole = ("", *services)

    def status(self, name: str) -> int:
        """A HealthCheckResponse's status; raises UnknownModelError if nothing has that name."""
        if name in self._whole:
            ready = self._models.ready
        else:
            ready = self._models.get(name).ready and not self._models.draining
        return int(_SERVING if ready else _NOT_SERVING)

    def check(self, message: bytes) -> bytes:
        """One look."""
        name = messages.parse(health_pb2.HealthCheckRequest, message).service
        return _response(self.status(name))

    async def watch(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        """Tells each change; ends once the server drains, so that it holds nobody up."""
        try:
            name = messages.parse(health_pb2.HealthCheckRequest, message).service
        except TidegateError as error:
            await context.abort(*failure(error))
            return
        told = None
        while True:
            draining = self._models.draining
            try:
                status = self.status(name)
            except UnknownModelError:
                status = int(_SERVICE_UNKNOWN)  # it may come
            if status != told:
                told = status
                yield _response(status)
            if draining:
                return
            await asyncio.sleep(_PAUSE)


def _response(status: int) -> bytes:
    encoded: bytes = health_pb2.HealthCheckResponse(status=status).SerializeToString()
    return encoded


def handlers(models: Models, services: tuple[str, ...], *, loops: bool) -> dict[str, Handler]:
    """The service's handlers by method.

    A server of threads has no Watch: each watcher would keep a thread from the models. Clients know
    by the protocol what UNIMPLEMENTED means, and probes use Check.
    """
    health = Health(models, services)
    if loops:
        return {
            "Check": for_loops(health.check),
            "Watch": grpc.unary_stream_rpc_method_handler(health.watch),
        }
    no_watch = UnsupportedError("a server of threads has no Watch; use Check")
    return {"Check": for_threads(health.check), "Watch": refusal(no_watch, loops=False)}
