"""Where each part of a batch lies in its staging memory, on the host as on a device.

::

    header       int32[16]             rows, tokens, longest row, then zeros
    cu_seqlens   int32[capacity + 1]   only if there are ragged arrays
    payload      one part for each array of a request

Each part begins at a multiple of 256 bytes, which suits every type and every kernel. The payload is
in order of size, the largest part last, so that what a batch uses of it is one span or few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.specs import TensorSpec

__all__ = ["HEADER", "Layout", "Part"]

# Entries of the header.
HEADER = 16
ROWS, TOKENS, LONGEST = 0, 1, 2
_ALIGNMENT = 256
# A gap of at most so many bytes is copied along with what is around it.
_SMALL_GAP = 16384


@dataclass(frozen=True)
class Part:
    """One array of the payload.

    Attributes:
        offset: Where it begins, in bytes.
        shape: With room for all rows or tokens.
        dtype: Of its elements.
        ragged: Whether its first axis counts tokens instead of rows.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ragged: bool

    @property
    def item_bytes(self) -> int:
        """Bytes of one row, or of one token."""
        # Asked for with each batch, and NumPy's product takes ten times as long.
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class Layout:
    """The parts of one batch.

    Args:
        specs: The arrays of one request.
        capacity: Rows that there is room for.
        tokens: Tokens that there is room for, in each of the ragged arrays.

    Attributes:
        nbytes: Size of the memory.
        offsets: Where cu_seqlens begins, in bytes.
        parts: The payload, in the order of `specs`.
    """

    def __init__(self, specs: Sequence[TensorSpec], capacity: int, tokens: int) -> None:
        self.capacity = capacity
        self.tokens = tokens
        self.ragged = any(spec.ragged for spec in specs)
        self.offsets = _aligned(HEADER * 4)
        end = self.offsets + (_aligned((capacity + 1) * 4) if self.ragged else 0)
        shapes = [(tokens if spec.ragged else capacity, *spec.fixed_shape) for spec in specs]
        sizes = [
            int(np.prod(shape, dtype=np.int64)) * spec.dtype.itemsize
            for shape, spec in zip(shapes, specs, strict=True)
        ]
        placed: dict[int, Part] = {}
        for index in sorted(range(len(specs)), key=sizes.__getitem__):
            spec = specs[index]
            placed[index] = Part(end, shapes[index], spec.dtype, spec.ragged)
            end = _aligned(end + sizes[index])
        self.parts = tuple(placed[index] for index in range(len(specs)))
        self.nbytes = end

    def used(self, rows: int, tokens: int) -> list[tuple[int, int]]:
        """The spans, (begin, end) in bytes, that a batch of so many rows and tokens uses."""
        wanted = [(0, self.offsets + ((rows + 1) * 4 if self.ragged else 0))]
        for part in sorted(self.parts, key=lambda part: part.offset):
            size = (tokens if part.ragged else rows) * part.item_bytes
            if size:
                wanted.append((part.offset, part.offset + size))
        spans = wanted[:1]
        for begin, end in wanted[1:]:
            if begin - spans[-1][1] <= _SMALL_GAP:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((begin, end))
        return spans

    def header_of(self, memory: Any) -> Any:
        """The header in `memory`, a uint8 array of NumPy's or CuPy's."""
        return memory[: HEADER * 4].view(np.int32)

    def offsets_of(self, memory: Any) -> Any:
        """cu_seqlens in `memory`, with room for all rows; only if there are ragged arrays."""
        return memory[self.offsets : self.offsets + (self.capacity + 1) * 4].view(np.int32)

    def arrays_of(self, memory: Any) -> list[Any]:
        """The payload in `memory`, in the order of the specs, with room for all rows or tokens."""
        arrays = []
        for part in self.parts:
            size = int(np.prod(part.shape, dtype=np.int64)) * part.dtype.itemsize
            flat = memory[part.offset : part.offset + size]
            arrays.append(flat.view(part.dtype).reshape(part.shape))
        return arrays


def aligned_memory(nbytes: int) -> npt.NDArray[np.uint8]:
    """Uninitialised memory that begins at a multiple of 256 bytes."""
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + nbytes]


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
