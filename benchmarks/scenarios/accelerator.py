"""An accelerator of 2 ms a batch with 256 coroutines: is it ever left idle, and at what CPU cost?

The ideal is one full batch per sleep of 2 ms, a sleep being as long as this machine makes it: the
overshoot is measured in the same round, in a thread that has nothing else to do. The sleeps inside
the model are measured as well; a batcher may shorten them (a timer slack of its own) or lengthen
them (by making the model wait for the GIL), so they serve as an explanation, not as the yardstick.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from time import perf_counter

import numpy as np

from benchmarks import contestants
from benchmarks.baselines.batched_package import is_installed
from benchmarks.contestants import MAX_BATCH_SIZE, ForLoop
from benchmarks.harness import Column, Metrics, Round, Scenario, Settings, Target, Variant, share
from benchmarks.loads import Rate, closed_loop, run_in_loop
from benchmarks.models import ACCELERATOR_SECONDS, Counted

CALLERS = 256
# The first batch and the last ones cannot be full: in half a second they are a loss of 1 %.
LONGER = 6
RIVALS = ("asyncio, executor", "asyncio, own thread", "batched")


class Sleeper:
    """The accelerator: sleeps 2 ms a batch, and remembers how long that took in all."""

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        before = perf_counter()
        time.sleep(ACCELERATOR_SECONDS)
        self.seconds += perf_counter() - before
        self.calls += 1
        return batch

    @property
    def mean(self) -> float:
        """Seconds a batch."""
        return self.seconds / max(1, self.calls)


def ideal(settings: Settings) -> Metrics:
    """One full batch per sleep, with the sleeps of a thread that has nothing else to do."""
    sleeper = Sleeper()

    def sleep() -> None:
        end = perf_counter() + LONGER * settings.seconds
        while perf_counter() < end:
            sleeper(np.empty(0))

    thread = threading.Thread(target=sleep)
    thread.start()
    thread.join()
    return {
        "throughput": MAX_BATCH_SIZE / sleeper.mean,
        "mean_batch": float(MAX_BATCH_SIZE),
        "cpu_us": 0.0,
        "sleep": sleeper.mean,
        "own": 1.0,
    }


def measure(make: ForLoop) -> Callable[[Settings], Metrics]:
    def run(settings: Settings) -> Metrics:
        sleeper = Sleeper()

        async def main() -> Rate:
            model = Counted(sleeper)
            async with make(model) as submit:
                return await closed_loop(
                    submit, model, callers=CALLERS, seconds=LONGER * settings.seconds
                )

        metrics = run_in_loop(main, uvloop=settings.uvloop).metrics()
        own = metrics["throughput"] * sleeper.mean / MAX_BATCH_SIZE
        return {**metrics, "sleep": sleeper.mean, "own": own}

    return run


def _fraction(result: Round) -> float:
    return result["tidegate"]["throughput"] / result["ideal"]["throughput"]


SCENARIO = Scenario(
    name="accelerator",
    question="2 ms a batch of at most 64, 256 coroutines: how close to never idle?",
    variants=[
        Variant("ideal", ideal),
        Variant("tidegate", measure(contestants.tidegate_for_loop())),
        Variant("asyncio, executor", measure(contestants.asyncio_executor())),
        Variant("asyncio, own thread", measure(contestants.asyncio_thread())),
        Variant("batched", measure(contestants.batched()), is_installed),
    ],
    columns=[
        Column("throughput", "requests/s"),
        Column("mean_batch", "mean batch", digits=1),
        Column("cpu_us", "CPU µs/request", digits=2),
        Column("sleep", "sleep ms", 1e3, 3),
        Column("own", "of own sleeps", digits=3),
    ],
    targets=[
        Target("tidegate / ideal", _fraction, 0.99, at_least=True, unit="x"),
        *(
            share(f"CPU per request: tidegate / {rival}", "cpu_us", "tidegate", [rival], 1.0)
            for rival in RIVALS
        ),
    ],
)
