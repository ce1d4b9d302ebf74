"""Draws what each variant reached: throughput in closed loops, and the 99th percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks import plots
from benchmarks.harness import Outcome

PANELS = (
    ("asyncio256", "throughput", 1.0, "requests a second (more is better)"),
    ("threads64", "throughput", 1.0, "requests a second (more is better)"),
    ("asyncio256", "p99", 1e3, "99th percentile in ms (less is better)"),
    ("open80", "p99", 1e3, "99th percentile in ms, logarithmic (less is better)"),
)


def write(results: Sequence[Outcome], folder: Path) -> None:
    """Draw what was measured; what did not run has no panel."""
    outcomes = {outcome.name: outcome for outcome in results if outcome.metrics}
    panels: list[dict[str, Any]] = [
        {
            "spreads": plots.metric_of(outcomes[name], metric),
            "scale": scale,
            "unit": unit,
            "title": outcomes[name].question,
            "log": "logarithmic" in unit,
        }
        for name, metric, scale, unit in PANELS
        if name in outcomes
    ]
    if panels:
        with mpl.rc_context(plots.STYLE):
            plots.stack(panels, folder / "ragged.svg")
