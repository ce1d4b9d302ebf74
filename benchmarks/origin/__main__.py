"""Rebuilds the table of the write-up that tidegate descends from: `python -m benchmarks.origin`.

The Go inference server, direct and batched, FastAPI and grpc.aio, each alone, batched by hand and
with tidegate, and tidegate's native front end: every server in a process of its own, all with the
same weights, every server's answers checked. It needs Go, grpc-go and h2load, and says how to get
them.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import arguments, machine, report
from benchmarks.arguments import ROOT
from benchmarks.origin import contenders, rounds, tables, tools
from benchmarks.origin.contenders import WORKLOADS
from benchmarks.serving.process import ENVIRONMENT, Cores, compile_modules

SECONDS_PER_SERVER = 120.0
"""No server comes near this in one round; the program ends, with its stacks, after as many."""

QUICK_SECONDS = 0.1


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments.parser_of("benchmarks.origin", __doc__, 5, "workloads", WORKLOADS)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="how long each cell is measured (default 1)"
    )
    options = arguments.parsed(parser, given)
    if not options.seconds > 0:
        parser.error(f"--seconds must be above 0, got {options.seconds}")
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Measure; 1 where a server failed or answered wrongly, 2 where something is missing."""
    options = parse(given)
    try:
        tools.require()
    except tools.MissingError as error:
        print(error, file=sys.stderr)
        return 2
    cores = Cores.choose()
    described = {**machine.describe(), "tools": tools.versions()}
    described["server_core"], described["load_core"] = cores.server, cores.load
    options.out.mkdir(parents=True, exist_ok=True)
    builds = ROOT / "benchmarks" / "results" / "origin-builds"
    print("building the Go server (the first time takes a minute)", file=sys.stderr, flush=True)
    go = tools.build_go(builds)
    trivial, load = (tools.build_cpp(builds, name) for name in ("trivial", "load"))
    compile_modules()
    os.environ.update(ENVIRONMENT)
    print(f"{described['cpu']}, {described['cores']} cores, Python {described['python']}")
    seconds = QUICK_SECONDS if options.quick else options.seconds
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        plan = rounds.Plan(
            files=rounds.prepare(Path(folder), go, trivial, load),
            cores=cores,
            seconds=seconds,
            rounds=1 if options.quick else options.rounds,
            only=options.variants,
        )
        described["go_model_us"] = tools.go_model_seconds(go, plan.files.weights) * 1e6
        for name in options.only:
            workload = WORKLOADS[name]
            limit = SECONDS_PER_SERVER * plan.rounds * len(contenders.of(workload))
            faulthandler.dump_traceback_later(limit, exit=True)
            outcomes.append(
                rounds.measure(
                    workload, plan, lambda text: print(f"  {text}", file=sys.stderr, flush=True)
                )
            )
            faulthandler.cancel_dump_traceback_later()
            tables.print_outcome(outcomes[-1])
    tables.print_all(outcomes)
    report.write_json(options.out / "origin.json", outcomes, described, {"seconds": seconds})
    if importlib.util.find_spec("matplotlib"):
        from benchmarks.origin import plot

        plot.write(outcomes, options.out)
    print(f"Results are in {options.out}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
