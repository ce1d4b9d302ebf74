"""Makes the batcher of a measured server, and imports no other: the server's memory is measured."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np

MAX_BATCH_SIZE = 64

Model = Callable[[np.ndarray], np.ndarray]
Submit = Callable[[np.ndarray], Awaitable[Any]]

BY_HAND = {
    "executor": "ExecutorBatcher",
    "thread": "ThreadBatcher",
    "thread-5ms": "ThreadBatcher",
    "inline": "InlineBatcher",
}
WINDOWS = {"thread-5ms": 0.005}
"""Seconds that a batcher written by hand gathers rows while its model is idle; 0 for others."""

TIDEGATE = {"tidegate": "thread", "tidegate-inline": "inline"}
KINDS = (*BY_HAND, *TIDEGATE)


def tidegate_batcher(kind: str, model: Model) -> Any:
    """A `Batcher` of one of the kinds of TIDEGATE."""
    from tidegate import Batcher, TensorSpec

    inputs = TensorSpec((64,), "float32")
    executor: Any = TIDEGATE[kind]
    return Batcher(
        model, name="mlp", inputs=inputs, max_batch_size=MAX_BATCH_SIZE, executor=executor
    )


@contextlib.asynccontextmanager
async def batching(kind: str, model: Model) -> AsyncIterator[Submit]:
    """The `submit` of one of KINDS, within the running loop that will use it."""
    if kind in TIDEGATE:
        async with tidegate_batcher(kind, model) as batcher:
            yield batcher.submit
    else:
        from benchmarks.baselines import asyncio_batcher

        made = getattr(asyncio_batcher, BY_HAND[kind])(
            model, max_batch_size=MAX_BATCH_SIZE, window=WINDOWS.get(kind, 0.0)
        )
        with contextlib.closing(made):
            yield made.submit
