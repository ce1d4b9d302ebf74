"""Batches on a GPU: operations with NumPy bodies, which need none, and the kernels beside them."""

from __future__ import annotations

from tidegate.gpu.ops import (
    packed_meta,
    pad,
    pad_ids,
    segment_mean,
    softmax_topk,
    u8_affine,
    unpad,
)

__all__ = [
    "packed_meta",
    "pad",
    "pad_ids",
    "segment_mean",
    "softmax_topk",
    "u8_affine",
    "unpad",
]
