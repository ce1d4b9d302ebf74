"""Clients that hang up: their requests are taken back, and nobody else notices."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from tests.gated import PATIENCE, Gated, until
from tests.serving.http import (
    App,
    Server,
    connected,
    raw_request,
    read_answer,
    request,
    rows,
    scope_of,
)
from tidegate import Batcher, TensorSpec
from tidegate.serving import Limits, Models, Served
from tidegate.serving.asgi import create_app
from tidegate.serving.asgi.inference import Infer

PATH = "/v2/models/gated/infer"
MANY = int(os.environ.get("TIDEGATE_HANGUPS", "90"))


@pytest.fixture
def batcher(model: Gated) -> Iterator[Batcher]:
    """Rows of three FP32, one in a batch, before a model that waits for the test."""
    made = Batcher(model, inputs=TensorSpec((3,), "float32"), max_batch_size=1, max_queue_size=5000)
    yield made
    model.gate.set()
    made.close(timeout=PATIENCE)


@pytest.fixture
def app(batcher: Batcher) -> App:
    """The app under test."""
    return create_app(Models(Served("gated", batcher)), limits=Limits(receive_timeout=PATIENCE))


def in_flight(app: App) -> int:
    """Requests that the app is busy with."""
    (infer,) = {
        id(route.app): route.app for route in app.routes if route.path.endswith("/infer")
    }.values()
    assert isinstance(infer, Infer)
    return len(infer.watches)


def whole(value: float = 1.0) -> bytes:
    return raw_request(PATH, *request({"input": rows() + value}, binary=["input"]))


def test_a_client_that_hangs_up_takes_its_request_back(
    app: App, batcher: Batcher, model: Gated
) -> None:
    with Server(app) as server, connected(server) as running:
        running.sendall(whole())
        model.await_entry()
        with connected(server) as gone, connected(server) as neighbour:
            gone.sendall(whole(100))
            until(lambda: batcher.statistics().queue_depth == 1)
            neighbour.sendall(whole())
            until(lambda: batcher.statistics().queue_depth == 2)
            gone.close()
            until(lambda: batcher.statistics().queue_depth == 1)
            model.gate.set()
            for client in (running, neighbour):
                assert read_answer(client).status == 200
        until(lambda: server.connections == 1)
    assert batcher.statistics().cancelled == 1
    assert model.rows_seen == 2
    assert all(batch.max() < 100 for batch in model.batches)
    assert in_flight(app) == 0


def test_a_request_that_the_model_has_is_answered_to_nobody(
    app: App, batcher: Batcher, model: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    with Server(app) as server:
        with connected(server) as gone:
            gone.sendall(whole())
            model.await_entry()
        until(lambda: server.connections == 0)
        model.gate.set()
        until(lambda: server.tasks == 0)
    assert batcher.statistics().completed == 1
    assert not caplog.records


def test_hanging_up_in_the_middle_of_a_body_ends_the_request(app: App, batcher: Batcher) -> None:
    with Server(app) as server:
        for part in (10, 60, len(whole()) - 1):
            with connected(server) as gone:
                gone.sendall(whole()[:part])
                until(lambda: server.connections == 1)
            until(lambda: server.connections == server.tasks == in_flight(app) == 0)
    assert batcher.statistics().submitted == 0


def test_a_cancelled_server_task_cancels_its_request(
    app: App, batcher: Batcher, model: Gated
) -> None:
    body, headers = request({"input": rows()})

    async def main() -> None:
        messages = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            return await asyncio.sleep(PATIENCE)

        async def send(message: Any) -> None:
            raise AssertionError("it was answered")

        tasks = []
        for waiting in (0, 1):
            messages.append({"type": "http.request", "body": body})
            tasks.append(asyncio.create_task(app(scope_of("POST", PATH, headers), receive, send)))
            while batcher.statistics().queue_depth < waiting or len(model.batches) < 1:
                await asyncio.sleep(0.001)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert batcher.statistics().queue_depth == 0
        tasks[0].cancel()
        await asyncio.wait(tasks)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert in_flight(app) == 0


def test_a_server_whose_receive_says_the_same_again_does_not_spin(app: App, model: Gated) -> None:
    body, headers = request({"input": rows()})
    asked = 0

    async def main() -> None:
        async def receive() -> Any:
            nonlocal asked
            asked += 1
            if asked == 3:
                model.gate.set()
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            pass

        await app(scope_of("POST", PATH, headers), receive, send)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert asked <= 5


def test_a_server_that_fails_to_listen_does_no_harm(app: App, model: Gated) -> None:
    body, headers = request({"input": rows()})
    sent: list[Any] = []
    asked = 0

    async def main() -> None:
        async def receive() -> Any:
            nonlocal asked
            asked += 1
            if asked == 1:
                return {"type": "http.request", "body": body}
            model.gate.set()
            raise RuntimeError("no more")

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope_of("POST", PATH, headers), receive, send)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert sent[0]["status"] == 200


@pytest.mark.parametrize("gone_before", [True, False])
def test_a_send_that_fails_because_the_client_is_gone_is_no_error(
    app: App, model: Gated, gone_before: bool
) -> None:
    body, headers = request({"input": rows()})
    model.gate.set()
    tried = 0

    async def main() -> None:
        async def receive() -> Any:
            if gone_before:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            nonlocal tried
            tried += 1
            raise OSError("gone")

        await app(scope_of("POST", PATH, headers), receive, send)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert tried == 1


def test_a_middleware_that_wraps_every_request_is_no_obstacle(
    app: App, batcher: Batcher, model: Gated
) -> None:
    api = FastAPI()

    @api.middleware("http")
    async def marked(asked: Request, call_next: Any) -> Any:
        response = await call_next(asked)
        response.headers["x-marked"] = "yes"
        return response

    api.mount("/", app)
    with Server(api) as server, connected(server) as running:
        running.sendall(whole())
        model.await_entry()
        with connected(server) as gone:
            gone.sendall(whole(100))
            until(lambda: batcher.statistics().queue_depth == 1)
        until(lambda: batcher.statistics().queue_depth == 0)
        model.gate.set()
        answer = read_answer(running)
        assert (answer.status, answer.headers["x-marked"]) == (200, "yes")
        until(lambda: server.connections == 1)
    assert batcher.statistics().cancelled == 1
    assert model.rows_seen == 1


# Many of them


def memory() -> int:
    """Resident bytes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def vanish(server: Server, number: int, kept: list[socket.socket]) -> None:
    """One client, gone in the middle of headers, of the body, or while its request waits."""
    gone = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    data = whole(100)
    kind = number % 3
    gone.sendall(data[:40] if kind == 0 else data[:-5] if kind == 1 else data)
    if number % 2:  # a reset instead of an orderly end
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    kept.append(gone)


def test_many_clients_that_vanish_harm_nobody_and_leave_nothing(
    app: App, batcher: Batcher, model: Gated
) -> None:
    """TIDEGATE_HANGUPS says how many; they come in crowds, of which the first are not measured."""
    crowd = MANY // 3
    waiting = len([number for number in range(crowd) if number % 3 == 2])
    sizes: list[tuple[int, int, int]] = []
    with Server(app) as server, connected(server) as running, connected(server) as neighbour:
        for _ in range(4):
            model.gate.clear()
            running.sendall(whole())
            model.await_entry()
            neighbour.sendall(whole())
            until(lambda: batcher.statistics().queue_depth == 1)
            kept: list[socket.socket] = []
            for number in range(crowd):
                vanish(server, number, kept)
            until(lambda: server.connections == crowd + 2)
            until(lambda: batcher.statistics().queue_depth == 1 + waiting)
            for gone in kept:
                gone.close()
            until(lambda: server.connections == server.tasks == in_flight(app) == 2)
            until(lambda: batcher.statistics().queue_depth == 1)
            model.gate.set()
            for client in (running, neighbour):
                assert read_answer(client).status == 200
            model.await_entry()
            until(lambda: server.tasks == 0)
            gc.collect()
            sizes.append((memory(), descriptors(), len(gc.get_objects())))
    statistics = batcher.statistics()
    assert (statistics.cancelled, statistics.completed) == (4 * waiting, 8)
    assert model.rows_seen == 8
    assert all(batch.max() < 100 for batch in model.batches)
    _, settled, *_, last = sizes
    assert last[0] - settled[0] < 4 * 2**20, sizes
    assert last[1] == settled[1], sizes
    # Two crowds came in between; other tests' threads in this process make some objects as well.
    assert last[2] - settled[2] < 2 * waiting, sizes
