"""Ragged rows to rows of one length, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tidegate.errors import ConfigError
from tidegate.gpu import kernels
from tidegate.gpu.arrays import (
    LARGEST,
    Array,
    check_out,
    check_outs,
    dense,
    describe,
    host_rows,
    module_of,
    named,
    refuse,
)
from tidegate.gpu.kernels import Arguments
from tidegate.gpu.offsets import capacity_of, check_offsets, length_of, spans, tokens_of

__all__ = ["pad", "unpad"]

# Bytes of a word, and how the kernels are called for it.
WORDS = ((16, "v16"), (4, "v4"), (2, "v2"), (1, "v1"))

FILL = np.dtype([("words", np.uint32, 4)])


def pad(
    values: Array,
    cu_seqlens: Array,
    *,
    length: int | None = None,
    fill: complex = 0,
    rows: int | Array | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Sequences laid end to end become rows of one length, with a mask.

    Args:
        values: Array of shape (tokens, ...): bool, integers, floats or complex numbers.
        cu_seqlens: int32 array of capacity + 1 offsets: sequence i is
            ``values[cu_seqlens[i]:cu_seqlens[i + 1]]``. NumPy's are checked, up to the valid rows;
            on a device they are trusted.
        length: Tokens of a row; longer sequences lose their ends. None takes the longest sequence,
            for which offsets on a device are read back, and the host waits.
        fill: What is behind a sequence.
        rows: How many sequences are valid: None for all, a number, or an int32 array beside
            `values` that starts with it, which is read when the kernel runs.
        out: Where rows and mask go, two C-contiguous arrays; None makes them.

    Returns:
        The rows, of shape (capacity, length, ...), and a bool array of shape (capacity, length)
        that is true where there is a token. Rows behind the valid ones are all `fill`.

    Raises:
        InputError: An array is not what it must be.
        ConfigError: Another argument is not.
    """
    cupy = module_of(values=values, cu_seqlens=cu_seqlens, rows=rows, **named(out))
    _check_values("values", values, axes=1)
    capacity = capacity_of(cu_seqlens)
    filling = _fill_of(fill, values.dtype)
    length = length_of(cupy, length, cu_seqlens, rows, len(values))
    shape = (capacity, length, *values.shape[1:])
    given = check_outs(out, (shape, shape[:2]), (values.dtype, np.dtype(np.bool_)))
    if cupy is not None:
        return _launch_pad(cupy, values, cu_seqlens, filling, rows, given, shape)
    valid = host_rows(rows, capacity)
    check_offsets(cu_seqlens, valid, len(values))
    padded, mask = given or (np.empty(shape, values.dtype), np.empty(shape[:2], np.bool_))
    padded[...] = filling
    mask[...] = False
    for row, (begin, used) in enumerate(spans(cu_seqlens, valid, length)):
        padded[row, :used] = values[begin : begin + used]
        mask[row, :used] = True
    return padded, mask


def unpad(
    padded: Array,
    cu_seqlens: Array,
    *,
    tokens: int | None = None,
    rows: int | Array | None = None,
    out: Array | None = None,
) -> Array:
    """Rows of one length become sequences laid end to end: what pad() did, undone.

    Args:
        padded: Array of shape (capacity, length, ...).
        cu_seqlens: int32 array of capacity + 1 offsets, as pad() takes them.
        tokens: Tokens of the result. None takes the end of the last sequence, for which offsets on
            a device are read back, and the host waits.
        rows: How many sequences are valid, as for pad().
        out: Where the result goes, a C-contiguous array; None makes one.

    Returns:
        An array of shape (tokens, ...). Tokens that a row was too short for are zero, and so are
        those behind the last sequence.

    Raises:
        InputError: An array is not what it must be.
        ConfigError: Another argument is not.
    """
    cupy = module_of(padded=padded, cu_seqlens=cu_seqlens, rows=rows, out=out)
    _check_values("padded", padded, axes=2)
    capacity = capacity_of(cu_seqlens)
    if padded.shape[0] != capacity:
        raise refuse("padded", f"an array of {capacity} rows, as cu_seqlens is", describe(padded))
    tokens = tokens_of(cupy, tokens, cu_seqlens, rows)
    length = padded.shape[1]
    shape = (tokens, *padded.shape[2:])
    out = check_out("out", out, shape, padded.dtype)
    if cupy is not None:
        return _launch_unpad(cupy, padded, cu_seqlens, rows, out, shape)
    valid = host_rows(rows, capacity)
    check_offsets(cu_seqlens, valid, tokens)
    values = np.empty(shape, padded.dtype) if out is None else out
    values[...] = 0
    for row, (begin, used) in enumerate(spans(cu_seqlens, valid, length)):
        values[begin : begin + used] = padded[row, :used]
    return values


def _check_values(name: str, values: Array, axes: int) -> None:
    sizes = [size for size, _ in WORDS]
    dtype = values.dtype
    if dtype.kind not in "biufc" or dtype.itemsize not in (*sizes, 8) or not dtype.isnative:
        raise refuse(name, "an array of numbers of 1, 2, 4, 8 or 16 bytes", describe(values))
    if values.ndim < axes:
        raise refuse(name, f"an array with at least {axes} axes", describe(values))
    if math.prod(values.shape[axes:]) * dtype.itemsize > LARGEST:
        raise refuse(name, f"tokens of at most {LARGEST} bytes", describe(values))


def _fill_of(fill: Any, dtype: np.dtype[Any]) -> Any:
    """`fill` in the dtype; raises ConfigError if it is no number that the dtype can hold."""
    given = np.asarray(fill)
    number = given.ndim == 0 and given.dtype.kind in "biufc"
    if number and (given.dtype.kind != "c" or dtype.kind == "c"):
        with np.errstate(all="ignore"):  # of NaN to an integer, which is seen below
            filling = given.astype(dtype)
        if dtype.kind in "fc" or bool(filling == given):
            return filling[()]
    raise ConfigError(f"fill must be a number that {dtype} can hold, got {fill!r}")


def _word_of(token_bytes: int, *arrays: Any) -> tuple[int, str]:
    """The largest word that tokens are whole numbers of, wherever the arrays begin."""
    for size, suffix in WORDS:
        if token_bytes % size == 0 and all(array.data.ptr % size == 0 for array in arrays):
            return token_bytes // size, suffix
    raise AssertionError("everything is a whole number of bytes")


def _launch_pad(
    cupy: Any,
    values: Array,
    cu_seqlens: Array,
    fill: Any,
    rows: Any,
    given: tuple[Array, Array] | None,
    shape: tuple[int, ...],
) -> tuple[Array, Array]:
    capacity, length = shape[:2]
    with values.device:
        padded, mask = given or (cupy.empty(shape, values.dtype), cupy.empty(shape[:2], np.bool_))
        if mask.size == 0:
            return padded, mask
        values, cu_seqlens = dense(cupy, values), dense(cupy, cu_seqlens)
        width, suffix = _word_of(
            math.prod(values.shape[1:]) * values.dtype.itemsize, values, padded
        )
        pattern = np.full(16 // values.dtype.itemsize, fill, dtype=values.dtype).view(FILL)
        header = kernels.header_of(cupy, rows, capacity)
        arguments: Arguments = (values, cu_seqlens, padded, mask, header, np.int32(capacity))
        arguments += (np.int32(length), np.int32(width), pattern)
        items = length * max(width, 1)
        kernels.launch(
            cupy, f"pad_{suffix}", arguments, items=items, rows=capacity, unroll=kernels.UNROLL
        )
    return padded, mask


def _launch_unpad(
    cupy: Any,
    padded: Array,
    cu_seqlens: Array,
    rows: Any,
    out: Array | None,
    shape: tuple[int, ...],
) -> Array:
    capacity, length = padded.shape[:2]
    tokens = shape[0]
    with padded.device:
        values: Array = cupy.empty(shape, padded.dtype) if out is None else out
        if values.size == 0:
            return values
        padded, cu_seqlens = dense(cupy, padded), dense(cupy, cu_seqlens)
        width, suffix = _word_of(math.prod(shape[1:]) * padded.dtype.itemsize, padded, values)
        header = kernels.header_of(cupy, rows, capacity)
        arguments: Arguments = (padded, cu_seqlens, values, header, np.int32(capacity))
        arguments += (np.int32(tokens), np.int32(length), np.int32(width))
        # A row beyond the valid ones stands for what is behind the last sequence.
        kernels.launch(
            cupy,
            f"unpad_{suffix}",
            arguments,
            items=max(length, 1) * width,
            rows=capacity + 1,
            unroll=kernels.UNROLL,
        )
    return values
