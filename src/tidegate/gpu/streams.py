"""The three streams of a lane, and what goes up."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Streams"]

_TO_DEVICE = 1  # of cudaMemcpyKind


class Streams:
    """Streams that wait for nothing but each other; to be made while the device is current.

    Args:
        cuda: cupy.cuda.
        device: The device's number.

    Attributes:
        up: Copies batches to the device.
        run: Makes the model's argument, and runs the model.
        down: Copies answers to the host.
    """

    def __init__(self, cuda: Any, device: int) -> None:
        self._runtime = cuda.runtime
        self._device = device
        self.up, self.run, self.down = (cuda.Stream(non_blocking=True) for _ in range(3))
        self._torch_run: Any = None

    def upload(
        self,
        host: int,
        device: int,
        spans: Sequence[tuple[int, int]],
        zeroed: Sequence[tuple[int, int]],
    ) -> None:
        """Copies spans of page-locked memory, and then zeroes others, on `up`.

        Args:
            host: Where the memory begins.
            device: Where the device's begins.
            spans: What to copy: begin and end in bytes, in both.
            zeroed: What to zero.
        """
        up = self.up.ptr
        for begin, end in spans:
            self._runtime.memcpyAsync(device + begin, host + begin, end - begin, _TO_DEVICE, up)
        for begin, end in zeroed:
            self._runtime.memsetAsync(device + begin, 0, end - begin, up)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Makes `run` the current stream of CuPy, and of PyTorch if that is imported."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            with self.run:
                yield
            return
        if self._torch_run is None:
            where = torch.device("cuda", self._device)
            self._torch_run = torch.cuda.ExternalStream(self.run.ptr, device=where)
        with self.run, torch.cuda.stream(self._torch_run):
            yield

    def come_to_rest(self) -> None:
        """Waits for everything; raises CUDA's error if the device does not work any more."""
        for stream in (self.up, self.run, self.down):
            stream.synchronize()
