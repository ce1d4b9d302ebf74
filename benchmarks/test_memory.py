"""What does a request that waits take, and what does a process with a batcher?"""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import contestants
from benchmarks.children.process import child
from benchmarks.contestants import ForThreads
from benchmarks.fixed import timed
from benchmarks.models import check, row

REQUESTS = 1000


@pytest.mark.benchmark(group="allocation: 1,000 requests that wait; blocks in extra_info")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(contestants.tidegate(), id="tidegate"),
        pytest.param(contestants.queued(), id="queue.Queue"),
    ],
)
def test_what_a_waiting_request_allocates(benchmark: BenchmarkFixture, make: ForThreads) -> None:
    go_on = threading.Event()
    entered = threading.Event()

    def model(batch: np.ndarray) -> np.ndarray:
        entered.set()
        go_on.wait()
        return batch

    own = row(7)
    with make(model) as batcher:
        first = batcher.submit(own)  # holds the executor, so that all others wait
        entered.wait()

        def submit() -> list[object]:
            return [batcher.submit(own) for _ in range(REQUESTS)]

        try:
            before = sys.getallocatedblocks()
            pending = timed(benchmark, submit, rounds=1)
            benchmark.extra_info["blocks_per_request"] = (
                sys.getallocatedblocks() - before
            ) / REQUESTS
        finally:
            go_on.set()
        for future in (first, *pending):
            check(future.result(), 7)


@pytest.mark.benchmark(group="process: import, 10,000 requests; memory in extra_info")
@pytest.mark.parametrize("kind", ["numpy", "tidegate", "queue"])
def test_what_a_process_with_a_batcher_takes(benchmark: BenchmarkFixture, kind: str) -> None:
    def serve() -> dict[str, float]:
        with child(kind) as (_, report):
            return report

    report = timed(benchmark, serve, rounds=3)
    benchmark.extra_info.update(report)
    assert 0 < report["rss"] <= report["peak"]
