"""What the operations take: arrays of NumPy or of CuPy, checked before a kernel reads them."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tidegate.errors import ConfigError, InputError

__all__ = [
    "Array",
    "check_array",
    "check_count",
    "check_header",
    "check_out",
    "check_outs",
    "dense",
    "describe",
    "host_rows",
    "module_of",
    "named",
    "refuse",
    "row_pitch",
]

# A NumPy or a CuPy array. CuPy is not imported, and has no type in common with NumPy.
Array: TypeAlias = Any

LARGEST = 2**31 - 1
# What some arguments may be instead of an array.
_INSTEAD: dict[str, tuple[type, ...]] = {
    "rows": (type(None), int, np.integer),
    "out": (type(None),),
}


def module_of(**arrays: object) -> Any | None:
    """CuPy if the arrays are CuPy's, None if they are NumPy's.

    Args:
        **arrays: By the names that messages call them. `rows` may be a plain number instead, and
            that and `out` may be None.

    Raises:
        InputError: Something that is neither, or some of each.
    """
    # Whoever has an array of CuPy's has imported it.
    cupy = sys.modules.get("cupy")
    device_type = getattr(cupy, "ndarray", None)
    kinds: dict[bool, str] = {}
    for name, array in arrays.items():
        if isinstance(array, _INSTEAD.get(name, ())):
            continue
        on_device = device_type is not None and isinstance(array, device_type)
        if not on_device and not isinstance(array, np.ndarray):
            raise InputError(
                f"{name} must be a NumPy or CuPy array, got {type(array).__name__}",
                expected="a NumPy or CuPy array",
                given=type(array).__name__,
            )
        kinds[on_device] = name
    if len(kinds) == 2:
        raise InputError(
            f"all arrays must be on one side: {kinds[True]} is CuPy's, {kinds[False]} is NumPy's",
            expected="arrays of NumPy only, or of CuPy only",
            given="some of each",
        )
    return cupy if True in kinds else None


def describe(array: Any) -> str:
    """Dtype and shape in words."""
    return f"{array.dtype} array of shape {tuple(array.shape)}"


def refuse(name: str, expected: str, given: str) -> InputError:
    """The error for an array that is not what it must be."""
    return InputError(f"{name} must be {expected}, got {given}", expected=expected, given=given)


def check_array(
    name: str, array: Array, *, dtype: npt.DTypeLike | None = None, axes: int | None = None
) -> None:
    """Raises InputError unless `array` has the dtype and the number of axes."""
    wrong_dtype = dtype is not None and array.dtype != np.dtype(dtype)
    if wrong_dtype or (axes is not None and array.ndim != axes):
        kind = "an array" if dtype is None else f"a {np.dtype(dtype)} array"
        plural = "axis" if axes == 1 else "axes"
        expected = kind if axes is None else f"{kind} with {axes} {plural}"
        raise refuse(name, expected, describe(array))


def check_count(name: str, count: object, *, least: int = 0, most: int = LARGEST) -> int:
    """`count` as an int; raises ConfigError if it is none, or out of range."""
    try:
        number = operator.index(count)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(count, bool) or not least <= number <= most:
        raise ConfigError(f"{name} must be an integer from {least} to {most}, got {count!r}")
    return number


def check_out(
    name: str, out: Array | None, shape: Sequence[int], dtype: npt.DTypeLike
) -> Array | None:
    """`out` if a result of the shape and dtype can be written there; raises InputError."""
    if out is None:
        return None
    wanted = np.dtype(dtype)
    fits = tuple(out.shape) == tuple(shape) and out.dtype == wanted
    if not fits or not out.flags.c_contiguous or not getattr(out.flags, "writeable", True):
        expected = f"a writeable C-contiguous {wanted} array of shape {tuple(shape)}"
        given = describe(out) + ("" if out.flags.c_contiguous else ", not contiguous")
        raise refuse(name, expected, given)
    return out


def check_outs(
    out: tuple[Array, Array] | None,
    shapes: tuple[Sequence[int], Sequence[int]],
    dtypes: tuple[npt.DTypeLike, npt.DTypeLike],
) -> tuple[Array, Array] | None:
    """check_out() for functions with two results."""
    if out is None:
        return None
    for name, array, shape, dtype in zip(named(out), out, shapes, dtypes, strict=True):
        check_out(name, array, shape, dtype)
    return out


def named(out: object) -> dict[str, Any]:
    """Two results by the names that messages call them; raises ConfigError if they are not two."""
    if out is None:
        return {}
    if not isinstance(out, tuple) or len(out) != 2:
        raise ConfigError(f"out must be a tuple of two arrays, got {type(out).__name__}")
    return {"out[0]": out[0], "out[1]": out[1]}


def dense(cupy: Any, array: Array) -> Array:
    """CuPy's array, or a contiguous copy of it."""
    return array if array.flags.c_contiguous else cupy.ascontiguousarray(array)


def host_rows(rows: Any, capacity: int) -> int:
    """How many rows are valid, from a number or from a header in NumPy's memory.

    Args:
        rows: None for all, a number, or an int32 array whose first entry it is; that one is bounded
            by `capacity`, as in the kernels.
        capacity: How many there may be.

    Raises:
        ConfigError: The number is out of range.
        InputError: The array is no header.
    """
    if rows is None:
        return capacity
    if isinstance(rows, np.ndarray):
        check_header(rows)
        return min(max(int(rows[0]), 0), capacity)
    return check_count("rows", rows, most=capacity)


def check_header(header: Array) -> None:
    """Raises InputError unless it is an int32 array that starts with the number of rows."""
    if header.dtype != np.int32 or header.ndim != 1 or header.shape[0] < 1:
        raise refuse("rows", "a number, or an int32 array that starts with it", describe(header))


def row_pitch(array: Array) -> int | None:
    """Bytes from one row to the next, if each row by itself is contiguous; else None."""
    itemsize = array.dtype.itemsize
    expected = itemsize
    for length, stride in zip(array.shape[:0:-1], array.strides[:0:-1], strict=True):
        if length != 1 and stride != expected:
            return None
        expected *= length
    return int(array.strides[0]) if array.shape[0] > 1 else expected
