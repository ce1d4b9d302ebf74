"""Probe: how long each call that a batch makes keeps the host, with the GIL or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.gpu.journal import Journal, Metrics
from benchmarks.gpu.stack import Gpu
from benchmarks.gpu.timing import host_seconds
from tidegate import TensorSpec
from tidegate import gpu as ops
from tidegate._layout import HEADER, Layout
from tidegate.gpu.lane import Lane
from tidegate.gpu.lengths import row_lengths
from tidegate.gpu.pinned import Pool, new_memory

__all__ = ["measure"]

CALLS = 200
_BYTES = 4096
_ROWS, _FEATURES = 64, 384

Call = tuple[str, Callable[[], object]]


def measure(gpu: Gpu, journal: Journal, calls: int = CALLS) -> None:
    """Times every call in a loop, on a stream with little to do, and then a whole batch."""
    stream = gpu.cuda.Stream(non_blocking=True)
    with stream:
        for name, call in _calls(gpu, stream):
            journal.attempt(
                "host calls",
                name,
                lambda call=call: {  # type: ignore[misc]
                    "microseconds": host_seconds(call, stream.synchronize, calls) * 1e6
                },
            )
    journal.attempt(
        "host calls",
        f"Lane.start(), {_ROWS} x {_FEATURES} float32, the model returns its argument",
        lambda: _lane(gpu, calls),
    )


def _calls(gpu: Gpu, stream: Any) -> Iterator[Call]:
    cupy, cuda, runtime = gpu.cupy, gpu.cuda, gpu.cuda.runtime
    memory = new_memory(cuda, _BYTES)
    device = cupy.empty((_BYTES,), "uint8")
    event = cuda.Event(disable_timing=True)
    other = cuda.Stream(non_blocking=True)
    stream.record(event)
    stream.synchronize()

    def enter_stream() -> None:
        with other:
            pass

    def enter_device() -> None:
        with cuda.Device(0):
            pass

    target, source = device.data.ptr, memory.ctypes.data
    yield (
        "runtime.memcpyAsync to the device, 4 KiB",
        lambda: runtime.memcpyAsync(target, source, _BYTES, 1, stream.ptr),
    )
    yield (
        "runtime.memcpyAsync on the device, 2 KiB",
        lambda: runtime.memcpyAsync(target, target + _BYTES // 2, _BYTES // 2, 3, stream.ptr),
    )
    yield "runtime.memsetAsync", lambda: runtime.memsetAsync(target, 0, _BYTES, stream.ptr)
    yield "Stream.record", lambda: stream.record(event)
    yield "Stream.wait_event", lambda: stream.wait_event(event)
    yield "Event.synchronize, done before", event.synchronize
    yield "with Stream", enter_stream
    yield "with Device", enter_device
    yield "cupy.empty, 4 KiB", lambda: cupy.empty((_BYTES,), "uint8")
    yield "slice, view and reshape", lambda: device[:256].view("float32").reshape((8, 8))
    pool = Pool(cuda)
    yield "a block of the page-locked pool", lambda: pool.take(_BYTES)
    x = device[:3072].reshape((4, 256, 3))
    header = cupy.asarray(np.array([4], np.int32))
    out = cupy.empty((4, 256, 3), "float16")
    yield (
        "u8_affine, one launch",
        lambda: ops.u8_affine(x, 0.5, dtype="float16", rows=header, out=out),
    )
    offsets = cupy.asarray(np.arange(9, dtype=np.int32))
    lengths = cupy.empty((8,), "int32")
    yield "row_lengths, one launch", lambda: row_lengths(offsets, rows=header, out=lengths)
    if gpu.torch is not None and gpu.device is not None:
        yield from _of_torch(gpu, stream, device)


def _of_torch(gpu: Gpu, stream: Any, device: Any) -> Iterator[Call]:
    torch = gpu.torch
    run = torch.cuda.ExternalStream(stream.ptr, device=gpu.place)

    def enter() -> None:
        with torch.cuda.stream(run):
            pass

    yield "with torch.cuda.stream", enter
    with torch.cuda.stream(run):
        tensor = gpu.tensor(device)
        yield "torch.from_dlpack of CuPy's array", lambda: gpu.tensor(device)
        yield "cupy.from_dlpack of a tensor", lambda: gpu.cupy.from_dlpack(tensor)
        yield "torch.add into a tensor, one launch", lambda: torch.add(tensor, tensor, out=tensor)


def _lane(gpu: Gpu, batches: int) -> Metrics:
    spec = TensorSpec((_FEATURES,), "float32")
    lane = Lane(lambda x: x, spec, xp=gpu.cupy, cuda=gpu.cuda)
    lane.enter()
    layout = Layout([spec], _ROWS, 0)
    memory = lane.new_memory(layout.nbytes)
    memory[...] = 0
    header = layout.header_of(memory)
    assert len(header) == HEADER
    header[0] = _ROWS
    starting, whole = [], []
    for _ in range(batches + 10):
        begin = perf_counter()
        flight = lane.start(memory, layout, _ROWS, 0, 0, _ROWS)
        started = perf_counter()
        flight.wait()
        whole.append(perf_counter() - begin)
        starting.append(started - begin)
    lane.close()
    # The first ones fill the slots with memory and arguments.
    return {
        "microseconds": float(np.median(starting[10:])) * 1e6,
        "until_done_us": float(np.median(whole[10:])) * 1e6,
    }
