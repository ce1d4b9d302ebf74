"""Compares ways to batch requests of all lengths: `python -m benchmarks.ragged`.

Token-length traffic in front of a model whose time is proportional to its tokens, padding included:
plain padding, length buckets, packing, and padding by hand, every answer checked.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import arguments, machine, report
from benchmarks.arguments import ROOT
from benchmarks.harness import Outcome
from benchmarks.ragged.rounds import LOADS, Bench, Schedule, run
from benchmarks.ragged.tables import print_outcome
from benchmarks.serving.process import ENVIRONMENT

QUICK = Schedule(rounds=1, turns=1, seconds=0.05)
SECONDS_PER_ROUND = 240.0
"""No round comes near this; the measuring process ends, with its stacks, after as many."""


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments.parser_of("benchmarks.ragged", __doc__, Schedule().rounds, "loads", LOADS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return arguments.parsed(parser, given)


def schedule_of(options: argparse.Namespace) -> Schedule:
    return QUICK if options.quick else Schedule(rounds=options.rounds)


def child(options: argparse.Namespace) -> None:
    """Measure in this process, and leave the outcomes in the file named by --child."""
    schedule = schedule_of(options)
    faulthandler.dump_traceback_later(SECONDS_PER_ROUND * schedule.rounds, exit=True)
    outcomes = run(
        Bench(options.only, schedule, options.variants),
        progress=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
    )
    options.child.write_text(json.dumps([outcome.to_json() for outcome in outcomes]))


def measure(given: Sequence[str]) -> list[Outcome]:
    """Measure in a fresh process, in which the model has one thread; none if that failed."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "outcomes.json"
        command = [sys.executable, "-m", "benchmarks.ragged", *given, "--child", str(record)]
        ended = subprocess.run(command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, check=False)
        if ended.returncode != 0 or not record.exists():
            print(f"The measuring process ended with {ended.returncode}")
            return []
        return [Outcome.from_json(entry) for entry in json.loads(record.read_text())]


def main(given: Sequence[str] | None = None) -> int:
    """Compare; 1 where a variant failed or gave a wrong answer, whatever the targets say."""
    options = parse(given)
    if options.child is not None:
        child(options)
        return 0
    described = machine.describe()
    print(f"{described['cpu']}, {described['cores']} cores, Python {described['python']}")
    outcomes = measure(sys.argv[1:] if given is None else given)
    if not outcomes:
        return 1
    for outcome in outcomes:
        print_outcome(outcome)
    report.print_targets(outcomes)
    options.out.mkdir(parents=True, exist_ok=True)
    settings = dataclasses.asdict(schedule_of(options))
    report.write_json(options.out / "ragged.json", outcomes, described, settings)
    if importlib.util.find_spec("matplotlib"):
        from benchmarks.ragged import plot

        plot.write(outcomes, options.out)
    print(f"Results are in {options.out}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
