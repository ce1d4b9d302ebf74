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
        if not self.load.closing:
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
        self.closing = False
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

    def resume(self) -> None:
        """Let the connections ask again."""
        self.running = True
        self._all_answered.clear()

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


class Client:
    """A load on one server that can be put on again and again, over the same connections.

    Between its turns a server has nothing to do, so that many can be measured in turns: a machine
    that is slower for a moment, or for some seconds, is slower for all of them.

    Args:
        server: On which the load is put.
        connect: Makes its connections.
        questions: What is asked.
        in_flight: How many requests are under way during a turn.
    """

    def __init__(
        self, server: Server, connect: Connect, questions: Questions, in_flight: int
    ) -> None:
        self._server = server
        self._load = Load(questions, in_flight)
        self._connections = connect(self._load)
        self._elapsed = self._server_cpu = self._own_cpu = 0.0

    async def open(self) -> None:
        """Connect."""
        for connection in self._connections:
            opening = asyncio.get_running_loop().create_connection(
                functools.partial(_same, connection), HOST, self._server.port
            )
            await asyncio.wait_for(opening, PATIENCE)

    async def turn(self, warm_up: float, seconds: float) -> None:
        """Load the server; count for `seconds` after `warm_up`, then let the load run out."""
        load = self._load
        load.resume()
        for connection in self._connections:
            connection.start()
        await load.wait(warm_up)
        counted = len(load.latencies)
        load.counting = True
        before = _Reading.now(self._server)
        await load.wait(seconds)
        while len(load.latencies) == counted and perf_counter() - before.clock < PATIENCE:
            await load.wait(seconds)  # a machine that is too busy for so short a time
        after = _Reading.now(self._server)
        load.counting = False
        await load.finish()
        self._elapsed += after.clock - before.clock
        self._server_cpu += after.server - before.server
        self._own_cpu += after.own - before.own

    def metrics(self) -> Metrics:
        """What all turns together reached."""
        answers = len(self._load.latencies)
        return {
            "throughput": answers / self._elapsed,
            **percentiles(self._load.latencies),
            "cpu_us": self._server_cpu / answers * 1e6,
            "memory": self._server.peak_memory(),
            "server_busy": self._server_cpu / self._elapsed,
            "load_busy": self._own_cpu / self._elapsed,
        }

    def close(self) -> None:
        """Hang up."""
        self._load.closing = True
        for connection in self._connections:
            connection.close()
