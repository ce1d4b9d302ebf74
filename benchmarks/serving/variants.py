"""The servers side by side: who they are, what is shown of them, and who must not lose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.harness import Column, Round, Target
from benchmarks.serving import doors, http1, http2, questions
from benchmarks.serving.load import Connect
from benchmarks.serving.questions import Questions

IN_FLIGHT = (64, 256)
AGAIN = "(again)"
DEFAULT_GC = ", default GC"

FIGURES = {"throughput": True, "p50": False, "p99": False, "memory": False}
"""What is compared, and whether more is better."""


@dataclass(frozen=True)
class Pair:
    """One server that must not be worse than another, which is the same without tidegate."""

    ours: str
    theirs: str


CONNECT: dict[str, Connect] = {"http": http1.connections, "grpc": http2.connections}

Ask = Callable[[], Questions]


@dataclass(frozen=True)
class Contender:
    """One server: what it is called, how it is started, what it is asked."""

    name: str
    door: str
    kind: str
    ask: Ask
    default_gc: bool = False
    available: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class Comparison:
    """Servers that are measured in turns, and the pairs of them that are compared."""

    name: str
    question: str
    contenders: Sequence[Contender]
    pairs: Sequence[Pair]


def columns(in_flight: int) -> list[Column]:
    """Those of the table for so many requests in flight."""
    return [
        Column(f"throughput_{in_flight}", "requests/s"),
        Column(f"p50_{in_flight}", "p50 ms", 1e3, 2),
        Column(f"p99_{in_flight}", "p99 ms", 1e3, 2),
        Column(f"memory_{in_flight}", "peak MB", 1e-6, 1),
        Column(f"cpu_us_{in_flight}", "CPU µs/request", digits=1),
        Column(f"server_busy_{in_flight}", "server %", 100),
        Column(f"load_busy_{in_flight}", "load %", 100),
    ]


def label(pair: Pair, metric: str) -> str:
    """What the target of a pair and a metric is called."""
    return f"{metric}: {pair.ours} / {pair.theirs}"


def target(pair: Pair, metric: str, more_is_better: bool) -> Target:
    def figure(result: Round) -> float:
        return result[pair.ours][metric] / result[pair.theirs][metric]

    return Target(label(pair, metric), figure, 1.0, more_is_better, "x", every_round=True)


def targets(pairs: Sequence[Pair]) -> list[Target]:
    return [
        target(pair, f"{figure}_{in_flight}", more_is_better)
        for in_flight in IN_FLIGHT
        for pair in pairs
        for figure, more_is_better in FIGURES.items()
    ]


def pairs(service: str) -> list[Pair]:
    """Who is compared with whom; the first pair is one server twice, and shows the noise."""
    alone, ours = f"{service} alone", f"{service} + tidegate"
    return [
        Pair(f"{alone} {AGAIN}", alone),
        Pair(ours, alone),
        Pair(ours, f"{service} + executor by hand"),
        Pair(ours, f"{service} + own thread by hand"),
        Pair(f"{ours} inline", alone),
        Pair(f"{ours} inline", f"{service} + inline by hand"),
    ]


def contenders(service: str, door: str, ask: Ask) -> list[Contender]:
    """The same service alone (twice, for the noise), batched by hand, and with tidegate."""
    kinds = {
        f"{service} alone": "alone",
        f"{service} alone {AGAIN}": "alone",
        f"{service} + executor by hand": "executor",
        f"{service} + own thread by hand": "thread",
        f"{service} + inline by hand": "inline",
        f"{service} + tidegate": "tidegate",
        f"{service} + tidegate inline": "tidegate-inline",
    }
    return [Contender(name, door, kind, ask) for name, kind in kinds.items()]


def with_default_gc() -> list[Contender]:
    """FastAPI with the garbage collector as it is in a new process."""
    kinds = {"alone": "alone", "+ own thread by hand": "thread", "+ tidegate": "tidegate"}
    return [
        Contender(
            f"FastAPI {name}{DEFAULT_GC}", "http", kind, questions.plain_json, default_gc=True
        )
        for name, kind in kinds.items()
    ]


def http_door(encoding: str, ask: Ask) -> Contender:
    name = f"tidegate asgi ({encoding})"
    return Contender(name, "http", "door", ask, available=doors.has_http_door)


def grpc_door(method: str, ask: Ask) -> Contender:
    name = f"tidegate grpc ({method})"
    return Contender(name, "grpc", "door", ask, available=doors.has_grpc_door)


HTTP = Comparison(
    name="http",
    question="FastAPI under uvicorn, HTTP/1.1 with JSON",
    contenders=[
        *contenders("FastAPI", "http", questions.plain_json),
        *with_default_gc(),
        Contender("FastAPI alone (def)", "http", "alone-def", questions.plain_json),
        http_door("JSON", questions.protocol_json),
        http_door("binary", questions.protocol_binary),
    ],
    pairs=[
        *pairs("FastAPI"),
        Pair(f"FastAPI + tidegate{DEFAULT_GC}", f"FastAPI alone{DEFAULT_GC}"),
        Pair(f"FastAPI + tidegate{DEFAULT_GC}", f"FastAPI + own thread by hand{DEFAULT_GC}"),
    ],
)

GRPC = Comparison(
    name="grpc",
    question="grpc.aio, float32 numbers as bytes",
    contenders=[
        *contenders("grpc.aio", "grpc", questions.plain_bytes),
        grpc_door("ModelInfer", questions.protocol_raw),
        grpc_door("Predict", questions.features),
    ],
    pairs=pairs("grpc.aio"),
)

COMPARISONS = {comparison.name: comparison for comparison in (HTTP, GRPC)}
