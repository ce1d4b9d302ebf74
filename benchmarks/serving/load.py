"""A closed loop over connections of either protocol: so many requests in flight, answers checked.

Each connection is an asyncio protocol that sends requests made beforehand and reads as little of an
answer as its check needs, so that the load is not what is measured; how busy it was is part of the
result.
"""

from __future__ import annotations

import asyncio
import functools
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from benchmarks.harness import Metrics
from benchmarks.loads import percentiles
from benchmarks.serving.process import Server
from benchmarks.serving.questions import Questions

HOST = "127.0.0.1"
PATIENCE = 30.0
"""Seconds that connecting, or the answers still on their way at the end, may take."""


class Connection(asyncio.Protocol):
    """One connection, which keeps its share of the requests in flight."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport | None = None

    def start(self) -> None:
        """Send the first requests."""
        raise NotImplementedError

    def close(self) -> None:
        """Hang up."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.load.running:
            self.load.fail(error or ConnectionError("the server closed a connection"))


Connect = Callable[["Load"], Sequence[Connection]]
"""Makes the connections of a load."""


class Load:
    """What all connections share: the questions, the latencies, and whether to go on.

    Args:
        questions: What is asked.
        in_flight: How many requests are under way at any time.
    """

    def __init__(self, questions: Questions, in_flight: int) -> None:
        self.questions = questions
        self.in_flight = in_flight
        self.latencies: list[float] = []
        self.counting = False
        self.running = True
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next = 0
        self._under_way = 0
        self._all_answered = asyncio.Event()

    def ask(self) -> int:
        """The number of the next row; its request is under way from now on."""
        self._under_way += 1
        number = self._next
        self._next = (number + 1) % len(self.questions.requests)
        return number

    def answered(self, number: int, asked: float, answer: bytes) -> bool:
        """Check and count one answer; True if the connection should ask again."""
        try:
            self.questions.check(number, answer)
        except Exception as error:
            self.fail(error)
            return False
        if self.counting:
            self.latencies.append(perf_counter() - asked)
        self._under_way -= 1
        if not (self._under_way or self.running):
            self._all_answered.set()
        return self.running

    def fail(self, error: BaseException) -> None:
        """End the load: an answer was wrong or a connection was lost."""
        self.running = False
        if not self.failed.done():
            self.failed.set_exception(error)

    async def wait(self, seconds: float) -> None:
        """Wait, unless something fails meanwhile."""
        await asyncio.wait([self.failed], timeout=seconds)
        if self.failed.done():
            self.failed.result()

    async def _wait_for_the_last(self) -> None:
        await self._all_answered.wait()

    async def finish(self) -> None:
        """Ask no more, and wait for what was asked."""
        self.running = False
        if self._under_way:
            last = asyncio.ensure_future(self._wait_for_the_last())
            await asyncio.wait([self.failed, last], timeout=PATIENCE, return_when=FIRST_COMPLETED)
            last.cancel()
        if self.failed.done():
            self.failed.result()
        if self._under_way:
            raise RuntimeError(f"{self._under_way} requests were never answered")


def _same(connection: Connection) -> Connection:
    return connection


@dataclass(frozen=True)
class _Reading:
    clock: float
    server: float
    own: float

    @classmethod
    def now(cls, server: Server) -> _Reading:
        return cls(perf_counter(), server.cpu(), time.process_time())


async def closed_loop(
    server: Server,
    connect: Connect,
    questions: Questions,
    *,
    in_flight: int,
    warm_up: float,
    seconds: float,
) -> Metrics:
    """Keep `in_flight` requests under way; read the loop while it runs, then let it run out."""
    load = Load(questions, in_flight)
    loop = asyncio.get_running_loop()
    connections = connect(load)
    for connection in connections:
        opening = loop.create_connection(functools.partial(_same, connection), HOST, server.port)
        await asyncio.wait_for(opening, PATIENCE)
    try:
        for connection in connections:
            connection.start()
        await load.wait(warm_up)
        load.counting = True
        before = _Reading.now(server)
        await load.wait(seconds)
        while not load.latencies and perf_counter() - before.clock < PATIENCE:
            await load.wait(seconds)  # a machine that is too busy for so short a time
        after = _Reading.now(server)
        load.counting = False
        await load.finish()
    finally:
        for connection in connections:
            connection.close()
    elapsed = after.clock - before.clock
    answers = len(load.latencies)
    if not answers:
        raise RuntimeError(f"no answer came within {elapsed:.2f} s")
    return {
        "throughput": answers / elapsed,
        **percentiles(load.latencies),
        "cpu_us": (after.server - before.server) / answers * 1e6,
        "memory": server.peak_memory(),
        "server_busy": (after.server - before.server) / elapsed,
        "load_busy": (after.own - before.own) / elapsed,
    }
