"""Compiles kernels.cu when a kernel is first needed on a device, and launches it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tidegate.gpu.arrays import Array, check_count, check_header

__all__ = ["KERNELS", "OPTIONS", "Arguments", "header_of", "launch", "prepare", "source"]

# Arrays, NumPy scalars of exactly the parameters' types, and structs by value, as NumPy arrays of
# one element.
Arguments: TypeAlias = tuple[Any, ...]

OPTIONS = ("-std=c++17",)

_TYPES = ("f32", "f16", "bf16")
_WORDS = ("v16", "v4", "v2", "v1")

KERNELS = (
    *(f"u8_affine_{kind}{width}" for kind in _TYPES for width in ("", "_scalar")),
    *(f"u8_hwc3_chw_{kind}{width}" for kind in _TYPES for width in ("", "_scalar")),
    *(f"pad_{word}" for word in _WORDS),
    *(f"unpad_{word}" for word in _WORDS),
    "pad_ids",
    "packed_meta",
    "row_lengths",
    "softmax_topk",
    "segment_mean",
    "segment_mean_v4",
)

# What kernels.cu is compiled for, and how much each thread does at a time. Other numbers would be
# slower, not wrong.
THREADS = 256
UNROLL = 4
_LARGEST_GRID_Y = 65535


def source() -> str:
    """The text of kernels.cu."""
    return Path(__file__).with_name("kernels.cu").read_text(encoding="utf-8")


@functools.cache
def _module(cupy: Any) -> Any:
    return cupy.RawModule(code=source(), options=OPTIONS)


@functools.cache
def _kernel(cupy: Any, name: str) -> Any:
    # CuPy compiles it for each device at its first launch there, once for all kernels of the text.
    return _module(cupy).get_function(name)


def prepare(cupy: Any) -> None:
    """Compiles and loads every kernel on the current device.

    Else the first call of each does it.

    To be called before requests come, and before anything is captured into a graph.
    """
    for name in KERNELS:
        _kernel(cupy, name).num_regs  # noqa: B018 - asking for it loads the kernel


def launch(
    cupy: Any, name: str, arguments: Arguments, *, items: int, rows: int, unroll: int = 1
) -> None:
    """Starts a kernel of one thread per item and row on the current stream.

    Args:
        cupy: CuPy.
        name: One of KERNELS.
        arguments: Its arguments.
        items: Items of a row.
        rows: Rows; more than a grid has are served in turns.
        unroll: Items that a thread takes at a time.
    """
    threads = min(THREADS, -(-max(items, 1) // 32) * 32)
    blocks = -(-max(items, 1) // (threads * unroll))
    grid = (blocks, min(max(rows, 1), _LARGEST_GRID_Y))
    _kernel(cupy, name)(grid, (threads,), arguments)


def launch_rows(cupy: Any, name: str, arguments: Arguments, *, items: int, rows: int) -> None:
    """Starts a kernel of one block per row on the current stream; else like launch()."""
    threads = min(THREADS, -(-max(items, 1) // 32) * 32)
    _kernel(cupy, name)((max(rows, 1),), (threads,), arguments)


def header_of(cupy: Any, rows: Any, capacity: int) -> Array:
    """The header that tells a kernel how many rows are valid.

    Args:
        cupy: CuPy.
        rows: None for all, a number, or a header on the device, which is returned.
        capacity: How many there may be.
    """
    if isinstance(rows, cupy.ndarray):
        check_header(rows)
        return rows
    count = capacity if rows is None else check_count("rows", rows, most=capacity)
    header: Array = cupy.asarray(np.array([count], dtype=np.int32))
    return header
