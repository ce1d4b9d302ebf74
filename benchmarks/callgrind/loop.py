"""The loop that is counted: so many submits, or so many calls of an empty Cython method.

`python loop.py submit|empty N` prints the nanoseconds of one turn and ends at once, so that nothing
but the loop differs between two values of N. The executor is held inside the model by a first
request meanwhile: rows gather, and nothing else runs.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from itertools import repeat
from time import perf_counter_ns
from typing import Any

import numpy as np

CAPACITY = 16384
"""Rows that one batch can take, more than are ever submitted."""


def make_submit() -> Callable[[np.ndarray], Any]:
    """`Batcher.submit`, with its executor busy."""
    from tidegate import Batcher

    entered = threading.Event()

    def model(batch: np.ndarray) -> np.ndarray:
        entered.set()
        threading.Event().wait()  # for ever: the process ends without it
        return batch

    batcher = Batcher(model, max_batch_size=CAPACITY, max_queue_size=2 * CAPACITY)
    submit: Callable[[np.ndarray], Any] = batcher.submit
    submit(np.zeros(64, dtype=np.float32))
    entered.wait()
    return submit


def make_empty() -> Callable[[np.ndarray], Any]:
    """A bound method of a Cython class that does nothing."""
    import empty_method  # type: ignore[import-not-found]  # compiled by count_submit.py

    method: Callable[[np.ndarray], Any] = empty_method.Empty().method
    return method


def main(kind: str, turns: int) -> None:
    call = make_submit() if kind == "submit" else make_empty()
    row = np.ones(64, dtype=np.float32)
    gc.disable()  # how often it runs depends on everything else in a process
    kept = [call(row) for _ in repeat(None, 100)]
    before = perf_counter_ns()
    kept = [call(row) for _ in repeat(None, turns)]
    nanoseconds = (perf_counter_ns() - before) / turns
    if len(kept) != turns or (kind == "submit" and kept[-1].done()):
        raise AssertionError("the loop did not submit what it was asked to, or it was answered")
    print(nanoseconds, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
