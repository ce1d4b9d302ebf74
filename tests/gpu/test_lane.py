"""The lane, over CUDA's stand-in in every order, and on a GPU if marked so."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.gpu.fake_cuda import FakeCuda
from tests.gpu.fake_device import FakeDevice
from tests.gpu.lane_checks import CHECKS
from tests.gpu.shim_driver import Shim
from tests.gpu.worlds import World

Check = Callable[[World], None]


def name_of(check: Any) -> str:
    return str(check.__name__)


ORDERS = ("eager", "lazy", "random")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_a_lane_answers_as_the_model_alone_would(
    check: Check, order: str, shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(order)
    xp = FakeDevice(shim, cuda)
    monkeypatch.setitem(sys.modules, "cupy", xp)
    world = World(xp, cuda)
    check(world)
    world.close()
    xp.check()


@pytest.mark.gpu
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_a_lane_answers_on_a_gpu_as_the_model_alone_would(check: Check) -> None:
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("needs CuPy")
    cupy = importlib.import_module("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("needs a CUDA device")
    world = World(cupy, cupy.cuda)
    check(world)
    world.close()
