"""How long each sequence is, for models of padded rows."""

from __future__ import annotations

import numpy as np

from tidegate.gpu import kernels
from tidegate.gpu.arrays import Array, check_out, dense, host_rows, module_of
from tidegate.gpu.kernels import Arguments
from tidegate.gpu.offsets import capacity_of

__all__ = ["row_lengths"]


def row_lengths(
    cu_seqlens: Array, *, rows: int | Array | None = None, out: Array | None = None
) -> Array:
    """Tokens of each sequence.

    A difference, but CuPy's own takes more of the host's time, and headers that need not be there.

    Args:
        cu_seqlens: int32 array of capacity + 1 offsets, as pad() takes them.
        rows: How many sequences are valid: None for all, a number, or an int32 array beside the
            offsets that starts with it, which is read when the kernel runs.
        out: Where the result goes, a C-contiguous array; None makes one.

    Returns:
        An int32 array of shape (capacity,), 0 for what is not valid.

    Raises:
        InputError: An array is not what it must be.
        ConfigError: Another argument is not.
    """
    cupy = module_of(cu_seqlens=cu_seqlens, rows=rows, out=out)
    capacity = capacity_of(cu_seqlens)
    given = check_out("out", out, (capacity,), np.int32)
    if cupy is not None:
        with cu_seqlens.device:
            lengths: Array = cupy.empty((capacity,), np.int32) if given is None else given
            if capacity:
                header = kernels.header_of(cupy, rows, capacity)
                arguments: Arguments = (dense(cupy, cu_seqlens), lengths, header)
                arguments += (np.int32(capacity),)
                kernels.launch(cupy, "row_lengths", arguments, items=capacity, rows=1)
        return lengths
    valid = host_rows(rows, capacity)
    lengths = np.empty(capacity, np.int32) if given is None else given
    lengths[:valid] = np.diff(cu_seqlens[: valid + 1])
    lengths[valid:] = 0
    return lengths
