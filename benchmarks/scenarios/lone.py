"""One caller at a time: how much later than the bare model does the answer come?"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import contestants
from benchmarks.baselines.batched_package import is_installed
from benchmarks.contestants import WINDOW, ForLoop, ForThreads
from benchmarks.harness import Column, Metrics, Scenario, Settings, Variant, above
from benchmarks.loads import lone_caller, lone_coroutine, percentiles, run_in_loop
from benchmarks.models import identity, row

WARM_UP_CALLS = 50


def from_thread(make: ForThreads) -> Callable[[Settings], Metrics]:
    def run(settings: Settings) -> Metrics:
        with make(identity) as call:
            lone_caller(call, calls=WARM_UP_CALLS, seconds=settings.seconds)
            return percentiles(lone_caller(call, calls=settings.calls, seconds=settings.seconds))

    return run


def bare_model(settings: Settings) -> Metrics:
    """The model alone, called with a batch that is ready."""
    batch = row(7)[None]
    lone_caller(identity, calls=WARM_UP_CALLS, seconds=settings.seconds, own=batch)
    return percentiles(
        lone_caller(identity, calls=settings.calls, seconds=settings.seconds, own=batch)
    )


def from_loop(make: ForLoop) -> Callable[[Settings], Metrics]:
    def run(settings: Settings) -> Metrics:
        async def main() -> list[float]:
            async with make(identity) as submit:
                await lone_coroutine(submit, calls=WARM_UP_CALLS, seconds=settings.seconds)
                return await lone_coroutine(submit, calls=settings.calls, seconds=settings.seconds)

        return percentiles(run_in_loop(main, uvloop=settings.uvloop))

    return run


SCENARIO = Scenario(
    name="lone",
    question="One caller at a time, identity model: how much later than the bare model?",
    variants=[
        Variant("bare model", bare_model),
        Variant("tidegate, thread", from_thread(contestants.tidegate())),
        Variant("tidegate, asyncio", from_loop(contestants.tidegate_for_loop())),
        Variant(
            "tidegate, asyncio inline", from_loop(contestants.tidegate_for_loop(executor="inline"))
        ),
        Variant("queue.Queue, no window", from_thread(contestants.queued(window=0.0))),
        Variant("queue.Queue, 5 ms", from_thread(contestants.queued(window=WINDOW))),
        Variant("asyncio, executor", from_loop(contestants.asyncio_executor())),
        Variant("asyncio, own thread", from_loop(contestants.asyncio_thread())),
        Variant("asyncio, inline", from_loop(contestants.asyncio_inline())),
        Variant("batched", from_loop(contestants.batched()), is_installed),
    ],
    columns=[Column("p50", "p50 µs", 1e6, 2), Column("p99", "p99 µs", 1e6, 2)],
    targets=[
        above(f"{name}: p50 above the bare model", "p50", name, "bare model", limit, 1e6, "µs")
        for name, limit in (
            ("tidegate, thread", 2.0),
            ("tidegate, asyncio", 40.0),
            ("tidegate, asyncio inline", 4.0),
        )
    ],
)
