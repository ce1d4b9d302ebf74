"""Draws what the measured servers reached: throughput, latencies and memory, one file a door."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks import plots
from benchmarks.harness import Outcome
from benchmarks.serving.variants import IN_FLIGHT

PANELS = (
    ("throughput", 1.0, "requests a second (more is better)"),
    ("p50", 1e3, "median latency in ms (less is better)"),
    ("p99", 1e3, "99th percentile in ms (less is better)"),
    ("memory", 1e-6, "peak memory of the server in MB (less is better)"),
)


def draw(outcome: Outcome, path: Path) -> None:
    """A panel for each figure, at the larger number of requests in flight."""
    in_flight = IN_FLIGHT[-1]
    panels: list[dict[str, Any]] = [
        {
            "spreads": plots.metric_of(outcome, f"{figure}_{in_flight}"),
            "scale": scale,
            "unit": unit,
            "title": f"{outcome.question}: {in_flight} in flight",
        }
        for figure, scale, unit in PANELS
    ]
    plots.stack(panels, path)


def write(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Draw what was measured; what did not run has no plot."""
    with mpl.rc_context(plots.STYLE):
        for outcome in outcomes:
            if outcome.metrics:
                draw(outcome, folder / f"serving-{outcome.name}.svg")
