"""Poisson arrivals at 500 requests a second: how long does each wait for its answer?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks import contestants
from benchmarks.baselines.batched_package import is_installed
from benchmarks.contestants import WINDOW, ForLoop
from benchmarks.harness import Column, Metrics, Scenario, Settings, Variant, share
from benchmarks.loads import open_loop, percentiles, run_in_loop
from benchmarks.models import FEATURES, perceptron

PER_SECOND = 500.0
MODEL = perceptron()
ROWS = np.random.default_rng(1).standard_normal((1000, FEATURES), dtype=np.float32)
EXPECTED = MODEL(ROWS)


def measure(make: ForLoop) -> Callable[[Settings], Metrics]:
    def run(settings: Settings) -> Metrics:
        async def main() -> list[float]:
            async with make(MODEL) as submit:
                return await open_loop(
                    submit,
                    EXPECTED,
                    ROWS,
                    per_second=PER_SECOND,
                    seconds=2 * settings.seconds,
                    seed=1,
                )

        return percentiles(run_in_loop(main, uvloop=settings.uvloop))

    return run


SCENARIO = Scenario(
    name="openloop",
    question="500 requests a second at random, a small perceptron: how long to the answer?",
    variants=[
        Variant("tidegate", measure(contestants.tidegate_for_loop())),
        Variant("tidegate, inline", measure(contestants.tidegate_for_loop(executor="inline"))),
        Variant("tidegate, 5 ms", measure(contestants.tidegate_for_loop(max_queue_delay=WINDOW))),
        Variant("asyncio, executor", measure(contestants.asyncio_executor())),
        Variant("asyncio, executor, 5 ms", measure(contestants.asyncio_executor(window=WINDOW))),
        Variant("asyncio, inline", measure(contestants.asyncio_inline())),
        Variant("batched", measure(contestants.batched()), is_installed),
    ],
    columns=[Column("p50", "p50 ms", 1e3, 3), Column("p99", "p99 ms", 1e3, 3)],
    targets=[
        share("p50: tidegate / asyncio, executor", "p50", "tidegate", ["asyncio, executor"], 1.0),
        share("p50: tidegate / batched", "p50", "tidegate", ["batched"], 0.1),
    ],
)
