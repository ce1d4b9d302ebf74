"""Prints the tables of a comparison (with rich where it is installed) and writes its JSON file."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Column, Outcome, Spread, Verdict

Row = tuple[str, ...]

PLAIN_WIDTH = 128


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _spread(spread: Spread, column: Column) -> str:
    low, middle, high = (
        _number(value * column.scale, column.digits)
        for value in (spread.lowest, spread.median, spread.highest)
    )
    return f"{middle}  [{low} to {high}]"


def _figure(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".strip() if unit != "x" else f"{value:.2f} x"


def target_row(outcome: Outcome, verdict: Verdict) -> Row:
    """Scenario, figure, target, median, the range of the rounds, and whether it was reached."""
    return verdict_row(outcome.name, verdict)


def verdict_row(name: str, verdict: Verdict) -> Row:
    """The same for a verdict that belongs to no scenario but to what has this name."""
    sign = "≥" if verdict.at_least else "≤"
    target = f"{sign} {_figure(verdict.limit, verdict.unit)}"
    if verdict.spread is None:
        return name, verdict.label, target, "not measured", "", "no"
    spread = verdict.spread
    return (
        name,
        verdict.label,
        target,
        _figure(spread.median, verdict.unit),
        f"{spread.lowest:.3g} to {spread.highest:.3g}",
        "yes" if verdict.reached else "NO",
    )


def print_table(
    title: str, header: Row, rows: Sequence[Row], *, plain_width: int = PLAIN_WIDTH
) -> None:
    """Print one table; its last columns are numbers. In a log it is `plain_width` wide at most."""
    if importlib.util.find_spec("rich"):
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left", title_style="bold")
        for number, name in enumerate(header):
            table.add_column(name, justify="left" if number < 2 else "right")
        for row in rows:
            style = "red" if row[-1] in ("NO", "no") else None
            table.add_row(*row, style=style)
        console = Console()
        if not console.is_terminal:
            console.width = plain_width  # a log has no width to ask for
        console.print(table)
        return
    widths = [max(len(row[number]) for row in (header, *rows)) for number in range(len(header))]
    print(title)
    for row in (header, tuple("-" * width for width in widths), *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    print()


def print_scenario(outcome: Outcome, columns: Sequence[Column]) -> None:
    """Print what each variant of a scenario reached: medians, and the range of the rounds."""
    rows: list[Row] = []
    for variant, spreads in outcome.metrics.items():
        rows.append((variant, *(_spread(spreads[column.metric], column) for column in columns)))
    rows += [(name, "not installed", *("" for _ in columns[1:])) for name in outcome.skipped]
    others = f"others took {outcome.others:.0%} of the machine"
    title = f"{outcome.name}: {outcome.question}\n{outcome.rounds} rounds; {others}"
    print_table(title, ("variant", *(column.title for column in columns)), rows)
    for name, error in outcome.failed.items():
        print(f"{outcome.name}, {name} FAILED:\n{error}")


def print_targets(outcomes: Sequence[Outcome]) -> None:
    """Print the one table of ratios against targets."""
    rows = [target_row(outcome, verdict) for outcome in outcomes for verdict in outcome.verdicts]
    header = ("scenario", "figure", "target", "median", "rounds", "reached")
    print_table("Ratios and figures against their targets", header, rows)


def write_json(
    path: Path, outcomes: Sequence[Outcome], machine: dict[str, object], settings: dict[str, Any]
) -> None:
    """Write everything that was measured, with the machine named."""
    record = {
        "machine": machine,
        "settings": settings,
        "scenarios": [outcome.to_json() for outcome in outcomes],
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
