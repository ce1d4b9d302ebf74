"""What callers keep never changes, and what nobody keeps is used again."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import pytest

from tests.gpu.fake_cuda import FakeCuda
from tests.gpu.fake_device import FakeDevice
from tests.gpu.lane_checks import dense
from tests.gpu.shim_driver import Shim
from tests.gpu.worlds import World
from tidegate import TensorSpec
from tidegate.gpu.pinned import Pool, _class_of

SPEC = TensorSpec((5,), "f4")


@pytest.fixture
def world(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> World:
    cuda = FakeCuda("random", seed=5)
    xp = FakeDevice(shim, cuda)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    return World(xp, cuda)


def test_a_block_is_used_again_once_the_last_view_is_gone() -> None:
    pool = Pool(FakeCuda("eager"))
    first = pool.take(5000)
    address = first.ctypes.data
    row: Any = first[100:200].view(np.float32)[3:]
    second = pool.take(5000)
    assert second.ctypes.data != address
    del first
    gc.collect()
    third = pool.take(5000)
    assert third.ctypes.data not in (address, second.ctypes.data), "a row of it is still kept"
    exported = memoryview(row)
    del row
    assert pool.take(5000).ctypes.data != address, "as a buffer, too"
    exported.release()
    del exported
    assert pool.take(5000).ctypes.data == address


def test_a_pool_keeps_a_few_blocks_and_gives_the_others_back() -> None:
    cuda = FakeCuda("eager")
    pool = Pool(cuda)
    taken = [pool.take(100) for _ in range(40)]
    assert len({block.ctypes.data for block in taken}) == 40
    assert len(cuda.pinned) == 40
    taken.clear()
    assert len(cuda.pinned) == 16
    cuda.calls.clear()
    taken = [pool.take(4096) for _ in range(16)]
    assert cuda.calls == []


def test_blocks_are_at_most_a_quarter_larger_than_wanted() -> None:
    sizes = {_class_of(nbytes) for nbytes in range(1, 70000)}
    assert min(sizes) == 4096
    assert len(sizes) == 1 + 4 * 4 + 1
    for nbytes in (*range(4096, 70000, 7), 10**9, 10**9 + 1):
        assert nbytes <= _class_of(nbytes) < nbytes * 1.25 + 1


def test_rows_that_are_kept_never_change(world: World) -> None:
    driven = world.lane(lambda x: {"same": x, "double": x * 2}, SPEC)
    kept: list[tuple[Any, Any]] = []
    for round_ in range(6):
        for batch, found in zip(dense(round_), driven.answers(dense(round_)), strict=True):
            row = round_ % len(batch)
            kept.append((found["double"][row], batch[row] * 2))
            kept.append((found["same"][row : row + 1].view(np.uint32), batch[row].view(np.uint32)))
    for found, wanted in kept:
        np.testing.assert_array_equal(np.squeeze(found), wanted)


def test_answers_that_nobody_keeps_need_no_new_memory(world: World) -> None:
    driven = world.lane(lambda x: x, SPEC)
    for batch in dense(1):
        driven.send(batch).wait()
    batch = dense(1)[0]
    world.cuda.calls.clear()
    for _ in range(5):
        driven.send(batch).wait()
    assert world.cuda.calls.count("PinnedMemory") == 5, "those that the batches came in"


def test_memory_of_a_batch_is_held_until_it_is_done(world: World) -> None:
    world.cuda.order = "lazy"
    driven = world.lane(lambda x: x * 2, SPEC)
    flight = driven.send(dense(1)[0])
    gc.collect()
    assert len(world.cuda.pinned) == 2, "the batch, which is not uploaded yet, and the answer"
    flight.wait()
    gc.collect()
    assert len(world.cuda.pinned) == 1


def test_an_answer_of_a_flight_that_was_dropped_is_not_used_again_too_early(world: World) -> None:
    world.cuda.order = "lazy"
    driven = world.lane(lambda x: x * 2, SPEC)
    batches = dense(2)
    dropped = driven.send(batches[0])
    address = dropped.outputs.ctypes.data
    del dropped
    gc.collect()
    flight = driven.send(batches[3])
    assert flight.outputs.ctypes.data != address
    np.testing.assert_array_equal(flight.wait(), np.stack(batches[3]) * 2)
    del flight
    driven.send(batches[0]).wait()
    later = {driven.send(batch).outputs.ctypes.data for batch in (batches[0], batches[3])}
    assert address in later, "but once it is done"
