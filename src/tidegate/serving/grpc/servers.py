"""Services put on a server of the user's own, or on one made here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from tidegate.errors import ConfigError
from tidegate.serving.authentication import Tokens
from tidegate.serving.grpc.calls import Handler, for_loops, for_threads, unimplemented
from tidegate.serving.grpc.methods import INFERENCE, Protocol
from tidegate.serving.grpc.predict import PREDICT, Predict
from tidegate.serving.grpc.tokens import AioTokenInterceptor
from tidegate.serving.limits import Limits
from tidegate.serving.models import Models

__all__ = ["add_to_server", "create_server", "server_options"]

# A connection whose client is gone without a word is noticed after these together.
_KEEPALIVE_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 10_000
# Calls that have come and that no handler has looked at yet. Above the first number gRPC begins to
# end some of them at random, as CANCELLED and without a word, and above the second all; by its
# defaults, 1000 and 3000, a burst that the batcher has room for would lose answers.
_MOST_PENDING = 16_384
_MOST_PENDING_HARD = 32_768


class _Services(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Finds a method's handler, and answers for what the protocol has beyond them."""

    def __init__(self, handlers: Mapping[str, Handler], loops: bool) -> None:
        self._handlers = handlers
        self._loops = loops

    def service(self, handler_call_details: Any) -> Handler | None:
        """The handler, or None if the method belongs to somebody else's service."""
        method: str = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None and method.startswith(f"/{INFERENCE}/"):
            return unimplemented(method.rpartition("/")[2][:100], loops=self._loops)
        return handler


def add_to_server(
    models: Models,
    server: Any,
    *,
    limits: Limits | None = None,
    health: bool = True,
    reflection: bool = True,
) -> None:
    """Offers models on a server, beside what it serves already.

    They come as ``inference.GRPCInferenceService`` (the Open Inference Protocol) and as
    ``tidegate.v1.Inference``. Models may be added and removed later.

    Args:
        models: What is on offer.
        server: From ``grpc.aio.server()`` or ``grpc.server()``, not started yet. On the latter a
            request keeps its thread while it waits, so that no more are batched than there are
            threads.
        limits: What a client may send; the server's own options must allow as much, see
            server_options(). None for the defaults of Limits.
        health: Whether to add ``grpc.health.v1.Health``: for ``""``, for each service and for each
            model by its name. Not if the server has a health service already.
        reflection: Whether to add server reflection, which lists what is added here. Not if the
            server has it already.

    Raises:
        ConfigError: `models` or `server` is something else.
    """
    _check_models(models)
    if not isinstance(server, grpc.Server | grpc.aio.Server):
        raise ConfigError(
            f"server must come from grpc.aio.server() or grpc.server(), got {type(server).__name__}"
        )
    if reflection:  # before anything is added: its package may be missing
        from tidegate.serving.grpc.reflection import add_reflection
    loops = isinstance(server, grpc.aio.Server)
    make = for_loops if loops else for_threads
    limits = Limits() if limits is None else limits
    protocol = Protocol(models, limits)
    handlers = {f"/{INFERENCE}/{name}": make(answer) for name, answer in protocol.answers().items()}
    handlers[f"/{INFERENCE}/ModelInfer"] = make(None, protocol.model_infer)
    handlers[f"/{PREDICT}/Predict"] = make(None, Predict(models, limits).predict)
    services: tuple[str, ...] = (INFERENCE, PREDICT)
    if health:
        from tidegate.serving.grpc import health as checks

        for name, handler in checks.handlers(models, services, loops=loops).items():
            handlers[f"/{checks.HEALTH}/{name}"] = handler
        services = (*services, checks.HEALTH)
    server.add_generic_rpc_handlers((_Services(handlers, loops),))
    if reflection:
        add_reflection(services, server, lambda: models.draining)


def _check_models(models: object) -> None:
    if not isinstance(models, Models):
        raise ConfigError(f"models must be Models, got {type(models).__name__}")


def server_options(limits: Limits | None = None) -> list[tuple[str, Any]]:
    """Options for a server of one's own, so that gRPC itself refuses what `limits` forbid.

    They also end connections whose clients have vanished without a word, let bursts of calls wait
    for their handlers, and make a port that is taken an error instead of sharing it.

    Args:
        limits: What a client may send; None for the defaults of Limits.
    """
    limits = Limits() if limits is None else limits
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),  # or it would wait for 60 s
        ("grpc.server.max_pending_requests", _MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING_HARD),
        ("grpc.so_reuseport", 0),
    ]


def create_server(
    models: Models,
    *,
    limits: Limits | None = None,
    tokens: Tokens | None = None,
    health: bool = True,
    reflection: bool = True,
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]] = (),
    options: Sequence[tuple[str, Any]] = (),
    maximum_concurrent_rpcs: int | None = None,
) -> grpc.aio.Server:
    """A ``grpc.aio`` server that offers models; ports are added and it is started by the caller.

    To be called in the event loop that it will serve in.

    Args:
        models: What is on offer.
        limits: What a client may send; None for the defaults of Limits.
        tokens: Those that a call must carry one of; None for none. Health checks need none.
        health: See add_to_server().
        reflection: See add_to_server().
        interceptors: More of them, which see a call after its token was checked.
        options: More of gRPC's; they win over those of server_options().
        maximum_concurrent_rpcs: Calls under way at most; more are refused with RESOURCE_EXHAUSTED.

    Raises:
        ConfigError: `models` is something else, or no event loop runs here.
    """
    _check_models(models)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError("create_server() must be called in the event loop to serve in") from None
    guards = () if tokens is None else (AioTokenInterceptor(tokens),)
    merged = {**dict(server_options(limits)), **dict(options)}
    server = grpc.aio.server(
        interceptors=[*guards, *interceptors],
        options=list(merged.items()),
        maximum_concurrent_rpcs=maximum_concurrent_rpcs,
    )
    add_to_server(models, server, limits=limits, health=health, reflection=reflection)
    return server
