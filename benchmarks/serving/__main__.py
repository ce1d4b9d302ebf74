"""Compares web services around one model: `python -m benchmarks.serving`.

FastAPI and grpc.aio, each alone, with a batcher written by hand and with tidegate, and tidegate's
own doors: every server in a process of its own on one core, the load on the other, every answer
checked.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, report
from benchmarks.compare import ROOT
from benchmarks.harness import Settings, run
from benchmarks.serving.process import ENVIRONMENT, compile_modules
from benchmarks.serving.tables import print_outcome
from benchmarks.serving.variants import CORES, IN_FLIGHT, SCENARIOS

SECONDS_PER_SERVER = 60.0
"""No server comes near this in one round; the program ends, with its stacks, after as many."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    parser.add_argument("--only", default="", help="doors: " + ",".join(SCENARIOS))
    parser.add_argument(
        "--variants", default="", help="only servers whose names contain one of these, by comma"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.7, help="how long each load is measured (default 0.7)"
    )
    parser.add_argument("--uvloop", action="store_true", help="run the servers on uvloop")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the results"
    )
    options = parser.parse_args(arguments)
    options.only = [name for name in options.only.split(",") if name] or list(SCENARIOS)
    unknown = sorted(set(options.only) - set(SCENARIOS))
    if unknown:
        parser.error(f"unknown doors {unknown}; there are {list(SCENARIOS)}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if not options.seconds > 0:
        parser.error(f"--seconds must be above 0, got {options.seconds}")
    options.variants = [part for part in options.variants.split(",") if part]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; 1 where a server failed or gave a wrong answer, whatever the ratios say."""
    options = parse(arguments)
    rounds = 1 if options.quick else options.rounds
    settings = Settings(seconds=0.1 if options.quick else options.seconds, uvloop=options.uvloop)
    described = machine.describe()
    described["server_core"], described["load_core"] = CORES.server, CORES.load
    compile_modules()
    os.environ.update(ENVIRONMENT)
    if CORES.load is not None:
        os.sched_setaffinity(0, {CORES.load})
    print(f"{described['cpu']}, {described['cores']} cores, Python {described['python']}")
    outcomes = []
    for name in options.only:
        scenario = SCENARIOS[name]
        limit = SECONDS_PER_SERVER * rounds * len(scenario.variants)
        faulthandler.dump_traceback_later(limit, exit=True)
        outcomes.append(
            run(
                scenario,
                settings,
                rounds,
                only=options.variants,
                progress=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
            )
        )
        faulthandler.cancel_dump_traceback_later()
        print_outcome(outcomes[-1])
    options.out.mkdir(parents=True, exist_ok=True)
    record = {**dataclasses.asdict(settings), "in_flight": list(IN_FLIGHT)}
    report.write_json(options.out / "serving.json", outcomes, described, record)
    if importlib.util.find_spec("matplotlib"):
        from benchmarks.serving import plot

        plot.write(outcomes, options.out)
    print(f"Results are in {options.out}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
