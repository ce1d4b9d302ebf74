"""A gRPC server of either kind in the test's own process, and calls to it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf.message import Message

from tests.gated import PATIENCE
from tidegate import Future
from tidegate.serving import Limits, Models, Tokens
from tidegate.serving._proto import open_inference_pb2 as pb
from tidegate.serving._proto import tidegate_v1_pb2 as v1
from tidegate.serving.datatypes import datatype_of, to_raw
from tidegate.serving.grpc import TokenInterceptor, add_to_server, create_server, server_options
from tidegate.serving.grpc.messages import FIELDS
from tidegate.serving.native import NativeServer

KINDS = ("aio", "threads", "native")
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICT = "/tidegate.v1.Inference/Predict"

Answer = TypeVar("Answer", bound=Message)


class Door:
    """A server that runs.

    Attributes:
        address: Where clients connect to.
        channel: A client's.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        # Without a pool of its own, it would share a connection with other channels.
        self.channel: Any = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )

    def raw(self, method: str, message: bytes, **settings: Any) -> bytes:
        """One call with bytes."""
        settings.setdefault("timeout", PATIENCE)
        answer: bytes = self.channel.unary_unary(method)(message, **settings)
        return answer

    def call(self, method: str, request: Message, kind: type[Answer], **settings: Any) -> Answer:
        """One call."""
        return kind.FromString(self.raw(method, request.SerializeToString(), **settings))

    def ask(self, name: str, request: Message, kind: type[Answer], **settings: Any) -> Answer:
        """One call of the Open Inference Protocol."""
        return self.call(f"/inference.GRPCInferenceService/{name}", request, kind, **settings)

    def infer(self, request: pb.ModelInferRequest, **settings: Any) -> pb.ModelInferResponse:
        """One ModelInfer."""
        return self.call(MODEL_INFER, request, pb.ModelInferResponse, **settings)

    def predict(self, request: v1.PredictRequest, **settings: Any) -> v1.PredictResponse:
        """One Predict."""
        return self.call(PREDICT, request, v1.PredictResponse, **settings)


@contextlib.contextmanager
def door(
    models: Models,
    kind: str = "aio",
    *,
    limits: Limits | None = None,
    tokens: Tokens | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> Iterator[Door]:
    """A server on a free port, which is gone in the end."""
    running = {"aio": _aio, "threads": _threads, "native": _native}[kind]
    with running(models, limits, tokens, options) as port:
        opened = Door(f"127.0.0.1:{port}")
        try:
            yield opened
        finally:
            opened.channel.close()


@contextlib.contextmanager
def _aio(
    models: Models, limits: Limits | None, tokens: Tokens | None, options: Any
) -> Iterator[int]:
    async def start() -> tuple[Any, int]:
        server = create_server(models, limits=limits, tokens=tokens, options=options)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = in_loop(start())
    try:
        yield port
    finally:
        in_loop(server.stop(None))


@contextlib.contextmanager
def _threads(
    models: Models, limits: Limits | None, tokens: Tokens | None, options: Any
) -> Iterator[int]:
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(
            pool,
            options=[*server_options(limits), *options],
            interceptors=[] if tokens is None else [TokenInterceptor(tokens)],
        )
        add_to_server(models, server, limits=limits)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            assert server.stop(None).wait(PATIENCE)


@contextlib.contextmanager
def _native(
    models: Models, limits: Limits | None, tokens: Tokens | None, options: Any
) -> Iterator[int]:
    pytest.importorskip("tidegate._frontend", reason="the native front end was not built")
    with NativeServer(models, limits=limits, tokens=tokens) as server:
        yield server.address[1]


_loops: list[asyncio.AbstractEventLoop] = []


def in_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine in the one loop that all aio servers and clients of the tests share.

    grpc.aio has one queue of events for the whole process, and several loops would wake each other.
    """
    if not _loops:
        _loops.append(asyncio.new_event_loop())
        threading.Thread(target=_loops[0].run_forever, daemon=True).start()
    return asyncio.run_coroutine_threadsafe(work, _loops[0]).result(2 * PATIENCE)


def living_futures() -> int:
    """How many futures of requests there are in the process."""
    gc.collect()
    # By its type: some objects of other libraries do not like to be asked what they are.
    return sum(issubclass(type(each), Future) for each in gc.get_objects())


# Messages


def raw_request(model: str, **inputs: Any) -> pb.ModelInferRequest:
    """A request with raw contents."""
    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        request.raw_input_contents.append(to_raw(array))
    return request


def typed_request(model: str, **inputs: Any) -> pb.ModelInferRequest:
    """A request with typed contents."""
    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        datatype = datatype_of(array.dtype)
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        getattr(tensor.contents, FIELDS[datatype]).extend(array.ravel().tolist())
    return request


def failure_of(call: Any, *arguments: Any, **settings: Any) -> Any:
    """The grpc.RpcError that a call ends with."""
    try:
        answer = call(*arguments, **settings)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"it did not fail, and answered {answer}")


ROW = np.ones((1, 3), np.float32)
