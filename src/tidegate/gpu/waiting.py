"""How batches go to a device, and what waits for them there, in Python or natively."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Literal

from tidegate.errors import ConfigError
from tidegate.gpu import driver
from tidegate.gpu.arrays import check_count

__all__ = ["CudaDevice", "native_calls"]

Completion = Literal["thread", "native"]


@dataclass(frozen=True)
class CudaDevice:
    """A GPU, and how batches go there: ``Batcher(..., device=CudaDevice("cuda:1", depth=2))``.

    Args:
        name: ``"cuda"`` for the first, or ``"cuda:1"`` and so on.
        depth: How many batches may be under way at once, from 1 to 64.
        completion: Who waits for the device: a Python ``"thread"``, which takes the GIL once more
            for each batch, or a ``"native"`` one, which takes none. Neither is yet measured on a
            GPU.

    Raises:
        ConfigError: One of them is not that.
    """

    name: str = "cuda"
    depth: int = 3
    completion: Completion = "thread"

    def __post_init__(self) -> None:
        check_count("depth", self.depth, least=1, most=64)
        if self.completion not in ("thread", "native"):
            raise ConfigError(f'completion must be "thread" or "native", got {self.completion!r}')


def native_calls(cuda: Any, device: int) -> tuple[int, int, int]:
    """What a native thread calls to wait for events of a device.

    Args:
        cuda: cupy.cuda.
        device: The device's number.

    Returns:
        The addresses of cuEventSynchronize and of cuCtxSetCurrent, and the device's context.
    """
    library = driver.load()
    with cuda.Device(device):
        cuda.runtime.deviceSynchronize()  # the runtime makes the context at its first call
        context = int(cuda.driver.ctxGetCurrent())
    addresses = [
        ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        for name in ("cuEventSynchronize", "cuCtxSetCurrent")
    ]
    return addresses[0] or 0, addresses[1] or 0, context
