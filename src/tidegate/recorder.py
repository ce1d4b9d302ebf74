"""The flight recorder: what became of a batcher's last few thousand batches, and when."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CAPACITY", "BatchRecord"]

CAPACITY = 4096
"""Batches that each batcher remembers."""


@dataclass(frozen=True)
class BatchRecord:
    """One call of the model. Instants are seconds of ``time.monotonic()``.

    Attributes:
        sequence: Counts the batcher's batches from 0, in the order in which they ended.
        submitted: When the oldest of its rows was submitted.
        taken: When it was taken from the queue; no row joined it after that.
        model_started: When the model was called.
        model_ended: When the model had answered and its answer was checked.
        delivered: When all who waited had been told; None while that goes on.
        rows: Rows that the model was called with.
        failed_rows: How many of them failed.
        reason: Why it went: ``full``, ``idle``, ``delay``, ``drain`` or ``cost``, see Statistics.
        outcome: ``completed``, ``failed`` (the model raised, or its answer did not fit) or
            ``abandoned`` (close() ran out of time).
        executor: The number of the instance that ran it, from 0.
        led: Whether a waiting caller ran it itself.
    """

    sequence: int
    submitted: float
    taken: float
    model_started: float
    model_ended: float
    delivered: float | None
    rows: int
    failed_rows: int
    reason: str
    outcome: str
    executor: int
    led: bool

    @property
    def queue_duration(self) -> float:
        """Seconds that its oldest row waited for the model."""
        return self.model_started - self.submitted

    @property
    def model_duration(self) -> float:
        """Seconds that the model took."""
        return self.model_ended - self.model_started
