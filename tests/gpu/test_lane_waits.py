"""Each wait of the lane is needed: without it, a device that is slow enough answers wrongly."""

from __future__ import annotations

import queue
import sys
import threading
from typing import Any

import numpy as np
import pytest

from tests.gpu.fake_cuda import FakeCuda
from tests.gpu.fake_device import FakeDevice
from tests.gpu.lane_checks import dense
from tests.gpu.shim_driver import Shim
from tests.gpu.worlds import World
from tidegate import TensorSpec
from tidegate.gpu.flights import Flight


def wrong_answers(shim: Shim, monkeypatch: pytest.MonkeyPatch, order: str, dropped: str) -> int:
    """How many of 14 batches have a wrong answer if a wait is dropped."""
    cuda = FakeCuda(order, seed=3)
    xp = FakeDevice(shim, cuda)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    driven = World(xp, cuda).lane(lambda x: x * 2 + 1, TensorSpec((5,), "f4"))
    cuda.ignored = {dropped}
    batches = dense(1) + dense(2)
    answers = driven.answers(batches)
    return sum(
        not np.array_equal(found, np.stack(batch) * 2 + 1)
        for batch, found in zip(batches, answers, strict=True)
    )


@pytest.mark.parametrize("order", ["eager", "lazy", "random"])
def test_with_all_waits_every_answer_is_right(
    order: str, shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wrong_answers(shim, monkeypatch, order, "none") == 0


@pytest.mark.parametrize("dropped", ["run", "down", "host"])
def test_without_one_of_the_waits_answers_are_wrong(
    dropped: str, shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wrong_answers(shim, monkeypatch, "lazy", dropped) == 14
    # A device that is fast enough hides it, which is why there is a slow one here.
    assert wrong_answers(shim, monkeypatch, "eager", dropped) == 0


def test_several_batches_are_under_way_at_once(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda("lazy")
    xp = FakeDevice(shim, cuda)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    driven = World(xp, cuda).lane(lambda x: x * 2, TensorSpec((5,), "f4"))
    flights = [driven.send(batch) for batch in dense(1)[:3]]
    assert "synchronize" not in cuda.calls, "start() does not wait for the device"
    assert [flight.event.reached for flight in flights] == [0, 0, 0]
    assert len({flight.event.ptr for flight in flights}) == 3
    shapes: list[Any] = [flight.outputs.shape for flight in flights]
    assert shapes == [(8, 5), (1, 5), (3, 5)], "known before anything has run"
    fourth = driven.send(dense(1)[3])
    assert cuda.calls.count("synchronize") == 1, "for the oldest, whose slot is wanted"
    assert [flight.event.reached for flight in flights] == [1, 0, 0]
    for flight, batch in zip([*flights, fourth], dense(1), strict=False):
        np.testing.assert_array_equal(flight.wait(), np.stack(batch) * 2)


def test_nothing_is_made_for_a_batch_once_the_ring_has_its_memory(
    shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda("random")
    xp = FakeDevice(shim, cuda)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    driven = World(xp, cuda).lane(lambda x: x, TensorSpec((5,), "f4"))
    largest = dense(1)[0]
    for _ in range(3):
        driven.send(largest).wait()
    before = len(xp.memory)
    cuda.calls.clear()
    driven.send(largest, 8).wait()
    assert len(xp.memory) == before
    copies = [call for call in cuda.calls if call not in ("setDevice", "PinnedMemory")]
    up, run, down = ["memcpyAsync", "record"], ["wait_event", "memcpyAsync", "record"], []
    down = ["wait_event", "memcpyAsync", "record", "synchronize"]
    assert copies == up + run + down
    cuda.calls.clear()
    driven.send(largest[:3], 8).wait()
    assert cuda.calls.count("memcpyAsync") == 3
    assert cuda.calls.count("memsetAsync") == 1, "rows that fill up are zeroed on the device"


def test_memory_that_grows_is_not_that_of_a_stream_that_still_works_on_it(
    shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda("lazy")
    xp = FakeDevice(shim, cuda)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    made: list[str] = []
    allocate = xp.empty

    def empty(shape: Any, dtype: Any) -> Any:
        made.append(cuda.current.name)
        return allocate(shape, dtype)

    monkeypatch.setattr(xp, "empty", empty)
    spec = TensorSpec((None, 3), "f4")
    driven = World(xp, cuda).lane(lambda x: x.values, spec, collate="pad")
    for room in (8, 64, 256):
        driven.send([np.ones((2, 3)), np.ones((5, 3))], room=room).wait()
    assert set(made) == {"up"}
    assert len(made) == 3 * 3, "each slot's own: staging, collated arrays, answers"


def test_one_thread_starts_batches_while_another_waits_for_them(
    shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda("random", seed=11)
    xp = FakeDevice(shim, cuda)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    driven = World(xp, cuda).lane(lambda x: x * 2, TensorSpec((5,), "f4"))
    batches = [batch for seed in range(20) for batch in dense(seed)]
    flights: queue.SimpleQueue[Flight] = queue.SimpleQueue()
    answers: list[Any] = []

    def wait() -> None:
        for turn in range(len(batches)):
            flight = flights.get(timeout=30)
            if turn % 2:
                flight.event.synchronize()
                flight.done(0)
            answers.append(flight.wait())

    thread = threading.Thread(target=wait)
    thread.start()
    for batch in batches:
        # Not held back by whoever waits: if the ring is full, start() waits itself.
        flights.put(driven.send(batch))
    thread.join(60)
    assert len(answers) == len(batches)
    driven.lane.close()
    for batch, found in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(found, np.stack(batch) * 2)
