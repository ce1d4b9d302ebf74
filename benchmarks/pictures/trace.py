"""A picture of a Chrome trace: what Perfetto shows of it, in a page."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pictures.screen import described

_TITLE = "A trace of two executors that share a queue"
_DESCRIPTION = (
    "Batches as bars on the tracks of two executors, each with its number of rows, and above them "
    "how long the oldest row of each batch waited in the queue, in the colour of its executor."
)
_WINDOW = 60_000.0  # microseconds
_INK, _FAINT, _GRID = "#22303a", "#64727c", "#e3e8eb"
_EXECUTORS = ("#0b7285", "#d9702a")


def draw_trace(path: Path, trace: Path) -> None:
    """Draw the last part of the trace in a file."""
    events: list[dict[str, Any]] = json.loads(trace.read_text())["traceEvents"]
    batches = [event for event in events if event["ph"] == "X" and event["args"]]
    begin = max(event["ts"] + event["dur"] for event in batches) - _WINDOW
    ends = {event["id"]: event["ts"] for event in events if event["ph"] == "e"}
    taker = {event["args"]["sequence"]: event["tid"] - 1 for event in batches}
    waits = [
        (event["ts"], ends[event["id"]], taker[int(event["id"].partition(".")[2])])
        for event in events
        if event["ph"] == "b"
    ]
    with rc_context({"svg.hashsalt": "tidegate", "font.size": 10, "text.color": _INK}):
        figure = Figure(figsize=(10, 3.1), layout="constrained", facecolor="white")
        axes = figure.subplots()
        _draw_waits(axes, [wait for wait in waits if wait[1] > begin], begin)
        for event in batches:
            if event["ts"] + event["dur"] > begin:
                _draw_batch(axes, event, begin)
        axes.set_yticks([0, -1, -2], ["the oldest\nrow waits", "executor 0", "executor 1"])
        axes.set_xlim(0, _WINDOW / 1000)
        axes.set_ylim(-2.55, 0.6)
        axes.set_xlabel("milliseconds", color=_FAINT)
        axes.grid(True, axis="x", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelcolor=_FAINT)
        axes.spines[:].set_visible(False)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    path.write_text(described(drawn.getvalue(), _TITLE, _DESCRIPTION))


def _draw_waits(axes: Axes, waits: list[tuple[float, float, int]], begin: float) -> None:
    """Waits overlap, so each goes into the first of three lanes that is free."""
    free = [float("-inf")] * 3
    for start, end, executor in sorted(waits):
        lane = next((i for i, until in enumerate(free) if until <= start), len(free) - 1)
        free[lane] = end
        left, width = (start - begin) / 1000, (end - start) / 1000
        axes.barh(0.27 - 0.27 * lane, width, 0.2, left, color=_EXECUTORS[executor], alpha=0.4)


def _draw_batch(axes: Axes, event: dict[str, Any], begin: float) -> None:
    left, width = (event["ts"] - begin) / 1000, event["dur"] / 1000
    executor = event["tid"] - 1
    axes.barh(-1 - executor, width, 0.62, left, color=_EXECUTORS[executor], edgecolor="white")
    if left > 0:
        axes.text(
            left + width / 2,
            -1 - executor,
            str(event["args"]["rows"]),
            ha="center",
            va="center",
            color="white",
            weight="bold",
            size=9,
            clip_on=True,
        )
