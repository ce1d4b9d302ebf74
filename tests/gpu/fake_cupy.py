"""The part of CuPy that the operations use, over the shim, with guards around every array."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.gpu.shim_driver import Shim

GUARD, GUARD_BYTE, POISON, ALIGNMENT = 512, 0xA5, 0xCB, 256


class DeviceArray(np.ndarray[Any, Any]):
    """Stands for cupy.ndarray."""

    @property
    def device(self) -> Any:
        """What operations enter."""
        return contextlib.nullcontext()

    @property
    def data(self) -> Any:
        """Has the address."""
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self) -> npt.NDArray[Any]:
        """A copy on the host."""
        return np.array(self, subok=False)


@dataclass
class Memory:
    """One allocation, with what must be around it, and in it if it is an input."""

    raw: npt.NDArray[np.uint8]
    start: int
    size: int
    content: bytes | None = None

    def check(self) -> None:
        """Raises AssertionError if a kernel wrote where it must not."""
        before, behind = self.raw[: self.start], self.raw[self.start + self.size :]
        assert (before == GUARD_BYTE).all(), "a kernel wrote in front of an array"
        assert (behind == GUARD_BYTE).all(), "a kernel wrote behind an array"
        if self.content is not None:
            inside = self.raw[self.start : self.start + self.size].tobytes()
            assert inside == self.content, "a kernel wrote to its input"


class FakeCupy:
    """Stands for the module. Each launch has a grid and a block of its own, as the seed decides."""

    ndarray: type[DeviceArray] = DeviceArray

    def __init__(self, shim: Shim, seed: int = 0) -> None:
        self.shim = shim
        self.launched: list[str] = []
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Starts another sequence of orders and launch shapes, and forgets the arrays."""
        self.random = np.random.default_rng(seed)
        self.memory: list[Memory] = []
        self.launched.clear()

    def check(self) -> None:
        """Raises AssertionError if a kernel wrote outside its results."""
        for memory in self.memory:
            memory.check()

    def empty(self, shape: Any, dtype: npt.DTypeLike) -> DeviceArray:
        """An array of poison."""
        wanted = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * wanted.itemsize
        raw = np.full(size + 2 * GUARD + ALIGNMENT, GUARD_BYTE, dtype=np.uint8)
        start = GUARD + -(raw.ctypes.data + GUARD) % ALIGNMENT
        self.memory.append(Memory(raw, start, size))
        inside = raw[start : start + size]
        inside[:] = POISON
        return inside.view(wanted).reshape(shape).view(self.ndarray)

    def asarray(self, host: npt.NDArray[Any]) -> DeviceArray:
        """A copy that no kernel may write to."""
        array = self.empty(host.shape, host.dtype)
        array[...] = host
        self.memory[-1].content = array.tobytes()
        return array

    def ascontiguousarray(self, array: DeviceArray) -> DeviceArray:
        """A contiguous copy."""
        return self.asarray(array.get())

    def RawModule(self, *, code: str, options: tuple[str, ...]) -> Module:  # noqa: N802 - CuPy's
        """The kernels. Their text is the shim's, which a test may have changed."""
        assert "softmax_topk" in code
        assert options == ("-std=c++17",)
        return Module(self)


@dataclass
class Module:
    """Stands for cupy.RawModule."""

    cupy: FakeCupy

    def get_function(self, name: str) -> Kernel:
        """A kernel by name."""
        return Kernel(self.cupy, name)


@dataclass
class Kernel:
    """Stands for cupy.RawKernel."""

    cupy: FakeCupy
    name: str
    num_regs: int = 32

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]
    ) -> None:
        """Launches it, on a part of the grid and with blocks of fewer warps as often as not."""
        random = self.cupy.random
        self.cupy.launched.append(self.name)
        if random.integers(2):
            grid = tuple(int(random.integers(1, size + 1)) for size in grid)
        if random.integers(2):
            block = (32 * int(random.integers(1, block[0] // 32 + 1)),)
        seed = int(random.integers(2**63))
        self.cupy.shim.launch(self.name, grid, block, arguments, seed=seed)
