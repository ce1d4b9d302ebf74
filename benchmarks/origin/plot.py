"""Draws what the servers reached with one core each: throughput and the 99th percentile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks import plots
from benchmarks.harness import Outcome, Spread
from benchmarks.origin.contenders import CEILING, NUMPY

DRAWN = ("mlp", "accelerator")
PANELS = (
    ("throughput 64", 1.0, "requests a second, logarithmic (more is better)", "64 in flight"),
    ("throughput 256", 1.0, "requests a second, logarithmic (more is better)", "256 in flight"),
    ("p99 256", 1e3, "99th percentile in ms, logarithmic (less is better)", "256 in flight"),
)


def _spreads(outcome: Outcome, metric: str) -> dict[str, Spread]:
    return {
        name: spreads[metric]
        for name, spreads in outcome.metrics.items()
        if metric in spreads and name not in (CEILING, NUMPY)
    }


def draw(outcome: Outcome, path: Path) -> None:
    """A panel for each figure."""
    panels: list[dict[str, Any]] = []
    for metric, scale, unit, title in PANELS:
        spreads = _spreads(outcome, metric)
        if spreads:
            panels.append(
                {
                    "spreads": spreads,
                    "scale": scale,
                    "unit": unit,
                    "title": f"{outcome.question}: {title}",
                    "log": True,
                }
            )
    if panels:
        plots.stack(panels, path)


def write(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Draw what was measured; what did not run has no plot."""
    with mpl.rc_context(plots.STYLE):
        for outcome in outcomes:
            if outcome.name in DRAWN:
                draw(outcome, folder / f"origin-{outcome.name}.svg")
