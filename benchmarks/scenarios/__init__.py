"""Every scenario that the comparison runs, one file each."""

from __future__ import annotations

from benchmarks.harness import Scenario
from benchmarks.scenarios import (
    accelerator,
    asyncio256,
    idle,
    lone,
    memory,
    openloop,
    starvation,
    threads64,
)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        threads64.SCENARIO,
        asyncio256.SCENARIO,
        accelerator.SCENARIO,
        lone.SCENARIO,
        starvation.SCENARIO,
        openloop.SCENARIO,
        memory.SCENARIO,
        idle.SCENARIO,
    )
}
