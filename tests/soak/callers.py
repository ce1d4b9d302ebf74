"""What callers in threads and in event loops have in common."""

from __future__ import annotations

import random
from typing import Any

from tests.soak.ledger import Ledger
from tests.soak.stand import PATIENCE, Stand
from tidegate import Batcher, ClosedError, Future

# How long to wait when the queue is full. Asking again at once would only keep the model from work.
BACK_OFF = 0.0002
# Requests that are on their way, and which of the ledger's they are.
Flight = list[tuple[int, Future]]


class Caller:
    """Takes requests from the ledger and sees each to its end.

    Args:
        ledger: The round's requests.
        stand: Lends the Batcher.
        rng: Chooses what is done.
    """

    def __init__(self, ledger: Ledger, stand: Stand, rng: random.Random) -> None:
        self.ledger = ledger
        self.stand = stand
        self.rng = rng
        self.batcher: Batcher = stand.batcher

    def submit(self, index: int, timeout: float | None) -> Future:
        """Submits a request to whichever Batcher is there; QueueFullError is the caller's."""
        row = self.ledger.rows[index]
        while True:
            try:
                return self.batcher.submit(row, timeout=timeout)
            except ClosedError:
                self.batcher = self.stand.other_than(self.batcher)

    def some_timeout(self) -> float | None:
        """Mostly none; sometimes one that passes before the request's turn comes."""
        if self.rng.random() < 0.8:
            return None
        return self.rng.choice([0.0, 0.00005, 0.001, PATIENCE])

    def pieces(self, indices: range) -> list[range]:
        """Cuts them into runs that the queue can hold, for submit_many."""
        longest = min(self.rng.choice([1, 5, 30, 128]), self.batcher.max_queue_size)
        return [indices[start : start + longest] for start in range(0, len(indices), longest)]

    def rows_of(self, indices: range) -> Any:
        """Their rows, one below the other."""
        return self.ledger.rows[indices.start : indices.stop]
