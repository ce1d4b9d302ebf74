"""Each kernel: that it is right, then what share of the device's copy bandwidth it reaches."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.gpu import batches
from benchmarks.gpu.cases import BUFFERS, CASES, LARGE, Case, Sizes
from benchmarks.gpu.copies import copy_bandwidth
from benchmarks.gpu.journal import Journal, Metrics
from benchmarks.gpu.stack import Gpu
from benchmarks.gpu.timing import device_seconds
from tests.gpu.checks import CHECKS, Device
from tests.gpu.guarded import GuardedCupy

__all__ = ["check", "fitting", "measure", "time_cases"]

RUNS = 20
# Of the free memory, for the inputs and outputs of one case.
_SHARE = 0.6
# Copies that the share is taken of: as large as the cases.
_COPIED = 512 << 20


def measure(gpu: Gpu, journal: Journal) -> None:
    """Checks every kernel, then times each of them at its large size and at that of a batch."""
    check(gpu.cupy, journal)
    time_cases(gpu, journal, LARGE, copied=_COPIED)
    batches.measure(gpu, journal)


def check(cupy: Any, journal: Journal, seed: int | None = None) -> None:
    """Runs the checks of tests/gpu with guards around every result.

    Args:
        cupy: CuPy, or what stands for it.
        journal: Where the verdicts go.
        seed: Of the inputs; None for a fresh one, which is noted.
    """
    seed = int(np.random.default_rng().integers(2**32)) if seed is None else seed
    for kernel, checks in CHECKS.items():
        for each in checks:
            guarded = GuardedCupy(cupy)

            def run(each: Any = each, guarded: Any = guarded) -> Metrics:
                with _instead_of_cupy(guarded):
                    each(Device(guarded, seed))
                    guarded.check()
                return {"passed": 1.0}

            words = each.__name__.replace("_", " ")
            journal.attempt("kernels are right", f"{kernel}: {words}", run, f"seed {seed}")


@contextlib.contextmanager
def _instead_of_cupy(guarded: Any) -> Iterator[None]:
    """The operations take the arrays of the module that is in CuPy's place."""
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = guarded
    try:
        yield
    finally:
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before


def time_cases(
    gpu: Gpu,
    journal: Journal,
    sizes: Sizes,
    *,
    copied: int,
    runs: int = RUNS,
    cases: tuple[Case, ...] = CASES,
) -> None:
    """Times kernels on buffers in rotation, each beside copies made just before."""
    for case in cases:
        journal.attempt(
            "kernels",
            case.name,
            lambda case=case: _timed(gpu, case, sizes, copied, runs),  # type: ignore[misc]
        )


def fitting(sizes: Sizes, case: Case, free: int) -> Sizes:
    """The sizes, with fewer rows where the buffers of a case would not fit the free memory."""
    factor = min(1.0, _SHARE * free / (BUFFERS * case.nbytes(sizes)))
    if factor == 1.0:
        return sizes
    rows = {name: max(1, int(getattr(sizes, name) * factor)) for name in Sizes.ROWS}
    return dataclasses.replace(sizes, **rows)


def _timed(gpu: Gpu, case: Case, sizes: Sizes, copied: int, runs: int) -> Metrics:
    free, _ = gpu.cuda.runtime.memGetInfo()
    stream = gpu.cuda.Stream(non_blocking=True)
    pool = gpu.cupy.get_default_memory_pool()
    try:
        with stream:
            copying = copy_bandwidth(gpu, stream, min(copied, int(free) // 16), runs)
            pool.free_all_blocks()
            fits = fitting(sizes, case, int(free))
            return _against(copying, *_run(gpu, case, fits, stream, runs))
    finally:
        pool.free_all_blocks()


def _run(gpu: Gpu, case: Case, sizes: Sizes, stream: Any, runs: int) -> tuple[float, float, float]:
    """Bytes that must move, and the medians of two series of runs in seconds."""
    starts: list[Callable[[], object]] = []
    moved = []
    for _ in range(BUFFERS):
        start, nbytes = case.make(gpu, stream, sizes)
        starts.append(start)
        moved.append(nbytes)
    once, again = (
        statistics.median(device_seconds(gpu, stream, lambda run: starts[run % BUFFERS](), runs))
        for _ in range(2)
    )
    return statistics.mean(moved), once, again


def _against(copying: float, moved: float, once: float, again: float) -> Metrics:
    return {
        "microseconds": once * 1e6,
        "gb_per_s": moved / once / 1e9,
        "copy_gb_per_s": copying / 1e9,
        "fraction": moved / once / copying,
        "again": moved / again / copying,
    }
