"""Between what people type and tensors: JSON to arrays, and arrays to text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidegate.errors import InputError
from tidegate.serving.datatypes import Array, check_shape, datatype_of, from_values
from tidegate.serving.tensors import Tensor

__all__ = ["Given", "arrays", "datatype", "described", "from_arguments", "from_json", "text"]

_NAMED = re.compile(r"([^\s=\[\]{}\"]+)=(.*)", re.DOTALL)
_MOST_SHOWN = 100


@dataclass(frozen=True)
class Given:
    """Values for inputs.

    Attributes:
        named: By the inputs' names.
        alone: For the model's only input; None if `named` holds them.
    """

    named: Mapping[str, Any]
    alone: Any = None


def from_arguments(arguments: Sequence[str]) -> Given:
    """Values out of ``name=JSON``, or of JSON alone.

    Raises:
        InputError: One is no JSON, comes twice, or has no name beside others.
    """
    named: dict[str, Any] = {}
    for argument in arguments:
        match = _NAMED.fullmatch(argument)
        if match is None:
            if len(arguments) > 1:
                raise InputError(f"several inputs need names, NAME=JSON, got {argument!r:.100}")
            return Given({}, _parse(argument, "the input"))
        if match[1] in named:
            raise InputError(f"input {match[1]!r} comes twice")
        named[match[1]] = _parse(match[2], f"input {match[1]!r}")
    return Given(named)


def from_json(content: str, where: str) -> Given:
    """Values out of one text: an object of them by name, a request of the protocol, or one value.

    Raises:
        InputError: It is no JSON.
    """
    value = _parse(content, where)
    if not isinstance(value, dict):
        return Given({}, value)
    inputs = value.get("inputs")
    if isinstance(inputs, list) and all(isinstance(each, dict) for each in inputs):
        try:
            return Given({each["name"]: _Shaped(each["shape"], each["data"]) for each in inputs})
        except KeyError as error:
            raise InputError(f"an input in {where} has no {error}") from None
    return Given(value)


@dataclass(frozen=True)
class _Shaped:
    """Values in a flat list, with the shape that they have."""

    shape: Any
    values: Any


def arrays(inputs: Sequence[Tensor], given: Given) -> dict[str, Array]:
    """The inputs of a request.

    Args:
        inputs: What the model takes.
        given: For each a row, or a list of rows.

    Raises:
        InputError: They are not what the model takes.
    """
    named = given.named
    if given.alone is not None:
        if len(inputs) != 1:
            raise InputError(
                f"the model has the inputs {[each.name for each in inputs]}; give NAME=JSON for "
                "each"
            )
        named = {inputs[0].name: given.alone}
    names = {each.name for each in inputs}
    if named.keys() != names:
        raise InputError(f"the model has the inputs {sorted(names)}, got {sorted(named)}")
    return {each.name: _array(each, named[each.name]) for each in inputs}


def _array(tensor: Tensor, value: Any) -> Array:
    # BF16 has no values of its own; the server narrows them.
    kind = "FP32" if tensor.datatype == "BF16" else tensor.datatype
    if isinstance(value, _Shaped):
        return from_values(tensor.name, kind, check_shape(tensor.name, value.shape), value.values)
    lengths = _lengths(tensor.name, value)
    if len(lengths) == len(tensor.shape):
        lengths = (1, *lengths)
    if len(lengths) != len(tensor.shape) + 1:
        raise InputError(
            f"input {tensor.name!r} takes a row of shape {list(tensor.shape)} or a list of such "
            f"rows, got shape {list(lengths)}",
            expected=f"shape {list(tensor.shape)}",
            given=f"shape {list(lengths)}",
        )
    # A row may be one value alone.
    return from_values(tensor.name, kind, lengths, value if isinstance(value, list) else [value])


def _lengths(name: str, value: Any) -> tuple[int, ...]:
    """The shape of nested lists."""
    if not isinstance(value, list):
        return ()
    inner = {_lengths(name, each) for each in value}
    if len(inner) > 1:
        raise InputError(f"input {name!r} holds lists of different lengths, or lists and values")
    return (len(value), *(inner.pop() if inner else ()))


def _parse(content: str, where: str) -> Any:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise InputError(f"{where} is no JSON: {error}") from error
    if value is None:
        raise InputError(f"{where} is null")
    return value


def datatype(array: Array) -> str:
    """The protocol's name for the datatype of an array."""
    return "BYTES" if array.dtype.kind == "O" else datatype_of(array.dtype)


def described(name: str, array: Array) -> dict[str, Any]:
    """An output as JSON has it; bytes that are no text are escaped."""
    return {
        "name": name,
        "datatype": datatype(array),
        "shape": list(array.shape),
        "data": [_readable(each) for each in array.ravel().tolist()],
    }


def text(answer: Mapping[str, Array]) -> str:
    """A few lines for each output: its name, datatype and shape, and its values."""
    lines = []
    for name, array in answer.items():
        lines.append(f"{name}: {datatype(array)} {list(array.shape)}")
        shown = array
        if array.dtype.kind == "O":
            shown = np.array([_readable(each) for each in array.ravel().tolist()], object)
            shown = shown.reshape(array.shape)
        body = np.array2string(shown, threshold=_MOST_SHOWN, precision=6, suppress_small=True)
        lines += [f"  {line}" for line in body.splitlines()]
    return "\n".join(lines)


def _readable(element: Any) -> Any:
    return element.decode(errors="backslashreplace") if isinstance(element, bytes) else element
