"""The how-to for gRPC services of one's own, in event loops and in threads: answers, errors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from tests.gated import PATIENCE, in_thread, until
from tests.howto.sites import Held, expected, page
from tidegate import Batcher, TensorSpec


class Service:
    """The page's service, with a model that waits for the test, and a client of it."""

    def __init__(self, port: int, model: Held, batcher: Batcher, channel: grpc.Channel) -> None:
        self.port = port
        self.model = model
        self.batcher = batcher
        self._predict = channel.unary_unary("/example.Scores/Predict", bytes, bytes)

    def start(self, row: Any, timeout: float = PATIENCE) -> Any:
        """A call that is under way."""
        return self._predict.future(np.asarray(row, "<f4").tobytes(), timeout=timeout)

    def answer(self, call: Any) -> list[float]:
        """What it was answered."""
        values: list[float] = np.frombuffer(call.result(PATIENCE), "<f4").tolist()
        return values

    def refusal(self, call: Any) -> tuple[str, str]:
        """What it was refused with."""
        error = call.exception(PATIENCE)
        assert error is not None
        return error.code().name, error.details()

    def occupy(self) -> Any:
        """Gives the model, whose gate is shut, a call."""
        self.model.shut()
        call = self.start([0, 0, 0])
        self.model.await_entry()
        return call


@contextlib.contextmanager
def serve_in_a_loop(namespace: dict[str, Any], batcher: Batcher) -> Iterator[int]:
    """grpc.aio, in a loop of its own; its port."""
    ended = asyncio.Event()
    ports: list[int] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        server = grpc.aio.server()
        namespace["add_to"](server, namespace["Scores"](batcher))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        loops.append(asyncio.get_running_loop())
        ports.append(port)
        await ended.wait()
        await server.stop(grace=PATIENCE)

    loop = in_thread(lambda: asyncio.run(main()))
    try:
        until(lambda: ports or not loop.is_alive())
        yield ports[0]
    finally:
        for each in loops:
            each.call_soon_threadsafe(ended.set)
        loop.outcome()


@contextlib.contextmanager
def serve_in_threads(namespace: dict[str, Any], batcher: Batcher) -> Iterator[int]:
    """grpc.server, with as many threads as a test has calls; its port."""
    with ThreadPoolExecutor(64) as threads:
        server = grpc.server(threads)
        namespace["add_to"](server, namespace["ScoresInThreads"](batcher))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            assert server.stop(grace=PATIENCE).wait(PATIENCE)


@pytest.fixture(params=[serve_in_a_loop, serve_in_threads], ids=["loop", "threads"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """The service of the page, both of its kinds."""
    serve: Callable[..., contextlib.AbstractContextManager[int]] = request.param
    namespace = page("grpc-service.md")
    model = Held(namespace["model"])
    with (
        Batcher(model, inputs=TensorSpec((3,), "float32"), caller_runs=False) as batcher,
        serve(namespace, batcher) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        try:
            yield Service(port, model, batcher, channel)
        finally:
            model.gate.set()


def test_many_calls_get_their_own_answers_out_of_large_batches(service: Service) -> None:
    first = service.occupy()
    rows = [[number, 1, 2 * number] for number in range(50)]
    calls = [service.start(row) for row in rows]
    until(lambda: service.batcher.statistics().queue_depth == len(rows))
    service.model.gate.set()
    assert [service.answer(call) for call in calls] == [expected(row) for row in rows]
    assert service.answer(first) == [0, 0]
    assert max(map(len, service.model.batches)) == len(rows)


def test_a_row_that_does_not_fit_is_an_invalid_argument(service: Service) -> None:
    code, details = service.refusal(service.start([1, 2, 3, 4]))
    assert code == "INVALID_ARGUMENT"
    assert "expected a float32 array of shape (3,)" in details
    torn = service._predict.future(b"12345", timeout=PATIENCE)
    assert service.refusal(torn)[0] == "INVALID_ARGUMENT"
    assert service.model.rows_seen == 0


def test_a_full_queue_is_exhausted(service: Service) -> None:
    first = service.occupy()
    service.batcher.max_queue_size = 1
    second = service.start([1, 2, 3])
    until(lambda: service.batcher.statistics().queue_depth == 1)
    assert service.refusal(service.start([1, 2, 3]))[0] == "RESOURCE_EXHAUSTED"
    service.model.gate.set()
    assert service.answer(first) == [0, 0]
    assert service.answer(second) == [4, 5]


def test_a_model_that_raises_is_internal_and_keeps_its_words_to_itself(service: Service) -> None:
    service.model.failure = RuntimeError("the password is swordfish")
    code, details = service.refusal(service.start([1, 2, 3]))
    assert (code, details) == ("INTERNAL", "the model failed with RuntimeError")


def test_a_closed_batcher_is_unavailable(service: Service) -> None:
    service.batcher.close(timeout=PATIENCE)
    assert service.refusal(service.start([1, 2, 3]))[0] == "UNAVAILABLE"


def test_a_calls_deadline_is_its_rows(service: Service) -> None:
    first = service.occupy()
    late = service.start([7, 7, 7], timeout=0.2)
    assert service.refusal(late)[0] == "DEADLINE_EXCEEDED"
    until(lambda: service.batcher.statistics().queue_depth == 0)
    service.model.gate.set()
    assert service.answer(first) == [0, 0]
    assert service.model.rows_seen == 1


def test_the_row_of_a_call_that_was_cancelled_never_reaches_the_model(service: Service) -> None:
    first = service.occupy()
    unwanted, other = service.start([7, 7, 7]), service.start([1, 2, 3])
    until(lambda: service.batcher.statistics().queue_depth == 2)
    unwanted.cancel()
    until(lambda: service.batcher.statistics().cancelled == 1)
    service.model.gate.set()
    assert service.answer(first) == [0, 0]
    assert service.answer(other) == [4, 5]
    assert service.model.rows_seen == 2
