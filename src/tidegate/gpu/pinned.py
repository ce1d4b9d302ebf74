"""Page-locked host memory: for batches on their way up, and for answers on their way down."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Lease", "Pool", "new_memory"]

_SMALLEST = 4096
# Free blocks kept of one size; what is freed beyond goes back to the system.
_KEPT = 16


def new_memory(cuda: Any, nbytes: int) -> npt.NDArray[np.uint8]:
    """Page-locked memory of exactly this size, which lives as long as the array or a view of it.

    Not from CuPy's pool, which rounds up to a power of two and keeps what is freed.

    Args:
        cuda: cupy.cuda.
        nbytes: Bytes, at least 1.

    Returns:
        A uint8 array that begins at a page, and so at a multiple of 256 bytes.
    """
    memory = cuda.PinnedMemory(nbytes, cuda.runtime.hostAllocPortable)
    return np.frombuffer(cuda.PinnedMemoryPointer(memory, 0), np.uint8)


class Lease:
    """A block lent to arrays, which goes back to its pool when the last of them is gone.

    NumPy keeps it as the base of the arrays made of it, and views keep those; so nobody has to
    count references, which a build without the GIL could not.
    """

    __slots__ = ("__array_interface__", "_block", "_home")

    def __init__(self, block: npt.NDArray[np.uint8], home: deque[npt.NDArray[np.uint8]]) -> None:
        self._block = block
        self._home = home
        self.__array_interface__ = block.__array_interface__

    def __del__(self) -> None:
        # From whichever thread drops the last array, also in the middle of a collection: nothing
        # here may lock. A deque's append does not, and drops from the other end if it is full.
        self._home.append(self._block)


class Pool:
    """Blocks for answers, used again only when no array refers to them.

    Args:
        cuda: cupy.cuda.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._free: dict[int, deque[npt.NDArray[np.uint8]]] = {}

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """A block of at least `nbytes` bytes that nobody else has, on the current device.

        The block is free again once neither the array nor any view of it is left. To be called by
        one thread at a time.
        """
        size = _class_of(nbytes)
        home = self._free.setdefault(size, deque(maxlen=_KEPT))
        try:
            block = home.pop()
        except IndexError:
            block = new_memory(self._cuda, size)
        return np.asarray(Lease(block, home))


def _class_of(nbytes: int) -> int:
    """`nbytes`, rounded up to one of four sizes between two powers of two."""
    if nbytes <= _SMALLEST:
        return _SMALLEST
    step = 1 << ((nbytes - 1).bit_length() - 3)
    return -(-nbytes // step) * step
