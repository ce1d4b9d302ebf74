"""Besieges a native server and looks how others are served: `python -m tests.serving.siege_native`.

Each siege runs in a process of its own against a server in another, while this one makes calls over
one connection, one after another, and compares the 99th percentile with that of peace, measured
right before. Prints a line for each siege, and ends with 1 if calls took more than twice as long
(and a millisecond more, which is what the machine itself varies by), a call failed, or memory grew
without bound.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from hyperframe.frame import DataFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from tests.serving.http2 import PREFACE, Http2
from tidegate import Batcher, TensorSpec
from tidegate.serving import Limits, Models, Served
from tidegate.serving._proto import tidegate_v1_pb2 as v1
from tidegate.serving.native import NativeServer

PREDICT = "/tidegate.v1.Inference/Predict"
MESSAGE = v1.PredictRequest(features=[1] * 64).SerializeToString()
BODY = b"\0" + struct.pack(">I", len(MESSAGE)) + MESSAGE
CALLS = 3000
MOST_GROWTH = 200 * 2**20  # of the server, in bytes: ten thousand connections need some
Address = tuple[str, int]


def serve(pipe: Connection) -> None:
    """The server's process."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((64, 10)).astype(np.float32)
    with Batcher(lambda rows: rows @ weights, inputs=TensorSpec((64,), "float32")) as batcher:
        models = Models(Served("mlp", batcher, example=np.zeros(64, np.float32)))
        with NativeServer(models, limits=Limits(receive_timeout=5.0)) as server:
            pipe.send(server.address)
            pipe.recv()


# The sieges: each runs until the pipe says that it is over.


def slow_loris(address: Address, over: Callable[[], bool]) -> None:
    """Five hundred requests that come a byte a second."""
    clients = [Http2(address) for _ in range(500)]
    for client in clients:
        client.send(client.open(1, PREDICT))
    at = 0
    while not over():
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(DataFrame(1, BODY[at : at + 1]))
        at += 1
        time.sleep(1.0)


def zero_windows(address: Address, over: Callable[[], bool]) -> None:
    """Two hundred clients that ask for a hundred answers each and take none."""
    clients: list[Http2] = []
    while not over():
        if len(clients) < 200:
            client = Http2(address)
            client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}))
            for stream in range(1, 201, 2):
                client.call(stream, PREDICT, MESSAGE)
            clients.append(client)
        else:
            time.sleep(0.1)


def idle_connections(address: Address, over: Callable[[], bool]) -> None:
    """Ten thousand connections that have greeted and say nothing more."""
    clients: list[socket.socket] = []
    for _ in range(10_000):
        made = socket.create_connection(address)
        made.sendall(PREFACE + SettingsFrame(0).serialize())
        clients.append(made)
    while not over():
        time.sleep(0.1)


def resets(address: Address, over: Callable[[], bool]) -> None:
    """Streams that are opened and reset, as fast as a core can; who is cut off comes again."""
    while not over():
        with contextlib.suppress(OSError), Http2(address) as client:
            stream = 1
            while not over():
                flood = b"".join(
                    client.open(number, PREDICT).serialize() + RstStreamFrame(number, 8).serialize()
                    for number in range(stream, stream + 200, 2)
                )
                client.send(flood)
                stream += 200
                time.sleep(0.001)


def tiny_frames(address: Address, over: Callable[[], bool]) -> None:
    """Window updates of one byte, and empty frames of data."""
    with Http2(address) as client:
        client.send(client.open(1, PREDICT))
        flood = (WindowUpdateFrame(0, 1).serialize() + DataFrame(1, b"").serialize()) * 50
        while not over():
            try:
                client.send(flood)
            except OSError:
                return
            time.sleep(0.001)


SIEGES = (slow_loris, zero_windows, idle_connections, resets, tiny_frames)


def besiege(name: str, address: Address, pipe: Connection) -> None:
    """A siege's process."""
    ended = threading.Event()
    siege = next(each for each in SIEGES if each.__name__ == name)

    def wait() -> None:
        pipe.recv()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    pipe.send("begun")
    siege(address, ended.is_set)


def percentiles(address: Address) -> tuple[float, float, int]:
    """Median and 99th percentile of calls in milliseconds, and how many failed."""
    took = []
    failed = 0
    with Http2(address) as client:
        for number in range(CALLS):
            stream = 2 * number + 1
            before = time.perf_counter()
            client.call(stream, PREDICT, MESSAGE)
            _, fields = client.answer(stream)
            took.append(time.perf_counter() - before)
            failed += fields.get("grpc-status") != "0"
            if number % 500 == 499:
                client.send(WindowUpdateFrame(0, 2**20))
    return float(np.percentile(took, 50)) * 1e3, float(np.percentile(took, 99)) * 1e3, failed


def memory(process: int) -> int:
    """Resident bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@contextlib.contextmanager
def process(target: Any, *arguments: Any) -> Iterator[tuple[Any, Connection]]:
    """A process that ends when its pipe gets a message."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    made = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    made.start()
    try:
        yield made, ours
    finally:
        ours.send("over")
        made.join(20)
        if made.is_alive():
            made.kill()
            made.join()


def main() -> int:
    """Runs the sieges."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=[each.__name__ for each in SIEGES])
    parser.add_argument("--seconds", type=float, default=3.0, help="of siege before it is measured")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    bad = False
    with process(serve) as (server, pipe):
        address = pipe.recv()
        percentiles(address)
        for siege in SIEGES:
            if options.only not in (None, siege.__name__):
                continue
            p50, p99, _ = percentiles(address)
            before = memory(server.pid)
            with process(besiege, siege.__name__, address) as (_, attack):
                attack.recv()
                time.sleep(options.seconds)
                under50, under99, failed = percentiles(address)
                growth = memory(server.pid) - before
            wrong = failed > 0 or under99 > 2 * p99 + 1.0 or growth > MOST_GROWTH
            bad |= wrong
            print(
                f"{siege.__name__:17} p50 {p50:.3f} -> {under50:.3f} ms, p99 {p99:.3f} -> "
                f"{under99:.3f} ms, {failed} failed, memory {growth / 2**20:+.1f} MiB"
                f"{'   WRONG' if wrong else ''}",
                flush=True,
            )
            time.sleep(1.0)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
