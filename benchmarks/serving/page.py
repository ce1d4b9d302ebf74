"""Writes the page of docs/ from the results: `python -m benchmarks.serving.page serving.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Column, Outcome, Spread
from benchmarks.report import Row
from benchmarks.serving.tables import FIGURE_NAMES, ratios, summary
from benchmarks.serving.variants import IN_FLIGHT, columns

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
TITLES = {"http": "HTTP", "grpc": "gRPC"}

HEAD = """# Web services, alone and with tidegate

<!-- Written by `python -m benchmarks.serving.page`; change that instead. -->

What `python -m benchmarks.serving` measured: the same endpoint of FastAPI, and the same handler of
`grpc.aio`, that call a perceptron (64→256→10, float32, NumPy) once for each request, through an
asyncio batcher written by hand, or through tidegate; and tidegate's own doors.
[benchmarks/README.md](../../benchmarks/README.md#web-services) says how.
"""

UNMEASURED = """
Not yet measured on a quiet machine.
"""

READING = """
Each server runs on one core, the load on the other, and all take turns; *server %* and *load %* are
how busy they kept them. *Alone* calls the model in the endpoint, and *(again)* is the same server a
second time in each round: the two differ by noise alone. *By hand* are the asyncio batchers of
[benchmarks/baselines](../../benchmarks/baselines), with the model in an executor, in a thread of
their own, or on the loop. A ratio is taken within each round; the cells have the median and the
rounds' range, and call it **worse** or better if every round says so, level otherwise. For requests
a second more is better, for the other figures less. Peak memory is what the whole process had
resident at most, file pages included.

All servers call `gc.freeze()` once they have loaded everything, but for those with *default GC*. A
request that waits for its batch keeps what FastAPI made for it, hundreds of objects, so that
CPython's full collections come often; each walks through all that was ever imported, and everybody
waits for some 40 ms. That holds for any batcher, and not for an endpoint that never awaits.
"""


def table(header: Iterable[str], rows: Iterable[Row]) -> str:
    """A table in Markdown, the first two columns to the left."""
    names = list(header)
    lines = [names, ["---" if place < 1 else "---:" for place in range(len(names))]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *map(list, rows)]) + "\n"


def figure(spread: Spread, column: Column) -> str:
    """A median, scaled as the column says."""
    return f"{spread.median * column.scale:,.{column.digits}f}"


def figures(outcome: Outcome, in_flight: int) -> Iterator[Row]:
    """A row for each server."""
    for name, spreads in outcome.metrics.items():
        yield name, *(figure(spreads[column.metric], column) for column in columns(in_flight))


def section(outcome: Outcome) -> str:
    """All tables of one door, and its plot."""
    parts = [f"\n## {TITLES[outcome.name]}\n\n{outcome.question}. {summary(outcome)}\n"]
    parts.append(f"\n![{outcome.question}](serving-{outcome.name}.svg)\n")
    for in_flight in IN_FLIGHT:
        titles = [column.title for column in columns(in_flight)]
        parts.append(f"\n### {TITLES[outcome.name]}, {in_flight} requests in flight\n\n")
        parts.append(table(["server", *titles], figures(outcome, in_flight)))
        header = ["ratio", *FIGURE_NAMES.values()]
        compared = (
            (f"{ours} / {theirs}", *(cell.replace("WORSE", "**worse**") for cell in cells))
            for ours, theirs, *cells in ratios(outcome, in_flight)
        )
        parts.append("\n" + table(header, compared))
    return "".join(parts)


def machine(record: dict[str, Any], rounds: int) -> str:
    """What it was measured on."""
    named, settings = record["machine"], record["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in named["packages"].items() if number)
    loop = "uvloop" if settings["uvloop"] else "asyncio's own event loop"
    system = named["system"].partition("-")[0]
    return (
        f"\nMeasured on {named['date'][:10]} on {named['cores']} virtual cores, {named['cpu']}, "
        f"{system}, CPython {named['python']}; {loop}; {rounds} rounds of "
        f"{settings['turns']} turns of {settings['seconds']:g} s. "
        f"{versions}. [All figures](serving.json).\n"
    )


def render(record: dict[str, Any] | None) -> str:
    """The page's text; None where nothing has been measured."""
    if record is None:
        return HEAD + UNMEASURED
    outcomes = [Outcome.from_json(entry) for entry in record["scenarios"]]
    others = ", ".join(f"{TITLES[each.name]} {each.others:.0%}" for each in outcomes)
    note = f"\nOther work took of the machine meanwhile: {others}.\n"
    return (
        HEAD
        + machine(record, outcomes[0].rounds)
        + READING
        + "".join(map(section, outcomes))
        + note
    )


def published() -> dict[str, Any] | None:
    """The results that docs/ has."""
    path = DOCS / "serving.json"
    record: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return record


def main() -> None:
    """Publish the results named on the command line, with their plots; without any, write again."""
    if len(sys.argv) > 1:
        results = Path(sys.argv[1])
        for source in (results, *results.parent.glob("serving-*.svg")):
            (DOCS / source.name).write_text(source.read_text())
    (DOCS / "serving.md").write_text(render(published()))


if __name__ == "__main__":
    main()
