"""Serves requests with one batcher, reports what it took, then rests until it is ended.

`python -m benchmarks.children.serve KIND` prints one line of JSON and sleeps. It imports nothing
that a user of that batcher would not, for its memory is measured.
"""

from __future__ import annotations

import gc
import importlib
import json
import signal
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

REQUESTS = 10_000
AT_ONCE = 64
MODULES = {
    "numpy": "numpy",
    "tidegate": "tidegate",
    "tidegate-asyncio": "tidegate",
    "queue": "benchmarks.baselines.queue_batcher",
    "batched": "batched.aio",
}


def identity(batch: np.ndarray) -> np.ndarray:
    """Returns the batch."""
    return batch


def make(kind: str) -> Any:
    """The batcher of this kind; None for NumPy alone."""
    if kind.startswith("tidegate"):
        from tidegate import Batcher

        return Batcher(identity)
    if kind == "queue":
        from benchmarks.baselines.queue_batcher import QueueBatcher

        return QueueBatcher(identity)
    if kind == "batched":
        from benchmarks.baselines.batched_package import BatchedPackage

        return BatchedPackage(identity)
    return None


def check(answers: list[Any]) -> None:
    """Raise unless each of the rows was answered with itself."""
    if [answer[-1] for answer in answers] != list(range(AT_ONCE)):
        raise AssertionError("a row was given another's answer")


def serve(batcher: Any, rows: list[np.ndarray]) -> None:
    """Submit 64 rows, read their answers, and again."""
    for _ in range(REQUESTS // AT_ONCE):
        futures = [batcher.submit(row) for row in rows]
        check([future.result() for future in futures])


def serve_loop(batcher: Any, rows: list[np.ndarray], import_seconds: float) -> None:
    """The same from an event loop, which then rests in its selector."""
    import asyncio

    async def main() -> None:
        for _ in range(REQUESTS // AT_ONCE):
            pending = [asyncio.ensure_future(batcher.submit(row)) for row in rows]
            check([await answer for answer in pending])
        report(import_seconds)
        await asyncio.Event().wait()

    asyncio.run(main())


def report(import_seconds: float) -> None:
    """Print the time of the import and the resident memory, now and at its highest, in bytes."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    rss, peak = (float(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    print(json.dumps({"import": import_seconds, "rss": rss, "peak": peak}), flush=True)


def main(kind: str) -> None:
    rows = [np.full(64, number, dtype=np.float32) for number in range(AT_ONCE)]
    before = perf_counter()
    importlib.import_module(MODULES[kind])
    import_seconds = perf_counter() - before
    batcher = make(kind)
    if kind in ("tidegate-asyncio", "batched"):
        serve_loop(batcher, rows, import_seconds)
    elif batcher is not None:
        serve(batcher, rows)
    report(import_seconds)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
