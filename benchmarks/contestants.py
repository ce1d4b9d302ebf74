"""Makes every batcher that is measured, behind one face for threads and one for an event loop."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.baselines.asyncio_batcher import ExecutorBatcher, InlineBatcher, ThreadBatcher
from benchmarks.baselines.batched_package import BatchedPackage
from benchmarks.baselines.queue_batcher import QueueBatcher
from benchmarks.models import Model
from tidegate import Batcher

MAX_BATCH_SIZE = 64
WINDOW = 0.005

Call = Callable[[np.ndarray], np.ndarray]
Submit = Callable[[np.ndarray], Awaitable[Any]]
ForThreads = Callable[[Model], contextlib.AbstractContextManager[Any]]
ForLoop = Callable[[Model], contextlib.AbstractAsyncContextManager[Submit]]


def tidegate(**options: Any) -> ForThreads:
    """A `Batcher` for threads: it is called, and has `submit`."""
    return lambda model: Batcher(model, max_batch_size=MAX_BATCH_SIZE, **options)


def queued(**options: Any) -> ForThreads:
    """The batcher on `queue.Queue` and `concurrent.futures.Future`, likewise."""
    return lambda model: contextlib.closing(
        QueueBatcher(model, max_batch_size=MAX_BATCH_SIZE, **options)
    )


def simple_queued(**options: Any) -> ForThreads:
    """The same on `queue.SimpleQueue`."""
    return queued(queue_type=queue.SimpleQueue, **options)


def bare() -> ForThreads:
    """No batcher: the model is called with a batch of one row, as a view."""

    @contextlib.contextmanager
    def make(model: Model) -> Iterator[Call]:
        yield lambda row: model(row[None])[0]

    return make


def tidegate_for_loop(**options: Any) -> ForLoop:
    """A `Batcher` for coroutines."""

    @contextlib.asynccontextmanager
    async def make(model: Model) -> AsyncIterator[Submit]:
        async with Batcher(model, max_batch_size=MAX_BATCH_SIZE, **options) as batcher:
            yield batcher.submit

    return make


def _for_loop(kind: Callable[..., Any], options: dict[str, Any]) -> ForLoop:
    @contextlib.asynccontextmanager
    async def make(model: Model) -> AsyncIterator[Submit]:
        with contextlib.closing(kind(model, max_batch_size=MAX_BATCH_SIZE, **options)) as batcher:
            yield batcher.submit

    return make


def asyncio_inline(**options: Any) -> ForLoop:
    """The hand-written batcher with its model on the loop."""
    return _for_loop(InlineBatcher, options)


def asyncio_executor(**options: Any) -> ForLoop:
    """The hand-written batcher with its model in an executor thread."""
    return _for_loop(ExecutorBatcher, options)


def asyncio_thread(**options: Any) -> ForLoop:
    """The hand-written batcher with a thread of its own."""
    return _for_loop(ThreadBatcher, options)


def batched(**options: Any) -> ForLoop:
    """The PyPI package `batched`."""
    return _for_loop(BatchedPackage, options)
