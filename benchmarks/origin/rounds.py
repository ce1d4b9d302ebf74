"""Measures the servers of one workload: all started, then cell by cell each in its turn."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.harness import Metrics, Outcome, Round, spreads_of, verdict_of
from benchmarks.loads import run_in_loop
from benchmarks.machine import Others
from benchmarks.origin import contenders, h2load, targets, weights
from benchmarks.origin.contenders import Contender, Files, Workload
from benchmarks.origin.h2load import Shape
from benchmarks.origin.openloop import open_loop
from benchmarks.origin.questions import Question
from benchmarks.serving import questions as asked
from benchmarks.serving.process import Cores, Server, started

WARM_UP = 0.3
LOGGED = 0.6
"""The share of a cell's time that is measured once more with every latency written to a file."""


@dataclass(frozen=True)
class Plan:
    """How long and how often, and where."""

    files: Files
    cores: Cores
    seconds: float
    rounds: int
    only: Sequence[str] = ()

    def core(self, workload: Workload) -> int | None:
        return self.cores.load if workload.pinned else None


@dataclass
class Running:
    """A server of the round: its process, what it is asked, and what it has reached so far."""

    contender: Contender
    server: Server
    question: Question
    calls: weights.Calls
    metrics: Metrics = field(default_factory=dict)


def prepare(folder: Path, go: Path, trivial: Path) -> Files:
    """Write the weights."""
    written, calls = folder / "weights", folder / "calls"
    weights.write(written)
    calls.write_bytes(bytes(8))
    return Files(go, trivial, written, calls)


def start(
    contender: Contender, workload: Workload, plan: Plan, stack: contextlib.ExitStack
) -> Running:
    """Start a server on its core and check its answers."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    calls = Path(folder) / "calls"
    calls.write_bytes(bytes(8))
    files = Files(plan.files.go, plan.files.trivial, plan.files.weights, calls)
    command = contender.command(files, workload)
    if workload.pinned and plan.cores.server is not None:
        command = ["taskset", "-c", str(plan.cores.server), *command]
    server = stack.enter_context(started(command))
    return Running(contender, server, contender.check(server.port), weights.Calls(calls))


def closed(running: Running, name: str, shape: Shape, seconds: float, core: int | None) -> Metrics:
    """One closed loop, twice: for its rate and its cost, then with every latency written down."""
    ask = functools.partial(
        h2load.closed_loop, running.server.port, running.question, shape, core=core
    )
    ask(seconds=min(WARM_UP, seconds), log=False)
    cpu, calls, clock = running.server.cpu(), running.calls.read(), perf_counter()
    rate = ask(seconds=seconds, log=False)
    elapsed = perf_counter() - clock
    cpu, calls = running.server.cpu() - cpu, running.calls.read() - calls
    logged = ask(seconds=LOGGED * seconds, log=True)
    p50, p99 = np.percentile(logged.latencies, [50, 99])
    reached = {
        "throughput": rate.answers / rate.seconds,
        "p50": float(p50),
        "p99": float(p99),
        "cpu_us": cpu / rate.answers * 1e6,
        "server_busy": cpu / elapsed,
        "load_busy": rate.own_cpu / rate.elapsed,
        "logged_throughput": logged.answers / logged.seconds,
        "logged_load_busy": logged.own_cpu / logged.elapsed,
        "batch": rate.answers / max(1, calls),
    }
    return {f"{metric} {name}": value for metric, value in reached.items()}


def opened(running: Running, name: str, rate: int, seconds: float) -> Metrics:
    """One open loop."""
    http1 = running.question.http1
    load = functools.partial(
        open_loop,
        running.server,
        asked.plain_json() if http1 else asked.features(),
        over_http1=http1,
        rate=rate,
        seconds=seconds,
    )
    return {f"{metric} {name}": value for metric, value in run_in_loop(load).items()}


Work = Callable[[Running], Metrics]


def works(workload: Workload, plan: Plan) -> list[tuple[str, Callable[[Running], Work | None]]]:
    """What is measured, cell by cell: for each server what measures it, or None."""
    core = plan.core(workload)

    def in_cell(name: str, running: Running) -> Work | None:
        shape = running.contender.cells().get(name)
        if shape is None:
            return None
        return lambda running: closed(running, name, shape, plan.seconds, core)

    def at_rate(name: str, running: Running) -> Work | None:
        rate = running.contender.open_loops(workload).get(name)
        if rate is None:
            return None
        return lambda running: opened(running, name, rate, plan.seconds)

    cells = [(name, functools.partial(in_cell, name)) for name in contenders.CELLS]
    rates = [(name, functools.partial(at_rate, name)) for name in contenders.RATES]
    return [*cells, *rates]


def one_round(
    workload: Workload,
    plan: Plan,
    number: int,
    failed: dict[str, str],
    progress: Callable[[str], None],
) -> Round:
    """Start every server, measure each cell on all of them in turn, and end them."""
    wanted = contenders.of(workload)
    if plan.only:
        wanted = [each for each in wanted if any(part in each.name for part in plan.only)]
    with contextlib.ExitStack() as stack:
        running: list[Running] = []

        def attempt(contender: Contender, work: Callable[[], object]) -> None:
            try:
                work()
            except Exception:
                failed[contender.name] = traceback.format_exc()

        for contender in wanted:
            if contender.name not in failed:
                progress(f"{workload.name} {number + 1}/{plan.rounds}: starting {contender.name}")
                attempt(
                    contender,
                    lambda each=contender: running.append(start(each, workload, plan, stack)),
                )
        for place, (cell, measure) in enumerate(works(workload, plan)):
            turn = (number + place) % max(1, len(running))
            for each in running[turn:] + running[:turn]:
                work = measure(each)
                if work is not None and each.contender.name not in failed:
                    progress(
                        f"{workload.name} {number + 1}/{plan.rounds}: {cell}, {each.contender.name}"
                    )
                    attempt(each.contender, lambda: each.metrics.update(work(each)))
        for each in running:
            attempt(
                each.contender,
                lambda: each.metrics.update(memory=each.server.peak_memory()),
            )
    return {
        each.contender.name: each.metrics for each in running if each.contender.name not in failed
    }


def measure(workload: Workload, plan: Plan, progress: Callable[[str], None]) -> Outcome:
    """All rounds of one workload."""
    if workload.pinned and plan.cores.load is not None:
        os.sched_setaffinity(0, {plan.cores.load})
    failed: dict[str, str] = {}
    others = Others()
    results = [one_round(workload, plan, n, failed, progress) for n in range(plan.rounds)]
    return Outcome(
        name=workload.name,
        question=workload.question,
        rounds=plan.rounds,
        metrics=spreads_of([each.name for each in contenders.of(workload)], results),
        verdicts=[verdict_of(target, results) for target in targets.of(workload)],
        skipped=[],
        failed=failed,
        others=others.share(),
    )
