"""Signals: a server that is told to end answers what it took, and what happens if it cannot."""

from __future__ import annotations

import http.client
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.gated import PATIENCE, in_thread, until
from tests.serving.callers import GrpcAsk, GrpcCaller, HttpAsk, HttpCaller
from tests.serving.offered import GATE, NOTES, entered_file
from tests.serving.running import Running

Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server with the models of offered.slow(), and sees to its end."""
    started: list[Running] = []

    def starter(*arguments: str) -> Running:
        running = Running(
            tmp_path,
            "tests.serving.offered:slow",
            *("--http=0", "--grpc=0", *arguments),
            environment={GATE: str(tmp_path / "gate"), NOTES: str(tmp_path / "notes")},
        )
        started.append(running)
        return running

    yield starter
    for each in started:
        each.end()


def numbers_seen(tmp_path: Path) -> list[int]:
    """What has reached the model `noted`."""
    return [int(line) for line in (tmp_path / "notes").read_text().split()]


def ready(server: Running) -> bool:
    """What HTTP says."""
    connection = http.client.HTTPConnection(server.host_of("http"), timeout=PATIENCE)
    try:
        connection.request("GET", "/v2/health/ready")
        with connection.getresponse() as response:
            return response.status == 200
    finally:
        connection.close()


@pytest.mark.parametrize("loop", ["off", "on"])
def test_under_load_every_request_that_was_taken_is_answered(
    start: Start, tmp_path: Path, loop: str
) -> None:
    # Each kind of gRPC server once.
    backend = "auto" if loop == "off" else "python"
    server = start("--drain-grace=3", f"--uvloop={loop}", f"--grpc-backend={backend}")
    stop, never = threading.Event(), threading.Event()
    http_address, grpc_address = server.host_of("http"), server.host_of("grpc")
    # These do as balancers do: they send no more once readiness is false.
    polite = [
        *(HttpCaller(http_address, stop) for _ in range(8)),
        *(GrpcCaller(grpc_address, stop) for _ in range(8)),
    ]
    # And these go on until they are refused.
    rude = [
        *(HttpCaller(http_address, never) for _ in range(8)),
        *(GrpcCaller(grpc_address, never) for _ in range(8)),
    ]
    until(lambda: all(len(each.answered) >= 3 for each in [*polite, *rude]))
    over_grpc = GrpcAsk(grpc_address, stop)
    assert ready(server)
    assert over_grpc.ready()
    server.process.send_signal(signal.SIGTERM)
    until(lambda: not ready(server))
    assert not over_grpc.ready()
    # Not ready, and yet whoever asks is answered.
    assert over_grpc.ask("noted", 5_000_000) == 10_000_000
    over_grpc.close()
    stop.set()
    assert server.wait() == 0
    for each in [*polite, *rude]:
        each.join(PATIENCE)
        assert not each.is_alive()
    assert [each.failed for each in polite] == [None] * len(polite)
    answered = [5_000_000, *(number for each in [*polite, *rude] for number in each.answered)]
    # Who was refused was refused before the model had the request.
    assert sorted(answered) == sorted(numbers_seen(tmp_path))
    for each in rude:
        assert each.failed is not None
        assert issubclass(each.failed[1], OSError | http.client.HTTPException | grpc.RpcError)


def held_requests(server: Running, gate: Path) -> tuple[list[Any], list[Any]]:
    """Requests that the model `held` has, and how to close their connections."""
    stop = threading.Event()
    callers = [
        HttpAsk(server.host_of("http"), stop),
        GrpcAsk(server.host_of("grpc"), stop),
    ]
    asking = []
    for caller in callers:
        asking.append(in_thread(lambda caller=caller: caller.ask("held", 1)))
        until(entered_file(gate).exists)  # else both might be in one batch
    metrics = http.client.HTTPConnection(server.host_of("http"), timeout=PATIENCE)

    def both_submitted() -> bool:
        metrics.request("GET", "/metrics")
        page = metrics.getresponse().read().decode()
        depth = [line for line in page.splitlines() if line.startswith("tidegate_queue_depth{")]
        return any(line.endswith(" 1.0") for line in depth)

    until(both_submitted)
    metrics.close()
    return asking, callers


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(
    start: Start, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    server = start()
    _, callers = held_requests(server, tmp_path / "gate")
    server.process.send_signal(number)
    until(lambda: "draining" in server.log)
    assert server.process.poll() is None

    def ended() -> bool:
        server.process.send_signal(number)  # one that comes too soon counts as an echo
        return server.process.poll() is not None

    until(ended)
    assert server.wait() == code
    for caller in callers:
        caller.close()


def test_what_is_left_when_the_time_is_up_fails_and_the_exit_code_says_so(
    start: Start, tmp_path: Path
) -> None:
    server = start("--drain-timeout=0.2")
    asking, callers = held_requests(server, tmp_path / "gate")
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(AssertionError, match="503"):
        asking[0].outcome()
    with pytest.raises(grpc.RpcError) as error:
        asking[1].outcome()
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.wait() == 1
    assert "not drained within 0.2 s" in server.log
    for caller in callers:
        caller.close()


def test_clients_that_only_watch_do_not_hold_up_the_end(start: Start) -> None:
    server = start("--grpc-backend=python")  # the native one has no streams
    channel: Any = grpc.insecure_channel(server.host_of("grpc"))
    never = threading.Event()

    def ask_once() -> Iterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        never.wait(PATIENCE)

    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    reflecting = stub.ServerReflectionInfo(ask_once())
    assert next(reflecting).list_services_response.service
    request = health_pb2.HealthCheckRequest()
    watching = health_pb2_grpc.HealthStub(channel).Watch(request)
    assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
    server.process.send_signal(signal.SIGTERM)
    assert [each.status for each in watching] == [health_pb2.HealthCheckResponse.NOT_SERVING]
    assert list(reflecting) == []
    assert server.wait() == 0
    never.set()
    channel.close()


def test_what_the_model_has_is_answered_before_the_end(start: Start, tmp_path: Path) -> None:
    server = start()
    asking, callers = held_requests(server, tmp_path / "gate")
    server.process.send_signal(signal.SIGINT)
    until(lambda: "draining" in server.log)
    (tmp_path / "gate").touch()
    assert [each.outcome() for each in asking] == [1, 1]
    assert server.wait() == 0
    for caller in callers:
        caller.close()
