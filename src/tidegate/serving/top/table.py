"""The table that ``tidegate top`` shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tidegate.serving.top.rates import Row

__all__ = ["draw", "duration", "number"]

_NOTHING = "·"


@dataclass(frozen=True)
class _Column:
    """What one column shows; the lower its rank, the sooner it is left out for want of room."""

    heading: str
    cell: Callable[[Row], RenderableType]
    rank: int
    figures: bool = True


def _errors(row: Row) -> Text:
    return Text(number(row.errors), style="bold red" if row.errors else "")


_COLUMNS = (
    _Column("\nbatcher", lambda row: Text(row.batcher, style="bold"), 9, figures=False),
    _Column("\nreq/s", lambda row: number(row.requests), 9),
    _Column("\nerrors/s", _errors, 9),
    _Column("request\np50", lambda row: duration(row.request[0]), 9),
    _Column("\np99", lambda row: duration(row.request[1]), 9),
    _Column("queue\np50", lambda row: duration(row.queue[0]), 3),
    _Column("queue\np99", lambda row: duration(row.queue[1]), 6),
    _Column("model\np50", lambda row: duration(row.batch[0]), 2),
    _Column("rows per\nbatch", lambda row: number(row.size), 7),
    _Column("batches\nwent when", lambda row: Text(_shares(row.dispatched)), 1, figures=False),
    _Column("\nwaiting", lambda row: number(row.queue_depth), 5),
    _Column("\ninstances", lambda row: Text(_counts(row.instances)), 4, figures=False),
)
_SERVER = _Column("\nserver", lambda row: Text(row.server), 8, figures=False)


def draw(
    rows: Sequence[Row], failures: Mapping[str, str], title: str | None = None
) -> RenderableType:
    """The table, and below it which servers did not answer.

    Where it is too narrow for all columns, the less important ones are left out.

    Args:
        rows: A row for each batcher.
        failures: Why servers did not answer.
        title: A line above it.
    """
    parts: list[RenderableType] = [] if title is None else [Text(title, style="dim")]
    parts.append(_Fitting(rows))
    if not rows and not failures:
        parts.append(Text("There are no batchers."))
    parts += [Text(failure, style="bold red") for failure in failures.values()]
    return Group(*parts)


class _Fitting:
    """The table, with as many columns as fit."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        servers = (_SERVER,) if any(row.server for row in rows) else ()
        self._columns = (*servers, *_COLUMNS)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbounded = options.update(max_width=10_000)
        for rank in range(1, 10):
            table = self._table(rank)
            if Measurement.get(console, unbounded, table).maximum <= options.max_width:
                break
        yield table

    def _table(self, rank: int) -> Table:
        """With the columns of at least this rank, none of which may be cut."""
        columns = [column for column in self._columns if column.rank >= rank]
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for column in columns:
            table.add_column(
                column.heading, justify="right" if column.figures else "left", no_wrap=rank < 9
            )
        for row in self._rows:
            table.add_row(*[column.cell(row) for column in columns])
        return table


def number(value: float | None) -> str:
    """With three digits and thousands apart; a dot for what is not known."""
    if value is None:
        return _NOTHING
    if value >= 99.95 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def duration(seconds: float | None) -> str:
    """With three digits and its unit."""
    if seconds is None:
        return _NOTHING
    if math.isinf(seconds):
        return "∞"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * size or unit == "µs":
            value = seconds / size
            digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f} {unit}"
    raise AssertionError("unreachable")


def _shares(shares: Mapping[str, float]) -> str:
    """The reasons, the most frequent first."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{why} {share:.0%}" for why, share in ordered) or _NOTHING


def _counts(instances: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in instances.items()) or _NOTHING
