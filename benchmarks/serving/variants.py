"""The servers side by side, as scenarios of the harness: variants, columns, who must not lose."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.harness import Column, Metrics, Round, Scenario, Settings, Target, Variant
from benchmarks.loads import run_in_loop
from benchmarks.serving import doors, http1, http2, questions
from benchmarks.serving.load import Connect, closed_loop
from benchmarks.serving.process import Cores, serving
from benchmarks.serving.questions import Questions

IN_FLIGHT = (64, 256)
WARM_UP = 0.25
AGAIN = "(again)"
DEFAULT_GC = ", default GC"
CORES = Cores.choose()

FIGURES = {"throughput": True, "p50": False, "p99": False, "memory": False}
"""What is compared, and whether more is better."""


@dataclass(frozen=True)
class Pair:
    """One server that must not be worse than another, which is the same without tidegate."""

    ours: str
    theirs: str


CONNECT: dict[str, Connect] = {"http": http1.connections, "grpc": http2.connections}

Ask = Callable[[], Questions]


def measure(door: str, kind: str, ask: Ask, default_gc: bool, settings: Settings) -> Metrics:
    """Start a server, put each load on it in turn, and end it."""
    metrics: Metrics = {}
    asked = ask()
    with serving(
        door, kind, core=CORES.server, uvloop=settings.uvloop, default_gc=default_gc
    ) as server:
        for in_flight in IN_FLIGHT:
            load = functools.partial(
                closed_loop,
                server,
                CONNECT[door],
                asked,
                in_flight=in_flight,
                warm_up=min(WARM_UP, settings.seconds),
                seconds=settings.seconds,
            )
            reached = run_in_loop(load)
            metrics.update({f"{name}_{in_flight}": value for name, value in reached.items()})
    return metrics


def variant(
    name: str,
    door: str,
    kind: str,
    ask: Ask,
    *,
    default_gc: bool = False,
    available: Callable[[], bool] = lambda: True,
) -> Variant:
    return Variant(name, functools.partial(measure, door, kind, ask, default_gc), available)


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


def targets(pairs: list[Pair]) -> list[Target]:
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


def variants(service: str, door: str, ask: Ask) -> list[Variant]:
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
    return [variant(name, door, kind, ask) for name, kind in kinds.items()]


def with_default_gc() -> list[Variant]:
    """FastAPI with the garbage collector as it is in a new process."""
    kinds = {"alone": "alone", "+ own thread by hand": "thread", "+ tidegate": "tidegate"}
    return [
        variant(f"FastAPI {name}{DEFAULT_GC}", "http", kind, questions.plain_json, default_gc=True)
        for name, kind in kinds.items()
    ]


PAIRS = {
    "http": [
        *pairs("FastAPI"),
        Pair(f"FastAPI + tidegate{DEFAULT_GC}", f"FastAPI alone{DEFAULT_GC}"),
        Pair(f"FastAPI + tidegate{DEFAULT_GC}", f"FastAPI + own thread by hand{DEFAULT_GC}"),
    ],
    "grpc": pairs("grpc.aio"),
}

HTTP = Scenario(
    name="http",
    question="FastAPI under uvicorn, HTTP/1.1 with JSON",
    variants=[
        *variants("FastAPI", "http", questions.plain_json),
        *with_default_gc(),
        variant("FastAPI alone (def)", "http", "alone-def", questions.plain_json),
        *(
            variant(f"tidegate asgi ({name})", "http", "door", ask, available=doors.has_http_door)
            for name, ask in (
                ("JSON", questions.protocol_json),
                ("binary", questions.protocol_binary),
            )
        ),
    ],
    columns=[],  # one table for each of IN_FLIGHT: see columns()
    targets=targets(PAIRS["http"]),
)

GRPC = Scenario(
    name="grpc",
    question="grpc.aio, float32 numbers as bytes",
    variants=[
        *variants("grpc.aio", "grpc", questions.plain_bytes),
        *(
            variant(f"tidegate grpc ({name})", "grpc", "door", ask, available=doors.has_grpc_door)
            for name, ask in (
                ("ModelInfer", questions.protocol_raw),
                ("Predict", questions.features),
            )
        ),
    ],
    columns=[],
    targets=targets(PAIRS["grpc"]),
)

SCENARIOS = {scenario.name: scenario for scenario in (HTTP, GRPC)}
