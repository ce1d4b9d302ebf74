"""Operations on batches: NumPy's arrays run in NumPy, CuPy's in one kernel each; and CudaDevice.

The NumPy bodies are the specification. What the kernels answer is the same in every bit, but for
softmax_topk and segment_mean, whose docstrings say how close it is.
"""

from __future__ import annotations

from tidegate.gpu.images import u8_affine
from tidegate.gpu.padding import pad, unpad
from tidegate.gpu.reductions import segment_mean, softmax_topk
from tidegate.gpu.token_ids import packed_meta, pad_ids
from tidegate.gpu.waiting import CudaDevice

__all__ = [
    "CudaDevice",
    "packed_meta",
    "pad",
    "pad_ids",
    "segment_mean",
    "softmax_topk",
    "u8_affine",
    "unpad",
]
