"""CUDA's streams and events on a CPU, which run their work as late as they may, or in any order.

It stands for cupy.cuda. A GPU that is fast enough hides a missing wait; this one does not::

    eager    everything runs at once
    lazy     only what the host waits for runs, and what that has to wait for
    random   with every call, some of what may run does
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

ILLEGAL_ADDRESS = 700


class FakeCudaError(RuntimeError):
    """Stands for CUDARuntimeError and CUDADriverError."""

    def __init__(self, status: int) -> None:
        super().__init__(f"fakeCudaError {status}")
        self.status = status


class FakeCuda:
    """One process with devices, and all that is queued there.

    Attributes:
        order: ``"eager"``, ``"lazy"`` or ``"random"``.
        status: The error that every call answers with; 0 before the first.
        ignored: Of the waits that a test drops, "run" for what the stream run waits for, or "host".
        calls: The names of the calls so far, since somebody last cleared them.
    """

    def __init__(self, order: str, seed: int = 0, devices: int = 1) -> None:
        self.order = order
        self.status = 0
        self.ignored: set[str] = set()
        self.calls: list[str] = []
        self.streams: list[FakeStream] = []
        self.pinned: weakref.WeakSet[FakePinnedMemory] = weakref.WeakSet()
        self.lock = threading.RLock()
        self.fail_next: str | None = None
        self._devices = devices
        self._random = np.random.default_rng(seed)
        self._local = threading.local()
        self.runtime = SimpleNamespace(
            CUDARuntimeError=FakeCudaError,
            hostAllocPortable=1,
            memcpyAsync=self._memcpy,
            memsetAsync=self._memset,
            setDevice=self._set_device,
            getDeviceCount=lambda: devices,
        )
        self.driver = SimpleNamespace(CUDADriverError=FakeCudaError)

    # -- what cupy.cuda has --

    def Stream(self, *, non_blocking: bool) -> FakeStream:  # noqa: N802 - CuPy's
        """A stream; the legacy one would wait for all others."""
        assert non_blocking
        self.call("Stream")
        stream = FakeStream(self, ("up", "run", "down")[len(self.streams) % 3], len(self.streams))
        self.streams.append(stream)
        return stream

    def Event(self, *, block: bool = False, disable_timing: bool) -> FakeEvent:  # noqa: N802
        """An event; timing makes it slower."""
        assert disable_timing
        self.call("Event")
        return FakeEvent(self, block)

    def PinnedMemory(self, size: int, flags: int = 0) -> FakePinnedMemory:  # noqa: N802
        """Page-locked memory."""
        assert flags == 1
        self.call("PinnedMemory")
        memory = FakePinnedMemory(size)
        with self.lock:
            self.pinned.add(memory)
        return memory

    def PinnedMemoryPointer(self, memory: FakePinnedMemory, offset: int) -> Any:  # noqa: N802
        """Something with the buffer protocol, which keeps the memory."""
        pointer = (ctypes.c_byte * (memory.size - offset)).from_buffer(memory.raw.data, offset)
        pointer.mem = memory  # type: ignore[attr-defined]
        return pointer

    @contextlib.contextmanager
    def Device(self, device: int) -> Iterator[None]:  # noqa: N802 - CuPy's
        """Makes a device current for a while."""
        before = self.device
        self._set_device(device)
        try:
            yield
        finally:
            self._local.device = before

    # -- for tests, and for the fake CuPy --

    @property
    def device(self) -> int:
        """The current device of this thread."""
        return getattr(self._local, "device", 0)

    @property
    def stack(self) -> list[FakeStream]:
        """The streams that this thread has entered."""
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[FakeStream] = self._local.stack
        return stack

    @property
    def current(self) -> FakeStream:
        """The current stream of this thread, which must not be the legacy one."""
        assert self.stack, "work for the legacy stream, which waits for all others"
        return self.stack[-1]

    def call(self, name: str) -> None:
        """What each call does first: it says if the device has failed."""
        self.calls.append(name)
        if self.status:
            raise FakeCudaError(self.status)

    def fail(self) -> None:
        """What a kernel does that reaches beyond its memory."""
        self.status = ILLEGAL_ADDRESS

    def some(self) -> None:
        """Runs what may run now, by the order."""
        if self.order == "eager":
            for stream in self.streams:
                while stream.step():
                    pass
        elif self.order == "random" and self.streams:
            for _ in range(int(self._random.integers(0, 4))):
                self.streams[int(self._random.integers(len(self.streams)))].step()

    def until(self, event: FakeEvent, turn: int) -> None:
        """Runs no more than what an event needs, or in random order until it is there."""
        if self.order == "random":
            stuck = 0
            while event.reached < turn and not self.status:
                moved = self.streams[int(self._random.integers(len(self.streams)))].step()
                stuck = 0 if moved else stuck + 1
                assert stuck < 1000, "streams wait for each other"
            return
        stream = event.stream
        assert stream is not None
        while event.reached < turn and not self.status:
            blocker = stream.blocker()
            if blocker is not None:
                self.until(*blocker)
            else:
                assert stream.step() or self.status, "a wait for an event that nothing records"

    def _set_device(self, device: int) -> None:
        self.call("setDevice")
        assert device < self._devices
        self._local.device = device

    def _memcpy(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        self.call("memcpyAsync")
        if self.fail_next == "memcpyAsync":
            self.fail()
            self.call("memcpyAsync")
        host = {1: source, 2: target}.get(kind)
        with self.lock:  # another thread may make more
            pinned = host is None or any(memory.has(host, nbytes) for memory in self.pinned)
        assert pinned, "a copy from or to memory that is not page-locked would make the host wait"
        self._stream(stream).push(lambda: ctypes.memmove(target, source, nbytes))

    def _memset(self, target: int, value: int, nbytes: int, stream: int) -> None:
        self.call("memsetAsync")
        self._stream(stream).push(lambda: ctypes.memset(target, value, nbytes))

    def _stream(self, pointer: int) -> FakeStream:
        return next(stream for stream in self.streams if stream.ptr == pointer)


class FakeStream:
    """Stands for cupy.cuda.Stream: a queue of work, records and waits."""

    def __init__(self, cuda: FakeCuda, name: str, number: int) -> None:
        self.cuda = cuda
        self.name = name
        self.ptr = 0x1000 + number
        self.queue: deque[Callable[[], object] | tuple[str, FakeEvent, int]] = deque()
        self.device = cuda.device

    def __enter__(self) -> FakeStream:
        assert self.cuda.device == self.device, "CuPy refuses streams of another device"
        self.cuda.stack.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.cuda.stack.pop() is self

    def push(self, work: Callable[[], object]) -> None:
        """Queues work."""
        with self.cuda.lock:
            self.queue.append(work)
            self.cuda.some()

    def record(self, event: FakeEvent) -> None:
        """See CuPy."""
        self.cuda.call("record")
        with self.cuda.lock:
            event.recorded += 1
            event.stream = self
            self.queue.append(("record", event, event.recorded))
            self.cuda.some()

    def wait_event(self, event: FakeEvent) -> None:
        """See CuPy."""
        self.cuda.call("wait_event")
        if self.name in self.cuda.ignored:
            return
        with self.cuda.lock:
            self.queue.append(("wait", event, event.recorded))
            self.cuda.some()

    def synchronize(self) -> None:
        """See CuPy."""
        event = FakeEvent(self.cuda, False)
        self.record(event)
        event.synchronize()

    def blocker(self) -> tuple[FakeEvent, int] | None:
        """What the first of the queue still waits for."""
        first = self.queue[0] if self.queue else None
        if isinstance(first, tuple) and first[0] == "wait" and first[1].reached < first[2]:
            return first[1], first[2]
        return None

    def step(self) -> bool:
        """Runs the first of the queue, if it may run."""
        if not self.queue or self.blocker() is not None or self.cuda.status:
            return False
        first = self.queue.popleft()
        if not isinstance(first, tuple):
            first()
        elif first[0] == "record":
            first[1].reached = max(first[1].reached, first[2])
        return True


class FakeEvent:
    """Stands for cupy.cuda.Event; each record is a turn of it."""

    def __init__(self, cuda: FakeCuda, block: bool) -> None:
        self.cuda = cuda
        self.block = block
        self.ptr = id(self)
        self.recorded = self.reached = 0
        self.stream: FakeStream | None = None
        self.device = cuda.device

    @property
    def done(self) -> bool:
        """Hides errors, so nobody should ask."""
        raise AssertionError("Event.done stays False after an error")

    def synchronize(self) -> None:
        """See CuPy."""
        self.cuda.call("synchronize")
        assert self.cuda.device == self.device, "this would make a context on another device"
        if "host" in self.cuda.ignored:
            return
        with self.cuda.lock:
            if self.recorded:
                self.cuda.until(self, self.recorded)
        if self.cuda.status:
            raise FakeCudaError(self.cuda.status)


class FakePinnedMemory:
    """Stands for cupy.cuda.PinnedMemory, which begins at a page."""

    def __init__(self, size: int) -> None:
        self.size = size
        whole: npt.NDArray[np.uint8] = np.full(size + 4096, 0xCB, np.uint8)
        start = -whole.ctypes.data % 4096
        self.raw = whole[start : start + size]
        self.ptr = self.raw.ctypes.data

    def has(self, address: int, nbytes: int) -> bool:
        """Whether these bytes are of it."""
        return self.ptr <= address and address + nbytes <= self.ptr + self.size
