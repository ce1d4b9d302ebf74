"""Device memory with random contents for measurements, and page-locked memory of each kind."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.stack import Gpu
from tidegate.gpu.pinned import new_memory

__all__ = ["KINDS", "filled", "host_memory", "tile_of"]

KINDS = ("hostAlloc", "hostRegister", "pageable")

_ON_DEVICE = 3  # of cudaMemcpyKind
_TILE = 1 << 20


def tile_of(dtype: npt.DTypeLike, items: int = _TILE) -> npt.NDArray[Any]:
    """Random numbers, which filled() repeats: normal ones for floats, else any bits."""
    random, wanted = np.random.default_rng(0), np.dtype(dtype)
    if wanted.kind == "f":
        return random.standard_normal(items, dtype=np.float32).astype(wanted)
    raw: npt.NDArray[Any] = random.integers(0, 256, items * wanted.itemsize, dtype=np.uint8)
    return raw.view(wanted)


def filled(gpu: Gpu, stream: Any, shape: tuple[int, ...], tile: npt.NDArray[Any]) -> Any:
    """An array of the device that repeats `tile`, copied there once and doubled until it is full.

    Args:
        gpu: Where.
        stream: The current stream.
        shape: Of the array.
        tile: Flat array of the host's.
    """
    array = gpu.cupy.empty(shape, tile.dtype)
    first = gpu.cupy.asarray(tile)
    begin, end = array.data.ptr, array.data.ptr + array.nbytes
    copy = gpu.cuda.runtime.memcpyAsync
    done = min(tile.nbytes, array.nbytes)
    copy(begin, first.data.ptr, done, _ON_DEVICE, stream.ptr)
    while begin + done < end:
        more = min(done, end - begin - done)
        copy(begin + done, begin, more, _ON_DEVICE, stream.ptr)
        done += more
    stream.synchronize()  # before `first` goes back to the pool
    return array


@contextlib.contextmanager
def host_memory(gpu: Gpu, kind: str, nbytes: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Memory of the host, one of KINDS, all of its pages touched.

    Args:
        gpu: Whose CUDA locks the pages.
        kind: Page-locked by cudaHostAlloc, or by cudaHostRegister, or not at all.
        nbytes: Bytes.
    """
    if kind == "hostAlloc":
        memory = new_memory(gpu.cuda, nbytes)
        memory[...] = 1
        yield memory
        return
    memory = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)  # begins at a page, as it must
    memory[...] = 1
    if kind == "pageable":
        yield memory
        return
    runtime = gpu.cuda.runtime
    runtime.hostRegister(memory.ctypes.data, nbytes, runtime.hostAllocPortable)
    try:
        yield memory
    finally:
        runtime.hostUnregister(memory.ctypes.data)
