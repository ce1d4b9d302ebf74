"""Compares answers under load with those of the model alone, one in fifty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.gpu.tasks import Array
from benchmarks.models import WrongAnswerError

__all__ = ["STRIDE", "Checker", "distance"]

STRIDE = 50


class Checker:
    """Compares one answer in fifty with the model's answer to that row alone.

    Args:
        references: Those answers, one for each request.
        tolerance: See Task.
    """

    def __init__(self, references: Sequence[Array], tolerance: float) -> None:
        self.worst = 0.0
        self.checked = 0
        self._references = references
        self._tolerance = tolerance
        self._answers = 0

    def __call__(self, number: int, answer: Array) -> None:
        """Counts an answer, and looks at it if it is its turn; raises WrongAnswerError."""
        self._answers += 1
        if self._answers % STRIDE == 1:
            self.compare(number, answer)

    def compare(self, number: int, answer: Array) -> None:
        """Raises WrongAnswerError unless the answer is near enough."""
        reference = self._references[number % len(self._references)]
        far = distance(answer, reference)
        self.checked += 1
        self.worst = max(self.worst, far)
        if not far <= self._tolerance:  # nor is NaN
            raise WrongAnswerError(
                f"the answer to request {number} is {far:.3g} of its norm away from the model's "
                f"answer to it alone; {self._tolerance:g} is allowed"
            )


def distance(answer: Array, reference: Array) -> float:
    """The norm of the difference, divided by that of the reference."""
    if answer.shape != reference.shape:
        return float("nan")
    wide = reference.astype(np.float64)
    lost = float(np.linalg.norm(answer.astype(np.float64) - wide))
    return lost / max(float(np.linalg.norm(wide)), 1e-30)
