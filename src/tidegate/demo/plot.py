"""Draws how the demo's latencies are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tidegate.demo.load import Way
from tidegate.demo.report import Row, three_digits

# Two hues that stay apart for every kind of colour blindness, and in print.
UNBATCHED, BATCHED, INK, FAINT, GRID = "#d9702a", "#0b7285", "#22303a", "#64727c", "#e3e8eb"

# The share of requests goes up by nines, since the slowest are the ones that hurt: each of these
# steps takes ten times fewer requests than the one before it.
HEIGHTS = np.linspace(0, 3, 301)
PERCENTS = 100 * (1 - 10**-HEIGHTS)
TICKS = (0, 50, 90, 99, 99.9)


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Write the latencies' distributions: one panel for threads, one for coroutines.

    Args:
        path: Where to; its suffix says which format.
        rows: What was measured.
    """
    callers = list(dict.fromkeys(row.way.callers for row in rows))
    # The salt makes the names inside an SVG the same each time that the same is drawn.
    with rc_context({"svg.hashsalt": "tidegate", "font.size": 10.5, "text.color": INK}):
        layout = ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.09)
        figure = Figure(figsize=(8, 6), layout=layout, facecolor="white")
        panels = figure.subplots(len(callers), sharex=True, squeeze=False)[:, 0]
        for axes, who in zip(panels, callers, strict=True):
            _draw_panel(axes, who, [row for row in rows if row.way.callers == who])
        panels[-1].set_xlabel("latency, logarithmic", color=FAINT)
        _title(figure)
        undated = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=160, metadata=undated)


def _title(figure: Figure) -> None:
    figure.suptitle("How long a request takes", x=0.015, ha="left", size=15, weight="bold")
    figure.legend(
        [Line2D([], [], color=colour, linewidth=2.4) for colour in (UNBATCHED, BATCHED)],
        ["unbatched", "through a Batcher"],
        loc="upper right",
        ncols=2,
        frameon=False,
        handlelength=1.4,
    )


def _draw_panel(axes: Axes, who: str, rows: Sequence[Row]) -> None:
    axes.set_title(who.capitalize(), loc="left", size=11.5, weight="bold")
    rates = " → ".join(f"{row.throughput:,.0f}" for row in rows)
    axes.set_title(f"{rates} requests/s", loc="right", size=10.5, color=FAINT)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(_time))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, HEIGHTS[-1])
    axes.set_yticks([_height(percent) for percent in TICKS], [f"{tick:g} %" for tick in TICKS])
    axes.set_ylabel("requests answered within", color=FAINT)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", color=GRID, labelcolor=FAINT, length=0)
    axes.spines[:].set_visible(False)
    for row in rows:
        axes.plot(
            np.percentile(row.latencies, PERCENTS) / 1e6,
            HEIGHTS,
            color=_colour(row.way),
            linewidth=2.4,
            solid_capstyle="round",
        )
    for percent in (50, 99):
        _mark(axes, percent, sorted(rows, key=lambda row: row.percentile(percent)))


def _mark(axes: Axes, percent: int, rows: Sequence[Row]) -> None:
    """Mark one percentile on each curve, the figures on the outer sides, where there is room."""
    for place, row in enumerate(rows):
        at, leftmost = (row.percentile(percent), _height(percent)), place == 0 < len(rows) - 1
        colour = _colour(row.way)
        axes.plot(*at, "o", color=colour, markersize=7, markeredgecolor="white", zorder=3)
        axes.annotate(
            f"{three_digits(at[0])} ms",
            at,
            xytext=(-8 if leftmost else 8, 5 if leftmost else -5),
            textcoords="offset points",
            ha="right" if leftmost else "left",
            va="bottom" if leftmost else "top",
            color=colour,
            weight="bold",
            size=9.5,
        )


def _colour(way: Way) -> str:
    return BATCHED if way.batched else UNBATCHED


def _height(percent: float) -> float:
    return float(-np.log10(1 - percent / 100))


def _time(milliseconds: float, _: int) -> str:
    if milliseconds < 1:
        return f"{milliseconds * 1e3:g} µs"
    return f"{milliseconds:g} ms" if milliseconds < 1e3 else f"{milliseconds / 1e3:g} s"
