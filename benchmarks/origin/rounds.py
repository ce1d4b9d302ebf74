"""Measures the servers of one workload: all started, then cell by cell each in its turn."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.harness import Metrics, Outcome, Round, spreads_of, verdict_of
from benchmarks.loads import run_in_loop
from benchmarks.machine import Others
from benchmarks.origin import alone, contenders, h2load, load, targets, weights
from benchmarks.origin.closed_loop import NoAnswerError, Run, Shape
from benchmarks.origin.contenders import Contender, Files, Workload
from benchmarks.origin.openloop import open_loop
from benchmarks.origin.questions import Question
from benchmarks.serving import questions as asked
from benchmarks.serving.process import Cores, Server, started

Say = Callable[[str], None]

WARM_UP = 0.3
PATIENCE = 2.0
"""Seconds of a run after which a server that has answered nothing is given up."""

LATENCIES = 8
"""A run lasts for at least as many times as a request takes: a slow one must end, too."""


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
    load: Path
    metrics: Metrics = field(default_factory=dict)


def prepare(folder: Path, go: Path, trivial: Path, load: Path) -> Files:
    """Write the weights."""
    written, calls = folder / "weights", folder / "calls"
    weights.write(written)
    calls.write_bytes(bytes(8))
    return Files(go, trivial, load, written, calls)


def start(
    contender: Contender, workload: Workload, plan: Plan, stack: contextlib.ExitStack
) -> Running:
    """Start a server on its core and check its answers."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    calls = Path(folder) / "calls"
    calls.write_bytes(bytes(8))
    files = dataclasses.replace(plan.files, calls=calls)
    command = contender.command(files, workload)
    if workload.pinned and plan.cores.server is not None:
        command = ["taskset", "-c", str(plan.cores.server), *command]
    server = stack.enter_context(started(command))
    question = contender.check(server.port)
    return Running(contender, server, question, weights.Calls(calls), files.load)


def asking(running: Running, shape: Shape, core: int | None) -> Callable[[float], Run]:
    """What keeps requests in flight for so many seconds: h2load where HTTP/1.1 is spoken."""
    port, question = running.server.port, running.question
    if question.http1:
        return lambda seconds: h2load.closed_loop(port, question, shape, seconds, core)
    return lambda seconds: load.closed_loop(running.load, port, question, shape, seconds, core)


def latency_of(ask: Callable[[float], Run], shape: Shape, seconds: float) -> float:
    """About how long a request takes, in seconds: what warms the server up tells it, too."""
    while True:
        try:
            run = ask(seconds)
            return shape.in_flight * run.seconds / run.answers
        except NoAnswerError:
            if seconds > PATIENCE:
                raise
            seconds *= 4


def closed(running: Running, name: str, shape: Shape, seconds: float, core: int | None) -> Metrics:
    """One closed loop."""
    ask = asking(running, shape, core)
    seconds = max(seconds, LATENCIES * latency_of(ask, shape, min(WARM_UP, seconds)))
    cpu, calls = running.server.cpu(), running.calls.read()
    run = ask(seconds)
    cpu, calls = running.server.cpu() - cpu, running.calls.read() - calls
    # The server's part of the run's warm-up, which its processor time has, too.
    answers = run.answers if running.question.http1 else run.answers * (1 + load.WARM_UP / seconds)
    p50, p99 = np.percentile(run.latencies, [50, 99])
    reached = {
        "throughput": run.answers / run.seconds,
        "p50": float(p50),
        "p99": float(p99),
        "cpu_us": cpu / answers * 1e6,
        "server_busy": cpu / answers * run.answers / run.seconds,
        "load_busy": run.own_cpu / run.seconds,
    }
    if calls:  # who serves no model has no batches
        reached["batch"] = answers / calls
    if running.contender.name == contenders.COMPARED and name in contenders.COMPARED_CELLS:
        other = h2load.closed_loop(running.server.port, running.question, shape, seconds, core)
        reached["h2load"] = other.answers / other.seconds
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


class _Round:
    """One round: every server is started, and each cell measured on all of them in turn."""

    def __init__(
        self, workload: Workload, plan: Plan, number: int, failed: dict[str, str], progress: Say
    ) -> None:
        self._workload = workload
        self._plan = plan
        self._number = number
        self._failed = failed
        self._progress = progress
        self._running: list[Running] = []

    def _attempt(self, doing: str, name: str, work: Callable[[], object]) -> None:
        """Do one thing with a server, unless it has failed before; who fails is left alone."""
        if name in self._failed:
            return
        place = f"{self._workload.name} {self._number + 1}/{self._plan.rounds}"
        self._progress(f"{place}: {doing}, {name}")
        try:
            work()
        except Exception:
            self._failed[name] = traceback.format_exc()

    def _start(self, contender: Contender, stack: contextlib.ExitStack) -> None:
        self._running.append(start(contender, self._workload, self._plan, stack))

    def _closed(self, cell: str, running: Running) -> None:
        if not running.contender.loaded:
            running.metrics.update(self._alone(cell))
            return
        shape = running.contender.cells().get(cell)
        if shape is not None:
            core = self._plan.core(self._workload)
            running.metrics.update(closed(running, cell, shape, self._plan.seconds, core))

    def _alone(self, cell: str) -> Metrics:
        plan, workload = self._plan, self._workload
        core = plan.cores.server if workload.pinned else None
        reached = alone.measure(
            plan.files.weights,
            contenders.CELLS[cell],
            plan.seconds,
            core,
            accelerator=workload.accelerator,
        )
        return {f"{metric} {cell}": value for metric, value in reached.items()}

    def _opened(self, cell: str, running: Running) -> None:
        rate = running.contender.open_loops(self._workload).get(cell)
        if rate is not None:
            running.metrics.update(opened(running, cell, rate, self._plan.seconds))

    def _weigh(self, running: Running) -> None:
        running.metrics["memory"] = running.server.peak_memory()

    def run(self) -> Round:
        wanted = contenders.of(self._workload)
        if self._plan.only:
            wanted = [each for each in wanted if any(part in each.name for part in self._plan.only)]
        cells = [(name, self._closed) for name in contenders.CELLS]
        rates = [(name, self._opened) for name in contenders.RATES]
        with contextlib.ExitStack() as stack:
            for each in wanted:
                self._attempt("starting", each.name, functools.partial(self._start, each, stack))
            servers = self._running
            for place, (cell, work) in enumerate([*cells, *rates]):
                turn = (self._number + place) % max(1, len(servers))
                for server in servers[turn:] + servers[:turn]:
                    name = server.contender.name
                    self._attempt(cell, name, functools.partial(work, cell, server))
            for server in servers:
                name = server.contender.name
                self._attempt("memory", name, functools.partial(self._weigh, server))
            names = {each.contender.name: each.metrics for each in servers}
            return {name: metrics for name, metrics in names.items() if name not in self._failed}


def measure(workload: Workload, plan: Plan, progress: Say) -> Outcome:
    """All rounds of one workload; a server that fails is reported, and harms no other."""
    all_cores = os.sched_getaffinity(0)
    if workload.pinned and plan.cores.load is not None:
        os.sched_setaffinity(0, {plan.cores.load})
    failed: dict[str, str] = {}
    others = Others()
    try:
        results = [_Round(workload, plan, n, failed, progress).run() for n in range(plan.rounds)]
    finally:
        os.sched_setaffinity(0, all_cores)
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
