"""Runs the servers of a comparison in turns, round after round."""

from __future__ import annotations

import contextlib
import functools
import gc
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness import Outcome, Round, spreads_of, verdict_of
from benchmarks.loads import run_in_loop
from benchmarks.machine import Others
from benchmarks.serving.load import Client
from benchmarks.serving.process import Cores, Server, serving
from benchmarks.serving.variants import CONNECT, IN_FLIGHT, Comparison, Contender, targets


@dataclass(frozen=True)
class Schedule:
    """How long to measure.

    Args:
        rounds: How often all servers are started anew.
        turns: How often each server is loaded in a round, with each number of requests in flight.
        seconds: How long a turn is counted.
        warm_up: Seconds of a turn before that.
        uvloop: Run the servers on uvloop.
    """

    rounds: int = 7
    turns: int = 4
    seconds: float = 0.18
    warm_up: float = 0.07
    uvloop: bool = False


class Failures:
    """Which servers failed, and how; they are not run again."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    @contextlib.contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """What is raised inside is that server's failure, and harms no other."""
        try:
            yield
        except Exception:
            self.found[name] = traceback.format_exc()


def run(
    comparison: Comparison,
    schedule: Schedule,
    cores: Cores,
    *,
    only: Sequence[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Measure every server in each round, in an order that is another for each turn.

    Args:
        comparison: What to measure.
        schedule: How long.
        cores: Where.
        only: Run the servers whose names contain one of these; all where empty.
        progress: Told what runs now.
    """
    wanted = [
        each
        for each in comparison.contenders
        if not only or any(part in each.name for part in only)
    ]
    present = [each for each in wanted if each.available()]
    failures = Failures()
    results = []
    others = Others()
    for number in range(schedule.rounds):
        progress(f"{comparison.name} {number + 1}/{schedule.rounds}")
        gc.collect()
        left = [each for each in present if each.name not in failures.found]
        results.append(one_round(left, schedule, cores, failures, random.Random(number)))
    return Outcome(
        name=comparison.name,
        question=comparison.question,
        rounds=schedule.rounds,
        metrics=spreads_of([each.name for each in present], results),
        verdicts=[verdict_of(target, results) for target in targets(comparison.pairs)],
        skipped=[each.name for each in wanted if not each.available()],
        failed=failures.found,
        others=others.share(),
    )


def one_round(
    contenders: Sequence[Contender],
    schedule: Schedule,
    cores: Cores,
    failures: Failures,
    order: random.Random,
) -> Round:
    """Start all servers, load each in turn, and end them."""
    result: Round = {}
    with contextlib.ExitStack() as stack:
        servers: dict[Contender, Server] = {}
        for each in contenders:
            with failures.noted(each.name):
                started = serving(
                    each.door,
                    each.kind,
                    core=cores.server,
                    uvloop=schedule.uvloop,
                    default_gc=each.default_gc,
                )
                servers[each] = stack.enter_context(started)
        for in_flight in IN_FLIGHT:
            running = {
                each: server for each, server in servers.items() if each.name not in failures.found
            }
            run_in_loop(
                functools.partial(one_load, running, in_flight, schedule, failures, order, result)
            )
    return {name: metrics for name, metrics in result.items() if name not in failures.found}


async def one_load(
    servers: Mapping[Contender, Server],
    in_flight: int,
    schedule: Schedule,
    failures: Failures,
    order: random.Random,
    result: Round,
) -> None:
    """Load each server in turn with so many requests in flight; adds to `result`."""
    clients = {
        each: Client(server, CONNECT[each.door], each.ask(), in_flight)
        for each, server in servers.items()
    }
    try:
        for each, client in clients.items():
            with failures.noted(each.name):
                await client.open()
        for _ in range(schedule.turns):
            for each in order.sample(list(clients), len(clients)):
                if each.name not in failures.found:
                    with failures.noted(each.name):
                        await clients[each].turn(schedule.warm_up, schedule.seconds)
        for each, client in clients.items():
            with failures.noted(each.name):
                metrics = result.setdefault(each.name, {})
                reached = client.metrics()
                metrics.update({f"{name}_{in_flight}": value for name, value in reached.items()})
    finally:
        for client in clients.values():
            client.close()
