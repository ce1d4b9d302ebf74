"""Drives a batcher with callers: closed loops, a lone caller, open-loop arrivals.

A closed loop runs freely for a while before the clock starts, and is read while it still runs, so
neither starting nor ending is part of the measurement. Every answer of a first pass is checked;
then one in `STRIDE`, so that checking is not what is measured.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from benchmarks.contestants import Call, Submit
from benchmarks.models import Counted, WrongAnswerError, check, row

STRIDE = 8
WARM_UP = 0.08

T = TypeVar("T")


@dataclass(frozen=True)
class Rate:
    """What a closed loop reached: requests, batches and CPU seconds in so many seconds."""

    requests: int
    batches: int
    cpu: float
    seconds: float

    def metrics(self) -> dict[str, float]:
        return {
            "throughput": self.requests / self.seconds,
            "mean_batch": self.requests / max(1, self.batches),
            "cpu_us": self.cpu / max(1, self.requests) * 1e6,
        }


class _Meter:
    """Reads progress, calls, CPU and clock together, at the start and at the end."""

    def __init__(self, counts: list[int], model: Counted) -> None:
        self._counts = counts
        self._model = model
        self._start = self._read()

    def _read(self) -> Rate:
        return Rate(sum(self._counts), self._model.batches, time.process_time(), perf_counter())

    def rate(self) -> Rate:
        start, end = self._start, self._read()
        return Rate(
            end.requests - start.requests,
            end.batches - start.batches,
            end.cpu - start.cpu,
            end.seconds - start.seconds,
        )


def threads_closed_loop(call: Call, model: Counted, *, callers: int, seconds: float) -> Rate:
    """Each of `callers` threads calls, waits for its answer, and calls again."""
    counts = [0] * callers
    errors: list[BaseException] = []
    running = True

    def caller(number: int) -> None:
        try:
            own = row(number)
            for k in range(3):
                own[:] = 1000 * k + number
                check(call(own), 1000 * k + number)
            own[:] = number
            done = 0
            for _ in range(number % STRIDE):  # so that callers in step are not counted in step
                call(own)
            while running:
                for _ in range(STRIDE - 1):
                    call(own)
                if call(own)[-1] != number:
                    raise WrongAnswerError(f"caller {number} was given another's answer")
                done += STRIDE
                counts[number] = done
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caller, args=(n,), daemon=True) for n in range(callers)]
    for thread in threads:
        thread.start()
    time.sleep(WARM_UP)
    meter = _Meter(counts, model)
    time.sleep(seconds)
    rate = meter.rate()
    running = False
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return rate


async def closed_loop(submit: Submit, model: Counted, *, callers: int, seconds: float) -> Rate:
    """Each of `callers` coroutines submits, awaits its answer, and submits again."""
    counts = [0] * callers
    running = True

    async def caller(number: int) -> None:
        own = row(number)
        for k in range(3):
            own[:] = 1000 * k + number
            check(await submit(own), 1000 * k + number)
        own[:] = number
        done = 0
        for _ in range(number % STRIDE):
            await submit(own)
        while running:
            for _ in range(STRIDE - 1):
                await submit(own)
            if (await submit(own))[-1] != number:
                raise WrongAnswerError(f"caller {number} was given another's answer")
            done += STRIDE
            counts[number] = done

    tasks = [asyncio.ensure_future(caller(number)) for number in range(callers)]
    await asyncio.sleep(WARM_UP)
    meter = _Meter(counts, model)
    await asyncio.sleep(seconds)
    rate = meter.rate()
    running = False
    await asyncio.gather(*tasks)
    return rate


def lone_caller(
    call: Call, *, calls: int, seconds: float, own: np.ndarray | None = None
) -> list[float]:
    """The latencies of one thread that calls again and again, at most `seconds` long."""
    latencies: list[float] = []
    end = perf_counter() + seconds
    own = row(7) if own is None else own
    while len(latencies) < calls and perf_counter() < end:
        before = perf_counter()
        answer = call(own)
        latencies.append(perf_counter() - before)
        check(answer.reshape(-1), 7)
    return latencies


async def lone_coroutine(submit: Submit, *, calls: int, seconds: float) -> list[float]:
    """The same for one coroutine that submits and awaits."""
    latencies: list[float] = []
    end = perf_counter() + seconds
    own = row(7)
    while len(latencies) < calls and perf_counter() < end:
        before = perf_counter()
        answer = await submit(own)
        latencies.append(perf_counter() - before)
        check(answer, 7)
    return latencies


async def open_loop(
    submit: Submit,
    expected: np.ndarray,
    rows: np.ndarray,
    *,
    per_second: float,
    seconds: float,
    seed: int,
) -> list[float]:
    """Poisson arrivals that wait for nobody; latencies from each arrival to its answer."""
    arrivals = random.Random(seed)
    loop = asyncio.get_running_loop()
    latencies: list[float] = []

    async def request(number: int, arrived: float) -> None:
        answer = await submit(rows[number])
        latencies.append(perf_counter() - arrived)
        if not np.allclose(answer, expected[number], rtol=1e-4, atol=1e-4):
            raise WrongAnswerError(f"request {number} was given another's answer")

    tasks: list[asyncio.Future[None]] = []
    due = loop.time()
    end = due + seconds
    while due < end:
        await asyncio.sleep(max(0.0, due - loop.time()))
        tasks.append(asyncio.ensure_future(request(len(tasks) % len(rows), perf_counter())))
        due += arrivals.expovariate(per_second)
    await asyncio.gather(*tasks)
    return latencies


def percentiles(latencies: list[float]) -> dict[str, float]:
    """p50 and p99 in seconds."""
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


def run_in_loop(main: Callable[[], Coroutine[Any, Any, T]], *, uvloop: bool = False) -> T:
    """Run a coroutine in a fresh event loop of asyncio's own kind, or of uvloop's."""
    if uvloop:
        import uvloop as kind

        loop: asyncio.AbstractEventLoop = kind.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()
