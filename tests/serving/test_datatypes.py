"""The protocol's datatypes: arrays to and from the binary encoding and plain values."""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidegate import ConfigError, InputError
from tidegate.serving import datatypes
from tidegate.serving.datatypes import DATATYPES, from_raw, from_values, to_raw, to_values

NUMBERS = sorted(set(DATATYPES) - {"BYTES", "BF16"})
INTEGERS = [name for name in NUMBERS if "INT" in name]


def numbers(datatype: str) -> Any:
    return hnp.arrays(
        DATATYPES[datatype], hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
    )


@pytest.mark.parametrize("datatype", NUMBERS)
@given(data=st.data())
def test_numbers_survive_both_encodings(datatype: str, data: st.DataObject) -> None:
    array = data.draw(numbers(datatype))
    raw = from_raw("x", datatype, array.shape, to_raw(array))
    values = from_values("x", datatype, array.shape, to_values(array))
    for back in (raw, values):
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


@given(texts=st.lists(st.binary(max_size=20), max_size=6))
def test_bytes_survive_the_binary_encoding(texts: list[bytes]) -> None:
    array = np.empty(len(texts), object)
    array[:] = texts
    back = from_raw("x", "BYTES", (len(texts),), to_raw(array))
    assert back.tolist() == texts


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_text_survives_as_values(texts: list[str]) -> None:
    back = from_values("x", "BYTES", (len(texts),), texts)
    assert back.tolist() == [text.encode() for text in texts]
    assert to_values(back) == texts


@given(damaged=st.binary(max_size=40), count=st.integers(0, 2**40))
def test_damaged_bytes_are_an_input_error_or_an_array(damaged: bytes, count: int) -> None:
    try:
        array = from_raw("x", "BYTES", (count,), damaged)
    except InputError:
        return
    assert to_raw(array) == damaged


def test_bf16_is_widened_without_a_change_of_value() -> None:
    original = np.array([1.0, -2.5, 3e38, np.inf, 1e-40], ml_dtypes.bfloat16)
    widened = from_raw("x", "BF16", (5,), to_raw(original))
    assert widened.dtype == np.float32
    np.testing.assert_array_equal(widened, original.astype(np.float32))


def test_bf16_has_no_plain_values() -> None:
    with pytest.raises(InputError, match="binary"):
        from_values("x", "BF16", (1,), [1.0])
    with pytest.raises(InputError, match="binary"):
        to_values(np.zeros(1, ml_dtypes.bfloat16))


def test_a_bool_of_any_other_byte_is_true() -> None:
    array = from_raw("x", "BOOL", (3,), bytes([0, 1, 255]))
    assert array.tolist() == [False, True, True]
    assert array.tobytes() == bytes([0, 1, 1])


@pytest.mark.parametrize("datatype", NUMBERS)
def test_the_wrong_number_of_bytes_says_how_many_were_expected(datatype: str) -> None:
    size = 6 * DATATYPES[datatype].itemsize
    with pytest.raises(InputError, match=f"has {size} bytes, got {size - 1}") as caught:
        from_raw("x", datatype, (2, 3), bytes(size - 1))
    assert caught.value.given == f"{size - 1} bytes"


def test_a_huge_shape_is_refused_before_it_is_allocated() -> None:
    for shape in [(2**62, 2**62), (2**40,)]:
        with pytest.raises(InputError):
            from_raw("x", "FP32", shape, b"")
        with pytest.raises(InputError):
            from_raw("x", "BYTES", shape, b"")
        with pytest.raises(InputError):
            from_values("x", "FP32", shape, [])


def test_impossible_lengths_beside_a_zero_are_an_input_error() -> None:
    with pytest.raises(InputError, match="cannot have the shape"):
        from_raw("x", "FP32", (0, 2**62, 2**62), b"")


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_out_of_range_are_refused(datatype: str) -> None:
    limits = np.iinfo(DATATYPES[datatype])
    for value in (int(limits.min) - 1, int(limits.max) + 1):
        with pytest.raises(InputError, match=f"elements of {datatype}"):
            from_values("x", datatype, (1,), [value])
    assert from_values("x", datatype, (2,), [int(limits.min), int(limits.max)]).size == 2


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("INT32", [1.5]),
        ("INT32", ["1"]),
        ("INT32", [True]),
        ("INT32", [True, 2]),
        ("INT32", [None]),
        ("BOOL", [1]),
        ("FP32", ["1"]),
        ("FP32", [1e39]),
        ("FP16", [70000]),
        ("FP32", [{}]),
        ("BYTES", [1]),
        ("BYTES", [None]),
        ("FP32", None),
    ],
)
def test_values_of_another_kind_are_refused(datatype: str, values: object) -> None:
    with pytest.raises(InputError, match="tensor 'x'"):
        from_values("x", datatype, (1,), values)


def test_infinity_and_nan_are_numbers() -> None:
    array = from_values("x", "FP32", (2,), [float("inf"), float("nan")])
    assert np.isinf(array[0])
    assert np.isnan(array[1])


def test_values_may_be_nested() -> None:
    assert from_values("x", "INT8", (2, 2), [[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert from_values("x", "BYTES", (2, 1), [["a"], ["b"]]).tolist() == [[b"a"], [b"b"]]


def test_values_nested_too_deeply_are_refused() -> None:
    deep: list[Any] = ["a"]
    for _ in range(5000):
        deep = [deep]
    for datatype in ("BYTES", "FP32"):
        with pytest.raises(InputError):
            from_values("x", datatype, (1,), deep)


def test_ragged_values_are_refused() -> None:
    with pytest.raises(InputError, match="elements of FP32"):
        from_values("x", "FP32", (3,), [[1, 2], [3]])


def test_one_long_text_among_many_values_takes_no_room_for_all_of_them() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="elements of type int, str"):
            from_values("x", "FP32", (10_001,), [*range(10_000), "a" * 100_000])
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_bytes_that_are_no_text_need_the_binary_encoding() -> None:
    array = from_raw("x", "BYTES", (1,), b"\x01\0\0\0\xff")
    with pytest.raises(InputError, match="binary data"):
        to_values(array)


def test_fixed_width_text_is_bytes_to_the_protocol() -> None:
    for array in (np.array([b"ab", b"c"]), np.array(["ab", "c"])):
        assert datatypes.datatype_of(array.dtype) == "BYTES"
        assert to_raw(array) == b"\x02\0\0\0ab\x01\0\0\0c"
        assert to_values(array) == ["ab", "c"]


def test_big_endian_arrays_are_sent_little_endian() -> None:
    assert to_raw(np.array([1], ">i4")) == b"\x01\0\0\0"
    assert datatypes.datatype_of(np.dtype(">i4")) == "INT32"


def test_a_dtype_without_a_datatype_is_named() -> None:
    with pytest.raises(ConfigError, match="complex64"):
        datatypes.datatype_of(np.dtype("complex64"))


@pytest.mark.parametrize("shape", [[-1], [1.0], [True], "12", None, [2**63], [1] * 33, {}])
def test_shapes_that_are_none_are_refused(shape: object) -> None:
    with pytest.raises(InputError, match="shape of tensor 'x'"):
        datatypes.check_shape("x", shape)


def test_unknown_datatypes_are_refused() -> None:
    for datatype in ("FP8", "", None, 3):
        with pytest.raises(InputError, match="datatype"):
            datatypes.check_datatype("x", datatype)
