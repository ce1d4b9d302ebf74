"""Fixtures of the kernels' tests: their text compiled for the CPU, and CuPy's stand-in over it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.gpu import shim_driver
from tests.gpu.fake_cupy import FakeCupy
from tests.gpu.shim_driver import Shim
from tidegate.gpu import kernels


@pytest.fixture(scope="session")
def fibers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim's scheduler, compiled."""
    if not shutil.which(shim_driver.COMPILER):
        pytest.skip("compiling the kernels' text for the CPU needs g++")
    return shim_driver.compile_fibers(tmp_path_factory.mktemp("fibers"))


@pytest.fixture(scope="session")
def shim(fibers: Path, tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """The kernels as they are."""
    return shim_driver.build(kernels.source(), tmp_path_factory.mktemp("shims") / "real", fibers)


@pytest.fixture(scope="session")
def shared_cupy(shim: Shim) -> FakeCupy:
    """One for all tests, since the kernels of each are kept."""
    return FakeCupy(shim)


@pytest.fixture
def fake_cupy(shared_cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """In the place of CuPy."""
    shared_cupy.reseed(0)
    monkeypatch.setitem(sys.modules, "cupy", shared_cupy)
    return shared_cupy
