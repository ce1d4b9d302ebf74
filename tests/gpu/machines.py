"""CuPy and CUDA's stand-ins in the place of the real ones, for a whole Batcher."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest

from tests.gpu.fake_cuda import FakeCuda
from tests.gpu.fake_device import FakeDevice
from tests.gpu.shim_driver import Shim
from tidegate.gpu import opening, waiting


class Machine:
    """A process in which Batchers with a device work over the fakes.

    Args:
        monkeypatch: Undoes it.
        shim: The kernels.
        order: When streams run what is queued, see FakeCuda.
        devices: How many there are.
        cuda: Makes what stands for cupy.cuda.
        xp: Makes what stands for CuPy.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        shim: Shim,
        order: str,
        devices: int,
        *,
        cuda: type[FakeCuda] = FakeCuda,
        xp: type[FakeDevice] = FakeDevice,
    ) -> None:
        self.cuda = cuda(order, devices=devices)
        self.xp = xp(shim, self.cuda)
        monkeypatch.setitem(sys.modules, "cupy", self.xp)
        real = opening.make_lane
        self.lanes: list[Any] = []
        self.waited = 0

        def make_lane(*arguments: Any, **settings: Any) -> Any:
            lane = real(*arguments, require=lambda: None, import_cupy=lambda: self.xp, **settings)
            self.lanes.append(lane)
            return lane

        def wait(address: int) -> int:
            self.waited += 1
            try:
                event = ctypes.cast(address, ctypes.py_object).value  # FakeEvent.ptr is its id
                with self.cuda.Device(event.device):
                    event.synchronize()
            except Exception as error:
                return int(getattr(error, "status", -1))
            return 0

        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
        self._callbacks = (callback(wait), callback(lambda _: 0))
        addresses = [ctypes.cast(each, ctypes.c_void_p).value or 0 for each in self._callbacks]
        monkeypatch.setattr(opening, "make_lane", make_lane)
        monkeypatch.setattr(
            waiting, "native_calls", lambda cuda, device: (addresses[0], addresses[1], 0)
        )
