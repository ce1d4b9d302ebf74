"""Probe: what can be recorded into a CUDA graph, and is replayed with what is in memory then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.journal import Journal, Metrics
from benchmarks.gpu.stack import Gpu
from tidegate import gpu as ops
from tidegate.gpu.pinned import new_memory

__all__ = ["measure"]

_SHAPE = (4, 64, 3)


def measure(gpu: Gpu, journal: Journal) -> None:
    """A copy in a graph of CuPy's, and a kernel of ours in one of CuPy's and one of PyTorch's."""
    journal.attempt("graphs", "runtime.memcpyAsync in CuPy's graph", lambda: _copy(gpu))
    journal.attempt("graphs", "RawKernel in CuPy's graph", lambda: _kernel(gpu, _by_cupy))
    name = "RawKernel in torch.cuda.graph"
    if gpu.torch is None:
        journal.skip("graphs", name, gpu.without_torch)
        return
    journal.attempt("graphs", name, lambda: _kernel(gpu, _by_torch))


Work = Callable[[], object]


def _by_cupy(gpu: Gpu, work: Work) -> tuple[Any, Work]:
    """Records work; returns the stream, and what replays it there."""
    stream = gpu.cuda.Stream(non_blocking=True)
    with stream:
        work()  # loads the kernel, which cannot be done while recording
        stream.synchronize()
        stream.begin_capture()
        work()
        graph = stream.end_capture()
    return stream, lambda: graph.launch(stream)


def _by_torch(gpu: Gpu, work: Work) -> tuple[Any, Work]:
    """The same with PyTorch, on a stream of CuPy's, as a lane has it."""
    torch = gpu.torch
    stream = gpu.cuda.Stream(non_blocking=True)
    same = torch.cuda.ExternalStream(stream.ptr, device=gpu.place)
    with stream, torch.cuda.stream(same):
        work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=same, capture_error_mode="thread_local"):
            work()

    def replay() -> None:
        with torch.cuda.stream(same):
            graph.replay()

    return stream, replay


def _kernel(gpu: Gpu, record: Callable[[Gpu, Work], tuple[Any, Work]]) -> Metrics:
    cupy = gpu.cupy
    pixels = np.random.default_rng(3).integers(0, 256, _SHAPE, dtype=np.uint8)
    x = cupy.empty(_SHAPE, "uint8")  # what is in it is recorded as little as it is replayed
    header = cupy.asarray(np.array([3], np.int32))
    out = cupy.empty(_SHAPE, "float32")
    gpu.cuda.runtime.deviceSynchronize()  # other streams do not wait for these
    stream, replay = record(gpu, lambda: ops.u8_affine(x, 0.5, 1.0, rows=header, out=out))
    memory = new_memory(gpu.cuda, pixels.nbytes)
    memory[...] = pixels.reshape(-1)
    _upload(gpu, stream, x, memory)
    replay()
    stream.synchronize()
    wanted = ops.u8_affine(pixels, 0.5, 1.0, rows=3)
    np.testing.assert_array_equal(out.get(), wanted)
    return {"passed": 1.0}


def _copy(gpu: Gpu) -> Metrics:
    memory = new_memory(gpu.cuda, 4096)
    device = gpu.cupy.empty((4096,), "uint8")
    memory[...] = 1

    def work() -> None:
        stream = gpu.cuda.get_current_stream()
        _upload(gpu, stream, device, memory)

    stream, replay = _by_cupy(gpu, work)
    memory[...] = 2
    replay()
    stream.synchronize()
    assert (device.get() == 2).all(), "the graph copied something else"
    return {"passed": 1.0}


def _upload(gpu: Gpu, stream: Any, array: Any, memory: Any) -> None:
    source, target = memory.ctypes.data, array.data.ptr
    gpu.cuda.runtime.memcpyAsync(target, source, memory.nbytes, 1, stream.ptr)
