"""The model alone, one batch after another: what no server of it can exceed on this machine.

`python -m benchmarks.origin.alone --weights FILE --rows N --seconds S` is the process that runs it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import Metrics
from benchmarks.models import FEATURES
from benchmarks.origin.closed_loop import PATIENCE, Shape
from benchmarks.origin.weights import Calls, model
from benchmarks.serving.batchers import MAX_BATCH_SIZE

WARM_UP = 0.1
"""Seconds before what counts."""


def measure(
    weights: Path, shape: Shape, seconds: float, core: int | None, *, accelerator: bool
) -> Metrics:
    """Rows a second, and the percentiles of a call, in batches as large as this many callers fill.

    Args:
        weights: The model's, as `weights.write` writes them.
        shape: As many rows as requests are in flight make a batch, up to MAX_BATCH_SIZE.
        seconds: How long.
        core: It runs on this one; None for any.
        accelerator: 2 ms for each call.
    """
    command = [] if core is None else ["taskset", "-c", str(core)]
    command += [sys.executable, "-m", "benchmarks.origin.alone", "--weights", str(weights)]
    command += ["--rows", str(min(shape.in_flight, MAX_BATCH_SIZE)), "--seconds", str(seconds)]
    command += ["--accelerator"] if accelerator else []
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + WARM_UP + PATIENCE, check=True
    )
    reached: Metrics = json.loads(ended.stdout)
    return reached


def run(weights: Path, rows: int, seconds: float, *, accelerator: bool) -> Metrics:
    """What `measure` has a process of its own do."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(8))
        file.flush()
        served = model(weights, Calls(Path(file.name)), accelerator=accelerator)
        batch = np.zeros((rows, FEATURES), np.float32)
        begin = time.perf_counter() + WARM_UP
        took = []
        now = time.perf_counter()
        while now < begin + seconds:
            before = now
            served(batch)
            now = time.perf_counter()
            if before >= begin:
                took.append(now - before)
    p50, p99 = np.percentile(took, [50, 99])
    return {"throughput": rows / float(np.mean(took)), "p50": float(p50), "p99": float(p99)}


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.origin.alone", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--accelerator", action="store_true", help="2 ms for each call")
    options = parser.parse_args()
    reached = run(options.weights, options.rows, options.seconds, accelerator=options.accelerator)
    print(json.dumps(reached))


if __name__ == "__main__":
    main()
