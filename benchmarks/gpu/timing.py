"""Clocks: a GPU's own, by events around each piece of work, and the host's around calls."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

from benchmarks.gpu.stack import Gpu

__all__ = ["device_seconds", "host_seconds"]


def device_seconds(gpu: Gpu, stream: Any, work: Callable[[int], object], runs: int) -> list[float]:
    """How long the GPU took for each piece of work, by events around it.

    Pieces follow each other without a pause if they take the GPU longer than the host takes to
    start them.

    Args:
        gpu: Where.
        stream: Where the work is queued; it is the current one.
        work: Called with the number of the run; starts the work.
        runs: How many are measured, behind one that is not.
    """
    cuda = gpu.cuda
    work(0)
    pairs = []
    for run in range(runs):
        begin, end = cuda.Event(), cuda.Event()
        stream.record(begin)
        work(run + 1)
        stream.record(end)
        pairs.append((begin, end))
    stream.synchronize()
    return [cuda.get_elapsed_time(begin, end) / 1e3 for begin, end in pairs]


def host_seconds(
    call: Callable[[], object], settle: Callable[[], object], calls: int, repeats: int = 5
) -> float:
    """How long a call keeps the host, as the median of repeats.

    Args:
        call: What is timed.
        settle: Called between repeats, so that no queue fills up.
        calls: In one repeat.
        repeats: How many are measured, behind one that is not.
    """
    found = []
    for _ in range(repeats + 1):
        begin = perf_counter()
        for _ in range(calls):
            call()
        found.append((perf_counter() - begin) / calls)
        settle()
    return statistics.median(found[1:])
