"""Clients that connect, ask and vanish; what becomes of their work, and of their neighbours.

``python -m tests.serving.vanish_grpc --clients 1000`` for the long run; the suite runs a short one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import resource
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np

from tests.gated import PATIENCE, Gated
from tests.serving.grpc_door import MODEL_INFER, living_futures, raw_request
from tidegate import Batcher, TensorSpec
from tidegate.serving import Models, Served
from tidegate.serving._proto import open_inference_pb2 as pb
from tidegate.serving.grpc import create_server

WIDTH = 64
ROUND = 50  # clients at a time
MARK = -1.0  # first element of the rows of those who vanish
_MEGABYTE = 2**20


@dataclass
class Report:
    """What was seen.

    Attributes:
        vanished: Clients that did; each one's row was withdrawn, or the run would have failed.
        marked_rows: Rows of theirs that the model saw all the same.
        neighbours_answered: Right answers to those who stayed.
        neighbours_failed: The others.
        futures: Futures that outlived it.
        descriptors: Open files more than after the first half.
        threads: Threads more than then.
        growth: Bytes of memory more than then.
    """

    vanished: int = 0
    marked_rows: int = 0
    neighbours_answered: int = 0
    neighbours_failed: int = 0
    futures: int = 0
    descriptors: int = 0
    threads: int = 0
    growth: int = 0

    def problems(self) -> list[str]:
        """What should not be; nothing, one hopes."""
        found = {
            "rows of clients that were gone reached the model": self.marked_rows,
            "neighbours got no answer, or a wrong one": self.neighbours_failed,
            "futures are left": self.futures,
            "descriptors are left": max(0, self.descriptors),
            "threads are left": max(0, self.threads),
            "bytes of memory were added": self.growth if self.growth > 16 * _MEGABYTE else 0,
        }
        return [f"{count} {what}" for what, count in found.items() if count]


class _Model(Gated):
    """A gated model that counts the rows of those who vanish."""

    marked = 0

    def __call__(self, rows: Any) -> Any:
        self.marked += int((rows[:, 0] == MARK).sum())
        answers = super().__call__(rows)
        self.batches.clear()
        return answers


def vanish(*, clients: int, seed: int) -> Report:
    """Lets so many clients vanish while the model is busy, in rounds, beside some that stay."""
    return asyncio.run(_vanish(clients, random.Random(seed)))


async def _vanish(clients: int, chance: random.Random) -> Report:
    others = living_futures()  # of tests that ran before
    report = Report()
    model = _Model()
    spec = TensorSpec((WIDTH,), "float32")
    with Batcher(model, inputs=spec, max_batch_size=16, max_queue_size=4096) as batcher:
        server = create_server(Models(Served("m", batcher)))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        address = f"127.0.0.1:{port}"
        # The first lap fills pools and caches; what the second adds would be a leak.
        before = after = (0, 0, 0)
        for _ in range(2):
            for start in range(0, clients // 2, ROUND):
                count = min(ROUND, clients // 2 - start)
                await _round(address, model, batcher, count, chance)
                report.vanished += count
            await _neighbours(address, model, clients // 2, report, chance)
            await _until(lambda: batcher.statistics().queue_depth == 0)
            before, after = after, await _settled()
        report.descriptors, report.threads, report.growth = (
            late - early for late, early in zip(after, before, strict=True)
        )
        await server.stop(None)
        report.marked_rows = model.marked
    report.futures = living_futures() - others
    return report


async def _round(
    address: str, model: _Model, batcher: Batcher, clients: int, chance: random.Random
) -> None:
    """Fills the queue behind a running batch, then half of the clients cancel and half hang up."""
    while model.entered.acquire(blocking=False):
        pass  # entries of before
    model.gate.clear()
    occupying = batcher.submit(np.zeros(WIDTH, np.float32))
    await asyncio.get_running_loop().run_in_executor(None, model.await_entry)
    cancelled_before = batcher.statistics().cancelled
    row = np.full((1, WIDTH), MARK, np.float32)
    message = raw_request("m", input=row).SerializeToString()
    channels, calls = [], []
    relay = await _Relay.open(address)
    for index in range(clients):
        # Every third goes through a relay that cuts the wire; the rest say goodbye.
        target = relay.address if index % 3 == 2 else address
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        channel: Any = grpc.aio.insecure_channel(target, options=options)
        channels.append(channel)
        calls.append(channel.unary_unary(MODEL_INFER)(message, timeout=PATIENCE))
    stays: Any = grpc.aio.insecure_channel(
        address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    )
    good = np.full((1, WIDTH), 2.0, np.float32)
    neighbour = stays.unary_unary(MODEL_INFER)(
        raw_request("m", input=good).SerializeToString(), timeout=PATIENCE
    )
    await _until(lambda: batcher.statistics().queue_depth == clients + 1)
    order = list(range(clients))
    chance.shuffle(order)
    relay.cut()
    for index in order:
        if index % 3 == 0:
            calls[index].cancel()
        elif index % 3 == 1:
            await channels[index].close()
    await _until(lambda: batcher.statistics().cancelled - cancelled_before == clients)
    model.gate.set()
    response = pb.ModelInferResponse.FromString(await neighbour)
    assert response.raw_output_contents[0] == (2 * good).tobytes()
    for call in calls:
        await asyncio.gather(_ended(call), return_exceptions=True)
    for channel in (*channels, stays):
        await channel.close()
    await relay.close()
    await occupying


async def _ended(call: Any) -> Any:
    return await call


async def _neighbours(
    address: str, model: _Model, asked: int, report: Report, chance: random.Random
) -> None:
    """With the model running freely, some ask and stay while others come and go."""
    model.gate.set()
    row = np.full((1, WIDTH), 0.0, np.float32)
    leaving = raw_request("m", input=row).SerializeToString()
    stays: Any
    go: Any
    async with (
        grpc.aio.insecure_channel(address) as stays,
        grpc.aio.insecure_channel(address) as go,
    ):

        async def ask(number: int) -> None:
            sent = np.full((1, WIDTH), number, np.float32)
            message = raw_request("m", input=sent).SerializeToString()
            answer = await stays.unary_unary(MODEL_INFER)(message, timeout=PATIENCE)
            got = pb.ModelInferResponse.FromString(answer).raw_output_contents[0]
            if got == (2 * sent).tobytes():
                report.neighbours_answered += 1
            else:
                report.neighbours_failed += 1

        async def come_and_go() -> None:
            call = go.unary_unary(MODEL_INFER)(leaving, timeout=PATIENCE)
            await asyncio.sleep(chance.random() * 0.01)
            call.cancel()

        outcomes = await asyncio.gather(
            *(ask(number) for number in range(asked)),
            *(come_and_go() for _ in range(asked)),
            return_exceptions=True,
        )
        report.neighbours_failed += sum(
            isinstance(outcome, Exception) for outcome in outcomes[:asked]
        )


class _Relay:
    """A relay whose connections can be cut, without any of the protocol's farewells."""

    def __init__(self, server: asyncio.Server, target: str) -> None:
        self._server = server
        self._target = target
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._writers: list[asyncio.StreamWriter] = []

    @classmethod
    async def open(cls, target: str) -> _Relay:
        """One that listens."""
        relays: list[_Relay] = []

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await relays[0]._join(reader, writer)

        relays.append(cls(await asyncio.start_server(connected, "127.0.0.1", 0), target))
        return relays[0]

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target.split(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        self._writers += (writer, there_writer)
        try:
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
        finally:
            for each in (writer, there_writer):
                each.close()

    def cut(self) -> None:
        """Resets every connection."""
        linger = b"\1\0\0\0\0\0\0\0"  # on, and no seconds: close() sends a reset
        for writer in self._writers:
            made = writer.get_extra_info("socket")
            if made is not None and made.fileno() >= 0:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        """Listens no more."""
        self.cut()
        self._server.close()
        await asyncio.wait_for(self._server.wait_closed(), PATIENCE)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _until(condition: Any) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it never came about"
        await asyncio.sleep(0.002)


async def _settled() -> tuple[int, int, int]:
    """Open files, threads and bytes of memory, once they stop falling."""
    last = (sys.maxsize, sys.maxsize)
    while True:
        await asyncio.sleep(0.05)
        gc.collect()
        now = (_descriptors(), threading.active_count())
        if now >= last:
            return (*now, _memory())
        last = now


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> int:
    """Runs it, prints the report; 1 if there is a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    report = vanish(clients=arguments.clients, seed=arguments.seed)
    print(report)
    print("\n".join(report.problems()) or "no problems")
    return bool(report.problems())


if __name__ == "__main__":
    sys.exit(main())
