"""The NumPy bodies, which are the specification, against exact arithmetic and plain loops."""

from __future__ import annotations

import inspect
import itertools
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gpu.checks import LENGTHS
from tidegate import gpu as ops


def offsets_of(lengths: Any) -> npt.NDArray[np.int32]:
    return np.cumsum([0, *lengths]).astype(np.int32)


def test_importing_the_operations_needs_numpy_alone() -> None:
    code = "import sys, tidegate.gpu\nassert not {'cupy', 'ml_dtypes', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_operation_is_described_with_its_arguments() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/gpu-operations.md").read_text()
    for name in ops.__all__:
        if inspect.isclass(getattr(ops, name)):
            continue
        parameters = inspect.signature(getattr(ops, name)).parameters.values()
        bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
        written = str(inspect.Signature(bare)).replace("'", '"')
        assert f"`{name}{written}`" in page


# u8_affine


def nearest_float32(exact: Fraction) -> np.float32:
    """The float32 number nearest to a fraction, ties to even, found by trying the neighbours."""
    guess = np.float32(float(exact))
    near = [np.nextafter(guess, np.float32(side)) for side in (-np.inf, np.inf)]
    candidates = [guess, *(value for value in near if np.isfinite(value))]

    def distance(value: np.float32) -> tuple[Fraction, int]:
        return abs(Fraction(float(value)) - exact), int(value.view(np.uint32)) & 1

    return min(candidates, key=distance)


def test_product_and_sum_are_rounded_once() -> None:
    random = np.random.default_rng(5)
    x = np.arange(256, dtype=np.uint8)
    differing = 0
    for _ in range(60):
        scale = np.float32(random.normal() * 10.0 ** random.integers(-6, 6))
        # Near a product, where sums cancel, and far from it, where they swallow.
        near = -scale * np.float32(random.integers(1, 256))
        bias = np.float32(near * (1 + random.normal() * 10.0 ** random.integers(-7, 8)))
        found = ops.u8_affine(x, float(scale), float(bias))
        for value, result in zip(x, found, strict=True):
            exact = int(value) * Fraction(float(scale)) + Fraction(float(bias))
            assert result == nearest_float32(exact)
        differing += int((found != x.astype(np.float32) * scale + bias).sum())
    assert differing > 1000, "rounding twice must have been told apart"


def test_a_sum_just_above_the_middle_is_rounded_up() -> None:
    # 130 * 16519105 is 2**31 + 2: the sum is 1 + 2**-24 + 2**-54. float64 drops the last part, and
    # what is left would be a tie, which goes down to 1.
    scale = 16519105 * 2.0**-55
    found = ops.u8_affine(np.array([130], dtype=np.uint8), scale, [1.0])
    assert found.tolist() == [1 + 2.0**-23]
    found = ops.u8_affine(np.array([130], dtype=np.uint8), -scale, -1.0)
    assert found.tolist() == [-1 - 2.0**-23]
    # And just below the middle above an odd number, which a tie would leave.
    found = ops.u8_affine(np.array([130], dtype=np.uint8), -scale, 1 + 2.0**-22)
    assert found.tolist() == [1 + 2.0**-23]


def test_shorter_types_are_rounded_to_nearest_even() -> None:
    random = np.random.default_rng(6)
    x = np.arange(256, dtype=np.uint8)
    for _ in range(200):
        scale = random.normal() * 10.0 ** random.integers(-9, 8)
        bias = random.normal() * 10.0 ** random.integers(-9, 8)
        single = ops.u8_affine(x, scale, bias)
        with np.errstate(over="ignore"):
            half = single.astype(np.float16)
        np.testing.assert_array_equal(ops.u8_affine(x, scale, bias, dtype="float16"), half)
        brain = ops.u8_affine(x, scale, bias, dtype="bfloat16")
        assert brain.dtype == np.uint16
        np.testing.assert_array_equal(brain, single.astype(ml_dtypes.bfloat16).view(np.uint16))


def test_an_image_is_normalised_per_channel_and_its_channels_moved() -> None:
    x = np.random.default_rng(7).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    scale, bias = [1 / 51, 1 / 57, 1 / 63], [-2.0, -1.5, -1.0]
    same = ops.u8_affine(x, scale, bias)
    np.testing.assert_allclose(same, x * np.array(scale) + np.array(bias), rtol=1e-6, atol=1e-6)
    moved = ops.u8_affine(x, scale, bias, layout="channels_first")
    np.testing.assert_array_equal(moved, same.transpose(0, 3, 1, 2))
    alike = ops.u8_affine(x, 2.0, layout="channels_first")
    np.testing.assert_array_equal(alike, 2.0 * x.transpose(0, 3, 1, 2))


def test_one_scale_serves_any_shape_and_rows_behind_the_valid_ones_are_filled() -> None:
    x = np.ones((3, 2, 2), dtype=np.uint8)
    found = ops.u8_affine(x, 3.0, [1.0, 2.0], rows=2, fill=-5.0, dtype=np.float16)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found[:2], np.broadcast_to([4.0, 5.0], (2, 2, 2)))
    assert (found[2] == -5).all()
    assert ops.u8_affine(np.zeros((0, 5), dtype=np.uint8)).shape == (0, 5)


# pad, unpad, pad_ids, packed_meta


@given(
    lengths=st.lists(st.integers(0, 9), max_size=8),
    features=st.sampled_from([(), (1,), (3,), (2, 2), (0,)]),
    dtype=st.sampled_from(["uint8", "float16", "float32", "int64", "complex128"]),
    more=st.integers(0, 3),
)
def test_unpad_undoes_pad_for_any_lengths(
    lengths: list[int], features: tuple[int, ...], dtype: str, more: int
) -> None:
    shape = (sum(lengths), *features)
    values = np.arange(int(np.prod(shape)), dtype=np.int64).astype(dtype).reshape(shape)
    offsets = offsets_of(lengths)
    padded, mask = ops.pad(values, offsets, length=max(lengths, default=0) + more)
    again = ops.unpad(padded, offsets)
    assert again.dtype == values.dtype
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(mask.sum(axis=1), lengths)
    np.testing.assert_array_equal(padded[mask], values)


@given(lengths=st.lists(st.integers(0, 6), max_size=6), length=st.integers(0, 7))
def test_what_does_not_fit_is_cut_off_and_comes_back_as_zeros(
    lengths: list[int], length: int
) -> None:
    values = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    offsets = offsets_of(lengths)
    padded, mask = ops.pad(values, offsets, length=length, fill=-1)
    again = ops.unpad(padded, offsets)
    for row, (begin, end) in enumerate(itertools.pairwise(offsets)):
        kept = min(end - begin, length)
        assert padded[row].tolist() == [*values[begin : begin + kept], *[-1] * (length - kept)]
        assert mask[row].tolist() == [True] * kept + [False] * (length - kept)
        assert again[begin:end].tolist() == [
            *values[begin : begin + kept],
            *[0] * (end - begin - kept),
        ]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_ids_and_mask_are_what_tokenisers_make(lengths: tuple[int, ...]) -> None:
    ids = np.arange(sum(lengths), dtype=np.int32) + 100
    offsets = offsets_of(lengths)
    padded, mask = ops.pad_ids(ids, offsets, fill=7)
    plain, true = ops.pad(ids.astype(np.int64), offsets, fill=7)
    np.testing.assert_array_equal(padded, plain)
    np.testing.assert_array_equal(mask, true)
    assert (padded.dtype, mask.dtype) == (np.int64, np.int64)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_every_token_knows_its_place(lengths: tuple[int, ...]) -> None:
    positions, segments = ops.packed_meta(offsets_of(lengths), tokens=sum(lengths) + 2)
    expected = [(at, row) for row, length in enumerate(lengths) for at in range(length)]
    assert list(zip(positions, segments, strict=True)) == [*expected, (0, -1), (0, -1)]
    assert (positions.dtype, segments.dtype) == (np.int32, np.int32)


def test_rows_behind_the_valid_ones_are_padding_and_their_offsets_are_not_read() -> None:
    values = np.arange(5.0)
    offsets = np.array([0, 2, 5, -9, 77], dtype=np.int32)
    for rows in (2, np.array([2, 0], dtype=np.int32)):
        padded, mask = ops.pad(values, offsets, rows=rows, fill=9)
        assert padded.tolist() == [[0, 1, 9], [2, 3, 4], [9, 9, 9], [9, 9, 9]]
        assert mask.sum(axis=1).tolist() == [2, 3, 0, 0]
        assert ops.unpad(padded, offsets, rows=rows).tolist() == values.tolist()
        assert ops.packed_meta(offsets, rows=rows)[1].tolist() == [0, 0, 1, 1, 1]
        assert ops.segment_mean(np.ones((5, 1), np.float32), offsets, rows=rows).shape == (4, 1)


def test_results_go_to_the_arrays_that_are_given() -> None:
    offsets = offsets_of([1, 2])
    pair = np.empty((2, 2)), np.empty((2, 2), dtype=bool)
    found = ops.pad(np.arange(3.0), offsets, out=pair)
    assert found[0] is pair[0]
    assert found[1] is pair[1]
    assert pair[0].tolist() == [[0, 0], [1, 2]]
    out = np.empty(3)
    assert ops.unpad(pair[0], offsets, out=out) is out
    assert out.tolist() == [0, 1, 2]
    floats = np.empty((1, 2), dtype=np.float16)
    assert (
        ops.u8_affine(np.zeros((1, 2), np.uint8), bias=4.0, dtype="float16", out=floats) is floats
    )
    assert floats.tolist() == [[4, 4]]
    means = np.empty((2, 1), dtype=np.float32)
    assert ops.segment_mean(np.ones((3, 1), np.float32), offsets, out=means) is means
    assert means.tolist() == [[1], [1]]


# softmax_topk, segment_mean


def plain_topk(row: npt.NDArray[np.float32], k: int) -> list[int]:
    """By definition: numbers downwards, then NaN, ties in order."""
    return sorted(range(len(row)), key=lambda i: (np.isnan(row[i]), -np.nan_to_num(row[i]), i))[:k]


def test_the_largest_come_first_in_any_mixture() -> None:
    random = np.random.default_rng(8)
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0], dtype=np.float32)
    for n in (1, 4, 60):
        for k in range(1, min(n, 16) + 1):
            logits = random.normal(size=(6, n)).astype(np.float32)
            few = random.random((6, n)) < 0.4
            logits[few] = random.choice(special, int(few.sum()))
            indices, probabilities = ops.softmax_topk(logits, k)
            assert indices.tolist() == [plain_topk(row, k) for row in logits]
            assert probabilities.dtype == np.float32


def test_probabilities_are_those_of_the_softmax() -> None:
    logits = (np.random.default_rng(9).normal(size=(3, 40)) * 20).astype(np.float32)
    indices, probabilities = ops.softmax_topk(logits, 5)
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    wanted = np.take_along_axis(powers / powers.sum(axis=1, keepdims=True), indices, axis=1)
    np.testing.assert_allclose(probabilities, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "indices", "probabilities"),
    [
        ([1, np.inf, 2, np.inf], [1, 3, 2], [0.5, 0.5, 0]),
        ([-np.inf] * 4, [0, 1, 2], [0.25] * 3),
        ([-np.inf, 5, -np.inf, -np.inf], [1, 0, 2], [1, 0, 0]),
        ([np.nan, 5, np.inf, 6], [2, 3, 1], [np.nan] * 3),
        ([np.nan, 5, np.nan, -np.inf], [1, 3, 0], [np.nan] * 3),
        ([3, 3, 3, 3], [0, 1, 2], [0.25] * 3),
    ],
)
def test_infinities_and_nans(
    row: list[float], indices: list[int], probabilities: list[float]
) -> None:
    found = ops.softmax_topk(np.array([row], dtype=np.float32), 3)
    assert found[0].tolist() == [indices]
    np.testing.assert_array_equal(found[1][0], np.array(probabilities, dtype=np.float32))


def test_rows_behind_the_valid_ones_have_no_class() -> None:
    indices, probabilities = ops.softmax_topk(np.zeros((3, 4), dtype=np.float32), 2, rows=1)
    assert indices.tolist() == [[0, 1], [-1, -1], [-1, -1]]
    assert probabilities[1:].tolist() == [[0, 0], [0, 0]]


def test_sequences_are_averaged_and_normalised() -> None:
    x = np.array([[3, 4], [1, 0], [2, 0], [5, 5]], dtype=np.float32)
    offsets = np.array([0, 1, 1, 3], dtype=np.int32)
    assert ops.segment_mean(x, offsets).tolist() == [[3, 4], [0, 0], [1.5, 0]]
    normal = ops.segment_mean(x, offsets, normalise=True)
    np.testing.assert_array_equal(normal, np.array([[0.6, 0.8], [0, 0], [1, 0]], np.float32))
