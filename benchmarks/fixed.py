"""Fixed amounts of work with every answer checked, as pytest-benchmark times them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.contestants import Call, ForLoop, Submit
from benchmarks.models import Model, WrongAnswerError, row

T = TypeVar("T")


def timed(
    benchmark: BenchmarkFixture, work: Callable[[], T], *, rounds: int, warm_up: int = 0
) -> T:
    """Time so many rounds of `work`; returns what the last one did."""
    result: T = benchmark.pedantic(  # type: ignore[no-untyped-call]
        work, rounds=rounds, warmup_rounds=warm_up
    )
    return result


def _check(answer: np.ndarray, number: int) -> None:
    """Cheap enough to be inside what is timed: the last feature tells whose row it is."""
    if answer[-1] != number:
        raise WrongAnswerError(f"caller {number} was given another's answer")


def call_from_threads(call: Call, *, callers: int, each: int) -> int:
    """Each of `callers` threads makes `each` calls; returns how many were answered."""
    answered = [0] * callers

    def caller(number: int) -> None:
        own = row(number)
        for _ in range(each):
            _check(call(own), number)
            answered[number] += 1

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered)


async def call_from_coroutines(submit: Submit, *, callers: int, each: int) -> int:
    """Each of `callers` coroutines makes `each` requests; returns how many were answered."""
    answered = 0

    async def caller(number: int) -> None:
        nonlocal answered
        own = row(number)
        for _ in range(each):
            _check(await submit(own), number)
            answered += 1

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return answered


@contextlib.contextmanager
def in_loop(make: ForLoop, model: Model) -> Iterator[tuple[asyncio.AbstractEventLoop, Submit]]:
    """An event loop with a batcher on it, for work that is run on it again and again."""
    loop = asyncio.new_event_loop()
    batcher = make(model)
    try:
        yield loop, loop.run_until_complete(batcher.__aenter__())
        loop.run_until_complete(batcher.__aexit__(None, None, None))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
