"""An open loop at a fixed rate: requests go out at random times, whatever became of the others.

The client turns its event loop without a pause until the next arrival, since a timer of asyncio is
a millisecond late; so it keeps its core busy, which says nothing about how much it can do. Whether
it kept up is said by how late requests went out. A latency counts from when its request should have
gone, so that a client that waits hides nothing.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import deque
from time import perf_counter

from benchmarks.harness import Metrics
from benchmarks.loads import percentiles
from benchmarks.serving import http1, http2
from benchmarks.serving.load import HOST, PATIENCE, Connection, Load
from benchmarks.serving.process import Server
from benchmarks.serving.questions import Questions

HTTP1_CONNECTIONS = 64
WARM_UP = 0.2
SEED = 7


class OpenLoad(Load):
    """A load whose answers bring about no further requests."""

    def answered(self, number: int, asked: float, answer: bytes) -> bool:
        super().answered(number, asked, answer)
        return False


class OpenHttp1(http1.Http1Connection):
    """One connection of a pool, to which it returns with each answer."""

    def __init__(self, load: Load, pool: Http1Pool) -> None:
        super().__init__(load)
        self._pool = pool

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._received:  # the answer is whole
            self._pool.free(self)


class Http1Pool:
    """Requests take a connection that is free, or wait for one."""

    def __init__(self, load: Load) -> None:
        self.connections = [OpenHttp1(load, self) for _ in range(HTTP1_CONNECTIONS)]
        self._idle = list(self.connections)
        self._waiting: deque[float] = deque()

    def ask(self, due: float) -> None:
        if self._idle:
            self._idle.pop().ask_once(due)
        else:
            self._waiting.append(due)

    def free(self, connection: OpenHttp1) -> None:
        if self._waiting:
            connection.ask_once(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def waiting(self) -> int:
        return len(self._waiting)


class Http2Pool:
    """Requests go round the connections, any number at a time on each."""

    def __init__(self, load: Load) -> None:
        self.connections = [
            http2.Http2Connection(load, streams=0) for _ in range(http2.CONNECTIONS)
        ]
        self._next = 0

    def ask(self, due: float) -> None:
        self.connections[self._next].ask_once(due)
        self._next = (self._next + 1) % len(self.connections)

    def waiting(self) -> int:
        return 0


Pool = Http1Pool | Http2Pool


async def _arrivals(load: Load, pool: Pool, rate: float, seconds: float) -> list[float]:
    """Ask at random times for so long; returns how late each request was."""
    chance = random.Random(SEED)
    late = []
    due = perf_counter()
    end = due + seconds
    while due < end and load.running:
        now = perf_counter()
        while due <= now and due < end:
            late.append(now - due)
            pool.ask(due)
            due += chance.expovariate(rate)
        await asyncio.sleep(0)
    return late


def _same(connection: Connection) -> Connection:
    return connection


async def open_loop(
    server: Server, questions: Questions, *, over_http1: bool, rate: float, seconds: float
) -> Metrics:
    """Ask at a rate, and wait for all answers; each of them is checked.

    Args:
        server: Who is asked.
        questions: What is asked.
        over_http1: Over 64 connections of HTTP/1.1, instead of four of HTTP/2.
        rate: Requests a second, at random (a Poisson process).
        seconds: How long.
    """
    load = OpenLoad(questions, in_flight=0)
    pool: Pool = Http1Pool(load) if over_http1 else Http2Pool(load)
    loop = asyncio.get_running_loop()
    for connection in pool.connections:
        opening = loop.create_connection(functools.partial(_same, connection), HOST, server.port)
        await asyncio.wait_for(opening, PATIENCE)
    try:
        await _arrivals(load, pool, rate, min(WARM_UP, seconds))
        load.counting = True
        clock, cpu = perf_counter(), server.cpu()
        late = await _arrivals(load, pool, rate, seconds)
        elapsed, cpu = perf_counter() - clock, server.cpu() - cpu
        answered = len(load.latencies)
        end = perf_counter() + PATIENCE
        while pool.waiting() and perf_counter() < end:
            await load.wait(0.01)
        await load.finish()
    finally:
        load.closing = True
        for connection in pool.connections:
            connection.close()
    if not load.latencies:
        raise RuntimeError(f"no answer came within {elapsed:.2f} s")
    return {
        "throughput": answered / elapsed,
        **percentiles(load.latencies),
        "cpu_us": cpu / max(1, answered) * 1e6,
        "late": sorted(late)[int(0.99 * len(late))],
    }
