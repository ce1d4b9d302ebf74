"""256 coroutines in a closed loop with the identity model: how many requests a second?"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import contestants
from benchmarks.baselines.batched_package import is_installed
from benchmarks.contestants import ForLoop
from benchmarks.harness import Column, Metrics, Scenario, Settings, Variant, ratio
from benchmarks.loads import Rate, closed_loop, run_in_loop
from benchmarks.models import Counted, Model, identity

CALLERS = 256


def measure(make: ForLoop, model: Model = identity) -> Callable[[Settings], Metrics]:
    def run(settings: Settings) -> Metrics:
        async def main() -> Rate:
            counted = Counted(model)
            async with make(counted) as submit:
                return await closed_loop(submit, counted, callers=CALLERS, seconds=settings.seconds)

        return run_in_loop(main, uvloop=settings.uvloop).metrics()

    return run


SCENARIO = Scenario(
    name="asyncio256",
    question="256 coroutines, identity model, batches of at most 64: how many requests a second?",
    variants=[
        Variant("tidegate", measure(contestants.tidegate_for_loop())),
        Variant("tidegate, inline", measure(contestants.tidegate_for_loop(executor="inline"))),
        Variant("asyncio, executor", measure(contestants.asyncio_executor())),
        Variant("asyncio, own thread", measure(contestants.asyncio_thread())),
        Variant("asyncio, inline", measure(contestants.asyncio_inline())),
        Variant("batched", measure(contestants.batched()), is_installed),
    ],
    columns=[
        Column("throughput", "requests/s"),
        Column("mean_batch", "mean batch", digits=1),
        Column("cpu_us", "CPU µs/request", digits=2),
    ],
    targets=[
        ratio("tidegate / asyncio, executor", "throughput", "tidegate", ["asyncio, executor"], 2.5),
        ratio(
            "tidegate / asyncio, own thread",
            "throughput",
            "tidegate",
            ["asyncio, own thread"],
            2.5,
        ),
        ratio(
            "tidegate, inline / asyncio, inline",
            "throughput",
            "tidegate, inline",
            ["asyncio, inline"],
            2.5,
        ),
        ratio("tidegate / batched", "throughput", "tidegate", ["batched"], 10.0),
    ],
)
