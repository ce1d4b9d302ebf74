"""Writes the page of docs/ from the results: `python -m benchmarks.origin.page origin.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import Outcome
from benchmarks.origin import tables
from benchmarks.origin.contenders import WORKLOADS
from benchmarks.serving.page import DOCS, table

HEAD = """# The origin's table

<!-- Written by `python -m benchmarks.origin.page`; change that instead. -->

tidegate descends from a write-up about an inference server in Go, whose point was that Python's
request path is too slow. `python -m benchmarks.origin` builds that server again (grpc-go, pools of
buffers and of models, a batch channel with a ticker of 5 ms, Prometheus) and puts it beside
FastAPI, `grpc.aio` and tidegate: the same weights, the same requests, every server's answers
checked. [benchmarks/README.md](../../benchmarks/README.md#the-origins-table) says how.
"""

UNMEASURED = """
Not yet measured on a quiet machine. This measures and publishes it:

```sh
python -m benchmarks.origin
python -m benchmarks.origin.page benchmarks/results/origin.json
```
"""

READING = """
A cell has requests a second, then the median and the 99th percentile of latencies in milliseconds:
medians of the rounds. Requests go over four connections, or 64 with one each; over HTTP/1.1 on as
many connections as there are requests in flight. *By hand* is an asyncio batcher with a thread for
the model, without a window and with one of 5 ms, like the Go server's. With 2 ms a call, one
accelerator serves one call at a time, whoever calls. *NumPy alone* is the model in a loop, in
batches of as many rows as are in flight, 64 at most: no server can be faster. The load on gRPC is a
program of our own, since h2load spends more on a call than the fastest of the servers; it checks
every answer.
"""


def verdicts(outcomes: list[Outcome]) -> str:
    """What was promised, and what was reached."""
    rows = []
    for outcome in outcomes:
        for verdict in outcome.verdicts:
            _, label, target, median, spread, reached = report.target_row(outcome, verdict)
            marked = "yes" if reached == "yes" else "**no**"
            rows.append((outcome.name, label, target, median, spread, marked))
    header = ("workload", "figure", "target", "median", "rounds", "reached")
    return f"\n## Against the targets\n\n{table(header, rows)}"


def section(outcome: Outcome, plotted: bool) -> str:
    """All tables of one workload, and its plot."""
    parts = [f"\n## {outcome.question[0].upper()}{outcome.question[1:]}\n"]
    if plotted:
        parts.append(f"\n![{outcome.question}](origin-{outcome.name}.svg)\n")
    parts.append(f"\n{table(tables.closed_header(), tables.closed_rows(outcome))}")
    cost = table(tables.cost_header(), tables.cost_rows(outcome))
    parts.append(
        "\nProcessor time of a request, mean batch, how busy server and load were:\n\n" + cost
    )
    if WORKLOADS[outcome.name].pinned:
        parts.append(
            "\nOpen loops, so many requests a second at random times; each latency counts from "
            "when its request was due:\n\n" + table(tables.open_header(), tables.open_rows(outcome))
        )
    limits = tables.load_check(outcome)
    parts.append(f"\n{limits} Other work took {outcome.others:.0%} of the machine.\n")
    return "".join(parts)


def machine(record: dict[str, Any], rounds: int) -> str:
    """What it was measured on."""
    named, seconds = record["machine"], record["settings"]["seconds"]
    versions = {**named["packages"], **named["tools"]}
    listed = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    return (
        f"\nMeasured on {named['date'][:10]} on {named['cores']} virtual cores, {named['cpu']}, "
        f"{named['system'].partition('-')[0]}, CPython {named['python']}; {rounds} rounds of "
        f"{seconds:g} s for each cell. {listed}. A row costs the Go server's model, which is plain "
        f"Go, {named['go_model_us']:.1f} µs. [All figures](origin.json).\n"
    )


def render(record: dict[str, Any] | None, plots: tuple[str, ...] = ("mlp", "accelerator")) -> str:
    """The page's text; None where nothing has been measured."""
    write_up = "\n" + table(tables.WRITE_UP_HEADER, tables.WRITE_UP)
    if record is None:
        return HEAD + write_up + UNMEASURED
    outcomes = [Outcome.from_json(entry) for entry in record["scenarios"]]
    return (
        HEAD
        + write_up
        + machine(record, outcomes[0].rounds)
        + READING
        + verdicts(outcomes)
        + "".join(section(outcome, outcome.name in plots) for outcome in outcomes)
    )


def published() -> dict[str, Any] | None:
    """The results that docs/ has."""
    path = DOCS / "origin.json"
    record: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return record


def main() -> None:
    """Publish the results named on the command line, with their plots; without any, write again."""
    if len(sys.argv) > 1:
        results = Path(sys.argv[1])
        for source in (results, *results.parent.glob("origin-*.svg")):
            (DOCS / source.name).write_text(source.read_text())
    (DOCS / "origin.md").write_text(render(published()))


if __name__ == "__main__":
    main()
