"""How fast do 256 coroutines in a closed loop get their answers?"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import contestants
from benchmarks.baselines.batched_package import is_installed
from benchmarks.contestants import ForLoop
from benchmarks.fixed import call_from_coroutines, in_loop, timed
from benchmarks.models import Model, accelerator, identity

CALLERS = 256

needs_batched = pytest.mark.skipif(not is_installed(), reason="pip install batched")

THREADED = [
    pytest.param(contestants.tidegate_for_loop(), id="tidegate"),
    pytest.param(contestants.asyncio_executor(), id="asyncio, executor"),
    pytest.param(contestants.asyncio_thread(), id="asyncio, own thread"),
    pytest.param(contestants.batched(), id="batched", marks=needs_batched),
]


def answer_all(benchmark: BenchmarkFixture, make: ForLoop, model: Model, each: int) -> None:
    with in_loop(make, model) as (loop, submit):

        def work() -> int:
            return loop.run_until_complete(call_from_coroutines(submit, callers=CALLERS, each=each))

        assert timed(benchmark, work, rounds=5, warm_up=1) == CALLERS * each


@pytest.mark.benchmark(group="asyncio: 256 callers, 100 requests each, model in a thread")
@pytest.mark.parametrize("make", THREADED)
def test_256_coroutines_with_the_model_in_a_thread(
    benchmark: BenchmarkFixture, make: ForLoop
) -> None:
    answer_all(benchmark, make, identity, each=100)


@pytest.mark.benchmark(group="asyncio: 256 callers, 100 requests each, model on the loop")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(contestants.tidegate_for_loop(executor="inline"), id="tidegate, inline"),
        pytest.param(contestants.asyncio_inline(), id="asyncio, inline"),
    ],
)
def test_256_coroutines_with_the_model_on_the_loop(
    benchmark: BenchmarkFixture, make: ForLoop
) -> None:
    answer_all(benchmark, make, identity, each=100)


@pytest.mark.benchmark(group="accelerator: 256 callers, 10 requests each, 2 ms a batch")
@pytest.mark.parametrize("make", THREADED)
def test_256_coroutines_with_an_accelerator(benchmark: BenchmarkFixture, make: ForLoop) -> None:
    answer_all(benchmark, make, accelerator, each=10)
