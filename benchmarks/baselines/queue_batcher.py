"""A batcher for threads: `queue.Queue`, `concurrent.futures.Future` and one worker thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import perf_counter
from typing import Any

import numpy as np

Item = tuple[np.ndarray, "Future[np.ndarray]"]


class QueueBatcher:
    """Batches the rows of many threads.

    The worker takes everything that waits, up to `max_batch_size` rows, and holds a batch that is
    not full back for at most `window` seconds counted from the moment its first row was taken.

    Args:
        model: Called with an array of shape `(n, *row.shape)`; returns n answers.
        max_batch_size: The most rows of one call.
        window: Seconds; 0 sends whatever waits.
        queue_type: `queue.Queue`, or `queue.SimpleQueue`, which is written in C.
        collate: Makes the rows of a batch what the model is called with.
    """

    def __init__(
        self,
        model: Callable[[Any], Any],
        *,
        max_batch_size: int = 64,
        window: float = 0.005,
        queue_type: Callable[[], Any] = queue.Queue,
        collate: Callable[[list[np.ndarray]], Any] = np.stack,
    ) -> None:
        self._model = model
        self._max_batch_size = max_batch_size
        self._window = window
        self._collate = collate
        self._queue = queue_type()
        self._worker = threading.Thread(target=self._serve, daemon=True)
        self._worker.start()

    def submit(self, row: np.ndarray) -> Future[np.ndarray]:
        """Queue one row and return the future of its answer."""
        future: Future[np.ndarray] = Future()
        self._queue.put((row, future))
        return future

    def __call__(self, row: np.ndarray) -> np.ndarray:
        """Queue one row and wait for its answer."""
        return self.submit(row).result()

    def close(self) -> None:
        """Serve what is queued, then end the worker."""
        self._queue.put(None)
        self._worker.join()

    def _serve(self) -> None:
        while True:
            items, closing = self._take()
            if items:
                self._run(items)
            if closing:
                return

    def _take(self) -> tuple[list[Item], bool]:
        """Wait for a first row, then gather more until the batch is full or its window is over."""
        pending = self._queue
        first = pending.get()
        if first is None:
            return [], True
        items = [first]
        deadline = perf_counter() + self._window
        while len(items) < self._max_batch_size:
            try:
                item = pending.get_nowait()  # no clock and no timed wait while rows are there
            except queue.Empty:
                remaining = deadline - perf_counter()
                if remaining <= 0:
                    break
                try:
                    item = pending.get(timeout=remaining)
                except queue.Empty:
                    break
            if item is None:
                return items, True
            items.append(item)
        return items, False

    def _run(self, items: list[Item]) -> None:
        items = [item for item in items if item[1].set_running_or_notify_cancel()]
        if not items:
            return
        try:
            outputs = self._model(self._collate([row for row, _ in items]))
            if len(outputs) != len(items):
                raise ValueError(f"{len(items)} rows went in, {len(outputs)} came out")
        except BaseException as error:
            for _, future in items:
                future.set_exception(error)
            return
        for (_, future), output in zip(items, outputs, strict=True):
            future.set_result(output)
