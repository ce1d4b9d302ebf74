"""Writes the page of docs/ from the results: `python -m benchmarks.ragged.page ragged.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import Outcome
from benchmarks.ragged.tables import header, rows
from benchmarks.ragged.traffic import TOLERANCE
from benchmarks.ragged.variants import BUCKETS, BUDGETED_BATCH_SIZE, MAX_BATCH_SIZE, TOKENS
from benchmarks.serving.page import table

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"

HEAD = """# Ragged rows: padded, in length buckets, and packed

<!-- Written by `python -m benchmarks.ragged.page`; change that instead. -->

What `python -m benchmarks.ragged` measured: requests of as many tokens as short texts have
(log-normal (3.3, 0.7), from 1 to 128, 33 on average) in front of a model in NumPy that works on
every token, padding included. [benchmarks/README.md](../../benchmarks/README.md#ragged-rows) says
how.
"""

TIMES = " \N{MULTIPLICATION SIGN}"

UNMEASURED = """
Not yet measured.
"""

READING = f"""
*pad* makes the rows of a batch as long as its longest. *buckets* does so as well, with
`length_buckets={BUCKETS}`, so that a batch has only rows of about one
length. *pack* lays the rows end to end, without any padding. All have at most {MAX_BATCH_SIZE}
requests in a batch; *budget* has at most {TOKENS} tokens instead (`max_batch_cost`), and at most
{BUDGETED_BATCH_SIZE} requests. How far the model's time is proportional to its tokens is in the
first table below.
*By hand* are the batchers of [benchmarks/baselines](../../benchmarks/baselines) with a thread for
the model, which pad with `np.zeros`.

*Times pad* is the throughput as a multiple of tidegate's own plain padding, and *p99 / pad's* the
99th percentile likewise; ratios are taken within each round, in which all variants take turns. The
cells have the median and, in brackets, the rounds' range. *The better* is whichever of buckets and
pack had the higher throughput in a round. *padding* is the share of the model's tokens that are
padding, from `Batcher.statistics()`. Every answer was compared with the model's to that request
alone; none was off by more than {TOLERANCE:g}. Open loops send their requests at random times, at
half and at 80 % of what plain padding has just reached with 256 coroutines; their latencies count
from when each was due.
"""


def machine(record: dict[str, Any], rounds: int) -> str:
    """What it was measured on."""
    named, settings = record["machine"], record["settings"]
    system = named["system"].partition("-")[0]
    return (
        f"\nMeasured on {named['date'][:10]} on {named['cores']} virtual cores, {named['cpu']}, "
        f"{system}, CPython {named['python']}, NumPy {named['packages']['numpy']}, tidegate "
        f"{named['packages']['tidegate']}; asyncio's own event loop, one thread for BLAS; {rounds} "
        f"rounds of {settings['turns']} turns of {settings['seconds']:g} s. "
        "[All figures](ragged.json).\n"
    )


def targets(outcomes: list[Outcome]) -> str:
    """What was asked for, and whether it was reached."""
    found = [
        report.target_row(outcome, verdict) for outcome in outcomes for verdict in outcome.verdicts
    ]
    names = ("load", "figure", "target", "median", "rounds", "reached")
    return "\n" + table(names, [tuple(cell.replace(" x", TIMES) for cell in row) for row in found])


def section(outcome: Outcome) -> str:
    """What each variant reached under one load."""
    shown = table(header(outcome), rows(outcome))
    return f"\n## {outcome.name}\n\n{outcome.question}.\n\n{shown}"


def render(record: dict[str, Any] | None) -> str:
    """The page's text; None where nothing has been measured."""
    if record is None:
        return HEAD + UNMEASURED
    outcomes = [Outcome.from_json(entry) for entry in record["scenarios"]]
    return (
        HEAD
        + machine(record, outcomes[0].rounds)
        + "\n![Throughput and 99th percentiles of ragged rows](ragged.svg)\n"
        + targets(outcomes)
        + f"\nOther work took {outcomes[0].others:.0%} of the machine meanwhile.\n"
        + READING
        + "".join(map(section, outcomes))
    )


def published() -> dict[str, Any] | None:
    """The results that docs/ has."""
    path = DOCS / "ragged.json"
    record: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return record


def main() -> None:
    """Publish the results named on the command line, with their plot; without any, write again."""
    if len(sys.argv) > 1:
        results = Path(sys.argv[1])
        for source in (results, results.with_suffix(".svg")):
            (DOCS / source.name).write_text(source.read_text())
    (DOCS / "ragged.md").write_text(render(published()))


if __name__ == "__main__":
    main()
