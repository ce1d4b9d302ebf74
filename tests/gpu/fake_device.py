"""CuPy with streams, on a CPU: whatever is done to its arrays is queued on the current stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from tests.gpu.fake_cuda import FakeCuda
from tests.gpu.fake_cupy import DeviceArray, FakeCupy, Kernel, Module
from tests.gpu.shim_driver import Shim


class StreamArray(DeviceArray):
    """Stands for cupy.ndarray: arithmetic on it happens later."""

    cupy: ClassVar[FakeDevice]
    number = 0

    def __array_finalize__(self, other: Any) -> None:
        """A new array is on the current device, a view where its base is."""
        if other is not None:
            self.number = getattr(other, "number", self.cupy.cuda.device)

    @property
    def device(self) -> Any:
        """Has a number, and can be entered."""
        return FakeDeviceOf(self.number)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **settings: Any) -> Any:
        """Queues an operation of NumPy's."""
        cupy = self.cupy
        out = settings.pop("out", (None,))[0]
        bare = [each.view(np.ndarray) if isinstance(each, DeviceArray) else each for each in inputs]

        def run() -> Any:
            return np.asarray(getattr(ufunc, method)(*bare, **settings))

        if out is None:
            # Of what is there now, only shape and dtype matter.
            with np.errstate(all="ignore"):
                now = run()
            out = cupy.empty(now.shape, now.dtype)
        target = out.view(np.ndarray)

        def later() -> None:
            with np.errstate(all="ignore"):
                target[...] = run()

        cupy.later(later)
        return out


class FakeDeviceOf:
    """Stands for cupy.cuda.Device, of an array."""

    def __init__(self, number: int) -> None:
        self.id = number

    def __enter__(self) -> None:
        """Nothing, since there is one device only."""

    def __exit__(self, *_: object) -> None:
        """Nothing."""


class FakeDevice(FakeCupy):
    """Stands for cupy, over the shim and a fake CUDA."""

    def __init__(self, shim: Shim, cuda: FakeCuda, seed: int = 0) -> None:
        super().__init__(shim, seed)
        self.cuda = cuda
        self.ndarray = type("StreamArray", (StreamArray,), {"cupy": self})

    def later(self, work: Callable[[], object]) -> None:
        """Queues work on the current stream."""
        self.cuda.current.push(work)

    def copyto(self, target: Any, source: Any) -> None:
        """As CuPy's."""
        to, from_ = target.view(np.ndarray), source.view(np.ndarray)
        self.later(lambda: np.copyto(to, from_))

    def from_dlpack(self, value: Any) -> Any:
        """As CuPy's, for the fake tensors of the tests."""
        return value.array

    def asarray(self, host: Any) -> Any:
        """As CuPy's: no copy of what has the CUDA array interface."""
        if hasattr(host, "__cuda_array_interface__"):
            return host.array
        return super().asarray(host)

    def RawModule(self, *, code: str, options: tuple[str, ...]) -> Module:  # noqa: N802 - CuPy's
        """The kernels, which are launched on the current stream."""
        assert "softmax_topk" in code
        assert options == ("-std=c++17",)
        return QueuedModule(self)


class QueuedModule(Module):
    """Stands for cupy.RawModule."""

    def get_function(self, name: str) -> Kernel:
        """A kernel by name."""
        return QueuedKernel(self.cupy, name)


class QueuedKernel(Kernel):
    """Stands for cupy.RawKernel."""

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]
    ) -> None:
        """Queues a launch."""
        cupy = self.cupy
        assert isinstance(cupy, FakeDevice)
        cupy.later(lambda: Kernel.__call__(self, grid, block, arguments))
