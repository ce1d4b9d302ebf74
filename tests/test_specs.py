"""TensorSpec, and what a first request says about all that follow."""

from __future__ import annotations

from collections import UserDict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from tidegate import ConfigError, InputError, TensorSpec, TidegateError
from tidegate.specs import check_spec, infer_spec, leaves


def test_a_spec_holds_a_shape_a_dtype_and_a_name() -> None:
    shape: Any = [2, np.int64(3)]
    spec = TensorSpec(shape, "f4", name="pixels")
    assert (spec.shape, spec.dtype, spec.name) == ((2, 3), np.dtype(np.float32), "pixels")
    assert all(type(length) is int for length in spec.shape)
    assert str(spec) == "float32 array of shape (2, 3)"


def test_specs_compare_by_value_and_cannot_be_changed() -> None:
    assert TensorSpec((3,), "f4") == TensorSpec((3,), np.float32)
    assert hash(TensorSpec((3,), "f4")) == hash(TensorSpec((3,), np.float32))
    assert TensorSpec((3,), "f4") != TensorSpec((3,), "f8")
    assert TensorSpec((3,), "f4") != TensorSpec((4,), "f4")
    with pytest.raises(AttributeError):
        TensorSpec((3,), "f4").shape = (4,)


@pytest.mark.parametrize("shape", [(-1,), (2, -3), (1.5,), ("3",), "ab", 3, None, (2, None)])
def test_a_shape_is_a_tuple_of_lengths(shape: Any) -> None:
    with pytest.raises(ConfigError, match=r"lengths >= 0, .*got ") as caught:
        TensorSpec(shape, "f4")
    assert repr(shape) in str(caught.value)
    assert isinstance(caught.value, (TidegateError, ValueError))


def test_a_shape_has_as_many_axes_as_a_batch_can_have() -> None:
    assert TensorSpec((1,) * 31, "f4").shape == (1,) * 31
    with pytest.raises(ConfigError, match="at most 31 axes, got 32"):
        TensorSpec((1,) * 32, "f4")


def test_an_unknown_dtype_is_refused_with_its_value() -> None:
    with pytest.raises(ConfigError, match="NumPy dtype, got 'float33'"):
        TensorSpec((3,), "float33")
    for dtype in ("f4, (", {"names": ["a", "a"], "formats": ["f4", "f8"]}):
        with pytest.raises(ConfigError, match="NumPy dtype"):
            TensorSpec((3,), dtype)  # type: ignore[arg-type]


def test_a_dtype_with_axes_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"axes of its own.* TensorSpec\(\(3, 2\), 'float32'\)"):
        TensorSpec((3,), np.dtype((np.float32, (2,))))
    with pytest.raises(ConfigError, match=r"TensorSpec\(\(None, 4\), 'int8'\)"):
        TensorSpec((None,), "(4,)i1")


def test_a_name_is_a_string() -> None:
    name: Any = np.float32
    with pytest.raises(ConfigError, match="name must be a string or None, got "):
        TensorSpec((3,), "f4", name)


@pytest.mark.parametrize("dtype", [object, [("number", "f4"), ("anything", object)]])
def test_a_dtype_that_holds_objects_is_refused_with_the_way_out(dtype: Any) -> None:
    with pytest.raises(ConfigError, match="collate='list'"):
        TensorSpec((3,), dtype)


@pytest.mark.parametrize("dtype", [str, bytes, "V0", "U0"])
def test_a_dtype_without_a_width_is_refused(dtype: Any) -> None:
    with pytest.raises(ConfigError, match=r"no width|width"):
        TensorSpec((), dtype)


def test_a_dtype_takes_the_native_byte_order() -> None:
    assert TensorSpec((), ">i4").dtype == np.dtype("i4")
    assert TensorSpec((), [("a", ">i4"), ("b", ">f8")]).dtype == np.dtype(
        [("a", "i4"), ("b", "f8")]
    )


# Specs of a whole request


def test_a_request_is_described_by_a_spec_or_a_tuple_or_mapping_of_them() -> None:
    a, b = TensorSpec((3,), "f4"), TensorSpec((), "i8")
    assert check_spec(a) is a
    assert check_spec((a, b)) == (a, b)
    assert check_spec([a, b]) == (a, b)
    assert check_spec({"a": a, "b": b}) == {"a": a, "b": b}
    assert check_spec(MappingProxyType({"a": a})) == {"a": a}
    assert leaves(a) == [a]
    assert leaves((a, b)) == [a, b]
    assert leaves({"a": a, "b": b}) == [a, b]


@pytest.mark.parametrize(
    "spec", [None, 3, "f4", (), {}, [], np.float32, (3,), {"a": "f4"}, (TensorSpec((), "f4"), None)]
)
def test_anything_else_is_no_description_of_a_request(spec: Any) -> None:
    with pytest.raises(ConfigError, match="inputs must be a TensorSpec") as caught:
        check_spec(spec)
    assert repr(spec) in str(caught.value)


# What a first request says


@pytest.mark.parametrize(
    ("request_", "spec"),
    [
        (np.zeros((2, 3), np.float32), TensorSpec((2, 3), "f4")),
        (np.zeros(0, np.int8), TensorSpec((0,), "i1")),
        (1.5, TensorSpec((), "f8")),
        (True, TensorSpec((), "?")),
        ([[1, 2], [3, 4]], TensorSpec((2, 2), "i8")),
        (np.zeros(2, ">f4"), TensorSpec((2,), "f4")),
        (np.zeros(2, "M8[s]"), TensorSpec((2,), "M8[s]")),
        (np.zeros((), [("a", "i4")]), TensorSpec((), [("a", "i4")])),
        ((1.0, np.zeros(3)), (TensorSpec((), "f8"), TensorSpec((3,), "f8"))),
        ({"a": 1.0}, {"a": TensorSpec((), "f8")}),
        (UserDict({"a": 1.0}), {"a": TensorSpec((), "f8")}),
    ],
    ids=repr,
)
def test_the_first_request_says_what_all_look_like(request_: Any, spec: Any) -> None:
    assert infer_spec(request_) == spec


class Unreadable:
    """Says that it is an array, and cannot be read."""

    def __array__(self, *_: object, **__: object) -> Any:
        raise RuntimeError("the device is gone")


@pytest.mark.parametrize(
    ("request_", "given"),
    [
        ("text", "str (dtype <U4)"),
        (b"bytes", "bytes (dtype |S5)"),
        (None, "NoneType (dtype object)"),
        (object(), "object (dtype object)"),
        ({1, 2}, "set (dtype object)"),
        (np.array(["a", "b"]), "ndarray (dtype <U1)"),
        (np.array([None, 1]), "ndarray (dtype object)"),
        ([[1, 2], [3]], "ragged list"),
        ({}, "an empty mapping"),
        ((), "an empty tuple"),
        (Unreadable(), "Unreadable"),
    ],
    ids=repr,
)
def test_a_first_request_that_is_no_array_is_refused(request_: Any, given: str) -> None:
    with pytest.raises(InputError) as caught:
        infer_spec(request_)
    assert given in caught.value.given
    assert caught.value.expected
    assert isinstance(caught.value, (TidegateError, ValueError))


@pytest.mark.parametrize(
    ("request_", "where"),
    [({"a": 1.0, "b": "text"}, "['b']"), ((1.0, "text"), "[1]"), ((1.0, [[1], []]), "[1]")],
)
def test_the_part_that_is_no_array_is_named(request_: Any, where: str) -> None:
    with pytest.raises(InputError) as caught:
        infer_spec(request_)
    assert where in str(caught.value)
