"""The tables of the comparison: what each server reached, and who is worse than whom."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import report
from benchmarks.harness import Outcome, Verdict
from benchmarks.serving.variants import AGAIN, COMPARISONS, FIGURES, IN_FLIGHT, columns, label

ENOUGH_ROUNDS = 5
FIGURE_NAMES = {"throughput": "requests/s", "p50": "p50", "p99": "p99", "memory": "peak memory"}


def word(verdict: Verdict, rounds: int) -> str:
    """Better or worse if every round says so, else level; nothing if the rounds are too few.

    Of two equal servers the same one is the slower in all of n rounds once in 2 ** (n - 1).
    """
    if verdict.spread is None or rounds < ENOUGH_ROUNDS:
        return ""
    if not verdict.reached:
        return "WORSE"
    spread = verdict.spread
    surely = spread.lowest > 1 if verdict.at_least else spread.highest < 1
    return "better" if surely else "level"


def cell(verdict: Verdict, rounds: int) -> str:
    """The median ratio and what it means, with the rounds' range."""
    spread = verdict.spread
    if spread is None:
        return "not measured"
    ends = f"{spread.lowest:.3f} to {spread.highest:.3f}"
    return f"{spread.median:.3f} {word(verdict, rounds)} ({ends})".replace("  ", " ")


def ratios(outcome: Outcome, in_flight: int) -> Iterator[report.Row]:
    """A row for each pair: ours, theirs, and a cell for each figure."""
    verdicts = {verdict.label: verdict for verdict in outcome.verdicts}
    for pair in COMPARISONS[outcome.name].pairs:
        cells = [
            cell(verdicts[label(pair, f"{figure}_{in_flight}")], outcome.rounds)
            for figure in FIGURES
        ]
        yield pair.ours, pair.theirs, *cells


def worse(outcome: Outcome) -> dict[str, list[str]]:
    """What is worse beyond noise, by pair; the pair that shows the noise is left out."""
    verdicts = {verdict.label: verdict for verdict in outcome.verdicts}
    found: dict[str, list[str]] = {}
    for pair in COMPARISONS[outcome.name].pairs:
        for figure, title in FIGURE_NAMES.items():
            for in_flight in IN_FLIGHT:
                verdict = verdicts[label(pair, f"{figure}_{in_flight}")]
                if word(verdict, outcome.rounds) == "WORSE" and AGAIN not in pair.ours:
                    found.setdefault(f"{pair.ours} / {pair.theirs}", []).append(
                        f"{title} at {in_flight}"
                    )
    return found


def summary(outcome: Outcome) -> str:
    """What is worse beyond noise: a sentence, and an item for each pair."""
    if outcome.rounds < ENOUGH_ROUNDS:
        return f"{outcome.rounds} rounds are too few to tell what is worse from noise."
    found = worse(outcome)
    if not found:
        return "Nothing is worse beyond noise."
    items = "\n".join(f"- {pair}: {', '.join(figures)}" for pair, figures in found.items())
    return f"Worse beyond noise:\n\n{items}"


def print_outcome(outcome: Outcome) -> None:
    """Print the figures and the ratios of one door, for each number of requests in flight."""
    for in_flight in IN_FLIGHT:
        print(f"\n{in_flight} requests in flight")
        report.print_scenario(outcome, columns(in_flight))
        header = ("ours", "over", *FIGURE_NAMES.values())
        report.print_table(
            f"{outcome.name}, {in_flight} in flight: medians of the rounds' ratios",
            header,
            list(ratios(outcome, in_flight)),
        )
    print(summary(outcome))
