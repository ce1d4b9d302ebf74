"""What kernels are timed with: arrays so large that only memory matters, and the bytes they move.

The bytes are those that have to move: each input once, each output once. A kernel that reads
something twice reaches less of the bandwidth, as it should.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from benchmarks.gpu.memory import filled, tile_of
from benchmarks.gpu.stack import Gpu
from tidegate import gpu as ops

__all__ = ["BUFFERS", "CASES", "LARGE", "Case", "Sizes"]

BUFFERS = 3

# Starts the kernel, and the bytes that it moves.
Made = tuple[Callable[[], object], int]

_NORMALISED = ((1 / 58.4, 1 / 57.1, 1 / 57.4), (-2.1, -2.0, -1.8))
_WIDTHS = {"f32": 4, "f16": 2, "bf16": 2}
_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Sizes:
    """How large the arrays are; the defaults are those that the bars are for."""

    ROWS: ClassVar = ("images", "sequences", "ranked")

    images: int = 4096
    pixels: int = 224 * 224
    sequences: int = 1024
    length: int = 512
    features: int = 768
    ranked: int = 4096
    classes: int = 50257

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Of the sequences: half of the longest, on the average."""
        random = np.random.default_rng(1)
        return random.integers(0, self.length + 1, self.sequences)


LARGE = Sizes()


@dataclass(frozen=True)
class Case:
    """A kernel, and what it is run on.

    Attributes:
        name: Of the kernel.
        make: Allocates inputs and outputs.
        nbytes: How much memory they take, or a little more.
    """

    name: str
    make: Callable[[Gpu, Any, Sizes], Made]
    nbytes: Callable[[Sizes], int]


def _header(gpu: Gpu, rows: int) -> Any:
    return gpu.cupy.asarray(np.array([rows], np.int32))


def _affine(kind: str, layout: str, lead: int, gpu: Gpu, stream: Any, sizes: Sizes) -> Made:
    shape = (sizes.images, sizes.pixels, 3)
    count = math.prod(shape)
    whole = filled(gpu, stream, (count + lead,), tile_of("uint8"))
    x = whole[lead:].reshape(shape)
    moved = shape if layout == "same" else (shape[0], 3, shape[1])
    out = gpu.cupy.empty(moved, np.uint16 if kind == "bf16" else _NAMES[kind])
    header = _header(gpu, shape[0])
    settings: dict[str, Any] = {"dtype": _NAMES[kind], "layout": layout, "rows": header}
    run = partial(ops.u8_affine, x, *_NORMALISED, out=out, **settings)
    return run, count * (1 + _WIDTHS[kind])


def _affine_bytes(kind: str, sizes: Sizes) -> int:
    return sizes.images * sizes.pixels * 3 * (1 + _WIDTHS[kind]) + 16


def _ragged(gpu: Gpu, sizes: Sizes) -> tuple[Any, Any, int]:
    """Offsets and header on the device, and the tokens in all."""
    ends = np.concatenate([[0], np.cumsum(sizes.lengths)]).astype(np.int32)
    return gpu.cupy.asarray(ends), _header(gpu, sizes.sequences), int(ends[-1])


def _pad(features: Callable[[Sizes], int], gpu: Gpu, stream: Any, sizes: Sizes) -> Made:
    offsets, header, tokens = _ragged(gpu, sizes)
    width = features(sizes)
    values = filled(gpu, stream, (tokens, width), tile_of("float16"))
    shape = (sizes.sequences, sizes.length, width)
    out = gpu.cupy.empty(shape, "float16"), gpu.cupy.empty(shape[:2], "bool")
    run = partial(ops.pad, values, offsets, length=sizes.length, rows=header, out=out)
    return run, values.nbytes + out[0].nbytes + out[1].nbytes


def _unpad(features: Callable[[Sizes], int], gpu: Gpu, stream: Any, sizes: Sizes) -> Made:
    offsets, header, tokens = _ragged(gpu, sizes)
    width = features(sizes)
    shape = (sizes.sequences, sizes.length, width)
    padded = filled(gpu, stream, shape, tile_of("float16"))
    out = gpu.cupy.empty((tokens, width), "float16")
    run = partial(ops.unpad, padded, offsets, tokens=tokens, rows=header, out=out)
    return run, 2 * out.nbytes


def _padded_bytes(sizes: Sizes) -> int:
    return sizes.sequences * sizes.length * (sizes.features * 4 + 1)


def _pad_ids(gpu: Gpu, stream: Any, sizes: Sizes) -> Made:
    many = Sizes(sequences=sizes.sequences * 64, length=sizes.length)
    offsets, header, tokens = _ragged(gpu, many)
    ids = filled(gpu, stream, (tokens,), tile_of("int32"))
    shape = (many.sequences, many.length)
    out = gpu.cupy.empty(shape, "int64"), gpu.cupy.empty(shape, "int64")
    run = partial(ops.pad_ids, ids, offsets, length=many.length, rows=header, out=out)
    return run, ids.nbytes + 2 * out[0].nbytes


def _packed_meta(gpu: Gpu, stream: Any, sizes: Sizes) -> Made:
    many = Sizes(sequences=sizes.sequences * 64, length=sizes.length)
    offsets, header, tokens = _ragged(gpu, many)
    out = gpu.cupy.empty((tokens,), "int32"), gpu.cupy.empty((tokens,), "int32")
    run = partial(ops.packed_meta, offsets, tokens=tokens, rows=header, out=out)
    return run, 2 * out[0].nbytes


def _ids_bytes(sizes: Sizes) -> int:
    return sizes.sequences * 64 * sizes.length * 20


def _softmax_topk(gpu: Gpu, stream: Any, sizes: Sizes) -> Made:
    logits = filled(gpu, stream, (sizes.ranked, sizes.classes), tile_of("float32"))
    shape = (sizes.ranked, min(5, sizes.classes))
    out = gpu.cupy.empty(shape, "int32"), gpu.cupy.empty(shape, "float32")
    header = _header(gpu, sizes.ranked)
    run = partial(ops.softmax_topk, logits, shape[1], rows=header, out=out)
    return run, logits.nbytes + out[0].nbytes + out[1].nbytes


def _segment_mean(gpu: Gpu, stream: Any, sizes: Sizes) -> Made:
    offsets, header, tokens = _ragged(gpu, sizes)
    x = filled(gpu, stream, (tokens, sizes.features), tile_of("float32"))
    out = gpu.cupy.empty((sizes.sequences, sizes.features), "float32")
    run = partial(ops.segment_mean, x, offsets, rows=header, out=out)
    return run, x.nbytes + out.nbytes


def _whole(sizes: Sizes) -> int:
    return sizes.features


def _odd(sizes: Sizes) -> int:
    return sizes.features - 2


CASES = (
    *(
        Case(f"u8_affine_{kind}", partial(_affine, kind, "same", 0), partial(_affine_bytes, kind))
        for kind in _WIDTHS
    ),
    *(
        Case(
            f"u8_hwc3_chw_{kind}",
            partial(_affine, kind, "channels_first", 0),
            partial(_affine_bytes, kind),
        )
        for kind in _WIDTHS
    ),
    Case("u8_affine_f16_scalar", partial(_affine, "f16", "same", 1), partial(_affine_bytes, "f16")),
    Case("pad_v16", partial(_pad, _whole), _padded_bytes),
    Case("pad_v4", partial(_pad, _odd), _padded_bytes),
    Case("unpad_v16", partial(_unpad, _whole), _padded_bytes),
    Case("unpad_v4", partial(_unpad, _odd), _padded_bytes),
    Case("pad_ids", _pad_ids, _ids_bytes),
    Case("packed_meta", _packed_meta, _ids_bytes),
    Case(
        "softmax_topk",
        _softmax_topk,
        lambda sizes: sizes.ranked * (4 * sizes.classes + 40),
    ),
    Case("segment_mean", _segment_mean, _padded_bytes),
)
