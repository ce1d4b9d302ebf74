"""Models on offer that the doors' tests share: an echo for each datatype, and others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from tidegate import Batcher, TensorSpec
from tidegate.serving import Models, Served, Tensor
from tidegate.serving.datatypes import DATATYPES

WIDTH = 3


def identity(batch: Any) -> Any:
    """Answers with what it was given."""
    return batch


def sum_and_difference(batch: Any) -> Any:
    """Two inputs, two outputs."""
    return {"sum": batch["a"] + batch["b"], "difference": batch["a"] - batch["b"]}


def failing(batch: Any) -> Any:
    """Raises what no client is to see."""
    raise RuntimeError("the secret of the house")


def versioned(factor: int) -> Any:
    """Multiplies by its factor."""
    return lambda batch: batch * factor


def values_of(datatype: str, rows: int = 2) -> Any:
    """An array for ``echo-<datatype>``, with values at the datatype's edges."""
    if datatype == "BYTES":
        array = np.empty((rows, WIDTH), object)
        array.ravel()[:] = [f"text {i} \N{SNOWMAN}\0".encode() for i in range(array.size)]
        return array
    counted = np.arange(rows * WIDTH).reshape(rows, WIDTH)
    if datatype == "BOOL":
        return counted % 2 == 0
    if datatype == "BF16":
        return (counted / 4).astype(ml_dtypes.bfloat16)
    array = counted.astype(DATATYPES[datatype])
    limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else np.finfo(array.dtype)
    array[0, :2] = limits.min, limits.max
    return array


@contextlib.contextmanager
def offered() -> Iterator[Models]:
    """The models, whose batchers are closed in the end.

    ``echo-<datatype>`` for each datatype, rows of WIDTH elements; ``pair`` with two inputs and two
    outputs; ``wide``, rows of 64 FP32; ``ragged``, rows of any number of FP32; ``failing``; and
    ``versioned`` with the versions 2 and 10, which multiply by them.
    """
    floats = TensorSpec((WIDTH,), "float32")
    with contextlib.ExitStack() as stack:

        def batcher(model: Any, **settings: Any) -> Batcher:
            return stack.enter_context(Batcher(model, **settings))

        models = Models(
            Served(
                "echo-BYTES",
                batcher(identity, collate="list"),
                inputs=Tensor("input", "BYTES", (WIDTH,)),
            ),
            Served("pair", batcher(sum_and_difference, inputs={"a": floats, "b": floats})),
            Served("wide", batcher(identity, inputs=TensorSpec((64,), "float32"))),
            Served(
                "ragged", batcher(identity, collate="list"), inputs=Tensor("input", "FP32", (-1,))
            ),
            Served("failing", batcher(failing, inputs=floats)),
            Served("versioned", batcher(versioned(2), inputs=floats), version="2"),
            Served("versioned", batcher(versioned(10), inputs=floats), version="10"),
        )
        for datatype, dtype in DATATYPES.items():
            if datatype != "BYTES":
                given = np.dtype(ml_dtypes.bfloat16) if datatype == "BF16" else dtype
                spec = TensorSpec((WIDTH,), given)
                models.add(Served(f"echo-{datatype}", batcher(identity, inputs=spec)))
        yield models
