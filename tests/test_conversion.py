"""Requests that are converted, and rows of every shape and dtype."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.gated import PATIENCE, Gated
from tests.helpers import Subclass, Tensor, identity
from tidegate import Batcher, InputError, TensorSpec

SPEC = TensorSpec((3,), np.float32)


def unaligned() -> Any:
    memory = np.zeros(13, np.uint8)
    view = memory[1:].view(np.float32)
    view[:] = [1, 2, 3]
    return view


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(np.array([1, 2, 3], np.float32), id="the same"),
        pytest.param(np.array([1, 2, 3], np.float64), id="wider"),
        pytest.param(np.array([1, 2, 3], np.float16), id="narrower"),
        pytest.param(np.array([1, 2, 3], np.int64), id="integers"),
        pytest.param(np.array([1, 2, 3], ">f4"), id="big-endian"),
        pytest.param(np.arange(1, 7, dtype=np.float32).repeat(2)[:6:2], id="not contiguous"),
        pytest.param(np.array([3, 2, 1], np.float32)[::-1], id="reversed"),
        pytest.param(np.arange(1, 10, dtype=np.float32).reshape(3, 3).T[0][:1].repeat(3), id="T"),
        pytest.param(unaligned(), id="unaligned"),
        pytest.param(np.array([1, 2, 3], np.float32).view(Subclass), id="a subclass"),
        pytest.param(np.ma.masked_array([1, 2, 3]), id="a masked array"),
        pytest.param([1, 2, 3], id="a list"),
        pytest.param((1, 2, 3), id="a tuple"),
        pytest.param(range(1, 4), id="a range"),
        pytest.param([np.float32(1), 2, True], id="a mixed list"),
        pytest.param(array.array("d", [1, 2, 3]), id="array.array"),
        pytest.param(memoryview(array.array("f", [1, 2, 3])), id="a memoryview"),
        pytest.param(Tensor([1, 2, 3]), id="a foreign tensor"),
    ],
)
def test_what_converts_safely_is_converted(request_: Any) -> None:
    seen = []

    def model(rows: Any) -> Any:
        seen.append((type(rows), rows.dtype, rows.flags.c_contiguous, rows.flags.aligned))
        return rows + 1

    expected = np.asarray(request_, np.float32) + 1
    with Batcher(model, inputs=SPEC) as batcher:
        np.testing.assert_array_equal(batcher(request_), expected)
        np.testing.assert_array_equal(batcher.submit(request_).result(PATIENCE), expected)
    assert set(seen) == {(np.ndarray, np.dtype(np.float32), True, True)}


@pytest.mark.parametrize(
    ("to", "fine", "refused"),
    [
        ("f4", ["f2", "f8", "i8", "u1", "?"], ["c8", "U3", "M8[s]", "O"]),
        ("i4", ["i1", "u2", "i8", "u8", "?"], ["f4", "c8", "U3", "M8[s]"]),
        ("u1", ["u8", "?"], ["i1", "i8", "f4"]),
        ("c8", ["f8", "i8", "c16"], ["U3", "m8[s]"]),
        ("?", ["?"], ["i1", "f4", "U1"]),
        ("M8[ms]", ["M8[s]", "M8[ns]"], ["m8[s]", "f4", "U3"]),
        # NumPy would cut these off and call it the same kind.
        ("U4", ["U4", "U2", "S3"], ["U5", "S5", "i8"]),
        ("S4", ["S4", "S1"], ["S5", "f4", "U2"]),
        ("V4", ["V4", "V2"], ["V8"]),
        ([("a", "f4"), ("b", "U2")], [[("a", "f4"), ("b", "U1")]], [[("a", "f4"), ("b", "U3")]]),
        ([("a", "f4")], [[("a", "f2")]], [[("a", "f8")], [("b", "f4")], "f4"]),
    ],
)
def test_kinds_convert_to_the_same_kind_only(to: str, fine: list[str], refused: list[str]) -> None:
    with Batcher(identity, inputs=TensorSpec((2,), to)) as batcher:
        for kind in fine:
            answer = batcher(np.ones(2, kind))
            assert answer.dtype == np.dtype(to)
            np.testing.assert_array_equal(answer, np.ones(2, kind).astype(to))
        for kind in refused:
            with pytest.raises(InputError, match="does not convert safely"):
                batcher(np.ones(2, kind))


@pytest.mark.parametrize(
    ("to", "fine", "refused", "came"),
    [
        ("i4", np.array([-(2**31), 2**31 - 1]), np.array([1, 2**31]), "got 2147483648"),
        ("i4", np.array([0, 7], "u8"), np.array([0, 2**32 + 7], "u8"), "got 4294967303"),
        ("i1", np.array([-128, 127], "i2"), np.array([-129, 0], "i2"), "got -129"),
        ("u1", np.array([0, 255], "u4"), np.array([256, 0], "u4"), "got 256"),
        ("f4", np.array([3e38, -np.inf]), np.array([0, 1e39]), "a number"),
        ("f2", np.array([-65504, 65504]), np.array([-65520, 0]), "a number"),
        ("c8", np.array([3e38, np.nan], "c16"), np.array([1e39j, 0]), "a number"),
    ],
)
def test_numbers_that_the_dtype_cannot_hold_are_refused(
    to: str, fine: Any, refused: Any, came: str
) -> None:
    with Batcher(identity, inputs=TensorSpec((2,), to)) as batcher:
        np.testing.assert_array_equal(batcher(fine), fine.astype(to))
        for ask, request_ in ((batcher, refused), (batcher.submit_many, [fine, refused])):
            with pytest.raises(InputError, match=f"expected a .*{came}.* cannot hold"):
                ask(request_)
        assert batcher.statistics().submitted == 1


def test_only_what_the_first_request_decided_is_said_to_be_its() -> None:
    with Batcher(identity) as batcher:
        batcher(np.ones(2, np.int64))
        with pytest.raises(InputError, match="taken from the first request"):
            batcher(np.ones(2))
    with (
        Batcher(identity, inputs=TensorSpec((2,), "u1")) as batcher,
        pytest.raises(InputError, match=r"does not convert safely$"),
    ):
        batcher(np.array([1, 2]))


@pytest.mark.parametrize("to", ["u1", "u8"])
def test_integers_without_a_dtype_are_taken_where_they_fit(to: str) -> None:
    most = int(np.iinfo(to).max)
    with Batcher(identity, inputs=TensorSpec((2,), to)) as batcher:
        np.testing.assert_array_equal(batcher([0, 7]), np.array([0, 7], to))
        np.testing.assert_array_equal(
            batcher.submit_many([[1, 2], [3, 4]]).result(PATIENCE), np.array([[1, 2], [3, 4]], to)
        )
        np.testing.assert_array_equal(batcher([0, min(most, 2**63 - 1)])[0], 0)
        for refused in ([-1, 0], [0, most + 1]):
            with pytest.raises(InputError):
                batcher(refused)


def test_what_is_not_a_number_is_none_of_our_business() -> None:
    strange = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324])
    with Batcher(identity) as batcher:
        assert batcher(strange).tobytes() == strange.tobytes()
        assert batcher.submit(strange).result(PATIENCE).tobytes() == strange.tobytes()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 2)])
def test_rows_without_elements_are_rows(shape: tuple[int, ...]) -> None:
    sizes = []

    def model(rows: Any) -> Any:
        assert rows.shape[1:] == shape
        sizes.append(len(rows))
        return np.arange(len(rows))

    with Batcher(model) as batcher:
        futures = [batcher.submit(np.zeros(shape)) for _ in range(100)]
        assert all(0 <= future.result(PATIENCE) < 64 for future in futures)
    assert sum(sizes) == 100


@pytest.mark.parametrize(
    "number", [1.5, 3, True, 2 + 1j, np.float16(0.5), np.array(7, np.uint8), np.datetime64(1, "s")]
)
def test_numbers_are_rows_of_no_axes(number: Any) -> None:
    with Batcher(identity) as batcher:
        answer = batcher(number)
        assert answer == number
        assert answer.dtype == np.asarray(number).dtype
        assert isinstance(answer, np.generic)


def test_records_are_rows() -> None:
    kind = np.dtype([("id", "i4"), ("box", "f4", (4,)), ("name", "U5")], align=True)
    record = np.array((7, [1, 2, 3, 4], "seven"), kind)
    other = record.astype(kind.newbyteorder(">"))

    def model(rows: Any) -> Any:
        return {"id": rows["id"], "box": rows["box"] * 2, "name": rows["name"]}

    with Batcher(model, inputs=TensorSpec((), kind)) as batcher:
        for request_ in (record, other, record[()]):
            answer = batcher(request_)
            assert (answer["id"], answer["name"]) == (7, "seven")
            np.testing.assert_array_equal(answer["box"], [2, 4, 6, 8])
        with pytest.raises(InputError, match="expected a"):
            batcher(np.array((7, 1.0), [("id", "i4"), ("other", "f8")]))


def test_text_of_a_fixed_width_is_a_row_and_never_cut() -> None:
    with Batcher(lambda rows: np.char.upper(rows), inputs=TensorSpec((), "U5")) as batcher:
        assert batcher("abc") == "ABC"
        assert batcher("grün") == "GRÜN"
        with pytest.raises(InputError, match=r"<U5 array of shape .*<U7"):
            batcher("toolong")


def test_a_caller_may_reuse_its_array_at_once(model: Gated, batcher: Batcher) -> None:
    row = np.zeros(3)
    futures = []
    for number in range(20):
        row[:] = number
        futures.append(batcher.submit(row))
    row[:] = -1
    model.gate.set()
    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(PATIENCE), [2 * number] * 3)


def test_large_rows_come_back_as_they_went() -> None:
    rows = np.random.default_rng(0).standard_normal((9, 200_000))
    with Batcher(identity, max_batch_size=4) as batcher:
        futures = [batcher.submit(row) for row in rows]
        for row, future in zip(rows, futures, strict=True):
            np.testing.assert_array_equal(future.result(PATIENCE), row)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        npst.scalar_dtypes(), npst.unicode_string_dtypes(), npst.array_dtypes(max_size=3)
    ).flatmap(
        lambda dtype: npst.arrays(
            dtype, npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
        )
    )
)
def test_rows_of_any_kind_come_back_as_they_went(rows: Any) -> None:
    native = rows.astype(rows.dtype.newbyteorder("="))
    spec = TensorSpec(rows.shape[1:], rows.dtype)
    with Batcher(identity, inputs=spec, max_batch_size=3) as batcher:
        futures = [batcher.submit(row) for row in rows]
        for row, future in zip(native, futures, strict=True):
            answer = np.asarray(future.result(PATIENCE), native.dtype)
            assert answer.shape == spec.shape
            # The padding of records is nobody's: compare the values.
            assert repr(answer.tolist()) == repr(np.asarray(row).tolist())
