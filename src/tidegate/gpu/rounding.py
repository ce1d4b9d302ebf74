"""float32, float16 and bfloat16 as the kernels round to them, bit for bit, in NumPy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.errors import ConfigError

__all__ = ["RESULT_TYPES", "affine_table", "round_to", "suffix_of"]

# A dtype's name: the dtype of the result, and how the kernels are called for it. NumPy has no
# bfloat16, so its bits go as uint16, which `tensor.view(torch.bfloat16)` understands.
RESULT_TYPES: dict[str, tuple[np.dtype[Any], str]] = {
    "float32": (np.dtype(np.float32), "f32"),
    "float16": (np.dtype(np.float16), "f16"),
    "bfloat16": (np.dtype(np.uint16), "bf16"),
}


def suffix_of(dtype: object) -> str:
    """The name in RESULT_TYPES that `dtype` means; raises ConfigError if there is none."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
    if name not in RESULT_TYPES:
        raise ConfigError(f"dtype must be float32, float16 or bfloat16, got {dtype!r}")
    return name


def round_to(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """float32 values in another type, each rounded once: to the nearest, ties to even.

    Args:
        values: float32 array of any shape.
        dtype: A name in RESULT_TYPES.

    Returns:
        An array of the same shape: float32, float16, or the bits of bfloat16 in uint16.
    """
    if dtype == "float32":
        return values
    if dtype == "float16":
        with np.errstate(over="ignore", under="ignore"):  # infinity is what there is to say
            return values.astype(np.float16)
    bits = np.ascontiguousarray(values).view(np.uint32).reshape(values.shape)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype(np.uint16)


@functools.lru_cache(maxsize=64)
def affine_table(scale: tuple[float, ...], bias: tuple[float, ...], dtype: str) -> npt.NDArray[Any]:
    """What each byte becomes in each channel: ``byte * scale + bias``.

    Product and sum are rounded to float32 together, once, as a fused multiply-add does. They are
    formed in float64, where the product is exact; the sum is rounded to odd there, which keeps the
    second rounding, to float32, from being fooled by the first (Boldo and Melquiond, "Emulation of
    FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).

    Args:
        scale: float32 values, one for each channel.
        bias: The same number of float32 values.
        dtype: A name in RESULT_TYPES.

    Returns:
        An array of shape (channels, 256) in the result's dtype, read-only.
    """
    product = np.multiply.outer(np.array(scale, dtype=np.float64), np.arange(256.0))
    addend = np.broadcast_to(np.array(bias, dtype=np.float64)[:, np.newaxis], product.shape)
    total = product + addend
    # What the sum lost (Knuth's two-sum), and one step towards it where the last bit is even.
    of_addend = total - product
    lost = (product - (total - of_addend)) + (addend - of_addend)
    bits = total.view(np.int64)
    even = (bits & 1) == 0
    away_from_zero = (lost > 0) == (total > 0)
    step = np.where(away_from_zero, 1, -1)
    odd = np.where((lost != 0) & even, bits + step, bits).view(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        table = round_to(odd.astype(np.float32), dtype)
    table.flags.writeable = False
    return table
