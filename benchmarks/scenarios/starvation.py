"""A 2 ms model beside Python code that keeps the GIL busy: do the answers still come?

A worker thread that has to take the GIL from somebody who lets go only for microseconds may wait
for seconds: its 5 ms switch timer starts over each time. Every case is bounded in time; the answers
of a starved batcher are counted, not waited for. The bare model in the caller's own thread shows
what the interpreter itself allows: beside a thread that never lets go, even the end of its
`time.sleep` waits a whole switch interval.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from time import perf_counter

from benchmarks import contestants
from benchmarks.contestants import Call, ForLoop, ForThreads
from benchmarks.harness import Column, Metrics, Scenario, Settings, Target, Variant, most
from benchmarks.loads import percentiles, run_in_loop
from benchmarks.models import accelerator, check, row

STEP = 0.0002
MARGIN = 1.5
"""These cases need some hundred answers a round, so they run this much longer than others."""

Busy = Callable[[float], None]


def busy_step() -> None:
    end = perf_counter() + STEP
    while perf_counter() < end:
        pass


def spin(end: float) -> None:
    """Python code that never waits."""
    while perf_counter() < end:
        pass


def steps(end: float) -> None:
    """Python code that lets go of the GIL for an instant every 200 µs."""
    while perf_counter() < end:
        busy_step()
        time.sleep(0)


def _metrics(latencies: list[float], ends: list[float], end: float, seconds: float) -> Metrics:
    in_time = sum(1 for when in ends if when <= end)
    return {**percentiles(latencies), "answers": in_time / seconds}


def coroutine_beside_coroutine(make: ForLoop) -> Callable[[Settings], Metrics]:
    """The caller and the busy one are coroutines of one loop."""

    def run(settings: Settings) -> Metrics:
        async def main() -> Metrics:
            latencies, ends = [], []
            own = row(7)
            async with make(accelerator) as submit:
                check(await submit(own), 7)
                seconds = MARGIN * settings.seconds
                end = perf_counter() + seconds

                async def busy() -> None:
                    while perf_counter() < end:
                        busy_step()
                        await asyncio.sleep(0)

                other = asyncio.ensure_future(busy())
                while (before := perf_counter()) < end:
                    check(await submit(own), 7)
                    ends.append(perf_counter())
                    latencies.append(ends[-1] - before)
                await other
            return _metrics(latencies, ends, end, seconds)

        return run_in_loop(main, uvloop=settings.uvloop)

    return run


def thread_beside_thread(
    make: ForThreads, busy: Busy, *, caller_is_main: bool = False
) -> Callable[[Settings], Metrics]:
    """The caller is a thread beside a busy one; either may be the main thread."""

    def run(settings: Settings) -> Metrics:
        latencies: list[float] = []
        ends: list[float] = []
        errors: list[BaseException] = []
        own = row(7)

        def caller(call: Call, end: float) -> None:
            try:
                while (before := perf_counter()) < end:
                    check(call(own), 7)
                    ends.append(perf_counter())
                    latencies.append(ends[-1] - before)
            except BaseException as error:
                errors.append(error)

        with make(accelerator) as call:
            check(call(own), 7)
            seconds = MARGIN * settings.seconds
            end = perf_counter() + seconds
            if caller_is_main:
                other = threading.Thread(target=busy, args=(end,))
                other.start()
                caller(call, end)
            else:
                other = threading.Thread(target=caller, args=(call, end))
                other.start()
                busy(end)
            other.join()
        if errors:
            raise errors[0]
        return _metrics(latencies, ends, end, seconds)

    return run


def _thread_case(case: str, busy: Busy, *, caller_is_main: bool = False) -> list[Variant]:
    return [
        Variant(
            f"{case}: {name}",
            thread_beside_thread(make, busy, caller_is_main=caller_is_main),
        )
        for name, make in (
            ("tidegate", contestants.tidegate()),
            ("queue.Queue", contestants.queued(window=0.0)),
            ("bare model", contestants.bare()),
        )
    ]


STEPPING = "thread, stepping thread"
SPINNING_MAIN = "thread, spinning main"
SPINNING = "main, spinning thread"
COROUTINE = "coroutine, busy coroutine"


def _targets() -> list[Target]:
    targets = []
    for case in (COROUTINE, STEPPING, SPINNING_MAIN, SPINNING):
        name = f"{case}: tidegate"
        targets.append(most(f"{name}, p50", "p50", name, 3.5, 1e3, "ms"))
        targets.append(most(f"{name}, p99", "p99", name, 8.0, 1e3, "ms"))
    rival = f"{COROUTINE}: asyncio, executor"
    targets.append(most(f"{rival}: starves (answers/s)", "answers", rival, 10.0, 1.0, ""))
    return targets


SCENARIO = Scenario(
    name="starvation",
    question="A 2 ms model, one caller, beside code that keeps the GIL: when do answers come?",
    variants=[
        *(
            Variant(f"{COROUTINE}: {name}", coroutine_beside_coroutine(make))
            for name, make in (
                ("tidegate", contestants.tidegate_for_loop()),
                ("asyncio, executor", contestants.asyncio_executor()),
                ("asyncio, inline", contestants.asyncio_inline()),
            )
        ),
        *_thread_case(STEPPING, steps),
        *_thread_case(SPINNING_MAIN, spin),
        *_thread_case(SPINNING, spin, caller_is_main=True),
    ],
    columns=[
        Column("p50", "p50 ms", 1e3, 2),
        Column("p99", "p99 ms", 1e3, 2),
        Column("answers", "answers/s", digits=1),
    ],
    targets=_targets(),
)
