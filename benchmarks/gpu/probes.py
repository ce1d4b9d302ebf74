"""The section of probes: what the design takes for granted about a machine, measured there."""

from __future__ import annotations

from benchmarks.gpu import calls, capture, copies, waking
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.stack import Gpu

__all__ = ["measure"]


def measure(gpu: Gpu, journal: Journal) -> None:
    """Copies, host times of calls, waiting, graphs; what might break the context comes last."""
    copies.measure(gpu, journal)
    calls.measure(gpu, journal)
    waking.measure(gpu, journal)
    capture.measure(gpu, journal)
