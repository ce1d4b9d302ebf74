"""What native threads must know of a model to serve it: how its rows lie in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from tidegate import NativeModel
from tidegate.errors import OutputError
from tidegate.serving.datatypes import DATATYPES, Array, datatype_of
from tidegate.serving.errors import log_failure
from tidegate.serving.served import Served
from tidegate.serving.tensors import Tensor
from tidegate.specs import leaves

__all__ = ["Layout", "layouts_of"]

# Name, datatype, shape of a row, kind and bytes of an element, whether it has a typed field.
Layout: TypeAlias = "tuple[str, str, list[int], str, int, bool]"

_MOST_TENSORS = 8
_RAW_ONLY = ("FP16", "BF16")
# Kind, as NumPy names it, and bytes of an element.
_ELEMENTS = {
    "BOOL": ("b", 1),
    "INT8": ("i", 1),
    "INT16": ("i", 2),
    "INT32": ("i", 4),
    "INT64": ("i", 8),
    "UINT8": ("u", 1),
    "UINT16": ("u", 2),
    "UINT32": ("u", 4),
    "UINT64": ("u", 8),
    "FP16": ("f", 2),
    "FP32": ("f", 4),
    "FP64": ("f", 8),
    "BF16": ("V", 2),
}


def layouts_of(served: Served) -> tuple[list[Layout], list[Layout]] | None:
    """The inputs and outputs of a model; None if only Python can serve it.

    That is so for rows that are objects or bytes, for models that run in an event loop or are
    native themselves, for those that answer with lists, in which each row may fail by itself, and
    while the outputs are not known.
    """
    batcher = served.batcher
    if batcher.collate != "stack" or batcher.inputs is None or not served.outputs:
        return None
    if batcher._runtime.inline or isinstance(batcher._model, NativeModel):
        return None
    if batcher._session.answers_lists:
        return None
    specs = [spec.dtype for spec in leaves(batcher.inputs)]
    inputs = [_layout(*pair) for pair in zip(served.inputs, specs, strict=True)]
    outputs = [_layout(tensor, None) for tensor in served.outputs]
    known_inputs = [layout for layout in inputs if layout is not None]
    known_outputs = [layout for layout in outputs if layout is not None]
    if len(known_inputs) < len(inputs) or len(known_outputs) < len(outputs):
        return None
    if max(len(inputs), len(outputs)) > _MOST_TENSORS:
        return None
    return known_inputs, known_outputs


def promise_of(
    served: Served,
) -> tuple[list[str], list[np.dtype[Any] | None], Callable[[Any], list[Array] | None]]:
    """Names and dtypes of the outputs, and what makes them of another answer to a batch."""
    reference = weakref.ref(served)  # whose batcher will keep what is returned

    def convert(answer: Any) -> list[Array] | None:
        promised = reference()
        try:
            return None if promised is None else promised.answers.of_batch(answer)
        except OutputError as error:
            log_failure(error, "a batch of calls")
            return None

    dtypes = [
        None if tensor.datatype == "BF16" else DATATYPES[tensor.datatype]
        for tensor in served.outputs
    ]
    return [tensor.name for tensor in served.outputs], dtypes, convert


def _layout(tensor: Tensor, dtype: np.dtype[Any] | None) -> Layout | None:
    if tensor.datatype == "BYTES" or any(length < 0 for length in tensor.shape):
        return None
    kind, size = _ELEMENTS[tensor.datatype]
    if dtype is not None and (dtype.itemsize != size or datatype_of(dtype) != tensor.datatype):
        return None
    typed = tensor.datatype not in _RAW_ONLY
    return tensor.name, tensor.datatype, list(tensor.shape), kind, size, typed
