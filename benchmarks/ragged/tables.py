"""The tables of the comparison: what each variant reached under each load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks import report
from benchmarks.harness import Column, Outcome, Spread
from benchmarks.ragged.rounds import COLUMNS, MODEL, MODEL_COLUMNS

RANGES = ("throughput", "speedup", "p99", "tail", "token_us")
"""What is shown with the rounds' range; the JSON file has that of all figures."""


def columns(outcome: Outcome) -> Sequence[Column]:
    return MODEL_COLUMNS if outcome.name == MODEL else COLUMNS


def header(outcome: Outcome) -> report.Row:
    return "variant", *(column.title for column in columns(outcome))


def cell(spread: Spread, column: Column) -> str:
    """A median, scaled as the column says, with the range of the rounds where it matters."""
    middle, low, high = (
        f"{value * column.scale:,.{column.digits}f}"
        for value in (spread.median, spread.lowest, spread.highest)
    )
    return f"{middle} ({low} to {high})" if column.metric in RANGES else middle


def rows(outcome: Outcome) -> Iterator[report.Row]:
    """A row for each variant."""
    for name, spreads in outcome.metrics.items():
        yield name, *(cell(spreads[column.metric], column) for column in columns(outcome))


def print_outcome(outcome: Outcome) -> None:
    """Print what was reached under one load, and what failed."""
    others = f"others took {outcome.others:.0%} of the machine"
    title = f"{outcome.name}: {outcome.question}\n{outcome.rounds} rounds; {others}"
    report.print_table(title, header(outcome), list(rows(outcome)))
    for name, error in outcome.failed.items():
        print(f"{outcome.name}, {name} FAILED:\n{error}")
