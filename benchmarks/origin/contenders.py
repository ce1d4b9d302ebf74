"""The servers of the table, the workloads they are given, and the cells that are measured."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import ACCELERATOR_SECONDS
from benchmarks.origin.closed_loop import Shape
from benchmarks.origin.questions import Question, check_grpc, check_http, framed, grpc_question

GO_BATCHED = "Go, batched"
GO_DIRECT = "Go, direct"
GO = (GO_BATCHED, GO_DIRECT)
NATIVE = "tidegate native"
NUMPY = "NumPy alone"
CEILING = "frames only (C++)"

CELLS = {
    "12": Shape(4, 3),
    "60": Shape(4, 15),
    "64": Shape(4, 16),
    "256": Shape(4, 64),
    "64 over 64": Shape(64, 1),
}
"""Closed loops: requests in flight, over four connections; in the last over 64."""

COMPARED = GO_DIRECT
COMPARED_CELLS = ("64", "256")
"""Where h2load, a client that others have written, measures beside our own load."""

RATES = {"500/s": 500, "2000/s": 2000, "10000/s": 10000}
"""Open loops: requests a second. The faster ones are for servers that can answer as many."""

SLOW = ("500/s", "2000/s")

# The answer of a server that does nothing but frames: a message with ten zeros.
_TRIVIAL_ANSWER = framed(b"\x0a\x28" + bytes(40))


@dataclass(frozen=True)
class Files:
    """What the servers are started with."""

    go: Path
    trivial: Path
    load: Path
    weights: Path
    calls: Path
    """Eight bytes in which the server that runs counts the calls of its model."""


@dataclass(frozen=True)
class Workload:
    """One table: the same model on every server."""

    name: str
    question: str
    accelerator: bool
    pinned: bool
    """The server on one core and the load on another; both free otherwise."""


@dataclass(frozen=True)
class Contender:
    """One server: how it is started, asked and checked.

    Args:
        name: As the tables call it.
        command: Starts it, for a workload.
        check: Compares its answers with NumPy's; says what the load asks.
        rates: Open loops that it can keep up with, without and with the accelerator.
        main: Measured also where nothing is pinned.
        loaded: False for what serves nothing: its memory is measured, and its model called alone.
    """

    name: str
    command: Callable[[Files, Workload], list[str]]
    check: Callable[[int], Question]
    rates: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    main: bool = False
    loaded: bool = True

    def cells(self) -> dict[str, Shape]:
        """Closed loops, as this server's protocol has them."""
        if self.check is check_http:  # one request at a time on each connection of HTTP/1.1
            shapes = {name: Shape(shape.in_flight, 1) for name, shape in CELLS.items()}
            del shapes["64 over 64"]
            return shapes
        return CELLS

    def open_loops(self, workload: Workload) -> dict[str, int]:
        if not workload.pinned:
            return {}
        return {name: RATES[name] for name in self.rates[workload.accelerator]}


def _python(kind: str, batched: str = "alone") -> Callable[[Files, Workload], list[str]]:
    def command(files: Files, workload: Workload) -> list[str]:
        words = [sys.executable, "-m", "benchmarks.origin.server", kind, "--batched", batched]
        words += ["--weights", str(files.weights), "--calls", str(files.calls)]
        return [*words, "--accelerator"] if workload.accelerator else words

    return command


def _go(kind: str) -> Callable[[Files, Workload], list[str]]:
    def command(files: Files, workload: Workload) -> list[str]:
        delay = ACCELERATOR_SECONDS if workload.accelerator else 0
        words = [str(files.go), "-kind", kind, "-weights", str(files.weights)]
        return [*words, "-calls", str(files.calls), "-delay", f"{delay}s"]

    return command


def _trivial(files: Files, workload: Workload) -> list[str]:
    return [str(files.trivial)]


def _unchecked(port: int) -> Question:
    return grpc_question(_TRIVIAL_ANSWER)


CONTENDERS = [
    Contender(GO_BATCHED, _go("batched"), check_grpc, (tuple(RATES), tuple(RATES)), main=True),
    Contender(GO_DIRECT, _go("direct"), check_grpc, (tuple(RATES), ()), main=True),
    Contender(NATIVE, _python("native"), check_grpc, (tuple(RATES), tuple(RATES)), main=True),
    Contender("FastAPI, unbatched", _python("fastapi"), check_http, (SLOW, ())),
    Contender("FastAPI, by hand", _python("fastapi", "thread"), check_http, (SLOW, SLOW)),
    Contender("FastAPI, by hand, 5 ms", _python("fastapi", "thread-5ms"), check_http, (SLOW, SLOW)),
    Contender("FastAPI + tidegate", _python("fastapi", "tidegate"), check_http, (SLOW, SLOW)),
    Contender("grpc.aio, unbatched", _python("grpc"), check_grpc, (SLOW, ())),
    Contender("grpc.aio, by hand", _python("grpc", "thread"), check_grpc, (SLOW, SLOW)),
    Contender("grpc.aio, by hand, 5 ms", _python("grpc", "thread-5ms"), check_grpc, (SLOW, SLOW)),
    Contender("grpc.aio + tidegate", _python("grpc", "tidegate"), check_grpc, (SLOW, SLOW)),
    Contender(NUMPY, _python("numpy"), _unchecked, loaded=False, main=True),
    Contender(CEILING, _trivial, _unchecked, main=True),
]

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("mlp", "64→256→10 perceptron, float32; one core each", False, True),
        Workload("accelerator", "the same and 2 ms a call; one core each", True, True),
        Workload("mlp-free", "64→256→10 perceptron, float32; all cores", False, False),
        Workload("accelerator-free", "the same and 2 ms a call; all cores", True, False),
    )
}


def of(workload: Workload) -> list[Contender]:
    """Those of one workload; the frames say nothing new behind an accelerator."""
    return [
        each
        for each in CONTENDERS
        if (each.main or workload.pinned) and not (each.name == CEILING and workload.accelerator)
    ]
