"""Messages of the protocol to and from arrays: typed contents and raw ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from tidegate.errors import InputError
from tidegate.serving._proto.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from tidegate.serving.datatypes import (
    DATATYPES,
    Array,
    as_bytes,
    check_datatype,
    datatype_of,
    from_raw,
    from_values,
    to_raw,
)
from tidegate.serving.errors import UnsupportedError
from tidegate.serving.limits import Limits

__all__ = ["answer", "integer", "parse", "shape_of", "tensors", "wanted"]

AnyMessage = TypeVar("AnyMessage", bound=Message)

# Where each datatype's elements are, if they are not raw.
FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_RAW_ONLY = ("FP16", "BF16")
# Fields whose elements lie in a message as they lie in an array, with their tags.
_FLAT: dict[str, tuple[int, np.dtype[Any]]] = {
    "fp32_contents": (0x32, np.dtype("<f4")),
    "fp64_contents": (0x3A, np.dtype("<f8")),
}
_MOST_AXES = 32


def parse(kind: type[AnyMessage], data: bytes) -> AnyMessage:
    """A message from its bytes; raises InputError if they are none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InputError(
            f"the {len(data)} bytes are no {kind.DESCRIPTOR.name}",
            expected=kind.DESCRIPTOR.name,
            given=f"{len(data)} bytes",
        ) from error


def integer(parameters: Mapping[str, InferParameter], name: str) -> int | None:
    """An integer among the parameters, which may have come as its digits; None without it.

    Raises:
        InputError: It is something else.
    """
    if name not in parameters:
        return None
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value: object = None if kind is None else getattr(parameter, kind)
    if type(value) is int:
        return value
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdecimal():
        return int(value)
    raise InputError(
        f"the parameter {name!r} should be an integer, got {value!r:.100}",
        expected="an integer",
        given=f"{value!r:.100}",
    )


# -- requests --


def tensors(request: ModelInferRequest, limits: Limits) -> dict[str, Array]:
    """The inputs of a request by name.

    Raises:
        InputError: One of them is not what it says, or larger than the limits.
        UnsupportedError: One of them lies in shared memory.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(
            f"raw_input_contents has one element for each input, {len(request.inputs)}, "
            f"got {len(raw)}",
            expected=f"{len(request.inputs)} elements",
            given=f"{len(raw)} elements",
        )
    found: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        name = tensor.name
        if tensor.parameters:
            _refuse_shared_memory(name, tensor.parameters)
        datatype = tensor.datatype
        if datatype not in DATATYPES:
            check_datatype(name, datatype)
        shape = shape_of(name, tensor.shape, limits)
        if name in found:
            raise InputError(
                f"input {name!r} comes twice", expected="each input once", given=repr(name)
            )
        if raw:
            if tensor.HasField("contents") and tensor.contents.ByteSize():
                raise InputError(
                    f"input {name!r} has contents beside raw_input_contents; use one of them",
                    expected="contents or raw_input_contents",
                    given="both",
                )
            found[name] = from_raw(name, datatype, shape, raw[index])
        else:
            found[name] = _from_contents(name, datatype, shape, tensor.contents)
    return found


def wanted(request: ModelInferRequest) -> list[str]:
    """The names of the outputs that a request asks for; none for all.

    Raises:
        UnsupportedError: One of them should go to shared memory, or be a classification.
    """
    for output in request.outputs:
        if output.parameters:
            _refuse_shared_memory(output.name, output.parameters)
            if "classification" in output.parameters:
                raise UnsupportedError(
                    f"output {output.name!r}: this server has no classification extension"
                )
    return [output.name for output in request.outputs]


def _refuse_shared_memory(name: str, parameters: Mapping[str, InferParameter]) -> None:
    if "shared_memory_region" in parameters:
        raise UnsupportedError(f"tensor {name!r}: this server has no shared memory extension")


def shape_of(name: str, shape: Sequence[int], limits: Limits) -> tuple[int, ...]:
    """A shape as a tuple; raises InputError unless it has few axes, none negative, and few rows."""
    if len(shape) > _MOST_AXES:  # before making anything of them
        raise InputError(
            f"tensor {name!r} has at most {_MOST_AXES} axes, got {len(shape)}",
            expected=f"at most {_MOST_AXES} axes",
            given=f"{len(shape)} axes",
        )
    lengths = tuple(shape)
    if lengths:
        if min(lengths) < 0:
            raise InputError(
                f"the lengths of tensor {name!r} should be >= 0, got {list(lengths)}",
                expected="lengths >= 0",
                given=str(list(lengths)),
            )
        limits.check_rows(lengths[0])
    return lengths


def _from_contents(
    name: str, datatype: str, shape: tuple[int, ...], contents: InferTensorContents
) -> Array:
    if datatype in _RAW_ONLY:
        raise InputError(
            f"tensor {name!r}: {datatype} has a binary encoding only; send raw_input_contents",
            expected="raw_input_contents",
            given="contents",
        )
    field = FIELDS[datatype]
    used = [descriptor.name for descriptor, _ in contents.ListFields()]
    if used and used != [field]:
        raise InputError(
            f"tensor {name!r} of datatype {datatype} has its elements in {field}, got "
            f"{', '.join(used)}",
            expected=field,
            given=", ".join(used),
        )
    values = getattr(contents, field)
    if field in _FLAT and len(values) == math.prod(shape):
        data = _flat(contents, *_FLAT[field], len(values))
        if data is not None:
            return from_raw(name, datatype, shape, data)
    return from_values(name, datatype, shape, list(values))


def _flat(
    contents: InferTensorContents, tag: int, dtype: np.dtype[Any], count: int
) -> memoryview | None:
    """The elements of the message's only field as bytes, or None if it holds anything else.

    An array of them costs nothing; through a list of Python numbers they cost some 50 ns each.
    """
    data = contents.SerializeToString()
    size = count * dtype.itemsize
    header = bytes([tag]) + _varint(size)
    if len(data) != len(header) + size or not data.startswith(header):
        return None  # unknown fields
    return memoryview(data)[len(header) :]


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# -- answers --


def answer(
    arrays: Mapping[str, Array], *, name: str, version: str, request_id: str, raw: bool
) -> bytes:
    """A ModelInferResponse.

    Args:
        arrays: The outputs by name.
        name: Of the model.
        version: Of the model.
        request_id: What the request called itself.
        raw: Whether the client speaks raw contents. An output that has no other encoding makes
            them all raw, since a message may not mix them.
    """
    response = ModelInferResponse(model_name=name, model_version=version, id=request_id)
    datatypes = {key: datatype_of(array.dtype) for key, array in arrays.items()}
    raw = raw or any(datatype in _RAW_ONLY for datatype in datatypes.values())
    for key, array in arrays.items():
        output = response.outputs.add(name=key, datatype=datatypes[key], shape=array.shape)
        if raw:
            response.raw_output_contents.append(to_raw(array))
        else:
            _into_contents(datatypes[key], array, output.contents)
    return response.SerializeToString()


def _into_contents(datatype: str, array: Array, contents: InferTensorContents) -> None:
    field = FIELDS[datatype]
    if datatype == "BYTES":
        contents.bytes_contents.extend(as_bytes(array))
    elif field in _FLAT:
        tag, dtype = _FLAT[field]
        data = array.astype(dtype, copy=False).tobytes()
        contents.MergeFromString(bytes([tag]) + _varint(len(data)) + data)
    else:
        getattr(contents, field).extend(array.ravel().tolist())
