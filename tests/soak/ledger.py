"""What became of each request of a round, as its caller and the model saw it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate import (
    ClosedError,
    DeadlineError,
    ModelError,
    OutputError,
    QueueFullError,
    Statistics,
)

# What a caller notes for a request, once.
(
    OPEN,
    ANSWERED,
    ITEM_FAILED,  # by the model, alone
    BATCH_FAILED,  # with all of its batch
    EXPIRED,
    CLOSED,
    WITHDRAWN,  # cancelled, and never seen by the model
    GIVEN_UP,  # cancelled by an event loop, perhaps too late
    SPLIT,  # a row of many of which some did not end well: which is not known
    UNKNOWN,  # it was refused, or ended so that it may not even have been queued
) = range(10)

# What a request asks the model for.
GOOD, BAD_ITEM, POISON = range(3)


class BadItemError(Exception):
    """The model's answer to a BAD_ITEM: it fails that request alone."""


class PoisonError(Exception):
    """The model raises it for a batch with POISON in it."""


class Ledger:
    """The requests of one round: their rows, what to expect, and what happened.

    Args:
        size: Requests.
        salt: Makes their values differ from those of other rounds.
        rng: Chooses what they ask for.
    """

    def __init__(self, size: int, salt: int, rng: np.random.Generator) -> None:
        kinds = rng.choice([GOOD, BAD_ITEM, POISON], p=[0.9965, 0.003, 0.0005], size=size)
        self.salt = salt
        self.size = size
        self.rows: npt.NDArray[np.int64] = np.stack(
            [np.arange(size), np.arange(size) + salt, kinds], axis=1
        )
        self.kinds = kinds.astype(np.uint8).tobytes()
        self.outcomes = bytearray(size)
        self.called_back = bytearray(size)
        self.seen = np.zeros(size, np.uint8)
        self.has_callback = bytearray(size)
        self._lock = threading.Lock()
        self._taken = 0  # under _lock

    def take(self, most: int) -> range:
        """Up to `most` requests that nobody else has; empty when there are none left."""
        with self._lock:
            first = self._taken
            self._taken = min(first + most, self.size)
            return range(first, self._taken)

    # -- the model's side ------------------------------------------------------------------------

    def answer(self, rows: npt.NDArray[np.int64]) -> Any:
        """What the model returns for a batch: an array, or a list if there are bad items."""
        self.seen[rows[:, 0]] += 1
        answers = 3 * rows[:, 1] + 1
        kinds = rows[:, 2]
        if not kinds.any():
            return answers
        if (kinds == POISON).any():
            raise PoisonError
        return [
            BadItemError() if kind == BAD_ITEM else answer
            for kind, answer in zip(kinds, answers, strict=True)
        ]

    # -- the callers' side -----------------------------------------------------------------------

    def note(self, index: int, outcome: int) -> None:
        """Notes how a request ended."""
        assert self.outcomes[index] == OPEN, f"request {index} ended twice"
        self.outcomes[index] = outcome

    def answered(self, index: int, answer: Any) -> None:
        """Notes an answer, which must be the request's own."""
        assert answer == 3 * (index + self.salt) + 1, f"request {index} got {answer!r}"
        assert self.kinds[index] == GOOD
        self.note(index, ANSWERED)

    def failed(self, index: int, error: BaseException) -> None:
        """Notes an error, which must be one that the request may end with."""
        self.note(index, self._outcome_of(error, self.kinds[index] == BAD_ITEM))

    def answered_many(self, indices: range, answers: Any) -> None:
        """Notes the answers to a request of many rows."""
        first, end = indices.start + self.salt, indices.stop + self.salt
        expected = np.arange(3 * first + 1, 3 * end + 1, 3)
        assert np.array_equal(answers, expected), f"requests {indices} got {answers!r}"
        for index in indices:
            self.note(index, ANSWERED)

    def ended_otherwise(self, indices: range, error: BaseException) -> None:
        """Notes requests of which `error` does not say which of them were queued, or ran."""
        if not isinstance(error, QueueFullError):
            self._outcome_of(error, any(self.kinds[index] == BAD_ITEM for index in indices))
        self.noted_many(indices, UNKNOWN)

    def failed_many(self, indices: range, error: BaseException) -> None:
        """Notes the first error of a request of many rows, or that it was cancelled."""
        if not isinstance(error, (asyncio.CancelledError, concurrent.futures.CancelledError)):
            self._outcome_of(error, any(self.kinds[index] == BAD_ITEM for index in indices))
        self.noted_many(indices, SPLIT)

    def noted_many(self, indices: Iterable[int], outcome: int) -> None:
        """Notes the same for each of them."""
        for index in indices:
            self.note(index, outcome)

    def _outcome_of(self, error: BaseException, bad_item: bool) -> int:
        if isinstance(error, BadItemError):
            assert bad_item, "a good item got another's error"
            return ITEM_FAILED
        if isinstance(error, DeadlineError):
            return EXPIRED
        if isinstance(error, ClosedError):
            return CLOSED
        if isinstance(error, ModelError) and not isinstance(error, OutputError):
            assert isinstance(error.__cause__, PoisonError), error.__cause__
            return BATCH_FAILED
        raise AssertionError("no request may end so") from error

    # -- the end ---------------------------------------------------------------------------------

    def counts(self) -> npt.NDArray[np.int64]:
        """Requests by outcome."""
        return np.bincount(np.frombuffer(self.outcomes, np.uint8), minlength=UNKNOWN + 1)

    def check(self, statistics: list[Statistics]) -> None:
        """Checks callers, model and statistics of the round's batchers against each other."""
        outcomes = np.frombuffer(self.outcomes, np.uint8)
        counts = self.counts()
        assert counts[OPEN] == 0, f"{counts[OPEN]} requests never ended"
        assert self.called_back == self.has_callback, "a callback was called twice, or never"
        assert self.seen.max() <= 1, "the model was given a request twice"
        seen = self.seen.astype(bool)
        ran = np.isin(outcomes, (ANSWERED, ITEM_FAILED, BATCH_FAILED))
        assert seen[ran].all(), "a request was answered that the model never saw"
        assert not seen[np.isin(outcomes, (EXPIRED, WITHDRAWN))].any(), (
            "the model was given a request that had been taken back"
        )

        def total(name: str) -> int:
            return sum(getattr(snapshot, name) for snapshot in statistics)

        def between(name: str, least: int, slack: int) -> None:
            value = total(name)
            assert least <= value <= least + slack, (name, least, value, least + slack)

        for snapshot in statistics:
            ended = sum(
                getattr(snapshot, name)
                for name in ("completed", "failed", "cancelled", "expired", "closed")
            )
            assert (snapshot.submitted, snapshot.queue_depth) == (ended, 0), snapshot
        # What is not known of each row leaves some room.
        unknown = int(counts[UNKNOWN])
        split = int(counts[SPLIT]) + unknown
        given_up = outcomes == GIVEN_UP
        late = int(np.count_nonzero(given_up & seen))
        between("submitted", self.size - unknown, unknown)
        assert total("rows") == np.count_nonzero(seen)
        between("completed", int(counts[ANSWERED]), late + split)
        between("failed", int(counts[ITEM_FAILED] + counts[BATCH_FAILED]), late + split)
        between(
            "cancelled", int(counts[WITHDRAWN]) + int(np.count_nonzero(given_up & ~seen)), split
        )
        between("expired", int(counts[EXPIRED]), split)
        between("closed", int(counts[CLOSED]), late + split)
