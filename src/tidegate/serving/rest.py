"""The Open Inference Protocol's REST encoding: bytes to named arrays and back, no framework."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tidegate.errors import InputError
from tidegate.serving.datatypes import (
    DATATYPES,
    Array,
    check_datatype,
    check_shape,
    datatype_of,
    from_raw,
    from_values,
    to_raw,
    to_values,
)
from tidegate.serving.errors import UnsupportedError
from tidegate.serving.limits import Limits
from tidegate.serving.served import Served
from tidegate.serving.tensors import Tensor

__all__ = ["Body", "InferRequest", "decode", "encode", "to_json"]

Body: TypeAlias = bytes | bytearray

# What of the protocol is Triton's alone and changes what a tensor means, so that it cannot be
# ignored like other parameters.
_UNSUPPORTED = ("shared_memory_region", "shared_memory_byte_size", "classification")
_MOST_MICROSECONDS = 2**63

# check_circular costs a look-up for each list, and what is encoded here was made here.
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


@dataclass(slots=True)
class InferRequest:
    """One inference request, whichever way it was encoded.

    Attributes:
        tensors: The inputs by name, each with its leading axis of rows.
        id: What the client calls the request; echoed.
        outputs: Names of the outputs that are asked for; all if empty.
        binary: Whether outputs go back as binary data, where asked for one by one.
        all_binary: The same for all others.
        timeout: Seconds that it may wait in the queue; None for the batcher's own.
        priority: As the protocol has it.
    """

    tensors: dict[str, Array]
    id: str | None = None
    outputs: list[str] = field(default_factory=list)
    binary: dict[str, bool] = field(default_factory=dict)
    all_binary: bool = False
    timeout: float | None = None
    priority: int = 0


def decode(
    body: Body, header_length: int | None, inputs: Sequence[Tensor], limits: Limits
) -> InferRequest:
    """A request out of a body.

    Args:
        body: JSON, or JSON and binary data after it.
        header_length: Bytes of JSON as ``Inference-Header-Content-Length`` tells; None if all of
            it is JSON; 0 if none is, and the body is the binary data of the model's one input.
        inputs: The model's, for a body without JSON.
        limits: For the number of rows; the body's size was checked when it came.

    Raises:
        InputError: The body is no such request.
        UnsupportedError: It asks for what the protocol has and the server has not.
    """
    if header_length == 0:
        return _decode_raw(body, inputs, limits)
    head, tail = body, memoryview(b"")
    if header_length is not None:
        if header_length > len(body):
            raise _misfit(
                "Inference-Header-Content-Length", f"at most {len(body)}", str(header_length)
            )
        head, tail = body[:header_length], memoryview(body)[header_length:]
    try:
        message = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the body is no JSON: {error}", expected="a JSON object", given=str(error)
        ) from error
    if type(message) is not dict:
        raise _misfit("the body", "a JSON object", message)
    request = InferRequest(_tensors(message, tail, limits), message.get("id"))
    if request.id is not None and type(request.id) is not str:
        raise _misfit("id", "a string", request.id)
    _read_parameters(request, _parameters(message, "the request"))
    if message.get("outputs") is not None:  # some clients write null for what they leave out
        _read_outputs(request, message["outputs"])
    return request


def _tensors(message: dict[str, Any], tail: memoryview, limits: Limits) -> dict[str, Array]:
    """The inputs, out of JSON and out of the binary data behind it."""
    inputs = message.get("inputs")
    if type(inputs) is not list:
        raise _misfit("inputs", "a list of tensors", inputs)
    tensors: dict[str, Array] = {}
    start = 0
    for entry in inputs:
        name = _name(entry, "an input")
        if name in tensors:
            raise InputError(f"input {name!r} was given twice", expected="once", given="twice")
        datatype = check_datatype(name, entry.get("datatype"))
        shape = check_shape(name, entry.get("shape"))
        if shape:
            limits.check_rows(shape[0])
        size = _parameters(entry, f"input {name!r}").get("binary_data_size")
        if size is None:
            values = entry.get("data")
            if type(values) is not list:
                raise _misfit(f"data of input {name!r}", "a list, or binary data", values)
            tensors[name] = from_values(name, datatype, shape, values)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - start:
            expected = f"at most the {len(tail) - start} bytes that follow the JSON"
            raise _misfit(f"binary_data_size of input {name!r}", expected, size)
        if entry.get("data") is not None:
            raise _misfit(f"input {name!r}", "either data or binary data", "both")
        tensors[name] = from_raw(name, datatype, shape, tail[start : start + size])
        start += size
    if start != len(tail):
        raise _misfit("the binary data", f"{start} bytes, as the inputs say", f"{len(tail)} bytes")
    return tensors


def _decode_raw(body: Body, inputs: Sequence[Tensor], limits: Limits) -> InferRequest:
    """One row for a model with one input, without any JSON; its answer is binary too."""
    variable = [length for tensor in inputs for length in tensor.shape if length == -1]
    if len(inputs) != 1 or len(variable) > 1:
        raise InputError(
            "a body without JSON (Inference-Header-Content-Length: 0) is for models with one "
            "input, of which at most one length varies"
        )
    name, datatype, lengths = inputs[0].name, inputs[0].datatype, inputs[0].shape
    if datatype == "BYTES":  # one element, and no length before it
        array = np.empty(1, object)
        array[0] = bytes(body)
        shape = tuple(abs(length) for length in lengths)
        if math.prod(shape) != 1:
            raise _misfit(f"input {name!r}", f"{math.prod(shape)} elements, with JSON", "one")
        array = array.reshape(1, *shape)
    else:
        width = 2 if datatype == "BF16" else DATATYPES[datatype].itemsize
        known = width * math.prod(length for length in lengths if length != -1)
        rest = len(body) // known if known else 0
        shape = tuple(rest if length == -1 else length for length in lengths)
        array = from_raw(name, datatype, (1, *shape), body)
    limits.check_rows(1)
    return InferRequest({name: array}, all_binary=True)


def _read_parameters(request: InferRequest, parameters: Mapping[str, Any]) -> None:
    """What concerns the whole request; parameters that nobody knows are ignored."""
    if not parameters:
        return
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout < _MOST_MICROSECONDS:
        raise _misfit("timeout", "whole microseconds >= 0", timeout)
    request.timeout = timeout / 1e6 if timeout else None
    request.priority = parameters.get("priority", 0)  # checked by Served.submit()
    request.all_binary = _flag(parameters, "binary_data_output")


def _read_outputs(request: InferRequest, outputs: Any) -> None:
    """Which outputs are asked for, and how each is to be encoded."""
    if type(outputs) is not list:
        raise _misfit("outputs", "a list of outputs", outputs)
    for entry in outputs:
        name = _name(entry, "an output")
        parameters = _parameters(entry, f"output {name!r}")
        if "binary_data" in parameters:
            request.binary[name] = _flag(parameters, "binary_data")
        if name not in request.outputs:
            request.outputs.append(name)


def _name(entry: Any, what: str) -> str:
    if type(entry) is not dict:
        raise _misfit(what, "a JSON object", entry)
    name = entry.get("name")
    if type(name) is not str:
        raise _misfit(f"the name of {what}", "a string", name)
    return name


def _parameters(holder: dict[str, Any], of: str) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise _misfit(f"the parameters of {of}", "a JSON object", parameters)
    for name in _UNSUPPORTED:
        if parameters.get(name):
            raise UnsupportedError(f"{of} has the parameter {name!r}, which this server has not")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if type(value) is not bool:
        raise _misfit(name, "true or false", value)
    return value


def _misfit(what: str, expected: str, given: object) -> InputError:
    shown = given if type(given) is str else f"{given!r:.100}"
    return InputError(
        f"{what:.200} should be {expected}, got {shown:.200}", expected=expected, given=shown
    )


def encode(
    served: Served, request: InferRequest, arrays: Mapping[str, Array]
) -> tuple[bytes, int | None]:
    """An answer as a body.

    Returns:
        The body, and how many of its bytes are JSON; None if all are.

    Raises:
        InputError: An output was asked for in JSON and has no such form.
    """
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    binary = request.binary
    for name, array in arrays.items():
        output: dict[str, Any] = {
            "name": name,
            "datatype": _datatype(array),
            "shape": list(array.shape),
        }
        if binary.get(name, request.all_binary) if binary else request.all_binary:
            data = to_raw(array)
            output["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            output["data"] = to_values(array)
        outputs.append(output)
    message = {
        "model_name": served.name,
        "model_version": served.version,
        "outputs": outputs,
    }
    if request.id is not None:
        message["id"] = request.id
    head = to_json(message)
    return (b"".join((head, *tail)), len(head)) if tail else (head, None)


def to_json(message: object) -> bytes:
    """A message as JSON, on one line; NaN and the infinities as ``NaN`` and ``Infinity``."""
    return _encode(message).encode()


def _datatype(array: Array) -> str:
    return "BYTES" if array.dtype.kind == "O" else datatype_of(array.dtype)
