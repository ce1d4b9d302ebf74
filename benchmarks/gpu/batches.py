"""Each kernel at the size of a real batch: how far above the floor that memory sets, in a graph.

There a launch costs more than the memory does, so copies are no measure; launches recorded into a
graph one behind the other leave out what the host does. Most of a batch fits the L2 cache, so a
kernel may well be faster than the floor.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.gpu.cases import CASES, Case, Sizes
from benchmarks.gpu.copies import copy_bandwidth
from benchmarks.gpu.journal import Journal, Metrics
from benchmarks.gpu.stack import Gpu
from benchmarks.gpu.timing import device_seconds

__all__ = ["BATCH", "measure"]

BATCH = Sizes(images=64, sequences=64, length=66, features=384, ranked=64, classes=1000)
"""64 images of 224 x 224, 64 sequences of 33 tokens on the average, 64 rows of logits."""

LAUNCHES = 20
_COPIED = 512 << 20
# These take many times more sequences than a batch has.
_OTHERS = ("pad_ids", "packed_meta")


def measure(
    gpu: Gpu,
    journal: Journal,
    sizes: Sizes = BATCH,
    *,
    copied: int = _COPIED,
    runs: int = 20,
    cases: tuple[Case, ...] = CASES,
) -> None:
    """Times every kernel that a batch meets; the floor is that of copies of many bytes."""
    found: list[float] = []

    def copying() -> Metrics:
        stream = gpu.cuda.Stream(non_blocking=True)
        with stream:
            found.append(copy_bandwidth(gpu, stream, copied, runs))
        return {"copy_gb_per_s": found[0] / 1e9}

    group = "kernels at the size of a batch"
    journal.attempt(group, "a copy", copying)
    for case in cases:
        if case.name in _OTHERS:
            continue
        if not found:
            journal.skip(group, case.name, "there is nothing to compare with")
            continue
        journal.attempt(group, case.name, partial(_in_a_graph, gpu, case, sizes, found[0], runs))


def _in_a_graph(gpu: Gpu, case: Case, sizes: Sizes, copying: float, runs: int) -> Metrics:
    stream = gpu.cuda.Stream(non_blocking=True)
    with stream:
        start, moved = case.make(gpu, stream, sizes)
        start()  # loads the kernel, which cannot be done while recording
        stream.synchronize()
        stream.begin_capture()
        _repeat(start, LAUNCHES)
        graph: Any = stream.end_capture()
        seconds = device_seconds(gpu, stream, lambda _: graph.launch(stream), runs)
    each = statistics.median(seconds) / LAUNCHES
    floor = moved / copying
    return {
        "microseconds": each * 1e6,
        "floor_us": floor * 1e6,
        "above_us": (each - floor) * 1e6,
    }


def _repeat(start: Callable[[], object], times: int) -> None:
    for _ in range(times):
        start()
