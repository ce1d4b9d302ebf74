"""How fast do 64 threads in a closed loop get their answers?"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import contestants
from benchmarks.contestants import WINDOW, ForThreads
from benchmarks.fixed import call_from_threads, timed
from benchmarks.models import identity

CALLERS, EACH = 64, 200


@pytest.mark.benchmark(group="threads: 64 callers, 200 calls each, identity model")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(contestants.tidegate(), id="tidegate"),
        pytest.param(contestants.tidegate(max_queue_delay=WINDOW), id="tidegate, 5 ms"),
        pytest.param(contestants.queued(), id="queue.Queue, 5 ms"),
        pytest.param(contestants.queued(window=0.0), id="queue.Queue, no window"),
    ],
)
def test_64_threads_in_a_closed_loop(benchmark: BenchmarkFixture, make: ForThreads) -> None:
    with make(identity) as call:

        def work() -> int:
            return call_from_threads(call, callers=CALLERS, each=EACH)

        assert timed(benchmark, work, rounds=5, warm_up=1) == CALLERS * EACH
