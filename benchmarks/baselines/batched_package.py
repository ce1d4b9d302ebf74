"""The PyPI package `batched` (an extra of the benchmarks, never of tidegate) behind `submit`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np


def is_installed() -> bool:
    """Whether `pip install batched` was done here."""
    return importlib.util.find_spec("batched") is not None


class BatchedPackage:
    """`batched.aio.AsyncBatchProcessor` with a model that takes an array.

    Its functions take lists, so the rows are stacked here as its users do; it runs a plain
    function in a thread. Must be made, and used, inside one running loop.

    Args:
        model: Called with an array of shape `(n, *row.shape)`; returns n answers.
        max_batch_size: The most rows of one call.
        window: Seconds between two looks at its queue; its default is 5 ms.
    """

    def __init__(
        self,
        model: Callable[[np.ndarray], Any],
        *,
        max_batch_size: int = 64,
        window: float = 0.005,
    ) -> None:
        def call(rows: list[np.ndarray]) -> list[Any]:
            return list(model(np.stack(rows)))

        aio = importlib.import_module("batched.aio")
        self._processor = aio.AsyncBatchProcessor(
            call, batch_size=max_batch_size, timeout_ms=window * 1000
        )

    def submit(self, row: np.ndarray) -> Awaitable[Any]:
        """Queue one row; `await` the answer."""
        answer: Awaitable[Any] = self._processor(row)
        return answer

    def close(self) -> None:
        """Cancel its endless task, as its own finalizer does; it has no public way to end it."""
        if self._processor._task is not None:
            self._processor._task.cancel()
