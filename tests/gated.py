"""A model that a test lets finish, and waiting for what another thread is about to do."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tidegate import Batcher, Future

PATIENCE = 20.0
ROW = np.zeros(3)


class Gated:
    """Doubles its batches, each only once `gate` is open."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.batches: list[Any] = []

    def __call__(self, rows: Any) -> Any:
        """The model."""
        self.batches.append(np.array(rows))
        self.entered.release()
        assert self.gate.wait(PATIENCE), "the test never opened the gate"
        return rows * 2

    def await_entry(self) -> None:
        """Returns once the model has been called (once more than at the last time)."""
        assert self.entered.acquire(timeout=PATIENCE), "the model was not called"

    @property
    def rows_seen(self) -> int:
        """Rows that reached the model."""
        return sum(len(batch) for batch in self.batches)


def until(condition: Callable[[], object]) -> None:
    """Returns once `condition()` holds, which another thread is about to bring about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.001)


def in_thread(work: Callable[[], Any]) -> Work:
    """Starts `work` in a thread of its own."""
    started = Work(work)
    started.start()
    return started


class Work(threading.Thread):
    """A daemon thread with an outcome."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._answer: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """The thread's body."""
        try:
            self._answer = self._work()
        except BaseException as error:
            self._error = error

    @property
    def asleep(self) -> bool:
        """True if the thread waits for something."""
        stat = Path(f"/proc/self/task/{self.native_id}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "S"

    def outcome(self) -> Any:
        """What the work returned, or raises what it raised; waits for it."""
        self.join(PATIENCE)
        assert not self.is_alive(), "the thread did not end"
        if self._error is not None:
            raise self._error
        return self._answer


class Holding:
    """Calls another model with its batches, each only once `gate` is open, and keeps copies."""

    def __init__(self, model: Callable[[Any], Any]) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.batches: list[Any] = []
        self._model = model

    def __call__(self, batch: Any) -> Any:
        """The model."""
        self.batches.append(copy.deepcopy(batch))
        self.entered.release()
        assert self.gate.wait(PATIENCE), "the test never opened the gate"
        return self._model(batch)

    def await_entry(self) -> None:
        """Returns once the model has been called (once more than at the last time)."""
        assert self.entered.acquire(timeout=PATIENCE), "the model was not called"

    def ask_together(self, batcher: Batcher, rows: Iterable[Any]) -> list[Future]:
        """Submits one row, and the others while the model has that; then opens the gate."""
        first, *others = rows
        futures = [batcher.submit(first)]
        self.await_entry()
        futures += [batcher.submit(row) for row in others]
        self.gate.set()
        return futures
