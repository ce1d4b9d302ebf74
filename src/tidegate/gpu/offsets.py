"""What cu_seqlens says: how many sequences there are, how long they are, and where they begin."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from tidegate.gpu.arrays import (
    LARGEST,
    Array,
    check_array,
    check_count,
    describe,
    host_rows,
    refuse,
)

__all__ = ["capacity_of", "check_offsets", "length_of", "spans", "tokens_of"]


def capacity_of(cu_seqlens: Array) -> int:
    """How many sequences there may be; raises InputError if these are no offsets."""
    check_array("cu_seqlens", cu_seqlens, dtype=np.int32, axes=1)
    if len(cu_seqlens) < 1:
        raise refuse("cu_seqlens", "at least one offset, 0", describe(cu_seqlens))
    return len(cu_seqlens) - 1


def check_offsets(cu_seqlens: Array, rows: int, tokens: int) -> None:
    """Raises InputError unless NumPy's offsets cut `rows` sequences out of `tokens` tokens.

    Args:
        cu_seqlens: int32 array of at least ``rows + 1`` entries: 0, then where each ends.
        rows: How many sequences; what is behind is not looked at.
        tokens: How many tokens there are.
    """
    used = cu_seqlens[: rows + 1]
    if int(used[0]) != 0 or bool((np.diff(used) < 0).any()):
        given = np.array2string(used, threshold=12, edgeitems=4, separator=", ")
        raise refuse("cu_seqlens", "offsets that start with 0 and never decrease", given)
    if int(used[-1]) > tokens:
        last = f"a last one of {int(used[-1])}"
        raise refuse("cu_seqlens", f"offsets into {tokens} tokens", last)


def _on_host(cupy: Any, array: Any) -> Any:
    return array.get() if cupy is not None and isinstance(array, cupy.ndarray) else array


def length_of(cupy: Any, length: int | None, cu_seqlens: Array, rows: Any, tokens: int) -> int:
    """`length`, or that of the longest of the valid sequences, for which a device is waited for."""
    if length is not None:
        return check_count("length", length)
    offsets = _on_host(cupy, cu_seqlens)
    valid = host_rows(_on_host(cupy, rows), len(offsets) - 1)
    check_offsets(offsets, valid, tokens)
    return int(np.diff(offsets[: valid + 1]).max(initial=0))


def tokens_of(cupy: Any, tokens: int | None, cu_seqlens: Array, rows: Any) -> int:
    """`tokens`, or those of the valid sequences, for which a device is waited for."""
    if tokens is not None:
        return check_count("tokens", tokens)
    offsets = _on_host(cupy, cu_seqlens)
    valid = host_rows(_on_host(cupy, rows), len(offsets) - 1)
    check_offsets(offsets, valid, LARGEST)
    return int(offsets[valid])


def spans(cu_seqlens: Array, rows: int, length: int) -> list[tuple[int, int]]:
    """Begin of each valid sequence, and how many of its tokens have room in a row of `length`."""
    offsets = [int(offset) for offset in cu_seqlens[: rows + 1]]
    return [(begin, min(end - begin, length)) for begin, end in itertools.pairwise(offsets)]
