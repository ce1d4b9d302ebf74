"""Token ids as models take them, and the numbers that go with packed tokens."""

from __future__ import annotations

import numpy as np

from tidegate.gpu import kernels
from tidegate.gpu.arrays import (
    Array,
    check_array,
    check_count,
    check_outs,
    dense,
    host_rows,
    module_of,
    named,
)
from tidegate.gpu.kernels import Arguments
from tidegate.gpu.offsets import capacity_of, check_offsets, length_of, spans, tokens_of

__all__ = ["packed_meta", "pad_ids"]


def pad_ids(
    ids: Array,
    cu_seqlens: Array,
    *,
    length: int | None = None,
    fill: int = 0,
    rows: int | Array | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Token ids laid end to end become rows of one length and an attention mask, both int64.

    They cross the bus as int32, and grow to what models take where they are needed.

    Args:
        ids: int32 array of shape (tokens,).
        cu_seqlens: int32 array of capacity + 1 offsets, as pad() takes them.
        length: Tokens of a row, as for pad().
        fill: The id behind a sequence.
        rows: How many sequences are valid, as for pad().
        out: Where ids and mask go, two C-contiguous arrays; None makes them.

    Returns:
        Two int64 arrays of shape (capacity, length): ids, and a mask that is 1 where there is a
        token and 0 elsewhere.

    Raises:
        InputError: An array is not what it must be.
        ConfigError: Another argument is not.
    """
    cupy = module_of(ids=ids, cu_seqlens=cu_seqlens, rows=rows, **named(out))
    check_array("ids", ids, dtype=np.int32, axes=1)
    capacity = capacity_of(cu_seqlens)
    filling = check_count("fill", fill, least=-(2**63), most=2**63 - 1)
    length = length_of(cupy, length, cu_seqlens, rows, len(ids))
    shape = (capacity, length)
    given = check_outs(out, (shape, shape), (np.dtype(np.int64), np.dtype(np.int64)))
    if cupy is not None:
        with ids.device:
            padded, mask = given or (cupy.empty(shape, np.int64), cupy.empty(shape, np.int64))
            if padded.size:
                ids, cu_seqlens = dense(cupy, ids), dense(cupy, cu_seqlens)
                header = kernels.header_of(cupy, rows, capacity)
                arguments: Arguments = (ids, cu_seqlens, padded, mask, header, np.int32(capacity))
                arguments += (np.int32(length), np.int64(filling))
                kernels.launch(cupy, "pad_ids", arguments, items=length, rows=capacity)
        return padded, mask
    valid = host_rows(rows, capacity)
    check_offsets(cu_seqlens, valid, len(ids))
    padded, mask = given or (np.empty(shape, np.int64), np.empty(shape, np.int64))
    padded[...] = filling
    mask[...] = 0
    for row, (begin, used) in enumerate(spans(cu_seqlens, valid, length)):
        padded[row, :used] = ids[begin : begin + used]
        mask[row, :used] = 1
    return padded, mask


def packed_meta(
    cu_seqlens: Array,
    *,
    tokens: int | None = None,
    rows: int | Array | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Where each token of sequences laid end to end belongs.

    Args:
        cu_seqlens: int32 array of capacity + 1 offsets, as pad() takes them.
        tokens: Tokens in all. None takes the end of the last sequence, for which offsets on a
            device are read back, and the host waits.
        rows: How many sequences are valid, as for pad().
        out: Where positions and segments go, two C-contiguous arrays; None makes them.

    Returns:
        Two int32 arrays of shape (tokens,): each token's position in its sequence, and which
        sequence that is; 0 and -1 behind the last sequence.

    Raises:
        InputError: An array is not what it must be.
        ConfigError: Another argument is not.
    """
    cupy = module_of(cu_seqlens=cu_seqlens, rows=rows, **named(out))
    capacity = capacity_of(cu_seqlens)
    tokens = tokens_of(cupy, tokens, cu_seqlens, rows)
    shape = (tokens,)
    given = check_outs(out, (shape, shape), (np.dtype(np.int32), np.dtype(np.int32)))
    if cupy is not None:
        with cu_seqlens.device:
            positions, segments = given or (
                cupy.empty(shape, np.int32),
                cupy.empty(shape, np.int32),
            )
            if tokens:
                header = kernels.header_of(cupy, rows, capacity)
                arguments: Arguments = (dense(cupy, cu_seqlens), positions, segments, header)
                arguments += (np.int32(capacity), np.int32(tokens))
                # The lengths are on the device: as many threads as if they were all alike.
                average = -(-tokens // max(capacity, 1))
                kernels.launch(cupy, "packed_meta", arguments, items=average, rows=capacity + 1)
        return positions, segments
    valid = host_rows(rows, capacity)
    check_offsets(cu_seqlens, valid, tokens)
    positions, segments = given or (np.empty(shape, np.int32), np.empty(shape, np.int32))
    used = int(cu_seqlens[valid])
    lengths = np.diff(cu_seqlens[: valid + 1])
    segments[:used] = np.repeat(np.arange(valid, dtype=np.int32), lengths)
    segments[used:] = -1
    positions[:used] = np.arange(used) - np.repeat(cu_seqlens[:valid], lengths)
    positions[used:] = 0
    return positions, segments
