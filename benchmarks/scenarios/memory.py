"""What a process pays for a batcher beyond NumPy: import time and resident memory."""

from __future__ import annotations

import functools

from benchmarks.baselines.batched_package import is_installed
from benchmarks.children.process import child
from benchmarks.harness import Column, Metrics, Scenario, Settings, Variant, above, most


def measure(kind: str, settings: Settings) -> Metrics:
    with child(kind) as (_, report):
        return report


SCENARIO = Scenario(
    name="memory",
    question="After 10,000 requests: import time and resident memory beyond NumPy's own?",
    variants=[
        Variant("NumPy alone", functools.partial(measure, "numpy")),
        Variant("tidegate", functools.partial(measure, "tidegate")),
        Variant("tidegate, asyncio", functools.partial(measure, "tidegate-asyncio")),
        Variant("queue.Queue", functools.partial(measure, "queue")),
        Variant("batched", functools.partial(measure, "batched"), is_installed),
    ],
    columns=[
        Column("import", "import ms", 1e3, 1),
        Column("rss", "resident MB", 1e-6, 1),
        Column("peak", "peak MB", 1e-6, 1),
    ],
    targets=[
        most("import time beyond NumPy", "import", "tidegate", 60.0, 1e3, "ms"),
        above("memory beyond NumPy", "rss", "tidegate", "NumPy alone", 15.0, 1e-6, "MB"),
        above("peak beyond NumPy", "peak", "tidegate", "NumPy alone", 15.0, 1e-6, "MB"),
    ],
)
