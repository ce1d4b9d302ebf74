"""What threads ask of a Batcher, in every way there is."""

from __future__ import annotations

import concurrent.futures
import functools
import random
import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from tests.soak.callers import BACK_OFF, Caller, Flight
from tests.soak.ledger import UNKNOWN, WITHDRAWN, BadItemError, Ledger
from tests.soak.stand import PATIENCE, Stand
from tidegate import ClosedError, DeadlineError, Future, QueueFullError, TidegateError


class ThreadCaller(Caller):
    """A thread that asks in all ways, one after another; see Caller."""

    def __init__(self, ledger: Ledger, stand: Stand, rng: random.Random) -> None:
        super().__init__(ledger, stand, rng)
        self._called = threading.Semaphore(0)
        self._ways: list[Callable[[range], None]] = [
            *[self.window] * 4,
            self.cancelling,
            self.waited_for,
            self.with_callbacks,
            self.calls,
            self.many,
            self.mapped,
        ]

    def run(self) -> None:
        """The body of the thread: goes on until there are no more requests."""
        while indices := self.ledger.take(self.rng.choice([8, 32, 128])):
            self.batcher = self.stand.batcher
            self.rng.choice(self._ways)(indices)

    def flight(self, indices: range) -> Flight:
        """Submits them; those that had to make room for others have ended already."""
        timeout = self.some_timeout()
        flight: Flight = []
        for index in indices:
            while True:
                try:
                    flight.append((index, self.submit(index, timeout)))
                    break
                except QueueFullError:
                    if not flight:
                        time.sleep(BACK_OFF)
                    for pair in flight:
                        self.end(*pair)
                    flight.clear()
        return flight

    def end(self, index: int, future: Future) -> None:
        """Waits for a request and notes how it ended."""
        try:
            answer = future.result(PATIENCE)
        except (TidegateError, BadItemError) as error:
            self.ledger.failed(index, error)
        else:
            self.ledger.answered(index, answer)

    # -- ways ------------------------------------------------------------------------------------

    def window(self, indices: range) -> None:
        """Submits them all, then reads the answers; some in vain at first."""
        for index, future in self.flight(indices):
            if index % 64 == 0:
                try:
                    future.exception(0)
                except TimeoutError as error:
                    assert type(error) is TimeoutError, error
            self.end(index, future)

    def cancelling(self, indices: range) -> None:
        """Takes some of them back."""
        for index, future in self.flight(indices):
            if index % 3 == 0 and future.cancel():
                assert future.cancelled()
                self.ledger.note(index, WITHDRAWN)
            else:
                self.end(index, future)

    def waited_for(self, indices: range) -> None:
        """Has concurrent.futures wait for them."""
        flight = self.flight(indices)
        futures: list[Any] = [future for _, future in flight]
        if indices.start % 3 == 0:
            waited = concurrent.futures.wait(futures, timeout=PATIENCE)
            assert not waited.not_done
        else:
            ended = list(concurrent.futures.as_completed(futures, timeout=PATIENCE))
            assert len(ended) == len(futures)
        for index, future in flight:
            assert future.done()
            self.end(index, future)

    def with_callbacks(self, indices: range) -> None:
        """Hears of each end through a callback, exactly once."""

        def called_back(index: int, future: Future) -> None:
            assert future.done()
            self.ledger.called_back[index] += 1
            self._called.release()

        flight = self.flight(indices)
        for index, future in flight:
            self.ledger.has_callback[index] = 1
            future.add_done_callback(functools.partial(called_back, index))
        for _ in flight:
            assert self._called.acquire(timeout=PATIENCE), "a callback was never called"
        for index, future in flight:
            self.end(index, future)

    def calls(self, indices: range) -> None:
        """Calls the Batcher for each."""
        for index in indices:
            while True:
                try:
                    answer = self.batcher(self.ledger.rows[index])
                except QueueFullError:
                    time.sleep(BACK_OFF)
                    continue
                except (ClosedError, DeadlineError) as error:
                    self.ledger.ended_otherwise(range(index, index + 1), error)
                    self.batcher = self.stand.batcher
                except (TidegateError, BadItemError) as error:
                    self.ledger.failed(index, error)
                else:
                    self.ledger.answered(index, answer)
                break

    def many(self, indices: range) -> None:
        """Submits several as one, and takes some of those back."""
        flight: list[tuple[range, Future]] = []
        for piece in self.pieces(indices):
            try:
                flight.append((piece, self.batcher.submit_many(self.rows_of(piece))))
            except (QueueFullError, ClosedError) as error:
                self.ledger.ended_otherwise(piece, error)
                self.batcher = self.stand.batcher
        for piece, future in flight:
            if piece.start % 11 == 0:
                future.cancel()
            try:
                answers = future.result(PATIENCE)
            except (TidegateError, BadItemError, concurrent.futures.CancelledError) as error:
                self.ledger.failed_many(piece, error)
            else:
                self.ledger.answered_many(piece, answers)

    def mapped(self, indices: range) -> None:
        """Maps over them; sometimes it loses interest half-way."""
        rows = (self.ledger.rows[index] for index in indices)
        answers: Any = self.batcher.map(rows)
        wanted = len(indices) if self.rng.random() < 0.8 else len(indices) // 2
        done = 0
        try:
            for index, answer in zip(indices, islice(answers, wanted), strict=False):
                self.ledger.answered(index, answer)
                done += 1
        except (TidegateError, BadItemError) as error:
            self.ledger.ended_otherwise(indices[done:], error)
        else:
            answers.close()
            self.ledger.noted_many(indices[done:], UNKNOWN)
