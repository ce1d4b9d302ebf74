"""Runs every scenario side by side and prints one table of ratios: `python -m benchmarks.compare`.

Each scenario runs in a process of its own with a time limit that needs no GIL, so that neither a
deadlock nor a leftover thread of one can touch another.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import arguments, machine, report
from benchmarks.arguments import ROOT
from benchmarks.harness import Outcome, Settings, run
from benchmarks.scenarios import SCENARIOS

QUICK = Settings(seconds=0.05, calls=100, idle_seconds=0.5)
SECONDS_PER_VARIANT = 20.0
"""No variant comes near this in one round; a scenario gets it for each before it is ended."""


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments.parser_of("benchmarks.compare", __doc__, 5, "scenarios", SCENARIOS)
    parser.add_argument("--seconds", type=float, help="how long each variant of a round runs")
    parser.add_argument("--uvloop", action="store_true", help="run the event loops on uvloop")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return arguments.parsed(parser, given)


def settings_of(options: argparse.Namespace) -> Settings:
    settings = QUICK if options.quick else Settings()
    if options.seconds is not None:
        settings = dataclasses.replace(settings, seconds=options.seconds)
    return dataclasses.replace(settings, uvloop=options.uvloop)


def rounds_of(options: argparse.Namespace) -> int:
    return 1 if options.quick else int(options.rounds)


def child(options: argparse.Namespace) -> None:
    """Run one scenario in this process and leave its outcome in the file named by --child."""
    scenario = SCENARIOS[options.only[0]]
    rounds = min(rounds_of(options), scenario.most_rounds)
    faulthandler.dump_traceback_later(time_limit(scenario.name, rounds), exit=True)
    outcome = run(
        scenario,
        settings_of(options),
        rounds,
        only=options.variants,
        progress=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
    )
    options.child.write_text(json.dumps(outcome.to_json()))


def time_limit(name: str, rounds: int) -> float:
    """Seconds after which a scenario's process prints its stacks and ends."""
    return SECONDS_PER_VARIANT * len(SCENARIOS[name].variants) * rounds


def measure(name: str, given: Sequence[str], rounds: int) -> Outcome:
    """Run one scenario in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "outcome.json"
        command = [sys.executable, "-m", "benchmarks.compare", *given]
        command += ["--only", name, "--child", str(record)]
        limit = time_limit(name, rounds) + 10  # after the child's own, which says where it hung
        ended = subprocess.run(command, cwd=ROOT, timeout=limit, check=False)
        if ended.returncode == 0 and record.exists():
            return Outcome.from_json(json.loads(record.read_text()))
    scenario = SCENARIOS[name]
    failure = f"its process ended with {ended.returncode}"
    return Outcome(name, scenario.question, rounds, {}, [], [], {"all variants": failure}, 0.0)


def main(given: Sequence[str] | None = None) -> int:
    """Compare; 1 where a variant failed or gave a wrong answer, whatever the targets say."""
    options = parse(given)
    if options.child is not None:
        child(options)
        return 0
    passed_on = sys.argv[1:] if given is None else given
    described = machine.describe()
    print(f"{described['cpu']}, {described['cores']} cores, Python {described['python']}")
    outcomes = []
    for name in options.only:
        outcomes.append(measure(name, passed_on, rounds_of(options)))
        report.print_scenario(outcomes[-1], SCENARIOS[name].columns)
    report.print_targets(outcomes)
    options.out.mkdir(parents=True, exist_ok=True)
    settings = dataclasses.asdict(settings_of(options))
    report.write_json(options.out / "compare.json", outcomes, described, settings)
    if importlib.util.find_spec("matplotlib"):
        from benchmarks import plots

        plots.write(outcomes, options.out)
    print(f"Results are in {options.out}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
