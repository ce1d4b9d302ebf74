"""Puts a load on one batcher: callers in a closed loop, coroutines or threads, or random arrivals.

Every answer is kept, and compared once the clock has stopped. Closed loops run for a while before
it starts and are read while they still run; what ended meanwhile counts.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from benchmarks.contestants import Call, Submit
from benchmarks.loads import percentiles
from benchmarks.models import WrongAnswerError
from benchmarks.ragged.traffic import Traffic
from benchmarks.ragged.variants import Count, Counted

WARM_UP = 0.2
PATIENCE = 60.0
"""Seconds; no answer takes near as long."""


@dataclass
class Log:
    """What was asked, when each answer came, how long it took, and the answers."""

    numbers: list[int] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    answers: list[np.ndarray] = field(default_factory=list)

    def add(self, number: int, since: float, answer: np.ndarray) -> None:
        now = perf_counter()
        self.numbers.append(number)
        self.ended.append(now)
        self.latencies.append(now - since)
        self.answers.append(answer)

    def went_on(self, begin: float) -> bool:
        """Whether an answer has come since then."""
        return bool(self.ended) and self.ended[-1] >= begin

    def extend(self, other: Log) -> None:
        self.numbers += other.numbers
        self.ended += other.ended
        self.latencies += other.latencies
        self.answers += other.answers

    def between(self, begin: float, end: float, count: Count) -> Reading:
        """What ended between two times of perf_counter()."""
        latencies = [
            latency
            for ended, latency in zip(self.ended, self.latencies, strict=True)
            if begin <= ended < end
        ]
        return Reading(latencies, end - begin, count)


@dataclass(frozen=True)
class Reading:
    """Latencies, the seconds in which they were measured, and the model's calls meanwhile."""

    latencies: list[float]
    seconds: float
    count: Count

    def __add__(self, other: Reading) -> Reading:
        return Reading(
            self.latencies + other.latencies,
            self.seconds + other.seconds,
            self.count + other.count,
        )

    def metrics(self) -> dict[str, float]:
        if not self.latencies:
            raise WrongAnswerError(f"nothing was answered within {self.seconds:.2g} s")
        return {
            "throughput": len(self.latencies) / self.seconds,
            **percentiles(self.latencies),
            **self.count.metrics(),
        }


async def closed_loop(
    submit: Submit, counted: Counted, traffic: Traffic, *, callers: int, seconds: float
) -> Reading:
    """Each of `callers` coroutines submits, awaits its answer, and submits another request."""
    log = Log()
    rows = traffic.rows
    running = True

    async def caller(number: int) -> None:
        while running:
            number = (number + callers) % len(rows)
            before = perf_counter()
            log.add(number, before, await submit(rows[number]))

    tasks = [asyncio.ensure_future(caller(number)) for number in range(callers)]
    await asyncio.sleep(WARM_UP)
    begin, first = perf_counter(), counted()
    # At least until an answer came: on a busy machine that may take longer.
    while not (log.went_on(begin) or any(task.done() for task in tasks)):  # noqa: ASYNC110
        await asyncio.sleep(seconds)
    end, last = perf_counter(), counted()
    running = False
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    traffic.check(log.numbers, log.answers)
    return log.between(begin, end, last - first)


def threads_closed_loop(
    call: Call, counted: Counted, traffic: Traffic, *, callers: int, seconds: float
) -> Reading:
    """Each of `callers` threads calls, waits for its answer, and calls with another request."""
    rows = traffic.rows
    logs = [Log() for _ in range(callers)]
    errors: list[BaseException] = []
    running = True

    def caller(number: int, log: Log) -> None:
        try:
            while running:
                number = (number + callers) % len(rows)
                before = perf_counter()
                log.add(number, before, call(rows[number]))
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=caller, args=(number, log), daemon=True)
        for number, log in enumerate(logs)
    ]
    for thread in threads:
        thread.start()
    time.sleep(WARM_UP)
    begin, first = perf_counter(), counted()
    while not (errors or any(log.went_on(begin) for log in logs)):
        time.sleep(seconds)
    end, last = perf_counter(), counted()
    running = False
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    log = Log()
    for each in logs:
        log.extend(each)
    traffic.check(log.numbers, log.answers)
    return log.between(begin, end, last - first)


async def open_loop(
    submit: Submit, counted: Counted, traffic: Traffic, *, per_second: float, seconds: float
) -> Reading:
    """Poisson arrivals that wait for nobody; latencies count from when each request was due."""
    arrivals = random.Random(1)  # the same for all variants
    log = Log()
    rows = traffic.rows

    async def request(number: int, due: float) -> None:
        log.add(number, due, await submit(rows[number]))

    tasks: list[asyncio.Future[None]] = []
    begin, first = perf_counter(), counted()
    due = begin
    while due < begin + seconds:
        now = perf_counter()
        if due > now:
            await asyncio.sleep(due - now)
        tasks.append(asyncio.ensure_future(request(len(tasks) % len(rows), due)))
        due += arrivals.expovariate(per_second)
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    end, last = perf_counter(), counted()
    traffic.check(log.numbers, log.answers)
    return log.between(begin, end, last - first)
