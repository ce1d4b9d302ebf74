"""Bytes to floats: scaled, shifted, and with the channels moved to the front if wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tidegate.errors import ConfigError
from tidegate.gpu import kernels
from tidegate.gpu.arrays import (
    LARGEST,
    Array,
    check_array,
    check_out,
    describe,
    host_rows,
    module_of,
    refuse,
    row_pitch,
)
from tidegate.gpu.kernels import Arguments
from tidegate.gpu.rounding import RESULT_TYPES, affine_table, round_to, suffix_of

__all__ = ["u8_affine"]

MOST_CHANNELS = 4
LAYOUTS = ("same", "channels_first")

AFFINE = np.dtype([("scale", np.float32, MOST_CHANNELS), ("bias", np.float32, MOST_CHANNELS)])


def u8_affine(
    x: Array,
    scale: float | Sequence[float] = 1.0,
    bias: float | Sequence[float] = 0.0,
    *,
    dtype: Any = "float32",
    layout: str = "same",
    fill: float = 0.0,
    rows: int | Array | None = None,
    out: Array | None = None,
) -> Array:
    """Bytes as floats: ``x * scale + bias`` per channel, in one pass.

    Product and sum are rounded once, to float32, and then once more, to the nearest with ties to
    even, if `dtype` is shorter. NumPy and the device agree in every bit.

    Args:
        x: uint8 array of shape (n, ..., c), the channels last. Rows may lie apart.
        scale: One finite number, or one for each of up to 4 channels.
        bias: The same.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``. The last comes as its bits in uint16.
        layout: ``"same"``, or ``"channels_first"``: (n, ..., 3) becomes (n, 3, ...).
        fill: What the rows behind the valid ones are filled with, a finite number.
        rows: How many rows are valid: None for all, a number, or an int32 array beside `x` that
            starts with it, which is read when the kernel runs.
        out: Where the result goes, a C-contiguous array; None makes one.

    Returns:
        An array of the shape of `x`, or with the channels first; of CuPy if `x` is.

    Raises:
        InputError: An array is not what it must be.
        ConfigError: Another argument is not.
    """
    cupy = module_of(x=x, rows=rows, out=out)
    check_array("x", x, dtype=np.uint8)
    if x.ndim < 1:
        raise refuse("x", "a uint8 array with rows", describe(x))
    scales, biases = _channels(scale, bias)
    channels = len(scales)
    if channels > 1 and (x.ndim < 2 or x.shape[-1] != channels):
        raise refuse("x", f"an array with {channels} channels on its last axis", describe(x))
    name = suffix_of(dtype)
    if layout not in LAYOUTS:
        raise ConfigError(f'layout must be "same" or "channels_first", got {layout!r}')
    if layout == "channels_first" and (x.ndim < 3 or x.shape[-1] != 3):
        raise refuse("x", "an array of shape (n, ..., 3) for channels_first", describe(x))
    filling = _finite("fill", fill)
    first = layout == "channels_first"
    shape = (x.shape[0], x.shape[-1], *x.shape[1:-1]) if first else x.shape
    result_type = RESULT_TYPES[name][0]
    out = check_out("out", out, shape, result_type)
    if first and channels == 1:
        scales, biases = scales * 3, biases * 3
    if cupy is not None:
        return _launch(cupy, x, scales, biases, name, first, filling, rows, out, shape)
    valid = host_rows(rows, x.shape[0])
    result = np.empty(shape, dtype=result_type) if out is None else out
    table = affine_table(scales, biases, name)
    for channel in range(len(scales)):
        alone = len(scales) == 1
        source = x if alone else x[..., channel]
        target = result if alone else result[:, channel] if first else result[..., channel]
        target[:valid] = table[channel][source[:valid]]
    result[valid:] = round_to(np.array(filling, dtype=np.float32).reshape(1), name)[0]
    return result


def _finite(name: str, value: Any) -> float:
    try:
        with np.errstate(over="ignore"):
            number = float(np.float32(value))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be a finite float32 number, got {value!r}")
    return number


def _channels(scale: Any, bias: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both as tuples of one length."""

    def each(name: str, given: Any) -> tuple[float, ...]:
        values = [given] if np.ndim(given) == 0 else list(given)
        if not 1 <= len(values) <= MOST_CHANNELS:
            raise ConfigError(
                f"{name} must be one number or one for each of 1 to {MOST_CHANNELS} channels, "
                f"got {len(values)}"
            )
        return tuple(_finite(name, value) for value in values)

    scales, biases = each("scale", scale), each("bias", bias)
    channels = max(len(scales), len(biases))
    if {len(scales), len(biases)} - {1, channels}:
        raise ConfigError(
            f"scale and bias must be for the same channels, got {len(scales)} and {len(biases)}"
        )
    return (
        scales * (channels // len(scales)),
        biases * (channels // len(biases)),
    )


def _launch(
    cupy: Any,
    x: Array,
    scales: tuple[float, ...],
    biases: tuple[float, ...],
    name: str,
    first: bool,
    fill: float,
    rows: Any,
    out: Array | None,
    shape: tuple[int, ...],
) -> Array:
    result_type, suffix = RESULT_TYPES[name]
    length = math.prod(x.shape[1:])
    if length > LARGEST:
        raise refuse("x", f"rows of at most {LARGEST} bytes", describe(x))
    with x.device:
        result: Array = cupy.empty(shape, dtype=result_type) if out is None else out
        if result.size == 0:
            return result
        pitch = row_pitch(x)
        if pitch is None:
            x = cupy.ascontiguousarray(x)
            pitch = length
        affine = np.zeros(1, dtype=AFFINE)
        turns = 1 if len(scales) == 3 else MOST_CHANNELS // len(scales)
        affine["scale"][0, : len(scales) * turns] = scales * turns
        affine["bias"][0, : len(biases) * turns] = biases * turns
        items = length // 3 if first else length
        width = 16 // result_type.itemsize
        addresses = x.data.ptr % width == 0 and result.data.ptr % 16 == 0
        if items % width or pitch % width or not addresses:
            suffix, width = f"{suffix}_scalar", 1
        capacity = np.int32(x.shape[0])
        header = kernels.header_of(cupy, rows, x.shape[0])
        common = (x, np.int64(pitch), result, header, capacity, np.int32(items))
        arguments: Arguments
        if first:
            kernel, unroll = f"u8_hwc3_chw_{suffix}", 1
            arguments = (*common, affine, np.float32(fill))
        else:
            kernel, unroll = f"u8_affine_{suffix}", 1 if width == 1 else kernels.UNROLL
            arguments = (*common, np.int32(len(scales)), affine, np.float32(fill))
        kernels.launch(
            cupy, kernel, arguments, items=items // width, rows=x.shape[0], unroll=unroll
        )
    return result
