"""How the seconds of a run are shared out: each section gets its part of what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

__all__ = ["Budget"]


class Budget:
    """Seconds for sections that run one after the other.

    What a section leaves over goes to those behind it, and what it takes too much is lost to them.

    Args:
        seconds: For all of them.
        shares: How they divide them, in any unit, by their names.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        seconds: float,
        shares: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._end = clock() + seconds
        self._waiting = dict(shares)
        self._clock = clock

    @property
    def left(self) -> float:
        """Seconds until the end, not below 0."""
        return max(0.0, self._end - self._clock())

    def open(self, name: str) -> float:
        """The seconds of a section, which begins now."""
        together = sum(self._waiting.values())
        return self.left * self._waiting.pop(name) / together
