"""A process that has served and now has nothing to do: how often does it wake up?"""

from __future__ import annotations

import functools
import time

from benchmarks.baselines.batched_package import is_installed
from benchmarks.children.process import child, switches
from benchmarks.harness import Column, Metrics, Scenario, Settings, Variant, most

SETTLE_SECONDS = 1.0


def measure(kind: str, settings: Settings) -> Metrics:
    with child(kind) as (pid, _):
        time.sleep(SETTLE_SECONDS)
        before = switches(pid)
        time.sleep(settings.idle_seconds)
        return {"wakeups": float(switches(pid) - before)}


SCENARIO = Scenario(
    name="idle",
    question="Idle for five seconds after traffic: how many wake-ups?",
    variants=[
        Variant("tidegate", functools.partial(measure, "tidegate")),
        Variant("tidegate, asyncio", functools.partial(measure, "tidegate-asyncio")),
        Variant("queue.Queue", functools.partial(measure, "queue")),
        Variant("batched", functools.partial(measure, "batched"), is_installed),
    ],
    columns=[Column("wakeups", "voluntary switches")],
    targets=[
        most("tidegate", "wakeups", "tidegate", 2.0, 1.0, ""),
        most("tidegate, asyncio", "wakeups", "tidegate, asyncio", 2.0, 1.0, ""),
    ],
    most_rounds=2,
)
