"""Probe: how long after the GPU has ended a waiter knows it, in each way that there is to wait.

A kernel that spins for a fixed time is launched; how much later than by polling the launching
thread hears of its end is what a way of waiting costs.
"""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.gpu.journal import Journal, Metrics
from benchmarks.gpu.stack import Gpu
from tidegate import Batcher, TensorSpec
from tidegate.gpu import waiting

__all__ = ["SPIN", "measure"]

SPIN = r"""
extern "C" __global__ void spin(long long nanoseconds) {
    long long begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < nanoseconds);
}
"""
NANOSECONDS = 300_000
ROUNDS = 200
_PENDING = 600  # cudaErrorNotReady
_PATIENCE = 10.0

Wait = Callable[[Any], object]


def measure(gpu: Gpu, journal: Journal, rounds: int = ROUNDS) -> None:
    """Every way to wait, polling first, then a lone caller of a Batcher."""
    kernel = gpu.cupy.RawKernel(SPIN, "spin")
    baseline: list[float] = []

    def polled() -> Metrics:
        seconds = _rounds(gpu, kernel, lambda event: _poll(gpu, event), rounds)
        baseline.append(float(np.median(seconds)))
        return {"whole_us": baseline[0] * 1e6}

    journal.attempt("waking", "polling cudaEventQuery", polled)
    ways: list[tuple[str, Callable[[], Wait]]] = [
        ("Event.synchronize in the thread itself", lambda: lambda event: event.synchronize()),
        ("Event.synchronize in a Python thread", lambda: _Waiter(gpu, _by_cupy)),
        ("cuEventSynchronize in a thread without a context", lambda: _native(gpu, False)),
        ("cuEventSynchronize in a thread with the context", lambda: _native(gpu, True)),
    ]
    for name, way in ways:
        if not baseline:
            journal.skip("waking", name, "polling failed")
            continue
        journal.attempt(
            "waking",
            name,
            lambda way=way: _later(gpu, kernel, way(), rounds, baseline[0]),  # type: ignore[misc]
        )
    for completion in ("thread", "native"):
        journal.attempt(
            "waking",
            f"a lone batcher(x), completion={completion!r}",
            lambda completion=completion: _lone(gpu, completion, rounds),  # type: ignore[misc]
        )


def _rounds(gpu: Gpu, kernel: Any, wait: Wait, rounds: int) -> list[float]:
    stream = gpu.cuda.Stream(non_blocking=True)
    event = gpu.cuda.Event(block=True, disable_timing=True)
    found = []
    with stream:
        for _ in range(rounds + 5):
            begin = perf_counter()
            kernel((1,), (1,), (np.int64(NANOSECONDS),))
            stream.record(event)
            wait(event)
            found.append(perf_counter() - begin)
    return found[5:]


def _later(gpu: Gpu, kernel: Any, wait: Wait, rounds: int, baseline: float) -> Metrics:
    try:
        seconds = np.array(_rounds(gpu, kernel, wait, rounds))
    finally:
        if isinstance(wait, _Waiter):
            wait.close()
    p50, p99 = np.percentile(seconds, [50, 99])
    return {
        "whole_us": float(p50) * 1e6,
        "later_us": float(p50 - baseline) * 1e6,
        "p99_later_us": float(p99 - baseline) * 1e6,
    }


def _poll(gpu: Gpu, event: Any) -> None:
    query = gpu.cuda.runtime.eventQuery
    while query(event.ptr) == _PENDING:
        pass


def _by_cupy(event: Any) -> int:
    event.synchronize()
    return 0


class _Waiter:
    """A thread that waits for events and says so through a queue, as the Batcher's does.

    Args:
        gpu: Where.
        wait: Waits for an event, and returns CUDA's status.
        enter: Called first, in that thread.
    """

    def __init__(
        self, gpu: Gpu, wait: Callable[[Any], int], enter: Callable[[], int] = lambda: 0
    ) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wait = wait
        self._enter = enter
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __call__(self, event: Any) -> None:
        self._events.put(event)
        status = self._ended.get(timeout=_PATIENCE)
        if status != 0:
            raise RuntimeError(f"waiting answered {status}")

    def close(self) -> None:
        """Ends the thread."""
        self._events.put(None)
        self._thread.join(_PATIENCE)

    def _serve(self) -> None:
        status = self._enter()
        while (event := self._events.get()) is not None:
            try:
                self._ended.put(status or self._wait(event))
            except Exception as error:
                self._ended.put(error)


def _native(gpu: Gpu, with_context: bool) -> _Waiter:
    """Waits as the native thread does: the driver's function by its address, without CuPy."""
    wait, enter, context = waiting.native_calls(gpu.cuda, 0)
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)  # lets go of the GIL
    synchronize, set_context = kind(wait), kind(enter)
    return _Waiter(
        gpu,
        lambda event: int(synchronize(event.ptr)),
        (lambda: int(set_context(context))) if with_context else (lambda: 0),
    )


def _lone(gpu: Gpu, completion: Any, rounds: int) -> Metrics:
    row = np.ones(16, np.float32)
    with Batcher(
        lambda x: x,
        inputs=TensorSpec((16,), "float32"),
        device=waiting.CudaDevice(completion=completion),
        warmup=True,
    ) as batcher:
        found = []
        for _ in range(rounds + 5):
            begin = perf_counter()
            answer = batcher(row)
            found.append(perf_counter() - begin)
            assert (answer == row).all()
    p50, p99 = np.percentile(found[5:], [50, 99])
    return {"whole_us": float(p50) * 1e6, "p99_whole_us": float(p99) * 1e6}
