"""Brings answers to who waits for them: to page-locked memory of the host, or to arrays of CuPy's.

Whatever the model answered is first copied, on the stream that it ran on, to memory of the lane's
own. So it may answer with the same buffer each time, with its argument, or with what a CUDA graph
will write to again, and what callers get never changes. Such a copy costs a hundredth of the way
over the bus.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tidegate.gpu.answers import Leaf
from tidegate.gpu.pinned import Pool
from tidegate.gpu.slots import Slot
from tidegate.ragged import PerToken

__all__ = ["Delivery", "ToDevice", "ToHost"]

# cudaMemcpyKind.
_TO_HOST, _ON_DEVICE = 2, 3
_ALIGNMENT = 256


class Delivery(Protocol):
    """One of the two ways."""

    def collect(self, slot: Slot, leaves: Sequence[Leaf]) -> list[Any]:
        """Copies an answer on the stream `run`, which is current.

        Returns:
            The arrays that will hold it once the batch is done, in PerToken where they were.
        """

    def ship(self, slot: Slot) -> None:
        """Sends what was collected on its way, on the stream `down`."""


class ToHost:
    """All arrays of an answer come to the host in one copy, into a block of a pool.

    Args:
        xp: CuPy.
        cuda: cupy.cuda.
        run: The stream that the model runs on.
        down: The stream for the way back.
    """

    def __init__(self, xp: Any, cuda: Any, run: Any, down: Any) -> None:
        self._xp = xp
        self._copy = cuda.runtime.memcpyAsync
        self._run = run
        self._down = down
        self._pool = Pool(cuda)
        self._parcel: tuple[int, int] = (0, 0)

    def collect(self, slot: Slot, leaves: Sequence[Leaf]) -> list[Any]:
        """See Delivery."""
        places, end = [], 0
        for leaf in leaves:
            nbytes = _nbytes(leaf.array) if leaf.on_device else 0
            places.append((end, nbytes))
            end += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        block: Any = None
        if end:
            slot.outbox.reserve(end)
            block = self._pool.take(end)
        arrays: list[Any] = []
        for leaf, (begin, nbytes) in zip(leaves, places, strict=True):
            if nbytes:
                source, part = leaf.array, slice(begin, begin + nbytes)
                if source.flags.c_contiguous:
                    target = slot.outbox.address + begin
                    self._copy(target, source.data.ptr, nbytes, _ON_DEVICE, self._run.ptr)
                else:
                    inside = slot.outbox.array[part].view(source.dtype)
                    self._xp.copyto(inside.reshape(source.shape), source)
                array = block[part].view(source.dtype).reshape(source.shape)
            else:
                array = _own(leaf)
            arrays.append(PerToken(array) if leaf.per_token else array)
        self._parcel = (block.ctypes.data if end else 0, end)
        return arrays

    def ship(self, slot: Slot) -> None:
        """See Delivery."""
        address, nbytes = self._parcel
        if nbytes:
            self._copy(address, slot.outbox.address, nbytes, _TO_HOST, self._down.ptr)


class ToDevice:
    """Answers stay on the device, in arrays of CuPy's that belong to who gets them.

    Args:
        xp: CuPy.
        cuda: cupy.cuda.
        run: The stream that the model runs on.
    """

    def __init__(self, xp: Any, cuda: Any, run: Any) -> None:
        self._xp = xp
        self._copy = cuda.runtime.memcpyAsync
        self._run = run

    def collect(self, slot: Slot, leaves: Sequence[Leaf]) -> list[Any]:
        """See Delivery."""
        arrays: list[Any] = []
        for leaf in leaves:
            if leaf.on_device:
                source = leaf.array
                array = self._xp.empty(source.shape, source.dtype)
                nbytes = _nbytes(source)
                if nbytes and source.flags.c_contiguous:
                    run = self._run.ptr
                    self._copy(array.data.ptr, source.data.ptr, nbytes, _ON_DEVICE, run)
                elif nbytes:
                    self._xp.copyto(array, source)
            else:
                array = _own(leaf)
            arrays.append(PerToken(array) if leaf.per_token else array)
        return arrays

    def ship(self, slot: Slot) -> None:
        """Nothing: it is there."""


def _nbytes(array: Any) -> int:
    return int(math.prod(array.shape) * array.dtype.itemsize)


def _own(leaf: Leaf) -> Any:
    """An array of the host's that nobody else can change."""
    if leaf.on_device:  # and empty
        return np.empty(leaf.array.shape, leaf.array.dtype)
    return np.array(leaf.array)
