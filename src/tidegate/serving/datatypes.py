"""The Open Inference Protocol's datatypes, and arrays to and from their encodings.

An array of BYTES is, in memory, an array of Python ``bytes`` (dtype object). BF16 is widened to
float32 when it comes in, which is exact; a model whose dtype is ``ml_dtypes.bfloat16`` answers in
BF16.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tidegate.errors import ConfigError, InputError

__all__ = [
    "DATATYPES",
    "Array",
    "as_bytes",
    "datatype_of",
    "from_raw",
    "from_values",
    "narrowed",
    "to_raw",
    "to_values",
]

Array: TypeAlias = npt.NDArray[Any]
Buffer: TypeAlias = bytes | bytearray | memoryview

# What one element is in memory, little-endian as the protocol has it.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<f4"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items() if name != "BF16"}
_DEPTH = 32  # axes at most
_NUMBERS = {int, float}
_LENGTH = 4  # of the length that comes before each element of BYTES


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name for a dtype, of whichever byte order.

    Raises:
        ConfigError: It has none.
    """
    if dtype.kind in "SU":
        return "BYTES"
    name = _NAMES.get(dtype)  # nearly always
    if name is None:
        name = "BF16" if dtype.name == "bfloat16" else _NAMES.get(dtype.newbyteorder("<"))
    if name is None:
        raise ConfigError(
            f"the Open Inference Protocol has no datatype for dtype {dtype}; it has "
            f"{', '.join(DATATYPES)}"
        )
    return name


def check_datatype(name: str, datatype: object) -> str:
    """`datatype` if the protocol has it; raises InputError, which names the tensor."""
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise InputError(
            f"tensor {name!r} has the datatype {datatype!r}; there are {', '.join(DATATYPES)}",
            expected=", ".join(DATATYPES),
            given=repr(datatype),
        )
    return datatype


def check_shape(name: str, shape: Any) -> tuple[int, ...]:
    """`shape` as a tuple of lengths; raises InputError, which names the tensor."""
    lengths = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else None
    if (
        lengths is None
        or len(lengths) > 32
        or not all(type(length) is int and 0 <= length < 2**63 for length in lengths)
    ):
        raise InputError(
            f"the shape of tensor {name!r} must be at most 32 lengths >= 0, got {shape!r:.100}",
            expected="lengths >= 0",
            given=f"{shape!r:.100}",
        )
    return lengths


def from_raw(name: str, datatype: str, shape: tuple[int, ...], data: Buffer) -> Array:
    """An array from the protocol's binary encoding; reads `data` in place where it can.

    Args:
        name: The tensor's, for messages.
        datatype: One of DATATYPES.
        shape: Lengths of all axes.
        data: Elements in row-major order, little-endian; BYTES as a 4-byte length before each.

    Raises:
        InputError: `data` does not hold as many elements as `shape` says.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _shaped(name, _split(name, count, data), shape)
    dtype = np.dtype("<u2") if datatype == "BF16" else DATATYPES[datatype]
    expected, given = count * dtype.itemsize, len(data)
    if given != expected:
        raise InputError(
            f"tensor {name!r} of datatype {datatype} and shape {list(shape)} has {expected} bytes, "
            f"got {given}",
            expected=f"{expected} bytes",
            given=f"{given} bytes",
        )
    if datatype == "BOOL":  # a byte that is neither 0 nor 1 would be no bool
        return _shaped(name, np.frombuffer(data, np.uint8) != 0, shape)
    array = np.frombuffer(data, dtype)
    if datatype == "BF16":  # the upper half of a float32
        array = (array.astype("<u4") << 16).view("<f4")
    return _shaped(name, array, shape)


def _split(name: str, count: int, data: Buffer) -> Array:
    """`count` byte strings, each after its length."""
    if count * _LENGTH > len(data):  # before allocating room for them
        raise _wrong_bytes(name, count, f"{len(data)} bytes in all")
    elements = np.empty(count, object)
    view = memoryview(data)
    start = 0
    for i in range(count):
        end = start + _LENGTH
        length = int.from_bytes(view[start:end], "little")
        start = end + length
        if end > len(view) or start > len(view):
            raise _wrong_bytes(name, count, f"the data to end within element {i}")
        elements[i] = bytes(view[end:start])
    if start != len(view):
        raise _wrong_bytes(name, count, f"{len(view) - start} bytes after them")
    return elements


def _wrong_bytes(name: str, count: int, given: str) -> InputError:
    expected = f"{count} elements of BYTES, a 4-byte length before each"
    return InputError(
        f"tensor {name!r} should be {expected}, got {given}", expected=expected, given=given
    )


def _shaped(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    try:
        return array.reshape(shape)
    except ValueError as error:  # lengths that no array can have, beside one of 0
        raise InputError(
            f"tensor {name!r} cannot have the shape {list(shape)}: {error}",
            expected="a possible shape",
            given=str(list(shape)),
        ) from error


def from_values(name: str, datatype: str, shape: tuple[int, ...], values: Any) -> Array:
    """An array from numbers, booleans or strings: JSON, or the typed contents of gRPC.

    Args:
        name: The tensor's, for messages.
        datatype: One of DATATYPES but BF16, which has no such encoding.
        shape: Lengths of all axes.
        values: The elements in row-major order, flat or in nested lists.

    Raises:
        InputError: They are too many or too few, of another kind, or out of the datatype's range.
    """
    if datatype == "BF16":
        raise InputError(
            f"tensor {name!r}: BF16 has a binary encoding only",
            expected="binary data",
            given="BF16",
        )
    try:
        if datatype == "BYTES":
            array = _flat_strings(values)
        else:
            values = values if isinstance(values, np.ndarray) else _flat_numbers(values)
            array = np.asarray(values).ravel()
            if datatype == "UINT64" and array.dtype.kind == "f" and array.size:
                array = _wide(values, array)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _wrong_values(name, datatype, str(error)) from error
    if array.size != math.prod(shape):
        raise InputError(
            f"tensor {name!r} of shape {list(shape)} has {math.prod(shape)} elements, got "
            f"{array.size}",
            expected=f"{math.prod(shape)} elements",
            given=f"{array.size} elements",
        )
    if datatype != "BYTES" and array.size:
        array = _checked(name, datatype, array)
    return _shaped(name, array.astype(DATATYPES[datatype], copy=False), shape)


def _wide(values: Any, array: Array) -> Array:
    """Whole numbers of which some need 64 bits, which NumPy makes floats beside smaller ones."""
    exact = np.asarray(values, object).ravel()
    if all(type(value) is int and 0 <= value < 2**64 for value in exact.tolist()):
        return exact.astype(np.uint64)
    return array


def _checked(name: str, datatype: str, array: Array) -> Array:
    """`array` if the datatype can hold it."""
    dtype = DATATYPES[datatype]
    if array.dtype.kind not in {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]:
        raise _wrong_values(name, datatype, f"elements of dtype {array.dtype}")
    if dtype.kind in "iu":
        limits, least, most = np.iinfo(dtype), int(array.min()), int(array.max())
        if least < limits.min or most > limits.max:
            raise _wrong_values(name, datatype, str(least if least < limits.min else most))
    if dtype.kind == "f":
        held = narrowed(array, dtype)
        if held is None:
            raise _wrong_values(name, datatype, "a number out of its range")
        return held
    return array


def narrowed(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """Numbers in a dtype of the same kind, or None if it cannot hold one of them."""
    if np.can_cast(array.dtype, dtype):
        return array.astype(dtype, copy=False)
    if dtype.kind in "iu" and array.size:  # NumPy would wrap around
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            return None
    with np.errstate(over="ignore"):
        held = array.astype(dtype)
    if dtype.kind not in "iu" and not np.array_equal(np.isinf(held), np.isinf(array)):
        return None
    return held


def _flat_numbers(values: object) -> Sequence[Any]:
    """Numbers or booleans out of nested lists.

    Types are looked at before NumPy is asked: out of one long text among many short ones it makes
    an array with room for the long one everywhere.
    """
    if not isinstance(values, Sequence):
        raise TypeError(f"an element of type {type(values).__name__}")
    kinds = set(map(type, values))
    depth = 1
    while kinds == {list}:
        if depth == _DEPTH:
            raise ValueError(f"lists nested more than {_DEPTH} deep")
        if len(set(map(len, values))) != 1:
            raise ValueError("nested lists of different lengths")
        values = list(itertools.chain.from_iterable(values))
        kinds = set(map(type, values))
        depth += 1
    if not (kinds <= _NUMBERS or kinds == {bool}):
        raise TypeError(f"elements of type {', '.join(sorted(kind.__name__ for kind in kinds))}")
    return values


def _flat_strings(values: Any) -> Array:
    """Strings out of nested lists, as an array of bytes."""
    flat: list[bytes] = []
    ahead = [iter(values if isinstance(values, Sequence) and not _is_text(values) else [values])]
    while ahead:
        for value in ahead[-1]:
            if _is_text(value):
                flat.append(value.encode() if isinstance(value, str) else bytes(value))
            elif isinstance(value, Sequence):
                if len(ahead) == _DEPTH:
                    raise ValueError(f"lists nested more than {_DEPTH} deep")
                ahead.append(iter(value))
                break
            else:
                raise TypeError(f"an element of type {type(value).__name__}")
        else:
            ahead.pop()
    array = np.empty(len(flat), object)
    array[:] = flat
    return array


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes)


def _wrong_values(name: str, datatype: str, given: str) -> InputError:
    return InputError(
        f"tensor {name!r} should hold elements of {datatype}, got {given}",
        expected=f"elements of {datatype}",
        given=given,
    )


def to_raw(array: Array) -> bytes:
    """The protocol's binary encoding of an array; see from_raw()."""
    if array.dtype.kind not in "OSU":
        return (array if _is_little(array) else _little(array)).tobytes()
    parts: list[bytes] = []
    for element in as_bytes(array):
        parts += (len(element).to_bytes(_LENGTH, "little"), element)
    return b"".join(parts)


def _is_little(array: Array) -> bool:
    order = array.dtype.byteorder  # "=" is the machine's own, "|" that of single bytes
    return order in "<|" or (order == "=" and sys.byteorder == "little")


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def to_values(array: Array) -> list[Any]:
    """The elements of an array as flat Python numbers, booleans or strings, for JSON.

    Raises:
        InputError: They are BF16, or bytes that are no UTF-8: both need the binary encoding.
    """
    # A dtype's name takes microseconds to make; only dtypes of other packages are no builtin ones.
    if array.dtype.isbuiltin == 2 and array.dtype.name == "bfloat16":
        raise InputError("BF16 has a binary encoding only; ask for binary data")
    if array.dtype.kind not in "OSU":
        values: list[Any] = array.ravel().tolist()
        return values
    try:
        return [element.decode() for element in as_bytes(array)]
    except UnicodeDecodeError as error:
        raise InputError(f"the answer is no text ({error}); ask for binary data") from error


def as_bytes(array: Array) -> list[bytes]:
    """The elements of an array of BYTES, flat."""
    return [
        element.encode() if isinstance(element, str) else bytes(element)
        for element in array.ravel().tolist()
    ]
