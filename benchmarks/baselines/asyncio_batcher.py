"""Batchers for one event loop: the model on the loop, in an executor, or in a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Rows = list[np.ndarray]
Futures = list["asyncio.Future[np.ndarray]"]


def _settle(futures: Futures, outputs: Any) -> None:
    """Give each future its answer, or all of them the same exception."""
    if isinstance(outputs, BaseException):
        for future in futures:
            if not future.done():
                future.set_exception(outputs)
    else:
        for future, output in zip(futures, outputs, strict=True):
            if not future.done():  # a caller may have been cancelled meanwhile
                future.set_result(output)


class InlineBatcher:
    """Runs the model on the event loop itself.

    A full batch goes at once; one that is not full goes at the end of the loop's turn, or `window`
    seconds after its first row. Must be made, and used, inside one running loop.

    Args:
        model: Called with an array of shape `(n, *row.shape)`; returns n answers.
        max_batch_size: The most rows of one call.
        window: Seconds; 0 sends whatever the turn of the loop brought.
        collate: Makes the rows of a batch what the model is called with.
    """

    def __init__(
        self,
        model: Callable[[Any], Any],
        *,
        max_batch_size: int = 64,
        window: float = 0.0,
        collate: Callable[[Rows], Any] = np.stack,
    ) -> None:
        self._model = model
        self._max_batch_size = max_batch_size
        self._window = window
        self._collate = collate
        self._loop = asyncio.get_running_loop()
        self._rows: Rows = []
        self._futures: Futures = []
        self._timer: asyncio.Handle | None = None

    def submit(self, row: np.ndarray) -> asyncio.Future[np.ndarray]:
        """Queue one row; a plain method, because a coroutine would cost a frame a request."""
        future: asyncio.Future[np.ndarray] = self._loop.create_future()
        rows = self._rows
        rows.append(row)
        self._futures.append(future)
        if len(rows) == self._max_batch_size:
            self._dispatch()
        elif self._timer is None:
            self._arm()
        return future

    def close(self) -> None:
        """Stop the timer; whoever closes has awaited the answers."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._window:
            self._timer = self._loop.call_later(self._window, self._dispatch)
        else:
            self._timer = self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        rows, self._rows = self._rows, []
        futures, self._futures = self._futures, []
        if rows:
            self._run(rows, futures)

    def _run(self, rows: Rows, futures: Futures) -> None:
        _settle(futures, self._call(rows))

    def _call(self, rows: Rows) -> Any:
        """Call the model; an exception is an answer like another, for it must cross threads."""
        try:
            outputs = self._model(self._collate(rows))
            if len(outputs) != len(rows):
                raise ValueError(f"{len(rows)} rows went in, {len(outputs)} came out")
            return outputs
        except Exception as error:
            return error


class ExecutorBatcher(InlineBatcher):
    """Runs the model in an executor thread, one `run_in_executor` a batch.

    While batches are running, only full ones go; the end of the last one sends what has gathered.
    """

    def __init__(
        self,
        model: Callable[[Any], Any],
        *,
        max_batch_size: int = 64,
        window: float = 0.0,
        collate: Callable[[Rows], Any] = np.stack,
    ) -> None:
        super().__init__(model, max_batch_size=max_batch_size, window=window, collate=collate)
        self._running = 0
        self._executor = ThreadPoolExecutor(1)

    def close(self) -> None:
        super().close()
        self._executor.shutdown()

    def _arm(self) -> None:
        if not self._running:
            super()._arm()

    def _run(self, rows: Rows, futures: Futures) -> None:
        self._running += 1
        ended = self._loop.run_in_executor(self._executor, self._call, rows)
        ended.add_done_callback(lambda answer: self._finish(futures, answer.result()))

    def _finish(self, futures: Futures, outputs: Any) -> None:
        self._running -= 1
        if not self._running and self._rows:
            self._dispatch()  # before the answers, so that the model works meanwhile
        _settle(futures, outputs)


class ThreadBatcher(ExecutorBatcher):
    """The same with a thread of its own and one `call_soon_threadsafe` a batch."""

    def __init__(
        self,
        model: Callable[[Any], Any],
        *,
        max_batch_size: int = 64,
        window: float = 0.0,
        collate: Callable[[Rows], Any] = np.stack,
    ) -> None:
        InlineBatcher.__init__(
            self, model, max_batch_size=max_batch_size, window=window, collate=collate
        )
        self._running = 0
        self._batches: queue.SimpleQueue[tuple[Rows, Futures] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        InlineBatcher.close(self)
        self._batches.put(None)
        self._thread.join()

    def _run(self, rows: Rows, futures: Futures) -> None:
        self._running += 1
        self._batches.put((rows, futures))

    def _serve(self) -> None:
        while (batch := self._batches.get()) is not None:
            rows, futures = batch
            self._loop.call_soon_threadsafe(self._finish, futures, self._call(rows))
