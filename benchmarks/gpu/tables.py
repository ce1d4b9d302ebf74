"""The tables of a run: each group of findings with its columns, and the targets last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import report
from benchmarks.gpu.journal import Entry
from benchmarks.gpu.verdicts import Sections, entries_of, failures_of, verdicts_of
from benchmarks.harness import Column
from benchmarks.report import Row

__all__ = ["TARGETS", "columns_of", "groups_of", "print_all", "rows_of", "target_rows"]

TARGETS = ("section", "figure", "target", "reached", "range", "met")

_WIDTH = 180
_LONGEST_REASON = 160

_LATENCIES = (
    Column("p50", "p50 ms", 1e3, 3),
    Column("p99", "p99 ms", 1e3, 3),
    Column("p999", "p99.9 ms", 1e3, 3),
)
_BATCHES = (
    Column("mean_batch", "mean batch", 1, 1),
    Column("padding", "padding %", 100, 1),
    Column("cpu_us", "CPU µs", 1, 1),
)
_WORST = (Column("worst", "off by", 1, 7), Column("checked", "checked"))
_CLOSED = (
    Column("throughput", "requests/s"),
    *_LATENCIES,
    *_BATCHES,
    *_WORST,
    Column("graphs", "graphs"),
    Column("replayed", "replayed %", 100, 1),
)
_OPEN = (
    Column("offered", "offered/s"),
    Column("throughput", "answered/s"),
    *_LATENCIES,
    *_BATCHES,
    Column("late_p99", "sent late ms", 1e3, 3),
    *_WORST,
)
_GB = Column("gb_per_s", "GB/s", 1, 1)
_MICROSECONDS = Column("microseconds", "µs", 1, 2)
_PASSED = Column("passed", "passed")
_COLUMNS: dict[str, tuple[Column, ...]] = {
    "copies": (_MICROSECONDS, _GB),
    "page-locking": (
        Column("milliseconds", "ms", 1, 2),
        Column("touching_ms", "ms without locking", 1, 2),
    ),
    "device copies": (_GB,),
    "host calls": (_MICROSECONDS, Column("until_done_us", "µs until it is done", 1, 1)),
    "waking": (
        Column("whole_us", "p50 µs", 1, 1),
        Column("later_us", "later than polling µs", 1, 1),
        Column("p99_later_us", "p99 later µs", 1, 1),
        Column("p99_whole_us", "p99 µs", 1, 1),
    ),
    "graphs": (_PASSED,),
    "sections": (_PASSED,),
    "kernels are right": (_PASSED,),
    "kernels": (
        Column("microseconds", "µs", 1, 1),
        _GB,
        Column("copy_gb_per_s", "a copy's GB/s", 1, 1),
        Column("fraction", "fraction", 1, 3),
        Column("again", "again", 1, 3),
    ),
    "kernels at the size of a batch": (
        Column("microseconds", "µs in a graph", 1, 2),
        Column("floor_us", "floor µs", 1, 2),
        Column("above_us", "above it µs", 1, 2),
        Column("copy_gb_per_s", "GB/s", 1, 1),
    ),
    "tests": (
        _PASSED,
        Column("failed", "failed"),
        Column("skipped", "skipped"),
        Column("seconds", "s", 1, 1),
    ),
}


def columns_of(group: str) -> tuple[Column, ...]:
    """The figures of a group."""
    if group in _COLUMNS:
        return _COLUMNS[group]
    return _CLOSED if group.endswith("closed loop") else _OPEN


def groups_of(sections: Sections) -> dict[str, list[Entry]]:
    """The findings by their tables, in order."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries_of(sections):
        groups.setdefault(entry.group, []).append(entry)
    return groups


def rows_of(group: str, entries: Sequence[Entry]) -> tuple[Row, list[Row]]:
    """Header and lines of a table; columns that nobody has are left out."""
    columns = [
        column
        for column in columns_of(group)
        if any(column.metric in entry.metrics for entry in entries)
    ]
    header = ("", *(column.title for column in columns), "")
    return header, [(entry.name, *_cells(entry, columns), _remark(entry)) for entry in entries]


def _cells(entry: Entry, columns: Sequence[Column]) -> list[str]:
    cells = []
    for column in columns:
        value = entry.metrics.get(column.metric)
        cells.append("" if value is None else f"{value * column.scale:,.{column.digits}f}")
    return cells


def _remark(entry: Entry) -> str:
    if entry.error:
        return f"FAILED: {entry.reason[:_LONGEST_REASON]}"
    return "" if entry.metrics else entry.note


def target_rows(sections: Sections) -> list[Row]:
    """One line for each target: what it asked for, and what was reached."""
    return [report.verdict_row(name, verdict) for name, verdict in verdicts_of(sections)]


def ends_of(sections: Sections) -> list[Row]:
    """How each section ended."""
    return [
        (name, section["ended"], f"{section['seconds']:.0f}") for name, section in sections.items()
    ]


def print_all(record: dict[str, Any]) -> None:
    """Prints everything, what failed, and then the table of targets, which is what counts."""
    sections = record["sections"]
    for group, entries in groups_of(sections).items():
        header, rows = rows_of(group, entries)
        report.print_table(group, header, rows, plain_width=_WIDTH)
    for entry in failures_of(sections):
        print(f"{entry.group}, {entry.name} FAILED:\n{entry.error}")
    report.print_table("Sections", ("section", "end", "s"), ends_of(sections))
    report.print_table("Against the targets", TARGETS, target_rows(sections))
