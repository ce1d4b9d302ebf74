"""What a closed loop is, and what came of it, whichever program ran it."""

from __future__ import annotations

import os
import resource
import tempfile
from dataclasses import dataclass

import numpy as np

PATIENCE = 30.0
"""Seconds beyond its own that a run may take."""


@dataclass(frozen=True)
class Shape:
    """How many connections, and how many requests at a time on each."""

    connections: int
    streams: int

    @property
    def in_flight(self) -> int:
        return self.connections * self.streams


@dataclass(frozen=True)
class Run:
    """What one run has reached."""

    answers: int
    seconds: float
    own_cpu: float
    """Processor time of the load generator itself, in seconds."""
    latencies: np.ndarray
    """In seconds."""


class NoAnswerError(RuntimeError):
    """Nothing was answered in the time of the run."""


def folder_in_memory() -> tempfile.TemporaryDirectory[str]:
    """A folder for what a run writes, of which no disk is to hear."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def children_cpu() -> float:
    """Seconds of processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
