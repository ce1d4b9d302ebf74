"""What was promised of a GPU, and what the findings say: right, fast enough, or not measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.gpu.journal import Entry
from benchmarks.gpu.variants import FAIR, GRAPHS, TIDEGATE
from benchmarks.harness import Spread, Verdict

__all__ = [
    "BARS",
    "MOST_ABOVE_US",
    "SPEEDUP",
    "Sections",
    "entries_of",
    "failures_of",
    "verdicts_of",
]

BARS = {
    **{f"u8_affine_{kind}": 0.8 for kind in ("f32", "f16", "bf16")},
    **{f"u8_hwc3_chw_{kind}": 0.8 for kind in ("f32", "f16", "bf16")},
    "pad_v16": 0.8,
    "unpad_v16": 0.8,
    "segment_mean": 0.7,
    "softmax_topk": 0.33,
}
"""The least share of the copy bandwidth that a kernel must reach."""

MOST_ABOVE_US = 3.0
"""Microseconds that the same kernels may take beyond the floor at the size of a batch."""

SPEEDUP = 1.5
"""Requests a second, as a multiple of the better fair one: for E and I."""

Sections = Mapping[str, Any]
"""The sections of a record, by name."""


def entries_of(sections: Sections) -> list[Entry]:
    """All findings, in order."""
    return [Entry(**entry) for section in sections.values() for entry in section["entries"]]


def failures_of(sections: Sections) -> list[Entry]:
    """Those that failed: a wrong answer, an error, a test."""
    return [entry for entry in entries_of(sections) if entry.error]


def verdicts_of(sections: Sections) -> list[tuple[str, Verdict]]:
    """Every target of the sections that were asked for, with the section's name."""
    found = {(entry.group, entry.name): entry.metrics for entry in entries_of(sections)}
    verdicts: list[tuple[str, Verdict]] = []
    if "kernels" in sections:
        verdicts += (("kernels", each) for each in _kernels(found))
    for name in ("I", "E"):
        if name in sections:
            verdicts += ((name, _speedup(found, name, own)) for own in (TIDEGATE, GRAPHS))
    return verdicts


Found = Mapping[tuple[str, str], Mapping[str, float]]


def _kernels(found: Found) -> Iterator[Verdict]:
    checks = [metrics for (group, _), metrics in found.items() if group == "kernels are right"]
    passed = sum(bool(metrics) for metrics in checks)
    right = None if not checks else Spread.of([passed / len(checks)])
    yield Verdict("checks of the kernels that passed", 1.0, True, "", right)
    for name, bar in BARS.items():
        metrics = found.get(("kernels", name), {})
        # Of two series of runs the slower one counts.
        series = [metrics[key] for key in ("fraction", "again") if key in metrics]
        spread = Spread(min(series), min(series), max(series)) if series else None
        yield Verdict(f"{name} / copy bandwidth", bar, True, "x", spread)
    above = {
        name: metrics["above_us"]
        for (group, name), metrics in found.items()
        if group == "kernels at the size of a batch" and name in BARS and metrics
    }
    spread = Spread.of([max(above.values())]) if len(above) == len(BARS) else None
    label = "a batch in a graph: the kernel farthest above its floor"
    yield Verdict(label, MOST_ABOVE_US, False, "µs", spread)


def _speedup(found: Found, name: str, own: str) -> Verdict:
    """One of ours against the better of the fair ones, none of which has graphs."""

    def reached(variant: str) -> float:
        metrics = found.get((f"{name}, closed loop", variant), {})
        return metrics.get("throughput", 0.0)

    fair = max(map(reached, FAIR))
    spread = Spread.of([reached(own) / fair]) if reached(own) and fair else None
    return Verdict(f"requests/s: {own} / fair naive", SPEEDUP, True, "x", spread)
