"""What the demo measured, and how it is shown: progress bars, the table, words, a JSON file."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tidegate.demo.digits import Check
from tidegate.demo.load import Spent, Way


@dataclass(frozen=True)
class Row:
    """One way of asking, measured.

    Attributes:
        way: Who asked, and how.
        latencies: Nanoseconds, one for each request.
        spent: What all requests took together.
        mean_batch_size: Rows in each call of the model, on average.
        check: How the answers compare with those due.
    """

    way: Way
    latencies: NDArray[np.int64]
    spent: Spent
    mean_batch_size: float
    check: Check

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.spent.seconds

    @property
    def cpu_ms_per_1000(self) -> float:
        """Milliseconds of CPU time for each 1,000 requests."""
        return self.spent.cpu_seconds * 1e6 / len(self.latencies)

    def percentile(self, percent: float) -> float:
        """The latency in milliseconds that so many percent of the requests did not exceed."""
        return float(np.percentile(self.latencies, percent)) / 1e6

    def as_dict(self) -> dict[str, object]:
        """The row's figures under the names that the JSON file gives them."""
        return {
            "callers": self.way.callers,
            "batched": self.way.batched,
            "requests": len(self.latencies),
            "seconds": self.spent.seconds,
            "requests_per_second": self.throughput,
            "p50_ms": self.percentile(50),
            "p99_ms": self.percentile(99),
            "mean_batch_size": self.mean_batch_size,
            "cpu_ms_per_1000_requests": self.cpu_ms_per_1000,
            "accuracy": self.check.accuracy,
            "wrong_answers": self.check.wrong,
        }


def progress(console: Console) -> Progress:
    """Progress bars, one for each row; drawn when `bar` is told to, so that no timer runs."""
    return Progress(
        TextColumn("{task.description:<21}"),
        BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        auto_refresh=False,
        expand=True,
    )


def bar(bars: Progress, way: Way, requests: int) -> Callable[[int], None]:
    """Add a row's bar; the function that comes back shows how far it is."""
    task = bars.add_task(way.name, total=requests)

    def show(answered: int) -> None:
        bars.update(task, completed=answered, refresh=True)

    return show


def table(rows: Sequence[Row]) -> Table:
    """The figures of all rows, for a terminal of 80 columns."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    for heading in ("req/s", "p50\nms", "p99\nms", "mean\nbatch", "CPU ms\nper 1,000", "accuracy"):
        shown.add_column(heading, justify="right", vertical="bottom")
    for row in rows:
        shown.add_row(
            row.way.name,
            f"{row.throughput:,.0f}",
            three_digits(row.percentile(50)),
            three_digits(row.percentile(99)),
            f"{row.mean_batch_size:.1f}",
            three_digits(row.cpu_ms_per_1000),
            f"{row.check.accuracy:.1%}",
            style="bold" if row.way.batched else None,
            end_section=row.way.batched,
        )
    return shown


def remark(rows: Sequence[Row]) -> str | None:
    """How to read a median that hides the waiting; None if none does.

    A thread that has the GIL answers itself one request after another, quickly, until another
    thread takes the GIL from it (after 5 ms); only the first request of each such turn waits.
    """
    for row in rows:
        hidden = row.percentile(99) > 100 * row.percentile(50)
        if hidden and row.way == Way("threads", batched=False):
            return (
                "Unbatched threads take turns with the GIL: each answers itself many times, "
                "quickly, while all others wait. Their p99 shows the waiting, their p50 does not."
            )
    return None


def verdict(rows: Sequence[Row]) -> str:
    """Whether the answers are right, in words."""
    answers = sum(len(row.latencies) for row in rows)
    wrong = [row for row in rows if row.check.wrong]
    if not wrong:
        return f"All {answers:,} answers are the unbatched model's."
    return "\n".join(
        f"WRONG: {row.way.name}: {row.check.wrong:,} of {len(row.latencies):,} answers are not the "
        f"unbatched model's; {row.check.first_wrong}."
        for row in wrong
    )


def write_json(path: Path, settings: dict[str, object], rows: Sequence[Row]) -> None:
    """Write the figures, with what one needs to know to compare them with others."""
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "numpy": np.__version__,
    }
    figures = {
        "settings": settings,
        "machine": machine,
        "rows": [row.as_dict() for row in rows],
    }
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def three_digits(value: float) -> str:
    """Three digits that count, and never an exponent: 0.0512, 3.14, 27.2, 1,234."""
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(decimals, 0)}f}"
