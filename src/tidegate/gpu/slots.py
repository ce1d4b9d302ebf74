"""A slot of the ring: what a batch has on the device, from its upload until its answer is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

from tidegate._layout import Layout
from tidegate.gpu.collation import Argument, Collation

__all__ = ["Slot"]

_ALIGNMENT = 256
# Arguments that are kept, so that their views need not be made again.
_MOST_ARGUMENTS = 256


class _Growing:
    """Memory of the device that is made anew when it is too small, and never before.

    It is allocated on the stream `up`, where nothing else is: CuPy's pool hands out memory again
    that its own stream still works on, and other streams must not meet such memory.
    """

    def __init__(self, xp: Any, up: Any) -> None:
        self._xp = xp
        self._up = up
        self.array: Any = None
        self.address = 0
        self.nbytes = 0

    def reserve(self, nbytes: int) -> bool:
        """Makes sure of `nbytes` bytes; returns whether they are elsewhere now."""
        if nbytes <= self.nbytes:
            return False
        wanted = max(nbytes, self.nbytes + self.nbytes // 2)
        self.array = None
        with self._up:
            self.array = self._xp.empty(wanted, "uint8")
        self.address = self.array.data.ptr
        self.nbytes = wanted
        return True


class Slot:
    """The memory and the events of one batch under way.

    Args:
        xp: CuPy.
        cuda: cupy.cuda.
        up: The stream that uploads.

    Attributes:
        memory: What batches are uploaded to.
        outbox: What answers are collected in.
        uploaded: Recorded behind the upload.
        ran: Recorded behind the model.
        done: Recorded behind everything; hosts wait for it without spinning.
        flight: The batch that is under way, or None.
        held: What it needs until then.
        replays: Captured graphs, by the size, the length and the addresses of their arguments.
    """

    def __init__(self, xp: Any, cuda: Any, up: Any) -> None:
        self._xp = xp
        self.memory = _Growing(xp, up)
        self._made = _Growing(xp, up)
        self.outbox = _Growing(xp, up)
        self.uploaded = cuda.Event(disable_timing=True)
        self.ran = cuda.Event(disable_timing=True)
        self.done = cuda.Event(block=True, disable_timing=True)
        self.flight: Any = None
        self.held: tuple[Any, ...] = ()
        self.replays: dict[tuple[int, int, tuple[object, ...]], Callable[[], Any]] = {}
        self._arguments: dict[Hashable, Argument] = {}

    def argument(
        self,
        collation: Collation,
        layout: Layout,
        *,
        size: int,
        length: int,
        tokens: int,
        longest: int,
    ) -> tuple[Argument, int]:
        """What the model is called with for such a batch, over memory that is there for it.

        Returns:
            The argument, and how many captured graphs were lost since the memory had to grow.
        """
        packed = collation.collate == "pack"
        key = (layout.capacity, layout.tokens, size, length)
        known = self._arguments.get(key)
        if known is not None:
            return known, 0
        shapes = collation.results(size, length)
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in shapes]
        moved = self.memory.reserve(layout.nbytes)
        moved |= self._made.reserve(sum(_aligned(nbytes) for nbytes in sizes))
        lost = 0
        if moved:
            lost = len(self.replays)
            self.replays.clear()
        if moved or len(self._arguments) >= _MOST_ARGUMENTS:
            self._arguments.clear()
        results, begin = [], 0
        for (shape, dtype), nbytes in zip(shapes, sizes, strict=True):
            if nbytes:
                flat = self._made.array[begin : begin + nbytes]
                results.append(flat.view(dtype).reshape(shape))
            else:
                results.append(self._xp.empty(shape, dtype))
            begin += _aligned(nbytes)
        extent = {"size": size, "length": length, "tokens": tokens, "longest": longest}
        argument = collation.bind(layout, self.memory.array, results, **extent)
        if not packed:
            self._arguments[key] = argument
        return argument, lost

    def release(self) -> None:
        """Forgets the batch, which is done."""
        self.flight = None
        self.held = ()

    def clear(self) -> None:
        """Forgets the memory, too."""
        self.release()
        self.replays.clear()
        self._arguments.clear()
        for memory in (self.memory, self._made, self.outbox):
            memory.array, memory.nbytes = None, 0


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
