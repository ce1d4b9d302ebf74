"""Outputs made small before they travel: the best classes of a row, the mean of a sequence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tidegate.gpu import kernels
from tidegate.gpu.arrays import (
    LARGEST,
    Array,
    check_array,
    check_count,
    check_out,
    check_outs,
    dense,
    describe,
    host_rows,
    module_of,
    named,
    refuse,
    row_pitch,
)
from tidegate.gpu.kernels import Arguments
from tidegate.gpu.offsets import capacity_of, check_offsets

__all__ = ["segment_mean", "softmax_topk"]

MOST_RANKED = 16


def softmax_topk(
    logits: Array,
    k: int,
    *,
    rows: int | Array | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """The k largest of each row, with their shares in the row's softmax.

    Equal values come in the order of their indices. Infinities count as the limit says: those that
    equal the largest value share the probability evenly, also where all are -inf. NaN comes last;
    a row with a NaN has NaN for all its probabilities.

    Args:
        logits: float32 array of shape (capacity, n). Rows may lie apart.
        k: 1 to 16, and at most n.
        rows: How many rows are valid: None for all, a number, or an int32 array beside `logits`
            that starts with it, which is read when the kernel runs.
        out: Where indices and probabilities go, two C-contiguous arrays; None makes them.

    Returns:
        An int32 array and a float32 array of shape (capacity, k): indices and probabilities, the
        largest first; -1 and 0 in the rows behind the valid ones. Probabilities on a device differ
        from NumPy's by at most 5e-5.

    Raises:
        InputError: An array is not what it must be.
        ConfigError: `k` or `rows` is out of range.
    """
    cupy = module_of(logits=logits, rows=rows, **named(out))
    check_array("logits", logits, dtype=np.float32, axes=2)
    capacity, n = logits.shape
    if n < 1 or n > LARGEST:
        raise refuse("logits", f"rows of 1 to {LARGEST} values", describe(logits))
    k = check_count("k", k, least=1, most=min(MOST_RANKED, n))
    shape = (capacity, k)
    given = check_outs(out, (shape, shape), (np.dtype(np.int32), np.dtype(np.float32)))
    if cupy is not None:
        with logits.device:
            indices, probabilities = given or (
                cupy.empty(shape, np.int32),
                cupy.empty(shape, np.float32),
            )
            if capacity:
                pitch = row_pitch(logits)
                if pitch is None or pitch % 4:
                    logits = cupy.ascontiguousarray(logits)
                    pitch = 4 * n
                header = kernels.header_of(cupy, rows, capacity)
                arguments: Arguments = (logits, np.int64(pitch // 4), indices, probabilities)
                arguments += (header, np.int32(capacity), np.int32(n), np.int32(k))
                kernels.launch_rows(cupy, "softmax_topk", arguments, items=n, rows=capacity)
        return indices, probabilities
    valid = host_rows(rows, capacity)
    indices, probabilities = given or (np.empty(shape, np.int32), np.empty(shape, np.float32))
    indices[valid:] = -1
    probabilities[valid:] = 0.0
    for row in range(valid):
        best = _first(logits[row], k)
        indices[row] = best
        probabilities[row] = _softmax(logits[row])[best]
    return indices, probabilities


def _first(values: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.intp]:
    """Indices of the k largest, ties in order, NaN last."""
    keys = -values  # NumPy sorts upwards, and NaN to the end
    bound = np.partition(keys, k - 1)[k - 1]
    # Only those that may be among the k are sorted; if the bound is NaN, that is all.
    candidates = np.arange(len(keys)) if np.isnan(bound) else np.flatnonzero(keys <= bound)
    order = np.argsort(keys[candidates], kind="stable")
    return candidates[order[:k]]


def _softmax(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = values.astype(np.float64)
    largest = np.fmax.reduce(wide)
    with np.errstate(invalid="ignore", under="ignore"):
        # By comparing, the largest weighs 1 also if it is infinite.
        weights = np.where(wide == largest, 1.0, np.exp(wide - largest))
        shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def segment_mean(
    x: Array,
    cu_seqlens: Array,
    *,
    normalise: bool = False,
    rows: int | Array | None = None,
    out: Array | None = None,
) -> Array:
    """The mean of each sequence's tokens, as sentence embeddings are made.

    Args:
        x: float32 array of shape (tokens, features), the sequences laid end to end.
        cu_seqlens: int32 array of capacity + 1 offsets: sequence i is
            ``x[cu_seqlens[i]:cu_seqlens[i + 1]]``. NumPy's are checked, up to the valid rows; on a
            device they are trusted.
        normalise: Whether means are divided by their L2 norms (by 1e-12 if these are smaller).
        rows: How many sequences are valid: None for all, a number, or an int32 array beside `x`
            that starts with it, which is read when the kernel runs.
        out: Where the result goes, a C-contiguous array; None makes one.

    Returns:
        A float32 array of shape (capacity, features): zeros for sequences without tokens and for
        the rows behind the valid ones. Sums on a device are Kahan's in float32.

    Raises:
        InputError: An array is not what it must be.
        ConfigError: `rows` is out of range.
    """
    cupy = module_of(x=x, cu_seqlens=cu_seqlens, rows=rows, out=out)
    check_array("x", x, dtype=np.float32, axes=2)
    capacity = capacity_of(cu_seqlens)
    features = x.shape[1]
    shape = (capacity, features)
    out = check_out("out", out, shape, np.float32)
    if cupy is not None:
        with x.device:
            result: Array = cupy.empty(shape, np.float32) if out is None else out
            if result.size:
                x, cu_seqlens = dense(cupy, x), dense(cupy, cu_seqlens)
                aligned = x.data.ptr % 16 == 0 and result.data.ptr % 16 == 0
                wide = features % 4 == 0 and aligned
                name, items = (
                    ("segment_mean_v4", features // 4)
                    if wide
                    else (
                        "segment_mean",
                        features,
                    )
                )
                header = kernels.header_of(cupy, rows, capacity)
                arguments: Arguments = (x, cu_seqlens, result, header, np.int32(capacity))
                arguments += (np.int32(features), np.int32(bool(normalise)))
                kernels.launch_rows(cupy, name, arguments, items=items, rows=capacity)
        return result
    valid = host_rows(rows, capacity)
    check_offsets(cu_seqlens, valid, len(x))
    means = np.zeros(shape, np.float64)
    for row in range(valid):
        tokens = x[cu_seqlens[row] : cu_seqlens[row + 1]]
        if len(tokens):
            means[row] = tokens.mean(axis=0, dtype=np.float64)
    if normalise:
        norms = np.sqrt((means * means).sum(axis=1, keepdims=True))
        means /= np.maximum(norms, 1e-12)
    if out is None:
        return means.astype(np.float32)
    out[...] = means
    return out
