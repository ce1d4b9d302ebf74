"""Every kernel against its NumPy body: on the CPU in shuffled order, and on a GPU if marked so."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.gpu.checks import CHECKS, Device
from tests.gpu.fake_cupy import FakeCupy
from tests.gpu.guarded import GuardedCupy
from tests.gpu.shim_driver import Shim, ShimError
from tidegate import gpu as ops
from tidegate.gpu import kernels

Check = Callable[[Device], None]
ALL = [check for checks in CHECKS.values() for check in checks]


def name_of(check: Any) -> str:
    return str(check.__name__)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("check", ALL, ids=name_of)
def test_a_kernel_does_what_its_numpy_body_does(
    check: Check, seed: int, fake_cupy: FakeCupy
) -> None:
    fake_cupy.reseed(seed)
    check(Device(fake_cupy, seed))
    assert fake_cupy.launched
    fake_cupy.check()


@pytest.fixture(scope="module")
def real_cupy() -> GuardedCupy:
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("needs CuPy")
    cupy = importlib.import_module("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return GuardedCupy(cupy)


@pytest.mark.gpu
@pytest.mark.parametrize("check", ALL, ids=name_of)
def test_a_kernel_does_on_a_gpu_what_its_numpy_body_does(
    check: Check, real_cupy: GuardedCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", real_cupy)
    seed = int(np.random.default_rng().integers(2**32))
    print(f"seed {seed}")
    check(Device(real_cupy, seed))
    real_cupy.check()


@pytest.mark.parametrize("check", CHECKS["pad"], ids=name_of)
def test_the_guards_of_a_gpu_work_on_a_cpu(
    check: Check, fake_cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = GuardedCupy(fake_cupy)
    monkeypatch.setitem(sys.modules, "cupy", guarded)
    check(Device(guarded, 0))
    guarded.check()
    beside = guarded.empty((4,), np.int32)
    beside.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))[4] = 0
    with pytest.raises(AssertionError, match="behind a result"):
        guarded.check()


def test_the_list_of_kernels_is_that_of_the_text(shim: Shim) -> None:
    # The shim is built from the list, so a name that is too many does not compile.
    plain = re.findall(r"__global__[^(]*\(kMaxThreads\)\s+(\w+)\(", kernels.source())
    made = re.findall(r"^TIDEGATE_\w+_KERNELS?\((\w+), ", kernels.source(), re.MULTILINE)
    per_name = {"u8_affine": 6, "u8_hwc3_chw": 6, "pad_v": 4, "unpad_v": 4}
    assert len(made) == 6 + 4 + 2
    singles = {"pad_ids", "packed_meta", "row_lengths", "softmax_topk"}
    assert singles <= set(plain)
    assert len(kernels.KERNELS) == sum(per_name.values()) + len(singles) + 2
    assert len(set(kernels.KERNELS)) == len(kernels.KERNELS)


def test_a_row_count_that_is_a_number_reaches_the_kernel(fake_cupy: FakeCupy) -> None:
    x = fake_cupy.asarray(np.arange(32, dtype=np.uint8).reshape(4, 8))
    found = ops.u8_affine(x, rows=2, fill=-1.0).get()
    assert (found[2:] == -1).all()
    assert (found[:2] >= 0).all()


def test_results_go_where_they_are_wanted(fake_cupy: FakeCupy) -> None:
    x = fake_cupy.asarray(np.arange(32, dtype=np.uint8).reshape(4, 8))
    out = fake_cupy.empty((4, 8), np.float16)
    assert ops.u8_affine(x, dtype="float16", out=out) is out
    np.testing.assert_array_equal(out.get(), x.get().astype(np.float16))
    offsets = fake_cupy.asarray(np.array([0, 2, 4], dtype=np.int32))
    pair = fake_cupy.empty((2, 3, 8), np.uint8), fake_cupy.empty((2, 3), np.bool_)
    found = ops.pad(x, offsets, length=3, out=pair)
    assert found[0] is pair[0]
    assert found[1] is pair[1]
    fake_cupy.check()


def test_a_mask_that_nobody_wants_is_not_written(fake_cupy: FakeCupy) -> None:
    values = fake_cupy.asarray(np.array([1, 2, 3], dtype=np.float32))
    offsets = fake_cupy.asarray(np.array([0, 1, 3], dtype=np.int32))
    header = fake_cupy.asarray(np.array([2], dtype=np.int32))
    out = fake_cupy.empty((2, 2), np.float32)
    fill = np.zeros(1, dtype=[("words", np.uint32, 4)])
    arguments = (values, offsets, out, None, header, np.int32(2), np.int32(2), np.int32(1), fill)
    fake_cupy.shim.launch("pad_v4", (1, 1), (32,), arguments, seed=1)
    assert out.tolist() == [[1, 0], [2, 3]]
    fake_cupy.check()


def test_everything_is_compiled_ahead(fake_cupy: FakeCupy) -> None:
    kernels.prepare(fake_cupy)


# The shim itself sees what it is there to see


def launch(fake_cupy: FakeCupy, *arguments: Any, grid: tuple[int, ...] = (1,)) -> None:
    fake_cupy.shim.launch("packed_meta", grid, (32,), arguments, seed=1)


def test_wrong_arguments_are_refused(fake_cupy: FakeCupy) -> None:
    array = fake_cupy.asarray(np.zeros(4, dtype=np.int32))
    with pytest.raises(ShimError, match="takes 6 arguments, got 1"):
        launch(fake_cupy, array)
    with pytest.raises(ShimError, match="argument 4 has 4 bytes, got 8"):
        launch(fake_cupy, array, array, array, array, np.int64(0), np.int32(0))
    with pytest.raises(TypeError, match="takes no int"):
        launch(fake_cupy, array, array, array, array, 0, np.int32(0))
    with pytest.raises(ShimError, match="no kernel named nothing"):
        fake_cupy.shim.launch("nothing", (1,), (32,), (), seed=1)


def test_writing_beside_a_result_is_seen(fake_cupy: FakeCupy) -> None:
    offsets = fake_cupy.asarray(np.array([0, 9], dtype=np.int32))
    header = fake_cupy.asarray(np.array([1], dtype=np.int32))
    short = fake_cupy.empty((8,), np.int32)
    long = fake_cupy.empty((9,), np.int32)
    launch(fake_cupy, offsets, long, short, header, np.int32(1), np.int32(9))
    with pytest.raises(AssertionError, match="behind an array"):
        fake_cupy.check()


def test_writing_to_an_input_is_seen(fake_cupy: FakeCupy) -> None:
    offsets = fake_cupy.asarray(np.array([0, 2], dtype=np.int32))
    header = fake_cupy.asarray(np.array([1], dtype=np.int32))
    positions = fake_cupy.empty((2,), np.int32)
    segments = fake_cupy.asarray(np.array([7, 7], dtype=np.int32))
    launch(fake_cupy, offsets, positions, segments, header, np.int32(1), np.int32(2))
    with pytest.raises(AssertionError, match="to its input"):
        fake_cupy.check()


def test_an_address_that_is_not_aligned_is_seen(fake_cupy: FakeCupy) -> None:
    values = fake_cupy.asarray(np.zeros(9, dtype=np.float32))[1:]
    offsets = fake_cupy.asarray(np.array([0, 2], dtype=np.int32))
    header = fake_cupy.asarray(np.array([1], dtype=np.int32))
    out = fake_cupy.empty((1, 2, 4), np.float32)
    fill = np.zeros(1, dtype=[("words", np.uint32, 4)])
    arguments = (values, offsets, out, None, header, np.int32(1), np.int32(2), np.int32(1), fill)
    with pytest.raises(ShimError, match="not aligned"):
        fake_cupy.shim.launch("pad_v16", (1, 1), (32,), arguments, seed=1)
