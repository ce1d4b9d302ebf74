"""A device that fails, models that raise, and answers that do not fit."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest

from tests.gpu.fake_cuda import ILLEGAL_ADDRESS, FakeCuda, FakeCudaError
from tests.gpu.fake_device import FakeDevice
from tests.gpu.lane_checks import dense, ragged
from tests.gpu.shim_driver import Shim
from tests.gpu.worlds import Driven, World
from tidegate import ClosedError, ConfigError, DeviceError, InputError, OutputError, TensorSpec
from tidegate._layout import Layout
from tidegate.ragged import PerToken

SPEC = TensorSpec((5,), "f4")
BATCH = dense(1)[2]


@pytest.fixture
def world(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> World:
    cuda = FakeCuda("lazy", devices=2)
    xp = FakeDevice(shim, cuda)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    return World(xp, cuda)


def check_broken(driven: Driven, world: World) -> None:
    """Whatever comes after the first error fails with it, and touches CUDA no more."""
    assert isinstance(driven.lane.broken, DeviceError)
    world.cuda.calls.clear()
    for _ in range(2):
        with pytest.raises(DeviceError, match="cuda:0 failed: fakeCudaError 700") as caught:
            driven.lane.start(np.empty(0, np.uint8), None, 1, 0, 0, 1)  # type: ignore[arg-type]
        assert caught.value is not driven.lane.broken
        cause = caught.value.__cause__
        assert isinstance(cause, FakeCudaError)
        assert cause.status == ILLEGAL_ADDRESS
    assert world.cuda.calls == []
    driven.lane.close()


def test_an_error_in_a_copy_breaks_the_lane(world: World) -> None:
    driven = world.lane(lambda x: x * 2, SPEC)
    earlier = driven.send(BATCH)
    world.cuda.fail_next = "memcpyAsync"
    with pytest.raises(DeviceError, match="restart the process"):
        driven.send(BATCH)
    with pytest.raises(DeviceError):
        earlier.wait()
    check_broken(driven, world)


def test_an_error_in_the_models_stream_breaks_the_lane(world: World) -> None:
    def model(x: Any) -> Any:
        if model_fails:
            world.xp.later(world.cuda.fail)
        return x * 2

    model_fails = False
    driven = world.lane(model, SPEC)
    good = driven.send(BATCH)
    model_fails = True
    bad, queued = driven.send(BATCH), driven.send(BATCH)
    np.testing.assert_array_equal(good.wait(), np.stack(BATCH) * 2)
    for flight in (bad, queued):
        with pytest.raises(DeviceError, match="700"):
            flight.wait()
        assert isinstance(flight.error, DeviceError)
    assert bad.error is not queued.error
    check_broken(driven, world)


def test_an_error_that_shows_when_a_slot_is_wanted_breaks_the_lane(world: World) -> None:
    def model(x: Any) -> Any:
        world.xp.later(world.cuda.fail)
        return x

    driven = world.lane(model, SPEC, depth=1)
    flight = driven.send(BATCH)
    # Memory first, since a device that failed gives none.
    memory = driven.lane.new_memory
    spare = memory(4096)
    driven.lane.new_memory = lambda nbytes: spare[:nbytes]  # type: ignore[method-assign]
    with pytest.raises(DeviceError):
        driven.send(BATCH)
    with pytest.raises(DeviceError):
        flight.wait()
    check_broken(driven, world)


def test_who_waited_elsewhere_says_how_it_ended(world: World) -> None:
    driven = world.lane(lambda x: x * 2, SPEC)
    flights = [driven.send(BATCH) for _ in range(2)]
    flights[0].event.synchronize()
    flights[0].done(0)
    assert flights[0].error is None
    world.cuda.calls.clear()
    np.testing.assert_array_equal(flights[0].wait(), np.stack(BATCH) * 2)
    assert world.cuda.calls == [], "what is done is not waited for again"
    flights[1].done(ILLEGAL_ADDRESS)
    assert isinstance(flights[1].error, DeviceError)
    with pytest.raises(DeviceError):
        flights[1].wait()
    check_broken(driven, world)


def test_a_thread_that_never_used_the_device_may_wait(world: World) -> None:
    driven = world.lane(lambda x: x * 2, SPEC, device=1)
    flight = driven.send(BATCH)
    found: list[Any] = []

    def wait() -> None:
        found.append(world.cuda.device)
        found.append(flight.wait())
        found.append(world.cuda.device)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(30)
    assert (found[0], found[2]) == (0, 0)
    np.testing.assert_array_equal(found[1], np.stack(BATCH) * 2)


def test_a_model_that_raises_leaves_the_lane_as_it_was(world: World) -> None:
    def model(x: Any) -> Any:
        doubled = x * 2
        if raising:
            raise ValueError("no")
        return doubled

    raising = False
    driven = world.lane(model, SPEC)
    flights = [driven.send(BATCH) for _ in range(2)]
    raising = True
    for _ in range(4):
        with pytest.raises(ValueError, match="no"):
            driven.send(BATCH)
        assert all(not stream.queue for stream in world.cuda.streams), "nothing is left of it"
    raising = False
    flights.append(driven.send(BATCH))
    for flight in flights:
        np.testing.assert_array_equal(flight.wait(), np.stack(BATCH) * 2)
    assert driven.lane.broken is None


def test_a_model_that_raises_since_the_device_failed_breaks_the_lane(world: World) -> None:
    def model(x: Any) -> Any:
        world.cuda.fail()
        raise RuntimeError("CUDA error: an illegal memory access was encountered")  # PyTorch's

    driven = world.lane(model, SPEC)
    with pytest.raises(DeviceError, match="700"):
        driven.send(BATCH)
    check_broken(driven, world)


@pytest.mark.parametrize(
    ("model", "message", "expected", "given"),
    [
        (
            lambda x: x[:2],
            r"expected 8 rows from the model, got 2 \(an output of .* \(2, 5\)",
            8,
            2,
        ),
        (lambda x: x.sum(), "expected 8 rows from the model, got a scalar", 8, None),
        (lambda x: (), "expected 8 rows from the model, got an empty tuple", 8, None),
        (lambda x: {}, "expected 8 rows from the model, got an empty mapping", 8, None),
        (lambda x: (x, None), "arrays whose first axis is 8, .*; got NoneType", None, None),
        (lambda x: [x] * 8, "or a tuple or mapping of them; got list", None, None),
        (lambda x: np.zeros(3), "expected 8 rows from the model, got 3", 8, 3),
        (lambda x: PerToken(x), "PerToken is for models of ragged rows", None, None),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(
    model: Any, message: str, expected: int | None, given: int | None, world: World
) -> None:
    driven = world.lane(model, SPEC)
    with pytest.raises(OutputError, match=message) as caught:
        driven.send(BATCH, 8)
    assert (caught.value.expected, caught.value.given) == (expected, given)
    assert driven.lane.broken is None


@pytest.mark.parametrize(
    ("collate", "model", "message"),
    [
        ("pack", lambda x: PerToken(x.values[1:]), "expected 7 tokens from the model, got 6"),
        (
            "pad",
            lambda x: PerToken(x.values[:, 1:]),
            r"shape \(8, 5, \.\.\.\) for PerToken, got .*4",
        ),
        ("pad", lambda x: PerToken(x.values[1:]), "expected 8 rows from the model, got 7"),
    ],
)
def test_an_answer_per_token_that_does_not_fit_is_refused(
    collate: str, model: Any, message: str, world: World
) -> None:
    driven = world.lane(model, TensorSpec((None, 3), "f4"), collate=collate)
    with pytest.raises(OutputError, match=message):
        driven.send(ragged(1)[0], 8)


def test_a_row_longer_than_all_lengths_is_refused(world: World) -> None:
    spec = TensorSpec((None, 3), "f4")
    driven = world.lane(lambda x: x.values, spec, collate="pad", pad_to=(2, 4))
    with pytest.raises(InputError, match="may have 4 tokens, the largest of pad_to, got 5"):
        driven.send(ragged(1)[0])


def test_a_closed_lane_takes_nothing_and_has_let_go_of_its_memory(world: World) -> None:
    driven = world.lane(lambda x: x * 2, SPEC)
    flight = driven.send(BATCH)
    driven.lane.close()
    driven.lane.close()
    np.testing.assert_array_equal(flight.wait(), np.stack(BATCH) * 2)
    with pytest.raises(ClosedError, match="the lane is closed"):
        driven.send(BATCH)
    assert "closed" in repr(driven.lane)


def test_an_answer_on_another_device_is_refused(world: World) -> None:
    def model(x: Any) -> Any:
        with world.cuda.Device(1):
            return world.xp.empty(x.shape, np.float32)

    driven = world.lane(model, SPEC)
    with pytest.raises(OutputError, match=r"must answer on device 0, .*, got an array on device 1"):
        driven.send(BATCH)


@pytest.mark.parametrize(
    ("rows", "size", "nbytes"), [(0, 1, 4096), (3, 2, 4096), (3, 9, 4096), (3, 3, 100)]
)
def test_a_batch_that_has_no_room_is_refused(
    rows: int, size: int, nbytes: int, world: World
) -> None:
    lane = world.lane(lambda x: x, SPEC).lane
    memory, layout = lane.new_memory(nbytes), Layout([SPEC], 8, 0)
    with pytest.raises(ConfigError, match=f"got {rows} rows, size {size} and {nbytes} bytes"):
        lane.start(memory, layout, rows, 0, 0, size)


def test_page_locked_memory_that_is_not_there_is_said_to_be(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(size: int, flags: int) -> Any:
        raise FakeCudaError(2)

    lane = world.lane(lambda x: x, SPEC).lane
    monkeypatch.setattr(world.cuda, "PinnedMemory", refuse)
    with pytest.raises(DeviceError, match="no page-locked memory of 512 bytes: fakeCudaError 2"):
        lane.new_memory(512)
    assert lane.broken is None
