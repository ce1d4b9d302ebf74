"""CuPy, and PyTorch if it is there and sees the GPU: imported when a section runs, not before."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from tidegate.gpu import findings

__all__ = ["Gpu", "describe", "open_gpu"]


@dataclass(frozen=True)
class Gpu:
    """What the sections work with.

    Attributes:
        cupy: CuPy, or what stands for it.
        torch: PyTorch, or None.
        device: The device's name for a Batcher, or None for the CPU.
        without_torch: Why there is no PyTorch.
    """

    cupy: Any
    torch: Any = None
    device: str | None = "cuda"
    without_torch: str = "PyTorch is not installed"

    @property
    def cuda(self) -> Any:
        """The module cupy.cuda."""
        return self.cupy.cuda

    @property
    def place(self) -> Any:
        """The device, as PyTorch calls it."""
        return self.torch.device("cpu" if self.device is None else self.device)

    def tensor(self, array: Any) -> Any:
        """An array of CuPy's, or NumPy's on the CPU, as a tensor, without a copy."""
        return self.torch.from_dlpack(array)

    def fetch(self, tensor: Any) -> Any:
        """A tensor in NumPy's memory, by CuPy's `get()`."""
        return self.cupy.from_dlpack(tensor).get()

    def answer(self, tensor: Any) -> Any:
        """A tensor as the model of a Batcher answers it."""
        return tensor.numpy() if self.device is None else tensor


def open_gpu(with_torch: bool = True) -> Gpu:
    """The GPU of this machine.

    Args:
        with_torch: Whether PyTorch is wanted, which takes seconds to import.

    Raises:
        ConfigError: No work on a GPU is possible; says why, and what to do.
    """
    findings.require()
    cupy = findings.import_cupy()
    if not with_torch:
        return Gpu(cupy, without_torch="PyTorch was not wanted")
    if importlib.util.find_spec("torch") is None:
        return Gpu(cupy)
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return Gpu(cupy, without_torch="PyTorch is installed, but sees no GPU")
    return Gpu(cupy, torch)


def describe(gpu: Gpu) -> dict[str, Any]:
    """The GPU and the versions of what drives it, as they go into the JSON file."""
    runtime = gpu.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    name = properties["name"]
    return {
        "gpu": name.decode() if isinstance(name, bytes) else str(name),
        "gpu_memory": int(properties["totalGlobalMem"]),
        "driver_cuda": int(runtime.driverGetVersion()),
        "runtime_cuda": int(runtime.runtimeGetVersion()),
        "cupy": str(gpu.cupy.__version__),
        "torch": None if gpu.torch is None else str(gpu.torch.__version__),
    }
