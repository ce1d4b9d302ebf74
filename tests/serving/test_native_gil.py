"""A batch through the native door takes the GIL once, and gets it from a thread that computes."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from hyperframe.frame import DataFrame, HeadersFrame, WindowUpdateFrame

from tests.gated import PATIENCE

pytest.importorskip("tidegate._frontend", reason="the native front end was not built")

from tests.serving.http2 import Http2
from tests.serving.test_native import MESSAGE, PREDICT

COUNTER = Path(__file__).with_name("gil_counter.c")
ROUNDS, CALLS = 100, 32

SERVER = """
import ctypes, sys
import numpy as np
from tidegate import Batcher, TensorSpec
from tidegate.serving import Models, Served
from tidegate.serving.native import NativeServer

acquired = ctypes.CDLL(None).gil_acquired
with Batcher(lambda rows: rows, inputs=TensorSpec((3,), "float32"), max_batch_size=64) as batcher:
    with NativeServer(Models(Served("m", batcher, example=np.zeros(3, np.float32)))) as server:
        print(*server.address, flush=True)
        for line in sys.stdin:
            statistics = batcher.statistics()
            print(acquired(), statistics.batches, statistics.completed, flush=True)
"""


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("needs a C compiler, and a Python whose functions can be put in front of")
    built = tmp_path / "gil_counter.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(COUNTER), "-ldl"]
    subprocess.run(command, check=True, timeout=PATIENCE)
    return built


def await_answers(client: Http2) -> None:
    """Reads as many answers as were asked for, in whichever order."""
    right = 0
    while right < CALLS:
        frame = client.until(HeadersFrame)
        fields = client.decoder.decode(frame.data)
        if "END_STREAM" in frame.flags:
            assert [(str(name), str(value)) for name, value in fields] == [("grpc-status", "0")]
            right += 1


def test_a_batch_takes_the_gil_once(counter: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(counter)},
    ) as process:
        asking, said = process.stdin, process.stdout
        assert asking is not None
        assert said is not None

        def figures() -> list[int]:
            print(file=asking, flush=True)
            return [int(word) for word in said.readline().split()]

        host, port = said.readline().split()
        with Http2((host, int(port))) as client:
            client.send(WindowUpdateFrame(0, window_increment=1 << 20))
            client.call(1, PREDICT, MESSAGE)
            client.answer(1)
            before = figures()
            body = struct.pack(">BI", 0, len(MESSAGE)) + MESSAGE
            for turn in range(ROUNDS):
                first = 3 + 2 * CALLS * turn
                frames = [
                    frame
                    for stream in range(first, first + 2 * CALLS, 2)
                    for frame in (
                        client.open(stream, PREDICT),
                        DataFrame(stream, body, flags=["END_STREAM"]),
                    )
                ]
                client.send(*frames)
                await_answers(client)
            acquired, batches, rows = (
                now - then for now, then in zip(figures(), before, strict=True)
            )
        asking.close()
        assert process.wait(PATIENCE) == 0
    assert rows == ROUNDS * CALLS
    assert batches < rows / 2
    # One for each batch; now and then one more for rows that were reserved and not yet copied when
    # the batch was sealed, and some for the questions.
    assert batches <= acquired <= 1.1 * batches + 20, (acquired, batches, rows)


SPINNING = """
import sys, threading
import numpy as np
from tidegate import Batcher, TensorSpec
from tidegate.serving import Models, Served
from tidegate.serving.native import NativeServer

def spin():
    while True:
        pass

batcher = Batcher(lambda rows: rows, inputs=TensorSpec((3,), "float32"))
server = NativeServer(Models(Served("m", batcher, example=np.zeros(3, np.float32)))).start()
print(*server.address, flush=True)
sys.setswitchinterval({interval})
thread = threading.Thread(target=spin)
thread.start()
thread.join()  # else the interpreter would be about to end, and ask nobody any more
"""
INTERVAL = 2.0
"""Seconds for which a thread that computes keeps the GIL, unless it is asked."""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before 3.12 such a thread is out of reach")
def test_a_thread_that_computes_is_asked_for_the_gil() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SPINNING.format(interval=INTERVAL)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            host, port = process.stdout.readline().split()
            with Http2((host, int(port))) as client:
                client.call(1, PREDICT, MESSAGE)
                client.answer(1)  # by now the thread computes
                began = time.monotonic()
                for stream in range(3, 23, 2):
                    client.call(stream, PREDICT, MESSAGE)
                    assert client.answer(stream)[1]["grpc-status"] == "0"
                # A millisecond or two each; unasked, the ten would take ten intervals.
                assert time.monotonic() - began < 5 * INTERVAL
        finally:
            process.kill()
