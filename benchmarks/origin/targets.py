"""What the native front end must reach against the Go server, cell by cell."""

from __future__ import annotations

from benchmarks.harness import Round, Target
from benchmarks.origin.contenders import CELLS, GO, NATIVE, NUMPY, Workload
from benchmarks.serving.batchers import MAX_BATCH_SIZE

TIMES_GO = {"12": 1.5, "64": 4.0, "256": 5.0, "64 over 64": 1.5}
"""Throughput of the model alone, over that of the better Go server."""

ACCELERATED = {"12": 4500.0, "60": 23000.0, "64": 27000.0, "256": 29000.0}
"""Requests a second with 2 ms a call, where NumPy alone does 30,500 in batches of 64."""

ALONE = 30500.0 / MAX_BATCH_SIZE
"""Those calls of it a second. A machine that does fewer, since it sleeps longer than it is asked to
or since others have its cores at times, is held against the same shares of its own."""

MOST_SPREAD = 1.3
"""The 99th percentile over the median, with the accelerator."""

P99_AT_256 = 0.2
NO_CLIFF = 0.7
MEMORY_MB = 15.0


def times_go(cell: str, least: float) -> Target:
    def figure(result: Round) -> float:
        metric = f"throughput {cell}"
        return result[NATIVE][metric] / max(result[go][metric] for go in GO)

    return Target(f"requests/s, {cell}: native / better Go", figure, least, True, "x")


def p99_of_go(cell: str, most: float) -> Target:
    def figure(result: Round) -> float:
        metric = f"p99 {cell}"
        return result[NATIVE][metric] / min(result[go][metric] for go in GO)

    return Target(f"p99, {cell}: native / better Go", figure, most, False, "x")


def at_least(cell: str, least: float) -> Target:
    return Target(
        f"requests/s, {cell}: native",
        lambda result: result[NATIVE][f"throughput {cell}"],
        least,
        at_least=True,
    )


def share_of_alone(cell: str, rate: float) -> Target:
    """The share of NumPy alone that `rate` is where it does ALONE calls a second."""
    metric = f"throughput {cell}"
    return Target(
        f"requests/s, {cell}: native / NumPy alone",
        lambda result: result[NATIVE][metric] / result[NUMPY][metric],
        rate / ALONE / min(CELLS[cell].in_flight, MAX_BATCH_SIZE),
        at_least=True,
        unit="x",
    )


def spread(cell: str) -> Target:
    return Target(
        f"p99 / p50, {cell}: native",
        lambda result: result[NATIVE][f"p99 {cell}"] / result[NATIVE][f"p50 {cell}"],
        MOST_SPREAD,
        at_least=False,
        unit="x",
    )


def memory() -> Target:
    return Target(
        "peak memory: native beyond NumPy alone",
        lambda result: (result[NATIVE]["memory"] - result[NUMPY]["memory"]) / 1e6,
        MEMORY_MB,
        at_least=False,
        unit="MB",
    )


def no_cliff() -> Target:
    return Target(
        "requests/s: native, 60 in flight / 64",
        lambda result: result[NATIVE]["throughput 60"] / result[NATIVE]["throughput 64"],
        NO_CLIFF,
        at_least=True,
        unit="x",
    )


def of(workload: Workload) -> list[Target]:
    """Those of one workload; where both sides share the cores, nothing was promised."""
    if not workload.pinned:
        return []
    slower = [p99_of_go(cell, P99_AT_256 if cell == "256" else 1.0) for cell in CELLS]
    if workload.accelerator:
        reached = [at_least(cell, least) for cell, least in ACCELERATED.items()]
        reached += [share_of_alone(cell, least) for cell, least in ACCELERATED.items()]
        return [*reached, *(spread(cell) for cell in CELLS), no_cliff()]
    reached = [times_go(cell, least) for cell, least in TIMES_GO.items()]
    return [*reached, *slower, no_cliff(), memory()]
