"""What several test modules share: rows, arrays of other kinds, callbacks, and steps of a loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np

from tests.gated import PATIENCE, ROW, Gated
from tidegate import Batcher


def identity(rows: Any) -> Any:
    """A model that answers with what it was given."""
    return rows


def rows_of(count: int, start: int = 0) -> Any:
    """Rows of three equal numbers, counting up."""
    return np.arange(start, start + count, dtype=float)[:, None] * np.ones(3)


def occupy(batcher: Batcher, model: Gated) -> None:
    """Gives the model a batch that it will not answer before its gate is open."""
    batcher.submit(ROW)
    model.await_entry()


class Tensor:
    """Holds an array, as tensors of other libraries do."""

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The array itself, not a copy."""
        return self.array if dtype is None else self.array.astype(dtype)


class Unreadable:
    """Says that it is an array, and cannot be read."""

    def __array__(self, *_: object, **__: object) -> Any:
        """Fails."""
        raise RuntimeError("the device is gone")


class Subclass(np.ndarray[Any, Any]):
    """An array of another type."""


class Calls:
    """A done callback that remembers its calls, and where they happened."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.threads: list[int] = []
        self._called = threading.Semaphore(0)

    def __call__(self, future: Any) -> None:
        """The callback."""
        self.calls.append(future)
        self.threads.append(threading.get_ident())
        self._called.release()

    def wait(self, times: int = 1) -> None:
        """Returns once it was called so many times more."""
        for _ in range(times):
            assert self._called.acquire(timeout=PATIENCE), "the callback was not called"


async def entered(model: Gated) -> None:
    """Returns once the model has been called, without holding the loop up."""
    await asyncio.get_running_loop().run_in_executor(None, model.await_entry)


async def turns(count: int = 3) -> None:
    """Lets everything run that the loop has ready."""
    for _ in range(count):
        await asyncio.sleep(0)
