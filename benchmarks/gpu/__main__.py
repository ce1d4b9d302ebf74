"""Checks and measures tidegate on a GPU: `python -m benchmarks.gpu`, in at most ten minutes.

Probes of the machine, every kernel, three models served by hand and with tidegate, and the tests
marked `gpu`: each section in a process of its own, within its share of the time. The results are
written after every section, so a run that is cut short leaves a report.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.arguments import ROOT
from benchmarks.gpu import page, tables
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.section import PATIENCE, SECTIONS
from benchmarks.gpu.verdicts import failures_of
from tidegate import ConfigError
from tidegate.gpu import findings

SECONDS = 540.0
GRACE = PATIENCE + 5
"""Seconds beyond its share after which a section is ended from outside."""


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", default="", help="sections: " + ",".join(SECTIONS))
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"for all of it (default {SECONDS:g})"
    )
    parser.add_argument(
        "--sanitize", action="store_true", help="the tests under compute-sanitizer, too; takes long"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the results"
    )
    options = parser.parse_args(given)
    options.only = [name for name in options.only.split(",") if name] or list(SECTIONS)
    unknown = sorted(set(options.only) - set(SECTIONS))
    if unknown:
        parser.error(f"unknown sections {unknown}; there are {list(SECTIONS)}")
    if not options.seconds > 0:
        parser.error(f"--seconds must be above 0, got {options.seconds}")
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Measure; 1 where something failed or a section did not end, 2 where there is no GPU."""
    options = parse(given)
    try:
        findings.require()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    # In their order, whatever that on the command line is.
    shares = {name: share for name, share in SECTIONS.items() if name in options.only}
    budget = Budget(options.seconds, shares)
    record: dict[str, Any] = {
        "machine": machine.describe(),
        "commit": commit(),
        "settings": {"seconds": options.seconds, "sanitize": options.sanitize},
        "sections": {},
    }
    for name in shares:
        seconds = budget.open(name)
        print(f"{name}, {seconds:.0f} s", file=sys.stderr, flush=True)
        record["sections"][name] = run(name, seconds, options.sanitize, options.out)
        write(record, options.out)
    tables.print_all(record)
    print(f"Results are in {options.out}")
    ends = {section["ended"] for section in record["sections"].values()}
    return 1 if failures_of(record["sections"]) or ends != {"whole"} else 0


def run(name: str, seconds: float, sanitize: bool, folder: Path) -> dict[str, Any]:
    """One section in a process of its own, with what it has found, however it ends.

    Its findings are in the folder meanwhile, in case that this process is ended, too.
    """
    out = folder.resolve() / f"gpu-{name}.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.section", name, "--out", str(out)]
    command += ["--seconds", f"{seconds:.1f}", *["--sanitize"] * sanitize]
    begin = time.monotonic()
    ended = _end_of(command, seconds + GRACE)
    found: dict[str, Any] = {"facts": {}, "entries": []}
    if out.exists():
        found = json.loads(out.read_text())
        out.unlink()
    if ended == "whole" and not found["facts"].pop("whole", False):
        ended = "ended early"
    return {"ended": ended, "seconds": time.monotonic() - begin, **found}


def _end_of(command: Sequence[str], seconds: float) -> str:
    """How a process ended, in words; one that takes too long is killed with all it started."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"killed after {seconds:.0f} s"
    return "whole" if status == 0 else f"ended with {status}"


def commit() -> str:
    """What was measured, if git knows."""
    asked = ["git", "describe", "--always", "--dirty"]
    try:
        ended = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return ended.stdout.strip() or "unknown"


def write(record: dict[str, Any], folder: Path) -> None:
    """Writes the figures and the page."""
    (folder / "gpu.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "gpu.md").write_text(page.render(record))


if __name__ == "__main__":
    sys.exit(main())
