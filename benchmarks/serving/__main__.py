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

from benchmarks import arguments, machine, report
from benchmarks.serving.process import ENVIRONMENT, Cores, compile_modules
from benchmarks.serving.rounds import Schedule, run
from benchmarks.serving.tables import print_outcome
from benchmarks.serving.variants import COMPARISONS, IN_FLIGHT

SECONDS_PER_SERVER = 60.0
"""No server comes near this in one round; the program ends, with its stacks, after as many."""


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments.parser_of("benchmarks.serving", __doc__, 7, "doors", COMPARISONS)
    parser.add_argument(
        "--turns", type=int, default=4, help="how often each server is loaded in a round"
    )
    parser.add_argument("--uvloop", action="store_true", help="run the servers on uvloop")
    options = arguments.parsed(parser, given)
    if options.turns < 1:
        parser.error(f"--turns must be at least 1, got {options.turns}")
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Compare; 1 where a server failed or gave a wrong answer, whatever the ratios say."""
    options = parse(given)
    schedule = (
        Schedule(rounds=1, turns=1, seconds=0.05, warm_up=0.05, uvloop=options.uvloop)
        if options.quick
        else Schedule(rounds=options.rounds, turns=options.turns, uvloop=options.uvloop)
    )
    cores = Cores.choose()
    described = machine.describe()
    described["server_core"], described["load_core"] = cores.server, cores.load
    compile_modules()
    os.environ.update(ENVIRONMENT)
    if cores.load is not None:
        os.sched_setaffinity(0, {cores.load})
    print(f"{described['cpu']}, {described['cores']} cores, Python {described['python']}")
    outcomes = []
    for name in options.only:
        comparison = COMPARISONS[name]
        limit = SECONDS_PER_SERVER * schedule.rounds * len(comparison.contenders)
        faulthandler.dump_traceback_later(limit, exit=True)
        outcomes.append(
            run(
                comparison,
                schedule,
                cores,
                only=options.variants,
                progress=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
            )
        )
        faulthandler.cancel_dump_traceback_later()
        print_outcome(outcomes[-1])
    options.out.mkdir(parents=True, exist_ok=True)
    record = {**dataclasses.asdict(schedule), "in_flight": list(IN_FLIGHT)}
    report.write_json(options.out / "serving.json", outcomes, described, record)
    if importlib.util.find_spec("matplotlib"):
        from benchmarks.serving import plot

        plot.write(outcomes, options.out)
    print(f"Results are in {options.out}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
