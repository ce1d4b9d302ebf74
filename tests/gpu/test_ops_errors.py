"""What the operations refuse, and that they say what was expected and what came."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.gpu.fake_cupy import FakeCupy
from tidegate import ConfigError, InputError
from tidegate import gpu as ops

# Not typed, since much of what follows is refused by type checkers too.
OPS: Any = ops
BYTES = np.zeros((2, 4, 4, 3), dtype=np.uint8)
VALUES = np.zeros((5, 2), dtype=np.float32)
IDS = np.zeros(5, dtype=np.int32)
OFFSETS = np.array([0, 2, 5], dtype=np.int32)
LOGITS = np.zeros((2, 6), dtype=np.float32)


def given(offsets: list[int]) -> Any:
    return np.array(offsets, dtype=np.int32)


ARRAYS: list[tuple[Callable[[], Any], str]] = [
    (lambda: OPS.u8_affine([1, 2]), "x must be a NumPy or CuPy array, got list"),
    (lambda: OPS.u8_affine(None), "x must be a NumPy or CuPy array, got NoneType"),
    (lambda: OPS.pad(VALUES, 3), "cu_seqlens must be a NumPy or CuPy array, got int"),
    (lambda: OPS.pad(VALUES, OFFSETS, out=(None, None)), r"out\[0\] must be .*, got NoneType"),
    (lambda: OPS.segment_mean(VALUES, OFFSETS, out=1), "out must be .* array, got int"),
    (
        lambda: OPS.u8_affine(VALUES),
        r"x must be a uint8 array, got float32 array of shape \(5, 2\)",
    ),
    (lambda: OPS.u8_affine(np.array(3, np.uint8)), r"x must be .* with rows, got .*\(\)"),
    (lambda: OPS.u8_affine(BYTES, [1, 2]), r"2 channels on its last axis, got .*\(2, 4, 4, 3\)"),
    (
        lambda: OPS.u8_affine(BYTES[:, :, :, :2], layout="channels_first"),
        r"shape \(n, \.\.\., 3\) for channels_first, got",
    ),
    (
        lambda: OPS.u8_affine(BYTES, out=np.zeros(3, np.float32)),
        r"out must be a writeable C-contiguous float32 array of shape \(2, 4, 4, 3\), got",
    ),
    (
        lambda: OPS.u8_affine(BYTES, out=np.zeros((2, 4, 3, 4), np.float32).swapaxes(2, 3)),
        "out must be .*, not contiguous",
    ),
    (lambda: OPS.u8_affine(BYTES, rows=np.zeros(1)), "rows must be a number, or an int32 array"),
    (
        lambda: OPS.pad(VALUES, OFFSETS.astype(np.int64)),
        "cu_seqlens must be an? int32 array with 1",
    ),
    (lambda: OPS.pad(VALUES, OFFSETS[:0]), "cu_seqlens must be at least one offset, 0, got"),
    (lambda: OPS.pad(VALUES, given([1, 5])), r"start with 0 and never decrease, got \[1, 5\]"),
    (lambda: OPS.pad(VALUES, given([0, 4, 3])), r"never decrease, got \[0, 4, 3\]"),
    (lambda: OPS.pad(VALUES, given([0, 6])), "offsets into 5 tokens, got a last one of 6"),
    (lambda: OPS.pad(np.zeros(5, "U3"), OFFSETS), "values must be an array of numbers of 1, 2, 4"),
    (lambda: OPS.pad(np.array(1.0), OFFSETS), "at least 1 axes"),
    (lambda: OPS.unpad(VALUES, OFFSETS), r"padded must be an array of 2 rows, as cu_seqlens is"),
    (
        lambda: OPS.unpad(VALUES[:2], OFFSETS, tokens=4),
        "offsets into 4 tokens, got a last one of 5",
    ),
    (lambda: OPS.unpad(IDS, OFFSETS), "at least 2 axes"),
    (lambda: OPS.pad_ids(IDS.astype(np.int64), OFFSETS), "ids must be an? int32 array with 1 axis"),
    (lambda: OPS.packed_meta(OFFSETS, tokens=3), "offsets into 3 tokens"),
    (lambda: OPS.softmax_topk(LOGITS[0], 1), "logits must be a float32 array with 2 axes, got"),
    (lambda: OPS.softmax_topk(LOGITS[:, :0], 1), "logits must be rows of 1 to"),
    (lambda: OPS.segment_mean(VALUES.astype(float), OFFSETS), "x must be a float32 array with 2"),
]


@pytest.mark.parametrize(("call", "message"), ARRAYS)
def test_a_wrong_array_is_an_input_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        call()
    assert raised.value.expected
    assert raised.value.given


SETTINGS: list[tuple[Callable[[], Any], str]] = [
    (lambda: OPS.u8_affine(BYTES, [1] * 5), "one for each of 1 to 4 channels, got 5"),
    (lambda: OPS.u8_affine(BYTES, [1] * 3, [1] * 2), "the same channels, got 3 and 2"),
    (lambda: OPS.u8_affine(BYTES, np.inf), "scale must be a finite float32 number, got inf"),
    (lambda: OPS.u8_affine(BYTES, 1e39), "scale must be a finite float32 number, got 1e\\+39"),
    (lambda: OPS.u8_affine(BYTES, bias="x"), "bias must be a finite float32 number, got 'x'"),
    (lambda: OPS.u8_affine(BYTES, fill=np.nan), "fill must be a finite float32 number, got nan"),
    (lambda: OPS.u8_affine(BYTES, dtype="int8"), "dtype must be float32, float16 or bfloat16"),
    (lambda: OPS.u8_affine(BYTES, dtype=float), "dtype must be float32, float16 or bfloat16"),
    (lambda: OPS.u8_affine(BYTES, layout="chw"), 'layout must be "same" or "channels_first"'),
    (lambda: OPS.u8_affine(BYTES, rows=3), "rows must be an integer from 0 to 2, got 3"),
    (lambda: OPS.u8_affine(BYTES, rows=True), "rows must be an integer from 0 to 2, got True"),
    (lambda: OPS.pad(VALUES, OFFSETS, length=-1), "length must be an integer from 0 to .*, got -1"),
    (lambda: OPS.pad(VALUES, OFFSETS, length=1.5), "length must be an integer"),
    (lambda: OPS.pad(IDS, OFFSETS, fill=0.5), "fill must be a number that int32 can hold, got 0.5"),
    (lambda: OPS.pad(IDS, OFFSETS, fill=2**31), "fill must be a number that int32 can hold"),
    (lambda: OPS.pad(IDS, OFFSETS, fill=np.nan), "fill must be a number that int32 can hold"),
    (lambda: OPS.pad(VALUES, OFFSETS, fill=1j), "fill must be a number that float32 can hold"),
    (lambda: OPS.pad(VALUES, OFFSETS, fill="0"), "fill must be a number that float32 can hold"),
    (
        lambda: OPS.pad(VALUES, OFFSETS, out=VALUES),
        "out must be a tuple of two arrays, got ndarray",
    ),
    (lambda: OPS.pad_ids(IDS, OFFSETS, fill=2**63), "fill must be an integer from"),
    (lambda: OPS.unpad(VALUES[:2], OFFSETS, tokens=-1), "tokens must be an integer from 0"),
    (lambda: OPS.softmax_topk(LOGITS, 0), "k must be an integer from 1 to 6, got 0"),
    (lambda: OPS.softmax_topk(LOGITS, 7), "k must be an integer from 1 to 6, got 7"),
    (lambda: OPS.softmax_topk(np.zeros((1, 99), np.float32), 17), "k must be .* 1 to 16, got 17"),
]


@pytest.mark.parametrize(("call", "message"), SETTINGS)
def test_a_wrong_setting_is_a_config_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_arrays_of_both_sides_do_not_mix(fake_cupy: FakeCupy) -> None:
    on_device = fake_cupy.asarray(VALUES)
    with pytest.raises(InputError, match="values is CuPy's, cu_seqlens is NumPy's"):
        OPS.pad(on_device, OFFSETS)
    with pytest.raises(InputError, match="x is CuPy's, rows is NumPy's"):
        OPS.u8_affine(fake_cupy.asarray(BYTES), rows=given([1]))
    assert not fake_cupy.launched


def test_offsets_on_a_device_are_checked_where_they_are_read_anyway(fake_cupy: FakeCupy) -> None:
    with pytest.raises(InputError, match="offsets into 5 tokens"):
        OPS.pad(fake_cupy.asarray(VALUES), fake_cupy.asarray(given([0, 6])))
    with pytest.raises(ConfigError, match="rows must be an integer from 0 to 2, got 9"):
        OPS.pad(fake_cupy.asarray(VALUES), fake_cupy.asarray(OFFSETS), length=3, rows=9)


def test_a_module_that_only_looks_like_cupy_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert OPS.u8_affine(BYTES).shape == BYTES.shape
