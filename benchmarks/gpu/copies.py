"""Probes: how fast bytes cross the bus, from and to each kind of memory, and move on the device."""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import Any

from benchmarks.gpu.journal import Journal, Metrics
from benchmarks.gpu.memory import KINDS, filled, host_memory, tile_of
from benchmarks.gpu.stack import Gpu
from benchmarks.gpu.timing import device_seconds

__all__ = ["SIZES", "copy_bandwidth", "measure"]

# The third last is a batch of 64 images of 224 x 224 x 3 bytes.
SIZES = (4096, 65536, 1 << 20, 64 * 224 * 224 * 3, 64 << 20, 256 << 20)
PINNED = 64 << 20

_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3
_DIRECTIONS = (("to the device", _TO_DEVICE), ("to the host", _TO_HOST))
# Buffers in rotation, so that what is read is not in the L2 cache.
BUFFERS = 3


def measure(gpu: Gpu, journal: Journal, sizes: tuple[int, ...] = SIZES) -> None:
    """Copies both ways from each kind of memory, what page-locking costs, copies on the device."""
    for kind in KINDS:
        for size in sizes:
            for words, direction in _DIRECTIONS:
                journal.attempt(
                    "copies",
                    f"{words}, {kind}, {readable(size)}",
                    lambda kind=kind, size=size, direction=direction: _bus(  # type: ignore[misc]
                        gpu, kind, size, direction
                    ),
                )
    locked = min(PINNED, sizes[-1])
    for kind in KINDS[:2]:
        journal.attempt(
            "page-locking",
            f"{kind}, {readable(locked)}",
            lambda kind=kind: _locking(gpu, kind, locked),  # type: ignore[misc]
        )
    for size in sizes[2:]:
        journal.attempt(
            "device copies",
            readable(size),
            lambda size=size: _on_device(gpu, size),  # type: ignore[misc]
        )


def readable(nbytes: int) -> str:
    """Bytes in the unit that suits them."""
    for unit, scale in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes} B"


def copy_bandwidth(gpu: Gpu, stream: Any, nbytes: int, runs: int = 20) -> float:
    """Bytes read and written in a second by copies on the device of `nbytes` each, the median."""
    tile = tile_of("uint8")
    sources = [filled(gpu, stream, (nbytes,), tile) for _ in range(BUFFERS)]
    targets = [gpu.cupy.empty((nbytes,), "uint8") for _ in range(BUFFERS)]

    def copy(run: int) -> None:
        source, target = (arrays[run % BUFFERS].data.ptr for arrays in (sources, targets))
        gpu.cuda.runtime.memcpyAsync(target, source, nbytes, _ON_DEVICE, stream.ptr)

    seconds = device_seconds(gpu, stream, copy, runs)
    return 2 * nbytes / statistics.median(seconds)


def _bus(gpu: Gpu, kind: str, nbytes: int, direction: int) -> Metrics:
    stream = gpu.cuda.Stream(non_blocking=True)
    with stream, host_memory(gpu, kind, nbytes) as memory:
        device = gpu.cupy.empty((nbytes,), "uint8")
        ends = (device.data.ptr, memory.ctypes.data)
        target, source = ends if direction == _TO_DEVICE else ends[::-1]

        def copy(times: int) -> float:
            begin = perf_counter()
            for _ in range(times):
                gpu.cuda.runtime.memcpyAsync(target, source, nbytes, direction, stream.ptr)
            stream.synchronize()
            return (perf_counter() - begin) / times

        copy(1)
        alone = statistics.median(copy(1) for _ in range(7))
        # As many as take some 50 ms, one behind the other.
        times = max(2, min(50, int(0.05 / max(alone, 1e-6))))
        behind = statistics.median(copy(times) for _ in range(3))
        return {"microseconds": alone * 1e6, "gb_per_s": nbytes / behind / 1e9}


def _locking(gpu: Gpu, kind: str, nbytes: int) -> Metrics:
    found = []
    for _ in range(3):
        begin = perf_counter()
        with host_memory(gpu, kind, nbytes):
            locked = perf_counter() - begin
        found.append(locked)
    begin = perf_counter()
    with host_memory(gpu, "pageable", nbytes):
        touched = perf_counter() - begin
    return {"milliseconds": statistics.median(found) * 1e3, "touching_ms": touched * 1e3}


def _on_device(gpu: Gpu, nbytes: int) -> Metrics:
    stream = gpu.cuda.Stream(non_blocking=True)
    with stream:
        return {"gb_per_s": copy_bandwidth(gpu, stream, nbytes) / 1e9}
