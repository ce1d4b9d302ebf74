"""Models of other frameworks: graphs that they capture, arrays that they answer with, streams."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.gpu.fake_cuda import FakeCuda
from tests.gpu.fake_device import FakeDevice
from tests.gpu.lane_checks import Recorded, dense, ragged
from tests.gpu.shim_driver import Shim
from tests.gpu.worlds import CAPACITY, World
from tidegate import ConfigError, DeviceError, OutputError, TensorSpec
from tidegate._layout import Layout
from tidegate.gpu import kernels

DENSE, RAGGED = TensorSpec((5,), "f4"), TensorSpec((None, 3), "f4")


@pytest.fixture
def world(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> World:
    cuda = FakeCuda("random", seed=7, devices=2)
    xp = FakeDevice(shim, cuda)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    return World(xp, cuda)


# Warm-up and graphs


def test_warming_up_runs_each_size_on_zeros(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[Any] = []
    monkeypatch.setattr(kernels, "prepare", prepared.append)
    seen: list[Any] = []

    def model(x: Any) -> Any:
        world.xp.later(lambda: seen.append(np.array(x.get())))
        return x

    driven = world.lane(model, DENSE)
    driven.lane.warm_up([2, 8, 2])
    assert prepared == [world.xp]
    assert [rows.shape for rows in seen] == [(8, 5), (2, 5)]
    assert not any(rows.any() for rows in seen)
    with pytest.raises(ConfigError, match=r"warm_up\(\) needs sizes"):
        driven.lane.warm_up()
    with pytest.raises(ConfigError, match="the layout has room for 4 rows, got 8"):
        driven.lane.warm_up([8], Layout([DENSE], 4, 0))


@pytest.mark.parametrize("settings", [{"collate": "pack"}, {"collate": "pad"}])
def test_ragged_models_are_warmed_up_with_rows_of_one_token(settings: Any, world: World) -> None:
    shapes: list[Any] = []

    def model(batch: Any) -> Any:
        shapes.append(batch.values.shape)
        return batch[1][: len(batch[1]) - (settings["collate"] == "pack")]

    driven = world.lane(model, RAGGED, allowed_batch_sizes=(1, 4), **settings)
    driven.lane.warm_up()
    padded = settings["collate"] == "pad"
    assert shapes == ([(4, 1, 3), (1, 1, 3)] if padded else [(4, 3), (1, 3)])


def test_a_size_that_cannot_be_captured_runs_without_a_graph(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(Recorded):
        def __call__(self, batch: Any) -> Any:
            self.called += 1
            return batch * 2

        def capture(self, size: int, argument: Any) -> Any:
            self.captured.append((size, 0))
            # In the second slot, after the first has a graph already.
            if size == 2 and len(self.captured) == 5:
                raise RuntimeError("operation not permitted when stream is capturing")
            return lambda: argument * 2

    model = Stubborn(world)
    driven = world.lane(model, DENSE, allowed_batch_sizes=(1, 2, 4))
    driven.lane.warm_up(layout=Layout([DENSE], CAPACITY, 0))
    assert [size for size, _ in model.captured] == [4] * 3 + [2] * 2 + [1] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "the model's capture(2, ...) gave no graph: it raised RuntimeError: operation not "
        "permitted when stream is capturing; batches of that shape run without one"
    ]
    for size, eager in ((4, 0), (2, 3), (1, 0)):
        called = model.called
        batch = dense(1)[0][:size]
        for _ in range(3):
            np.testing.assert_array_equal(driven.send(batch).wait(), np.stack(batch) * 2)
        assert model.called - called == eager
    assert driven.lane.broken is None


@pytest.mark.parametrize(("answer", "said"), [(None, "returned None;"), (3, "returned 3, no func")])
def test_a_capture_that_gives_no_function_is_no_graph(
    answer: Any, said: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Nothing(Recorded):
        def __call__(self, batch: Any) -> Any:
            return batch * 2

        def capture(self, size: int, argument: Any) -> Any:
            return answer

    world.lane(Nothing(world), DENSE).lane.warm_up([2, 4])
    assert len(caplog.records) == 2
    assert all(said in record.getMessage() for record in caplog.records)


def test_a_capture_that_fails_since_the_device_did_breaks_the_lane(world: World) -> None:
    class Fatal(Recorded):
        def __call__(self, batch: Any) -> Any:
            return batch * 2

        def capture(self, size: int, argument: Any) -> Any:
            world.cuda.fail()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    lane = world.lane(Fatal(world), DENSE).lane
    with pytest.raises(DeviceError, match="700"):
        lane.warm_up([2])
    assert lane.broken is not None


@pytest.mark.parametrize(
    ("collate", "remedy"), [("pad", "give pad_to"), ("pack", 'use collate="pad" with pad_to')]
)
def test_arguments_without_a_fixed_shape_are_not_captured(
    collate: str, remedy: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Packed(Recorded):
        def __call__(self, batch: Any) -> Any:
            return batch[1][: self.size]

        size = 2

    model = Packed(world)
    world.lane(model, RAGGED, collate=collate).lane.warm_up([2])
    assert model.captured == []
    assert len(caplog.records) == 1
    assert remedy in caplog.records[0].getMessage()


def test_memory_that_moves_takes_its_graphs_along(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    model = Recorded(world)
    driven = world.lane(model, RAGGED, collate="pad", pad_to=(4,), allowed_batch_sizes=(4,))
    driven.lane.warm_up(layout=Layout([RAGGED], CAPACITY, 16))
    batch = [row[:4] for row in ragged(1)[3]]
    called = model.called
    wanted = [row.sum(axis=0) + len(row) for row in batch]
    for room in (16, 8000, 16, 8000, 16):
        np.testing.assert_array_equal(driven.send(batch, room=room).wait(), wanted)
    assert model.called == called + 3, "the third slot had no larger batch, and kept its graph"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "1 captured graphs were dropped" in said[0]


# Arrays of others


class Tensor:
    """Something with DLPack, as PyTorch's tensors."""

    def __init__(self, array: Any, device: int, trouble: Exception | None = None) -> None:
        self.array = array
        self.kind = device
        self.trouble = trouble

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, **settings: Any) -> Any:
        if self.trouble is not None:
            raise self.trouble
        return self.array.__dlpack__(**settings)


def test_what_has_dlpack_is_taken_on_the_side_that_it_is_on(world: World) -> None:
    on_host = np.arange(8.0)
    driven = world.lane(lambda x: (Tensor(x * 2, 2), Tensor(on_host, 1)), DENSE)
    batch = dense(1)[2]
    found = driven.send(batch, 8).wait()
    np.testing.assert_array_equal(found[0], np.stack(batch) * 2)
    assert found[1].tolist() == [0, 1, 2]
    on_host[:] = -1
    assert found[1].tolist() == [0, 1, 2]


def test_what_has_the_cuda_array_interface_is_taken_without_a_copy(world: World) -> None:
    def model(x: Any) -> Any:
        return SimpleNamespace(array=x * 2, __cuda_array_interface__={})

    batch = dense(1)[2]
    found = world.lane(model, DENSE).send(batch, 8).wait()
    np.testing.assert_array_equal(found, np.stack(batch) * 2)


def test_what_dlpack_does_not_know_is_taken_by_the_other_interface(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Both(Tensor):
        __cuda_array_interface__ = "as PyTorch's"

    def refuse(value: Any) -> Any:
        raise RuntimeError("Bool type is not supported by dlpack")

    monkeypatch.setattr(world.xp, "from_dlpack", refuse)
    batch = dense(1)[2]
    driven = world.lane(lambda x: Both(x > 100, 2), DENSE)
    np.testing.assert_array_equal(driven.send(batch, 8).wait(), np.stack(batch) > 100)
    driven = world.lane(lambda x: Tensor(x > 100, 2), DENSE)
    with pytest.raises(OutputError, match=r"the model's Tensor cannot be taken.*Bool type"):
        driven.send(batch)


def test_a_tensor_that_cannot_be_taken_says_what_to_do(world: World) -> None:
    trouble = BufferError("Can't export tensors that require gradient")
    driven = world.lane(lambda x: Tensor(np.zeros(8), 1, trouble), DENSE)
    with pytest.raises(OutputError, match=r"require gradient\. A PyTorch model must") as caught:
        driven.send(dense(1)[0])
    assert caught.value.__cause__ is trouble


def test_pytorch_runs_on_the_models_stream(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[Any] = []
    made: list[Any] = []

    @contextlib.contextmanager
    def stream(given: Any) -> Iterator[None]:
        current.append(given)
        yield
        current.pop()

    def external(pointer: int, device: Any) -> Any:
        made.append((pointer, device))
        return made[-1]

    cuda = SimpleNamespace(is_available=lambda: True, ExternalStream=external, stream=stream)
    torch = SimpleNamespace(cuda=cuda, device=lambda kind, number: f"{kind}:{number}")
    monkeypatch.setitem(sys.modules, "torch", torch)
    seen: list[Any] = []

    def model(x: Any) -> Any:
        seen.append((current[-1], world.cuda.current.ptr))
        return x

    driven = world.lane(model, DENSE, device=1)
    driven.send(dense(1)[0])
    driven.send(dense(1)[0])
    run = world.cuda.streams[1].ptr
    assert seen == [((run, "cuda:1"), run)] * 2
    assert made == [(run, "cuda:1")]
    assert current == []
    cuda.is_available = lambda: False
    current.append("none")
    driven.send(dense(1)[0])
    assert seen[-1] == ("none", run), "a PyTorch for the CPU only"
