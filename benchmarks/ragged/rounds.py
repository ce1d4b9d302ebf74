"""Loads every variant in turns, round after round, and compares them with plain padding."""

from __future__ import annotations

import gc
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from benchmarks.harness import Column, Outcome, Round, Target, share, spreads_of, verdict_of
from benchmarks.loads import run_in_loop
from benchmarks.machine import Others
from benchmarks.ragged import load
from benchmarks.ragged.load import Reading
from benchmarks.ragged.traffic import VOCABULARY, Encoder, Traffic
from benchmarks.ragged.variants import BY_BUCKET, PACKED, PLAIN, Contender, contenders

COROUTINES = 256
THREADS = 64
ENOUGH = 1.8
"""Times the throughput of plain padding that ragged rows are worth their trouble."""

LONGER = 2
"""Turns of an open loop take as many times longer: it has fewer requests, but the same tail."""

LOADS = {
    "asyncio256": f"{COROUTINES} coroutines in a closed loop",
    "threads64": f"{THREADS} threads in a closed loop",
    "open50": "Random arrivals at 50 % of what plain padding can do",
    "open80": "Random arrivals at 80 % of what plain padding can do",
}
MODEL = "model"
SHARES = {"open50": 0.5, "open80": 0.8}
AT_ONCE = (33, 128, 512, 2048, 8192)
"""Tokens for which the model alone is measured: a request's, and a padded batch's of 64."""

COLUMNS = [
    Column("throughput", "requests/s"),
    Column("speedup", "times pad", digits=2),
    Column("p50", "p50 ms", 1e3, 2),
    Column("p99", "p99 ms", 1e3, 2),
    Column("tail", "p99 / pad's", digits=2),
    Column("mean_batch", "mean batch", digits=1),
    Column("padding", "padding %", 1e2),
]


MODEL_COLUMNS = [Column("token_us", "µs a token", 1e6, 2)]


@dataclass(frozen=True)
class Schedule:
    """How long to measure.

    Args:
        rounds: How often all of it is done.
        turns: How often each variant is loaded in a round, with each load.
        seconds: How long a turn is counted.
    """

    rounds: int = 5
    turns: int = 3
    seconds: float = 0.4


@dataclass
class Bench:
    """The variants that are measured, and what is found.

    Args:
        loads: Names of LOADS.
        schedule: How long.
        only: Run the variants whose names contain one of these, and plain padding; all where empty.
        encoder: The model of all variants.
        traffic: What is asked.
    """

    loads: Sequence[str]
    schedule: Schedule
    only: Sequence[str] = ()
    encoder: Encoder = field(default_factory=Encoder)
    traffic: Traffic = field(default_factory=Traffic)
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        everything = contenders(self.encoder)
        self.plain = everything[0]
        self.contenders = [
            each
            for each in everything
            if not self.only or each is self.plain or any(part in each.name for part in self.only)
        ]

    def turn(self, contender: Contender, name: str, maximum: float) -> Reading:
        """Load one variant once; `maximum` is what plain padding can do, in requests a second."""
        seconds = self.schedule.seconds
        if name == "threads64":
            with contender.for_threads() as (call, counted):
                return load.threads_closed_loop(
                    call, counted, self.traffic, callers=THREADS, seconds=seconds
                )

        async def main() -> Reading:
            async with contender.for_loop() as (submit, counted):
                if name == "asyncio256":
                    return await load.closed_loop(
                        submit, counted, self.traffic, callers=COROUTINES, seconds=seconds
                    )
                rate = SHARES[name] * maximum
                return await load.open_loop(
                    submit, counted, self.traffic, per_second=rate, seconds=LONGER * seconds
                )

        return run_in_loop(main)

    def one_load(self, name: str, order: random.Random, maximum: float) -> Round:
        """Load each variant in turn, several times, in an order that is another each time."""
        readings: dict[str, Reading] = {}
        for _ in range(self.schedule.turns):
            for each in order.sample(self.contenders, len(self.contenders)):
                if each.name in self.failed:
                    continue
                gc.collect()
                try:
                    reading = self.turn(each, name, maximum)
                    known = readings.get(each.name)
                    readings[each.name] = reading if known is None else known + reading
                    readings[each.name].metrics()
                except Exception:
                    self.failed[each.name] = traceback.format_exc()
        return beside_plain(
            {name: read.metrics() for name, read in readings.items() if name not in self.failed}
        )

    def one_round(self, number: int, progress: Callable[[str], None]) -> dict[str, Round]:
        """The metrics of each variant under each load."""
        order = random.Random(number)
        found: dict[str, Round] = {MODEL: alone(self.encoder, self.schedule.seconds)}
        for name in self.loads:
            progress(f"round {number + 1}/{self.schedule.rounds}: {name}")
            maximum = 0.0
            if name in SHARES:
                # What it can do now: on a machine that others use it is another each minute.
                measured = found.get("asyncio256", {}).get(PLAIN)
                if measured is None:
                    measured = self.turn(self.plain, "asyncio256", 0.0).metrics()
                maximum = measured["throughput"]
            found[name] = self.one_load(name, order, maximum)
        return found


def alone(encoder: Encoder, seconds: float) -> Round:
    """The model's time for each of so many tokens at once: the least that it took.

    It is to be the same for all; a median says more of what else the machine does.
    """
    found: Round = {}
    for tokens in AT_ONCE:
        ids = np.arange(tokens, dtype=np.int32) % VOCABULARY
        least, end = float("inf"), perf_counter() + seconds / 4
        while perf_counter() < end:
            before = perf_counter()
            encoder.tokens(ids)
            least = min(least, perf_counter() - before)
        found[f"{tokens} tokens"] = {"token_us": least / tokens}
    return found


def beside_plain(found: Round) -> Round:
    """The same, with throughputs and 99th percentiles as multiples of plain padding's, too."""
    plain = found.get(PLAIN)
    for metrics in found.values():
        metrics["speedup"] = metrics["throughput"] / plain["throughput"] if plain else 0.0
        metrics["tail"] = metrics["p99"] / plain["p99"] if plain else 0.0
    return found


def better(result: Mapping[str, dict[str, float]]) -> str:
    """Length buckets or packing, whichever had the higher throughput."""
    return max((BY_BUCKET, PACKED), key=lambda name: result[name]["throughput"])


def targets(name: str) -> Iterator[Target]:
    """What is asked for under a load; a figure is worked out from one round."""
    if name not in SHARES:
        yield Target(
            "throughput: the better / pad",
            lambda result: result[better(result)]["speedup"],
            ENOUGH,
            at_least=True,
            unit="x",
        )
        yield Target(
            "p99: the better / pad",
            lambda result: result[better(result)]["tail"],
            1.0,
            at_least=False,
            unit="x",
        )
        return
    for each in (BY_BUCKET, PACKED):  # all are as fast as the arrivals: none is the better
        yield share(f"p99: {each} / pad", "p99", each, [PLAIN], 1.0)


def run(bench: Bench, *, progress: Callable[[str], None] = lambda text: None) -> list[Outcome]:
    """All rounds; one outcome for each load. A variant that fails is not run again."""
    others = Others()
    schedule = bench.schedule
    rounds = [bench.one_round(number, progress) for number in range(schedule.rounds)]
    taken = others.share()
    outcomes = []
    variants = [each.name for each in bench.contenders]
    for name in (MODEL, *bench.loads):
        results = [found[name] for found in rounds]
        outcomes.append(
            Outcome(
                name=name,
                question=LOADS.get(name, "The model alone, with as many tokens at once"),
                rounds=schedule.rounds,
                metrics=spreads_of(list(results[0]) if name == MODEL else variants, results),
                verdicts=[verdict_of(target, results) for target in targets(name) if name in LOADS],
                skipped=[],
                failed=bench.failed,
                others=taken,
            )
        )
    return outcomes
