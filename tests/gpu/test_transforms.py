"""Transforms: which specs they suit, and that they are the operations they stand for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.gpu.fake_cupy import FakeCupy
from tidegate import ConfigError, TensorSpec
from tidegate import gpu as ops
from tidegate.transforms import Affine, TokenIds

IMAGE: Any = {"scale": [0.5, 0.25, 2.0], "bias": [1, 2, 3]}


def test_a_transform_is_part_of_the_spec() -> None:
    plain = TensorSpec((4, 3), "u1")
    spec = TensorSpec((4, 3), "u1", transform=Affine(2.0))
    assert plain.transform is None
    assert spec.transform == Affine(2.0)
    assert spec == TensorSpec((4, 3), np.uint8, transform=Affine(2.0))
    assert spec not in (plain, TensorSpec((4, 3), "u1", transform=Affine(3.0)))
    assert hash(spec) == hash(TensorSpec((4, 3), "u1", transform=Affine(2.0)))


def test_equal_transforms_are_equal_whatever_they_were_made_from() -> None:
    assert Affine(**IMAGE) == Affine((0.5, 0.25, 2.0), np.array([1.0, 2.0, 3.0]))  # type: ignore[arg-type]
    assert hash(Affine(**IMAGE)) == hash(Affine((0.5, 0.25, 2.0), (1.0, 2.0, 3.0)))
    assert TokenIds() == TokenIds()


def test_something_else_is_no_transform() -> None:
    given: Any = "affine"
    with pytest.raises(ConfigError, match=r"one of tidegate\.transforms, got 'affine'"):
        TensorSpec((3,), "u1", transform=given)
    for kind in (Affine, TokenIds):  # where one of them should be
        with pytest.raises(ConfigError, match=f"made by one of .*got .*{kind.__name__}"):
            TensorSpec((3,), "u1", transform=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "dtype", "transform", "expected"),
    [
        ((3,), "f4", Affine(), "a uint8 array that is not ragged, got float32"),
        ((None, 3), "u1", Affine(), "a uint8 array that is not ragged, got uint8"),
        ((8, 4), "u1", Affine(**IMAGE), "with 3 channels on its last axis, got"),
        ((), "u1", Affine(**IMAGE), "with 3 channels on its last axis, got"),
        ((3,), "u1", Affine(layout="channels_first"), r"of shape \(\.\.\., 3\), got"),
        ((8, 4), "u1", Affine(layout="channels_first"), r"of shape \(\.\.\., 3\), got"),
        ((None,), "i8", TokenIds(), r"int32 array of shape \(None,\), got int64"),
        ((4,), "i4", TokenIds(), r"int32 array of shape \(None,\), got int32 array of shape \(4"),
        ((None, 2), "i4", TokenIds(), r"int32 array of shape \(None,\), got"),
    ],
)
def test_a_spec_that_a_transform_does_not_suit_is_refused(
    shape: Any, dtype: str, transform: Any, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        TensorSpec(shape, dtype, transform=transform)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dtype": "float64"}, "dtype must be one of float32, float16, bfloat16, got 'float64'"),
        ({"layout": "last"}, "layout must be"),
        ({"scale": float("nan")}, "scale must be a finite float32"),
        ({"scale": [1] * 5}, "1 to 4 channels"),
        ({"scale": 10**400}, "scale must be a finite float32"),
        ({"scale": [10**400, 1]}, "scale must be one number or one for each channel"),
        ({"scale": [[1.0, 2.0]]}, "scale must be one number or one for each channel, got"),
        ({"bias": [[1.0], [2.0, 3.0]]}, "bias must be one number or one for each channel, got"),
        ({"bias": ["much"]}, "bias must be one number or one for each channel, got"),
        ({"scale": [1, 2], "bias": [1, 2, 3]}, "the same channels"),
        ({"scale": [1, 2], "layout": "channels_first"}, "each of 3 channels, got 2"),
    ],
)
def test_settings_of_an_affine_are_checked_at_once(arguments: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Affine(**arguments)


def test_token_ids_are_for_padded_rows() -> None:
    spec = TensorSpec((None,), "i4", transform=TokenIds())
    TokenIds().check(spec, "pad")
    with pytest.raises(ConfigError, match="needs collate=\"pad\", got 'pack'"):
        TokenIds().check(spec, "pack")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["same", "channels_first"])
def test_an_affine_is_u8_affine(dtype: Any, layout: Any, fake_cupy: FakeCupy) -> None:
    transform = Affine(**IMAGE, dtype=dtype, layout=layout)
    x = np.arange(2 * 5 * 7 * 3, dtype=np.uint8).reshape(2, 5, 7, 3)
    wanted = ops.u8_affine(x, **IMAGE, dtype=dtype, layout=layout, rows=1)
    shape, kind = transform.result(x.shape)
    assert (wanted.shape, wanted.dtype) == (shape, kind)
    out = np.empty(shape, kind)
    assert transform.apply(x, rows=np.array([1], np.int32), out=out) is out
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(transform.apply(x, rows=1), wanted)
    on_device = transform.apply(fake_cupy.asarray(x), rows=1)
    np.testing.assert_array_equal(on_device.get(), wanted)


def test_token_ids_is_pad_ids(fake_cupy: FakeCupy) -> None:
    ids, offsets = np.array([5, 6, 7], np.int32), np.array([0, 1, 1, 3], np.int32)
    wanted = [[5, -1], [-1, -1], [6, 7]], [[1, 0], [0, 0], [1, 1]]
    for take in (np.asarray, fake_cupy.asarray):
        padded, mask = TokenIds().apply(take(ids), take(offsets), length=2, fill=-1)
        assert (padded.tolist(), mask.tolist()) == wanted
        assert padded.dtype == mask.dtype == np.int64
    padded, mask = TokenIds().apply(ids, offsets, length=2, rows=2)
    assert (padded.tolist(), mask.tolist()) == ([[5, 0], [0, 0], [0, 0]], [[1, 0], [0, 0], [0, 0]])


def test_importing_tidegate_or_its_transforms_loads_nothing_of_the_gpu() -> None:
    code = "import sys, tidegate, tidegate.transforms\nassert 'tidegate.gpu' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
