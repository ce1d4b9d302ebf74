"""The tests marked `gpu`, and the same under compute-sanitizer: memcheck, racecheck, initcheck."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import ROOT
from benchmarks.gpu.journal import Journal, Metrics

__all__ = ["TOOLS", "counts_of", "find_sanitizer", "measure", "summary_of"]

TOOLS = ("memcheck", "racecheck", "initcheck")
SUITE = "tests/gpu"

_LONGEST_OUTPUT = 3000
# The last line of the sanitizer's report, in either form.
_SUMMARY = re.compile(
    r"(?:ERROR SUMMARY: (\d+) errors?|RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?)"
)
_FOUND = 86  # how the sanitizer ends if it has something to say


def measure(journal: Journal, sanitize: bool, folder: Path | None = None) -> None:
    """Runs the tests, and under each tool if that is asked for."""
    journal.attempt("tests", "pytest -m gpu", lambda: _pytest([], journal.left))
    sanitizer = find_sanitizer() if sanitize else None
    for tool in TOOLS:
        name = f"compute-sanitizer --tool {tool}"
        if sanitizer is None:
            why = "compute-sanitizer was not found" if sanitize else "not asked for: --sanitize"
            journal.skip("tests", name, why)
            continue
        command = [sanitizer, "--tool", tool, "--target-processes", "all"]
        command += ["--error-exitcode", str(_FOUND)]
        journal.attempt("tests", name, lambda command=command: _pytest(command, journal.left))  # type: ignore[misc]


def find_sanitizer() -> str | None:
    """Where compute-sanitizer is: on the path, in a toolkit, or in one of NVIDIA's wheels."""
    on_path = shutil.which("compute-sanitizer")
    if on_path:
        return on_path
    places = [Path("/usr/local"), *(Path(folder) / "nvidia" for folder in sys.path if folder)]
    for place in places:
        patterns = ("cuda*/bin/compute-sanitizer", "*/bin/compute-sanitizer")
        for pattern in patterns:
            for found in sorted(place.glob(pattern), reverse=True):
                if os.access(found, os.X_OK):
                    return str(found)
    return None


def _pytest(prefix: Sequence[str], seconds: float) -> Metrics:
    """Runs the marked tests; raises with the end of their output if something is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [*prefix, sys.executable, "-m", "pytest", "-m", "gpu", SUITE, "-q"]
        command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
        # A test is much slower under a tool.
        command += ["--timeout", "0"] if prefix else []
        status, output = _run(command, seconds)
        if not report.exists():
            raise RuntimeError(f"pytest ended with {status} and no report:\n{_end(output)}")
        metrics = counts_of(report.read_text())
    errors = summary_of(output) if prefix else 0
    if errors is None:
        raise RuntimeError(f"the tool has no summary, and ended with {status}:\n{_end(output)}")
    if metrics["failed"] or errors or status != 0:
        found = f"{metrics['failed']:.0f} tests failed, the tool found {errors} errors"
        raise RuntimeError(f"{found}, and the end was {status}:\n{_end(output)}")
    if not metrics["passed"]:
        raise RuntimeError(f"no test ran: {metrics['skipped']:.0f} were skipped\n{_end(output)}")
    return metrics


def _run(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Ends a command that takes too long, with all that it has started."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise TimeoutError(f"not done after {seconds:.0f} s:\n{_end(output)}") from None
    return process.returncode, output


def counts_of(report: str) -> Metrics:
    """Tests that passed, failed and were skipped, and their seconds, of a JUnit file."""
    suites = list(ElementTree.fromstring(report).iter("testsuite"))

    def total(name: str) -> float:
        return sum(float(suite.get(name, 0)) for suite in suites)

    failed, skipped = total("failures") + total("errors"), total("skipped")
    return {
        "passed": total("tests") - failed - skipped,
        "failed": failed,
        "skipped": skipped,
        "seconds": total("time"),
    }


def summary_of(output: str) -> int | None:
    """The errors that compute-sanitizer counted in all processes; None if it did not say."""
    found = [int(errors or races) for errors, races in _SUMMARY.findall(output)]
    return sum(found) if found else None


def _end(output: str) -> str:
    return output[-_LONGEST_OUTPUT:]
