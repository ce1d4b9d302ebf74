"""Draws the results of a comparison as SVG: throughput, latency, starvation and the targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")  # no display is needed, and none is looked for

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

from benchmarks.harness import Outcome, Spread

OURS = "#0f766e"
THEIRS = "#a8b3bf"
REFERENCE = "#d9a441"
MISSED = "#c2410c"
INK = "#1f2933"

STYLE: dict[Any, Any] = {
    "figure.constrained_layout.hspace": 0.06,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#cbd2d9",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": "#52606d",
    "ytick.color": INK,
    "ytick.major.size": 0,
    "grid.color": "#e4e7eb",
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.15,
    "svg.fonttype": "none",
    "svg.hashsalt": "tidegate",
}


PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")
FURTHEST = 100.0
"""A figure that is this many times better, or worse, than its target is drawn here."""


def _colour(variant: str) -> str:
    if "tidegate" in variant:
        return OURS
    if "bare" in variant or "ideal" in variant or "NumPy" in variant:
        return REFERENCE
    return THEIRS


def _bars(
    axes: Any, spreads: dict[str, Spread], *, scale: float, unit: str, title: str, log: bool = False
) -> None:
    """Horizontal bars of the medians, a line across the range of the rounds, figures beside."""
    names = list(spreads)
    ends = [spreads[name].highest * scale for name in names]
    for place, name in enumerate(names):
        spread = spreads[name]
        middle = spread.median * scale
        axes.barh(place, middle, height=0.62, color=_colour(name), zorder=2)
        axes.plot(
            [spread.lowest * scale, spread.highest * scale],
            [place, place],
            color=INK,
            linewidth=1.2,
            solid_capstyle="butt",
            zorder=3,
        )
        axes.annotate(
            f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}",
            (ends[place], place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_title(title, pad=10)
    axes.set_xlabel(unit)
    axes.grid(axis="x", zorder=0)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(min(spread.lowest for spread in spreads.values()) * scale / 2, max(ends) * 4)
        axes.xaxis.set_major_formatter(PLAIN)
    else:
        axes.set_xlim(0, max(ends) * 1.16)


def metric_of(outcome: Outcome, metric: str) -> dict[str, Spread]:
    """A metric of each variant that ran."""
    return {name: spreads[metric] for name, spreads in outcome.metrics.items()}


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def stack(panels: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel below the other, each as high as its number of bars asks for."""
    heights = [len(panel["spreads"]) + 1.6 for panel in panels]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(8, 0.4 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for place, panel in enumerate(panels):
        _bars(axes[place][0], **panel)
    _save(figure, path)


def throughput(outcomes: dict[str, Outcome], path: Path) -> None:
    """Requests a second of the closed loops."""
    titles = {
        "threads64": "64 threads, identity model",
        "asyncio256": "256 coroutines, identity model",
        "accelerator": "256 coroutines, 2 ms a batch",
    }
    panels = [
        {
            "spreads": metric_of(outcomes[name], "throughput"),
            "scale": 1e-3,
            "unit": "thousand requests a second (more is better)",
            "title": title,
        }
        for name, title in titles.items()
        if name in outcomes
    ]
    if panels:
        stack(panels, path)


def latency(outcomes: dict[str, Outcome], path: Path) -> None:
    """Median latencies of a lone caller, on a logarithmic scale, and of random arrivals."""
    panels = []
    if "lone" in outcomes:
        panels.append(
            {
                "spreads": metric_of(outcomes["lone"], "p50"),
                "scale": 1e6,
                "unit": "median in µs, logarithmic (less is better)",
                "title": "One caller at a time, identity model",
                "log": True,
            }
        )
    if "openloop" in outcomes:
        panels += [
            {
                "spreads": metric_of(outcomes["openloop"], metric),
                "scale": 1e3,
                "unit": f"{text} in ms, logarithmic (less is better)",
                "title": f"500 requests a second at random, {text}",
                "log": True,
            }
            for metric, text in (("p50", "median"), ("p99", "99th percentile"))
        ]
    if panels:
        stack(panels, path)


def starvation(outcomes: dict[str, Outcome], path: Path) -> None:
    """Answers a second beside code that keeps the GIL busy."""
    if "starvation" not in outcomes:
        return
    cases: dict[str, dict[str, Spread]] = {}
    for name, spread in metric_of(outcomes["starvation"], "answers").items():
        case, _, variant = name.partition(": ")
        cases.setdefault(case, {})[variant] = spread
    panels = [
        {
            "spreads": spreads,
            "scale": 1.0,
            "unit": "answers a second (more is better)",
            "title": case.capitalize(),
        }
        for case, spreads in cases.items()
    ]
    stack(panels, path)


def targets(outcomes: dict[str, Outcome], path: Path) -> None:
    """How far each figure is from its target: 1 is the target, more is better than asked for."""
    bars = []
    for outcome in outcomes.values():
        for verdict in outcome.verdicts:
            if verdict.spread is None:
                continue
            # A figure may be zero, or a difference below zero: better than any factor says.
            reached = max(verdict.spread.median, verdict.limit / FURTHEST)
            factor = reached / verdict.limit if verdict.at_least else verdict.limit / reached
            bars.append((f"{outcome.name}: {verdict.label}", max(factor, 1 / FURTHEST)))
    if not bars:
        return
    figure, axes = plt.subplots(figsize=(10, 0.3 * len(bars) + 1.2), layout="constrained")
    for place, (_, factor) in enumerate(bars):
        colour = OURS if factor >= 1 else MISSED
        axes.plot([1, factor], [place, place], color=colour, linewidth=2, zorder=2)
        axes.plot(factor, place, "o", color=colour, markersize=7, zorder=3)
    axes.axvline(1, color=INK, linewidth=1, zorder=1)
    axes.set_xscale("log")
    axes.set_xlim(
        min(0.4, *(factor / 1.5 for _, factor in bars)),
        max(4.0, *(factor * 1.5 for _, factor in bars)),
    )
    axes.xaxis.set_major_formatter(PLAIN)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    axes.grid(axis="x", zorder=0)
    axes.set_xlabel("times as good as its target (logarithmic)")
    axes.set_title("Figures against their targets", pad=10)
    _save(figure, path)


def write(results: Sequence[Outcome], folder: Path) -> None:
    """Draw what was measured; what did not run has no plot."""
    outcomes = {outcome.name: outcome for outcome in results if outcome.metrics}
    with mpl.rc_context(STYLE):
        throughput(outcomes, folder / "throughput.svg")
        latency(outcomes, folder / "latency.svg")
        starvation(outcomes, folder / "starvation.svg")
        targets(outcomes, folder / "targets.svg")
