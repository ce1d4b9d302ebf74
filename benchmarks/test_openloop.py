"""How long do requests wait that arrive at random, 500 a second?

What is timed is the second of arrivals, the same for all; the latencies stand beside it, in
`extra_info` of the JSON that pytest-benchmark writes.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import contestants
from benchmarks.contestants import WINDOW, ForLoop
from benchmarks.fixed import timed
from benchmarks.harness import Settings
from benchmarks.scenarios.openloop import measure


@pytest.mark.benchmark(group="open loop: 500 requests a second; latencies in extra_info")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(contestants.tidegate_for_loop(), id="tidegate"),
        pytest.param(contestants.tidegate_for_loop(max_queue_delay=WINDOW), id="tidegate, 5 ms"),
        pytest.param(contestants.asyncio_executor(), id="asyncio, executor"),
        pytest.param(contestants.asyncio_executor(window=WINDOW), id="asyncio, executor, 5 ms"),
    ],
)
def test_random_arrivals(benchmark: BenchmarkFixture, make: ForLoop) -> None:
    latencies = timed(benchmark, lambda: measure(make)(Settings(seconds=0.5)), rounds=1)
    benchmark.extra_info.update(latencies)
    assert 0 < latencies["p50"] <= latencies["p99"]
