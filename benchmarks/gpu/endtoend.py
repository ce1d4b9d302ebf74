"""One task end to end: each variant in a closed loop, then some at shares of a rival's maximum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from benchmarks.gpu import encoder, images, tabular
from benchmarks.gpu.checker import Checker
from benchmarks.gpu.journal import Journal, Metrics
from benchmarks.gpu.load import closed_loop, open_loop, threads_closed_loop
from benchmarks.gpu.stack import Gpu
from benchmarks.gpu.tasks import Array, Task
from benchmarks.gpu.variants import FAIR, Variant, variants_of
from benchmarks.loads import run_in_loop

__all__ = ["TASKS", "measure", "measure_task"]

TASKS: dict[str, Callable[[Gpu], Task]] = {
    "I": images.task,
    "E": encoder.task,
    "T": tabular.task,
}
NEEDS_TORCH = ("I", "E")

CLIENTS = 256
ALONE = "the model alone, once"
LOADS = (0.25, 0.5, 0.75)
"""Open loops: shares of what the better of the fair ones reached in its closed loop."""

MOST, LEAST = 4.0, 0.4
"""Seconds that one loop is read at most, and at least."""

_WARM_UP = 0.4  # of the seconds that are measured, and in front of them
_OPENING = 1.5  # seconds that opening a variant may take besides


def measure(name: str, gpu: Gpu, journal: Journal) -> None:
    """Measures one of TASKS; says so if there is no PyTorch for it."""
    if gpu.torch is None and name in NEEDS_TORCH:
        journal.skip(closed_group(name), "all", gpu.without_torch)
        return
    measure_task(gpu, TASKS[name](gpu), journal)


def closed_group(name: str) -> str:
    """The table of a task's closed loops."""
    return f"{name}, closed loop"


def open_group(name: str, load: float) -> str:
    """The table of a task's open loops at one rate."""
    return f"{name}, open loop at {load:.0%}"


def measure_task(gpu: Gpu, task: Task, journal: Journal, clients: int = CLIENTS) -> None:
    """Everything about one task, shorter if there is little time."""
    variants = variants_of(gpu, task)
    paced = [variant for variant in variants if variant.paced]
    journal.state(about=task.about, requests=len(task.requests), clients=clients)
    references: list[Array] = []
    if journal.attempt(closed_group(task.name), ALONE, partial(_alone, task, references)) is None:
        return  # there is nothing to compare answers with
    loops = len(variants) + len(LOADS) * len(paced)
    best = 0.0
    for variant in variants:
        plan = _Plan(task, references, clients, _seconds(journal, loops))
        found = journal.attempt(
            closed_group(task.name), variant.name, partial(_closed, variant, plan)
        )
        loops -= 1
        if found is not None and variant.name in FAIR:
            best = max(best, found["throughput"])
    for load in LOADS:
        for variant in paced:
            group = open_group(task.name, load)
            if not best:
                journal.skip(
                    group, variant.name, "the fair ones have no maximum to take a share of"
                )
                continue
            plan = _Plan(task, references, clients, _seconds(journal, loops), load * best)
            journal.attempt(group, variant.name, partial(_open, variant, plan))
            loops -= 1


def _alone(task: Task, references: list[Array]) -> Metrics:
    """Asks the model for each row alone; fills in its answers."""
    seconds = []
    for row in task.requests:
        begin = perf_counter()
        references.append(task.alone(row))
        seconds.append(perf_counter() - begin)
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"throughput": len(seconds) / sum(seconds), "p50": float(p50), "p99": float(p99)}


@dataclass(frozen=True)
class _Plan:
    """What one loop is run with."""

    task: Task
    references: Sequence[Array]
    clients: int
    seconds: float
    per_second: float = 0.0

    @property
    def check(self) -> Checker:
        """A fresh one."""
        return Checker(self.references, self.task.tolerance)

    @property
    def timed(self) -> dict[str, float]:
        """How long a loop is read, and how long it runs before."""
        return {"seconds": self.seconds, "warm_up": self.seconds * _WARM_UP}


def _seconds(journal: Journal, loops: int) -> float:
    """What the next loop may take of the time that is left for so many."""
    each = journal.left / max(1, loops) - _OPENING
    return min(MOST, max(LEAST, each / (1 + _WARM_UP)))


def _closed(variant: Variant, plan: _Plan) -> Metrics:
    if variant.open is None:
        return threads_closed_loop(
            plan.task.alone,
            plan.task.requests,
            plan.check,
            clients=variant.threads,
            **plan.timed,
        )
    opening = variant.open

    async def main() -> Metrics:
        async with opening() as served:
            found = await closed_loop(
                served.submit,
                served.requests,
                plan.check,
                served.tally,
                clients=plan.clients,
                **plan.timed,
            )
            return {**found, **served.facts()}

    return run_in_loop(main)


def _open(variant: Variant, plan: _Plan) -> Metrics:
    assert variant.open is not None
    opening = variant.open

    async def main() -> Metrics:
        async with opening() as served:
            return await open_loop(
                served.submit,
                served.requests,
                plan.check,
                served.tally,
                per_second=plan.per_second,
                **plan.timed,
            )

    return run_in_loop(main)
