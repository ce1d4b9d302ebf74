"""tidegate.v1.Inference/Predict: floats in, floats out, with as few steps as it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet

from tidegate.errors import InputError
from tidegate.serving._proto import tidegate_v1_packed_pb2 as packed
from tidegate.serving._proto import tidegate_v1_pb2 as plain
from tidegate.serving.datatypes import Array
from tidegate.serving.errors import UnsupportedError
from tidegate.serving.grpc import messages, structure
from tidegate.serving.grpc.methods import Begun, queue_seconds
from tidegate.serving.grpc.structure import check_structure
from tidegate.serving.limits import Limits
from tidegate.serving.models import Models
from tidegate.serving.served import Served
from tidegate.serving.tensors import Tensor

__all__ = ["PREDICT", "Predict"]

PREDICT = "tidegate.v1.Inference"

_FLOAT = np.dtype("<f4")
_FEATURES = 1  # number of the field


class Predict:
    """The method of the small service.

    Args:
        models: What is on offer.
        limits: What a client may send.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self._models = models
        self._limits = limits

    def predict(self, message: bytes, remaining: float | None) -> Begun:
        """Queues a request.

        Args:
            message: A PredictRequest.
            remaining: Seconds until the call's deadline, None without one.
        """
        limits = self._limits
        limits.check_message(len(message))
        check_structure(message, structure.PREDICT)
        request = messages.parse(packed.PredictRequest, message)
        served = self._served(request.model_name, request.model_version)
        features = _features(request, message)
        tensor = _input(served)
        if len(request.shape):
            shape = messages.shape_of("features", request.shape, limits)
        else:
            shape = _row_shape(served, tensor, features.size)
        if math.prod(shape) != features.size:
            raise InputError(
                f"features of shape {list(shape)} are {math.prod(shape)}, got {features.size}",
                expected=f"{math.prod(shape)} features",
                given=f"{features.size} features",
            )
        wanted = [request.output_name] if request.output_name else _output(served)
        pending = served.submit(
            {tensor.name: _reshaped(features, shape)},
            outputs=wanted,
            timeout=queue_seconds(served, None, remaining),
        )

        def finish(arrays: Mapping[str, Array]) -> bytes:
            return _answer(served, arrays)

        return Begun(pending, finish)

    def _served(self, name: str, version: str) -> Served:
        models = self._models
        if not name:
            names = {served.name for served in models}
            if len(names) == 1:
                (name,) = names
            elif names:
                raise InputError(
                    f"model_name must say which model is meant: {', '.join(sorted(names))}",
                    expected="a model_name",
                    given="none",
                )
        return models.get(name, version)


def _features(request: packed.PredictRequest, message: bytes) -> Array:
    """The features as one array, in the message's own memory if it can be."""
    chunks = request.features
    unknown: Any = UnknownFieldSet(request)
    if len(unknown) and any(field.field_number == _FEATURES for field in unknown):
        # An encoder that does not pack: legal, and too rare to be quick.
        return np.array(list(messages.parse(plain.PredictRequest, message).features), _FLOAT)
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if len(data) % _FLOAT.itemsize:
        raise InputError(
            f"features are floats of 4 bytes, got {len(data)} bytes",
            expected="a multiple of 4 bytes",
            given=f"{len(data)} bytes",
        )
    return np.frombuffer(data, _FLOAT)


def _input(served: Served) -> Tensor:
    """The one input that takes floats."""
    inputs = served.inputs
    if len(inputs) != 1 or inputs[0].datatype not in ("FP16", "BF16", "FP32", "FP64"):
        raise UnsupportedError(
            f"Predict is for models with one input of floats; {served.name!r} has "
            f"{', '.join(f'{each.name!r} of {each.datatype}' for each in inputs)}; "
            "use inference.GRPCInferenceService/ModelInfer"
        )
    return inputs[0]


def _row_shape(served: Served, tensor: Tensor, size: int) -> tuple[int, ...]:
    """The shape of one row of so many features."""
    unknown = tensor.shape.count(-1)
    if unknown == 0:
        return (1, *tensor.shape)
    known = math.prod(length for length in tensor.shape if length != -1)
    if unknown > 1 or known == 0 or size % known:
        raise InputError(
            f"the shape of {size} features for a row of shape {list(tensor.shape)} of model "
            f"{served.name!r} must be told; send shape",
            expected="a shape",
            given="none",
        )
    return (1, *(size // known if length == -1 else length for length in tensor.shape))


def _reshaped(features: Array, shape: tuple[int, ...]) -> Array:
    try:
        return features.reshape(shape)
    except ValueError as error:  # lengths that no array can have, beside one of 0
        raise InputError(
            f"features cannot have the shape {list(shape)}: {error}",
            expected="a possible shape",
            given=str(list(shape)),
        ) from error


def _output(served: Served) -> list[str]:
    """The one output, if the model's outputs are known yet."""
    outputs = served.outputs
    if len(outputs) > 1:
        raise InputError(
            f"output_name must say which output is wanted: "
            f"{', '.join(repr(each.name) for each in outputs)}",
            expected="an output_name",
            given="none",
        )
    return [each.name for each in outputs]


def _answer(served: Served, arrays: Mapping[str, Array]) -> bytes:
    if len(arrays) != 1:  # they were not known when the request came
        _output(served)
    (predictions,) = arrays.values()
    if predictions.dtype.kind in "OSU":
        raise UnsupportedError(
            f"Predict answers with floats; model {served.name!r} answers with BYTES; "
            "use inference.GRPCInferenceService/ModelInfer"
        )
    return packed.PredictResponse(
        predictions=predictions.astype(_FLOAT, copy=False).tobytes(),
        model_name=served.name,
        model_version=served.version,
        shape=predictions.shape,
    ).SerializeToString()
