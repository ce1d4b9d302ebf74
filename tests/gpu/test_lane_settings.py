"""What a lane can be made with, and which device that is."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tests.gpu.fake_cuda import FakeCuda
from tests.gpu.fake_device import FakeDevice
from tests.gpu.shim_driver import Shim
from tests.gpu.worlds import World
from tidegate import ConfigError, TensorSpec
from tidegate.gpu.opening import device_number, make_lane
from tidegate.transforms import Affine, TokenIds

DENSE, RAGGED = TensorSpec((5,), "f4"), TensorSpec((None, 3), "f4")
IDS = TensorSpec((None,), "i4", transform=TokenIds())


@pytest.fixture
def world(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> World:
    cuda = FakeCuda("lazy", devices=2)
    xp = FakeDevice(shim, cuda)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    return World(xp, cuda)


class Unknown:
    """A transform that only its owner knows."""

    def check(self, spec: TensorSpec, collate: str | None = None) -> None:
        """Suits everything."""


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        (DENSE, {"collate": "list"}, '"stack", "pad" or "pack", got \'list\''),
        (DENSE, {"collate": "pad"}, "takes at least one ragged array, got float32 array"),
        (RAGGED, {}, "collate='stack' takes no ragged arrays"),
        (DENSE, {"outputs": "cpu"}, '"host" or "device", got \'cpu\''),
        (DENSE, {"depth": 0}, "depth must be an integer from 1 to 64, got 0"),
        (DENSE, {"allowed_batch_sizes": [0]}, "a size must be an integer from 1"),
        (DENSE, {"pad_to": (4,)}, 'pad_to is for collate="pad"'),
        (RAGGED, {"collate": "pad", "pad_to": (8, 4)}, "ascending lengths of at least 1"),
        (RAGGED, {"collate": "pad", "pad_to": ()}, "ascending lengths of at least 1"),
        (IDS, {"collate": "pad", "padding_value": 0.5}, "fill must be an integer"),
        (IDS, {"collate": "pack"}, 'TokenIds needs collate="pad"'),
        (TensorSpec((None,), "i4"), {"collate": "pad", "padding_value": 2**40}, "int32 can hold"),
        (TensorSpec((2,), "U4"), {}, "a device takes bool, integers, .* got <U4"),
        (TensorSpec((2,), "longdouble"), {}, "a device takes bool, integers"),
        (TensorSpec((2,), "M8[s]"), {}, "a device takes bool, integers"),
        (TensorSpec((2,), "u1", transform=Unknown()), {}, "knows the transforms Affine and Token"),
        ("f4", {}, "inputs must be a TensorSpec"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_once(
    spec: Any, settings: Any, message: str, world: World
) -> None:
    with pytest.raises(ConfigError, match=message):
        world.lane(lambda x: x, spec, **settings)
    assert not world.cuda.streams, "before anything is made on the device"


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)])
def test_a_device_has_a_number(device: str, number: int) -> None:
    assert device_number(device) == number


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "", 0, None])
def test_something_else_is_no_device(device: Any) -> None:
    with pytest.raises(ConfigError, match='device must be "cuda", "cuda:0", "cuda:1" and so on'):
        device_number(device)


def make(world: World, device: str, **settings: Any) -> Any:
    return make_lane(
        lambda x: x,
        DENSE,
        device,
        require=lambda: None,
        import_cupy=lambda: world.xp,
        **settings,
    )


def test_a_lane_is_made_on_the_device_that_is_named(world: World) -> None:
    lane = make(world, "cuda:1", depth=2, outputs="device", allowed_batch_sizes=[4])
    assert "cuda:1, open" in repr(lane)
    assert {stream.device for stream in world.cuda.streams} == {1}
    assert lane.depth == 2
    assert world.cuda.device == 0, "the thread that makes it stays where it was"


def test_a_device_that_is_not_there_is_refused_with_those_that_are(world: World) -> None:
    with pytest.raises(ConfigError, match='no device \'cuda:2\', only "cuda:0" to "cuda:1"'):
        make(world, "cuda:2")
    world.cuda.runtime.getDeviceCount = lambda: 1
    with pytest.raises(ConfigError, match=r"no device 'cuda:2', only \"cuda:0\"$"):
        make(world, "cuda:2")


def test_what_is_missing_on_this_machine_is_said_first() -> None:
    def require() -> None:
        raise ConfigError("no work on a GPU is possible: there is no driver. Install one")

    def import_cupy() -> Any:
        raise AssertionError("too early")

    with pytest.raises(ConfigError, match="there is no driver"):
        make_lane(lambda x: x, DENSE, require=require, import_cupy=import_cupy)


def test_page_locked_memory_is_of_exact_size_and_lives_as_long_as_its_views(world: World) -> None:
    lane = world.lane(lambda x: x, DENSE, device=1).lane
    memory = lane.new_memory(1000)
    assert (memory.nbytes, memory.dtype, memory.ctypes.data % 256) == (1000, np.uint8, 0)
    assert memory.flags.writeable
    assert [held.size for held in world.cuda.pinned] == [1000]
    view = memory[10:20]
    del memory
    view[...] = 1
    assert len(world.cuda.pinned) == 1
    del view
    assert len(world.cuda.pinned) == 0


def test_an_affine_in_front_of_a_model_of_other_arrays_changes_only_its_own(world: World) -> None:
    spec: Any = (TensorSpec((2, 2), "u1", transform=Affine(2.0, 1.0)), TensorSpec((2,), "u1"))
    driven = world.lane(lambda x: (x[0] + 0, x[1] + 0), spec)
    found = driven.send([(np.full((2, 2), 3), [7, 8])], 4).wait()
    assert found[0].tolist() == [[[7, 7], [7, 7]]]
    assert found[1].tolist() == [[7, 8]]
