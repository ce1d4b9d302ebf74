"""Scenarios, their variants and targets, and the rounds that run them interleaved."""

from __future__ import annotations

import gc
import statistics
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.machine import Others

Metrics = dict[str, float]
Round = dict[str, Metrics]
"""The metrics of each variant that ran, in one round."""


@dataclass(frozen=True)
class Settings:
    """How long to measure and on which loop.

    Args:
        seconds: How long each variant of a round is measured.
        calls: The most calls of a lone caller in each round.
        idle_seconds: How long an idle process is watched.
        uvloop: Run event loops on uvloop.
    """

    seconds: float = 0.6
    calls: int = 3000
    idle_seconds: float = 5.0
    uvloop: bool = False


@dataclass(frozen=True)
class Variant:
    """One contestant: `run` measures it once."""

    name: str
    run: Callable[[Settings], Metrics]
    available: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class Target:
    """A figure worked out from each round on its own, and the limit that its median must keep.

    Working it out within a round is what makes a noisy machine tell the truth: both sides of a
    ratio were measured in the same second.
    """

    label: str
    figure: Callable[[Round], float]
    limit: float
    at_least: bool
    unit: str = ""
    every_round: bool = False
    """Missed only if every round misses it: one that only noise misses is reached."""


@dataclass(frozen=True)
class Column:
    """One metric of a scenario's table: how it is called, scaled and written."""

    metric: str
    title: str
    scale: float = 1.0
    digits: int = 0


@dataclass(frozen=True)
class Scenario:
    name: str
    question: str
    variants: Sequence[Variant]
    columns: Sequence[Column]
    targets: Sequence[Target] = ()
    most_rounds: int = 100
    most_seconds_per_round: float = 60.0


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, with the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Verdict:
    """What a target asked for and what was reached; `spread` is None where nothing could be."""

    label: str
    limit: float
    at_least: bool
    unit: str
    spread: Spread | None
    every_round: bool = False

    @property
    def reached(self) -> bool:
        if self.spread is None:
            return False
        value = self.spread.median
        if self.every_round:
            value = self.spread.highest if self.at_least else self.spread.lowest
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Outcome:
    """One scenario's results, as they go to the table, the plots and the JSON file."""

    name: str
    question: str
    rounds: int
    metrics: dict[str, dict[str, Spread]]
    verdicts: list[Verdict]
    skipped: list[str]
    failed: dict[str, str]
    others: float
    """The share of the machine that other processes took meanwhile."""

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        for verdict, entry in zip(self.verdicts, record["verdicts"], strict=True):
            entry["reached"] = verdict.reached
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Outcome:
        verdicts = []
        for entry in record["verdicts"]:
            fields = {key: value for key, value in entry.items() if key != "reached"}
            spread = fields.pop("spread")
            verdicts.append(Verdict(**fields, spread=spread and Spread(**spread)))
        metrics = {
            variant: {metric: Spread(**spread) for metric, spread in spreads.items()}
            for variant, spreads in record["metrics"].items()
        }
        return cls(**{**record, "metrics": metrics, "verdicts": verdicts})


def ratio(label: str, metric: str, of: str, over: Sequence[str], at_least: float) -> Target:
    """`of` over the best of its rivals, in a metric where more is better."""

    def figure(result: Round) -> float:
        best = max(result[name][metric] for name in over)
        # In a short round on a busy machine a rival may answer nothing at all: once a second, then.
        return result[of][metric] / (best or 1.0)

    return Target(label, figure, at_least, at_least=True, unit="x")


def share(label: str, metric: str, of: str, over: Sequence[str], at_most: float) -> Target:
    """`of` as a share of the best of its rivals, in a metric where less is better."""

    def figure(result: Round) -> float:
        return result[of][metric] / min(result[name][metric] for name in over)

    return Target(label, figure, at_most, at_least=False, unit="x")


def above(
    label: str, metric: str, of: str, base: str, at_most: float, scale: float, unit: str
) -> Target:
    """What `of` costs beyond `base`, scaled to `unit`."""

    def figure(result: Round) -> float:
        return (result[of][metric] - result[base][metric]) * scale

    return Target(label, figure, at_most, at_least=False, unit=unit)


def most(label: str, metric: str, of: str, at_most: float, scale: float, unit: str) -> Target:
    """A metric of one variant, which must not exceed its limit."""
    return Target(
        label, lambda result: result[of][metric] * scale, at_most, at_least=False, unit=unit
    )


def run(
    scenario: Scenario,
    settings: Settings,
    rounds: int,
    *,
    only: Sequence[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Measure every variant once in each round, in an order that turns with the rounds.

    A variant that raises is reported, not run again, and harms no other.

    Args:
        scenario: What to measure.
        settings: How long, and on which loop.
        rounds: How often; the scenario may ask for fewer.
        only: Run the variants whose names contain one of these; all where empty.
        progress: Told what runs now.
    """
    wanted = [
        variant
        for variant in scenario.variants
        if not only or any(part in variant.name for part in only)
    ]
    variants = [variant for variant in wanted if variant.available()]
    skipped = [variant.name for variant in wanted if not variant.available()]
    failed: dict[str, str] = {}
    results: list[Round] = []
    others = Others()
    rounds = min(rounds, scenario.most_rounds)
    for number in range(rounds):
        result: Round = {}
        turn = number % max(1, len(variants))
        for variant in variants[turn:] + variants[:turn]:
            if variant.name in failed:
                continue
            progress(f"{scenario.name} {number + 1}/{rounds}: {variant.name}")
            gc.collect()
            try:
                result[variant.name] = variant.run(settings)
            except Exception:
                failed[variant.name] = traceback.format_exc()
        results.append(result)
    return Outcome(
        name=scenario.name,
        question=scenario.question,
        rounds=rounds,
        metrics=spreads_of([variant.name for variant in variants], results),
        verdicts=[verdict_of(target, results) for target in scenario.targets],
        skipped=skipped,
        failed=failed,
        others=others.share(),
    )


def spreads_of(names: list[str], results: list[Round]) -> dict[str, dict[str, Spread]]:
    """The metrics of each variant that ran, over all rounds."""
    spreads = {}
    for name in names:
        rounds = [result[name] for result in results if name in result]
        if rounds:
            spreads[name] = {
                metric: Spread.of([metrics[metric] for metrics in rounds]) for metric in rounds[0]
            }
    return spreads


def verdict_of(target: Target, results: list[Round]) -> Verdict:
    """What a target asked for, and what the rounds reached."""
    figures = []
    for result in results:
        try:
            figures.append(target.figure(result))
        except KeyError:  # one of its sides did not run in this round
            continue
    spread = Spread.of(figures) if figures else None
    return Verdict(
        target.label, target.limit, target.at_least, target.unit, spread, target.every_round
    )
