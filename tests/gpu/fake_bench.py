"""What benchmarks need of CuPy beyond a lane: clocks, the legacy stream, graphs, pageable copies.

All work runs at once, so the figures mean nothing; that they are there does.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.gpu.fake_cuda import FakeCuda, FakeEvent, FakeStream
from tests.gpu.fake_device import FakeDevice
from tests.gpu.shim_driver import Shim

PENDING = 600


class BenchEvent(FakeEvent):
    """With the time at which it was recorded."""

    when = 0.0


class BenchStream(FakeStream):
    """Can record a graph."""

    recording: list[Callable[[], object]] | None = None

    def push(self, work: Callable[[], object]) -> None:
        """Queues work, or records it."""
        if self.recording is not None:
            self.recording.append(work)
        else:
            super().push(work)

    def record(self, event: FakeEvent) -> None:
        """See CuPy."""
        super().record(event)
        if isinstance(event, BenchEvent):  # synchronize() has one of another kind
            event.when = perf_counter()

    def begin_capture(self) -> None:
        """See CuPy."""
        self.recording = []

    def end_capture(self) -> BenchGraph:
        """See CuPy."""
        assert self.recording is not None
        graph, self.recording = BenchGraph(self.recording), None
        return graph


class BenchGraph:
    """Stands for cupy.cuda.Graph."""

    def __init__(self, works: list[Callable[[], object]]) -> None:
        self.works = works

    def launch(self, stream: BenchStream) -> None:
        """See CuPy."""
        for work in self.works:
            stream.push(work)


class BenchCuda(FakeCuda):
    """Stands for cupy.cuda where work is measured."""

    def __init__(self, order: str, seed: int = 0, devices: int = 1) -> None:
        super().__init__(order, seed, devices)
        self.legacy = self.Stream(non_blocking=True)
        self.registered: set[int] = set()
        more: dict[str, Any] = {
            "memGetInfo": lambda: (1 << 30, 1 << 31),
            "deviceSynchronize": lambda: None,
            "hostRegister": lambda address, size, flags: self.registered.add(address),
            "hostUnregister": self.registered.remove,
            "eventQuery": self._query,
            "driverGetVersion": lambda: 13000,
            "runtimeGetVersion": lambda: 13020,
            "getDeviceProperties": lambda device: {"name": b"Fake", "totalGlobalMem": 1 << 31},
        }
        for name, function in more.items():
            setattr(self.runtime, name, function)

    def Stream(self, *, non_blocking: bool) -> BenchStream:  # noqa: N802 - CuPy's
        """See CuPy."""
        assert non_blocking
        stream = BenchStream(self, "any", len(self.streams))
        self.streams.append(stream)
        return stream

    def Event(  # noqa: N802 - CuPy's
        self, *, block: bool = False, disable_timing: bool = False
    ) -> BenchEvent:
        """See CuPy."""
        return BenchEvent(self, block)

    def get_elapsed_time(self, begin: BenchEvent, end: BenchEvent) -> float:
        """Milliseconds, see CuPy."""
        return (end.when - begin.when) * 1e3

    def get_current_stream(self) -> FakeStream:
        """See CuPy."""
        return self.current

    @property
    def current(self) -> FakeStream:
        """The current stream, or the legacy one, which code without streams uses."""
        return self.stack[-1] if self.stack else self.legacy

    def _query(self, pointer: int) -> int:
        event = ctypes.cast(pointer, ctypes.py_object).value
        return 0 if event.reached >= event.recorded else PENDING

    def _memcpy(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        self.call("memcpyAsync")  # pageable memory is what some probes are about
        self._stream(stream).push(lambda: ctypes.memmove(target, source, nbytes))


class BenchCupy(FakeDevice):
    """Stands for cupy where work is measured."""

    __version__ = "0.fake"

    def __init__(self, shim: Shim, cuda: FakeCuda, seed: int = 0) -> None:
        super().__init__(shim, cuda, seed)
        self.spun = 0
        self._lock = threading.RLock()  # batches by hand are made in several threads

    def empty(self, shape: Any, dtype: npt.DTypeLike) -> Any:
        """See CuPy."""
        with self._lock:
            return super().empty(shape, dtype)

    def asarray(self, host: Any) -> Any:
        """Takes a list of rows, too."""
        with self._lock:
            return super().asarray(np.stack(host) if isinstance(host, list) else host)

    def RawKernel(self, code: str, name: str) -> Callable[..., None]:  # noqa: N802 - CuPy's
        """A kernel that only counts its launches."""
        assert f"void {name}(" in code

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: Any) -> None:
            assert isinstance(arguments[0], np.int64)
            self.spun += 1
            self.cuda.current.push(lambda: None)

        return launch

    def get_default_memory_pool(self) -> Any:
        """Frees the arrays that are looked at by check()."""
        return SimpleNamespace(free_all_blocks=self.memory.clear)
