"""Requests that nobody waits for any more: deadlines, cancelled calls, lost connections."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.gated import PATIENCE, Gated, in_thread, until
from tests.helpers import occupy
from tests.serving.grpc_door import (
    KINDS,
    MODEL_INFER,
    Door,
    door,
    failure_of,
    in_loop,
    raw_request,
)
from tests.serving.vanish_grpc import vanish
from tidegate import Batcher, TensorSpec
from tidegate.serving import Models, Served
from tidegate.serving._proto import open_inference_pb2 as pb
from tidegate.serving.grpc import create_server, server_options

SPEC = TensorSpec((3,), "float64")
SENT = np.full((1, 3), 7.0)


@pytest.fixture
def batcher(model: Gated) -> Iterator[Batcher]:
    """A Batcher in front of `model`, which only its executor runs."""
    made = Batcher(model, inputs=SPEC, caller_runs=False)
    yield made
    model.gate.set()
    made.close(timeout=PATIENCE)


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, batcher: Batcher, model: Gated) -> Iterator[Door]:
    """A door of either kind whose one model is busy with another request."""
    with door(Models(Served("m", batcher)), request.param) as made:
        occupy(batcher, model)
        yield made
        model.gate.set()


def start(opened: Door, rows: int = 1, **settings: Any) -> Any:
    """A call that is under way."""
    message = raw_request("m", input=np.repeat(SENT, rows, axis=0)).SerializeToString()
    settings.setdefault("timeout", PATIENCE)
    return opened.channel.unary_unary(MODEL_INFER).future(message, **settings)


def waiting(batcher: Batcher, rows: int) -> None:
    """Returns once so many rows are in the queue."""
    until(lambda: batcher.statistics().queue_depth == rows)


# Deadlines


def test_a_deadline_that_passes_in_the_queue_ends_the_request(
    opened: Door, batcher: Batcher, model: Gated
) -> None:
    call = start(opened, timeout=0.2)
    waiting(batcher, 1)
    assert call.exception(PATIENCE).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    waiting(batcher, 0)
    model.gate.set()
    start(opened).result(PATIENCE)
    assert model.rows_seen == 2  # the one that occupied it, and the last


def test_the_timeout_of_the_request_is_kept_without_a_deadline(
    opened: Door, batcher: Batcher, model: Gated
) -> None:
    request = raw_request("m", input=SENT)
    request.parameters["timeout"].int64_param = 1000  # microseconds
    error = failure_of(opened.infer, request, timeout=None)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "timeout passed" in error.details()
    request.parameters["timeout"].string_param = "1000"
    error = failure_of(opened.infer, request, timeout=PATIENCE)
    assert "timeout passed" in error.details(), "the smaller of the two"
    assert model.rows_seen == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_deadline_does_not_lengthen_the_batchers_own_limit(kind: str, model: Gated) -> None:
    with (
        Batcher(model, inputs=SPEC, caller_runs=False, default_timeout=0.001) as batcher,
        door(Models(Served("m", batcher)), kind) as opened,
    ):
        running = batcher.submit(SENT[0], timeout=PATIENCE)
        model.await_entry()
        error = failure_of(opened.infer, raw_request("m", input=SENT), timeout=PATIENCE)
        model.gate.set()
        running.result(PATIENCE)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "timeout passed" in error.details()


def test_a_deadline_that_passes_while_the_model_runs_frees_the_caller(model: Gated) -> None:
    with (
        Batcher(model, inputs=SPEC, caller_runs=False) as batcher,
        door(Models(Served("m", batcher)), "threads") as opened,
    ):
        calls = [start(opened, timeout=1.5) for _ in range(16)]  # twice as many as threads
        model.await_entry()
        for call in calls:
            assert call.exception(PATIENCE).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # Were the threads still waiting for the model, nobody could answer this.
        assert opened.ask("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
        model.gate.set()


# Cancelled calls


@pytest.mark.parametrize("rows", [1, 5])
def test_a_call_that_is_cancelled_in_the_queue_never_reaches_the_model(
    opened: Door, batcher: Batcher, model: Gated, rows: int
) -> None:
    call, neighbour = start(opened, rows), start(opened)
    waiting(batcher, rows + 1)
    call.cancel()
    waiting(batcher, 1)
    model.gate.set()
    response = pb.ModelInferResponse.FromString(neighbour.result(PATIENCE))
    assert response.raw_output_contents[0] == (2 * SENT).tobytes()
    assert model.rows_seen == 2
    until(lambda: batcher.statistics().cancelled == rows)


def test_a_call_that_is_cancelled_while_the_model_runs_harms_nobody(
    model: Gated, batcher: Batcher
) -> None:
    for kind in KINDS:
        with door(Models(Served("m", batcher)), kind) as opened:
            model.gate.clear()
            call = start(opened)
            model.await_entry()
            call.cancel()
            model.gate.set()
            response = pb.ModelInferResponse.FromString(start(opened).result(PATIENCE))
            assert response.raw_output_contents[0] == (2 * SENT).tobytes()
            model.await_entry()


def test_a_connection_that_is_lost_takes_its_requests_with_it(
    opened: Door, batcher: Batcher, model: Gated
) -> None:
    other = Door(opened.address)
    lost = [start(other) for _ in range(5)]
    neighbour = start(opened)
    waiting(batcher, 6)
    other.channel.close()
    waiting(batcher, 1)
    model.gate.set()
    neighbour.result(PATIENCE)
    assert model.rows_seen == 2
    assert {call.code() for call in lost} == {grpc.StatusCode.CANCELLED}


SILENT = """
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1])
channel.unary_unary("/tidegate.v1.Inference/Predict")(b"\\x0a\\x0c" + bytes(12))
"""


def test_a_client_that_falls_silent_is_noticed(batcher: Batcher, model: Gated) -> None:
    soon = [
        (name, 200)
        for name, _ in server_options()
        if name.startswith(("grpc.keepalive", "grpc.http2.ping"))
    ]
    with door(Models(Served("m", batcher)), options=soon) as opened:
        occupy(batcher, model)
        child = subprocess.Popen([sys.executable, "-c", SILENT, opened.address])
        try:
            waiting(batcher, 1)
            child.send_signal(signal.SIGSTOP)  # its machine still acknowledges what it is sent
            waiting(batcher, 0)
        finally:
            child.kill()
            child.wait(PATIENCE)
        model.gate.set()
    assert model.rows_seen == 1


# Servers that stop


def test_a_server_that_stops_with_grace_answers_what_it_has(batcher: Batcher, model: Gated) -> None:
    async def started() -> tuple[Any, int]:
        server = create_server(Models(Served("m", batcher)))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = in_loop(started())
    opened = Door(f"127.0.0.1:{port}")
    try:
        calls = [start(opened) for _ in range(3)]
        until(lambda: batcher.statistics().submitted == 3)
        stopping = in_thread(lambda: in_loop(server.stop(PATIENCE)))
        until(lambda: stopping.asleep)
        model.gate.set()
        for call in calls:
            response = pb.ModelInferResponse.FromString(call.result(PATIENCE))
            assert response.raw_output_contents[0] == (2 * SENT).tobytes()
        stopping.outcome()
    finally:
        opened.channel.close()


def test_sixty_clients_that_vanish_leave_nothing_behind() -> None:
    report = vanish(clients=60, seed=3)
    assert report.problems() == []
    assert report.vanished == 60
    assert report.neighbours_answered == 60
