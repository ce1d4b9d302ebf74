"""Starts a serving child, reads its report, and counts how often it wakes up."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def child(kind: str) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the process id and the report of a child that has served and now rests."""
    command = [sys.executable, "-m", "benchmarks.children.serve", kind]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # the scenario's own time limit bounds this wait
        if not line:
            raise RuntimeError(f"the child {kind} ended with {process.wait()} before its report")
        yield process.pid, json.loads(line)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def switches(pid: int) -> int:
    """The voluntary context switches of all of a process's threads, each one a wake-up."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total
