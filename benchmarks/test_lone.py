"""How long does a caller wait who is alone?"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import contestants
from benchmarks.contestants import ForLoop, ForThreads
from benchmarks.fixed import call_from_coroutines, in_loop, timed
from benchmarks.models import check, identity, row

CALLS = 100
GROUP = "lone caller: 100 answers, one after the other"


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(contestants.bare(), id="bare model"),
        pytest.param(contestants.tidegate(), id="tidegate"),
        pytest.param(contestants.queued(window=0.0), id="queue.Queue, no window"),
    ],
)
def test_a_lone_thread(benchmark: BenchmarkFixture, make: ForThreads) -> None:
    own = row(7)
    with make(identity) as call:

        def work() -> np.ndarray:
            answer = np.empty(0)
            for _ in range(CALLS):
                answer = call(own)
            return answer

        check(timed(benchmark, work, rounds=20, warm_up=2), 7)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(contestants.tidegate_for_loop(), id="tidegate"),
        pytest.param(contestants.tidegate_for_loop(executor="inline"), id="tidegate, inline"),
        pytest.param(contestants.asyncio_executor(), id="asyncio, executor"),
        pytest.param(contestants.asyncio_inline(), id="asyncio, inline"),
    ],
)
def test_a_lone_coroutine(benchmark: BenchmarkFixture, make: ForLoop) -> None:
    with in_loop(make, identity) as (loop, submit):

        def work() -> int:
            return loop.run_until_complete(call_from_coroutines(submit, callers=1, each=CALLS))

        assert timed(benchmark, work, rounds=20, warm_up=2) == CALLS
