"""The models of the server that tests start: ``tidegate serve tests.serving.offered:models``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tidegate import Batcher, TensorSpec
from tidegate.serving import Models, Served, Tensor

DTYPES = {
    "BOOL": "bool",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "FP32": "float32",
    "FP64": "float64",
}
# A file that the model `held` waits for, so that a test decides when it answers.
GATE = "TIDEGATE_TEST_GATE"
# A file that the model `noted` writes the first number of each row to.
NOTES = "TIDEGATE_TEST_NOTES"
# Rows that may wait for `held`.
MOST_WAITING = 16
_PATIENCE = 60.0


def entered_file(gate: Path) -> Path:
    """A file that is there once `held` was entered."""
    return gate.with_suffix(".entered")


def scaled(factor: float) -> Any:
    """A model that multiplies."""
    return lambda rows: rows * np.float32(factor)


def pair(rows: Any) -> Any:
    """Two inputs, two outputs."""
    total = rows["a"].sum(axis=1)
    return {"sum": total + rows["b"], "shape": np.stack([total, total], axis=1)}


def upper(texts: Any) -> Any:
    """Bytes to bytes."""
    return [bytes(text).upper() for text in texts]


def broken(rows: Any) -> Any:
    """Fails."""
    raise RuntimeError("the weights are in /home/somebody")


def held(rows: Any) -> Any:
    """Says that it was entered, and waits until the file at GATE is there."""
    gate = Path(os.environ[GATE])
    entered_file(gate).touch()
    end = time.monotonic() + _PATIENCE
    while not gate.exists() and time.monotonic() < end:
        time.sleep(0.005)
    return rows


def noted(rows: Any) -> Any:
    """Writes down which rows it has seen, and takes a while."""
    with Path(os.environ[NOTES]).open("a") as notes:
        notes.write("".join(f"{row[0]:.0f}\n" for row in rows))
    time.sleep(0.02)
    return rows * 2


def _batcher(model: Any, inputs: Any, **settings: Any) -> Batcher:
    return Batcher(model, inputs=inputs, **settings)


def models() -> Models:
    """What most tests ask."""
    three = TensorSpec((3,), "float32", name="x")
    doubled = TensorSpec((3,), "float32", name="doubled")
    every = {name: TensorSpec((2,), dtype) for name, dtype in DTYPES.items()}
    return Models(
        Served("double", _batcher(scaled(2), three), outputs=doubled),
        Served("scaled", _batcher(scaled(1), three), outputs=doubled),
        Served("scaled", _batcher(scaled(10), three), outputs=doubled, version="2"),
        Served(
            "pair",
            _batcher(pair, {"a": TensorSpec((2,), "int32"), "b": TensorSpec((), "float64")}),
            outputs={"sum": TensorSpec((), "float64"), "shape": TensorSpec((2,), "int64")},
        ),
        Served(
            "upper",
            Batcher(upper, collate="list"),
            inputs=Tensor("text", "BYTES"),
            outputs=Tensor("upper", "BYTES"),
        ),
        Served("every", _batcher(lambda rows: rows, every), outputs=every),
        Served("half", _batcher(scaled16, TensorSpec((2,), "float16", name="x"))),
        Served(
            "brain",
            _batcher(lambda rows: rows, TensorSpec((2,), ml_dtypes.bfloat16, name="x")),
            example=np.zeros(2, ml_dtypes.bfloat16),
        ),
        Served("broken", _batcher(broken, three)),
        Served(
            "held",
            _batcher(held, three, name="held", max_batch_size=1, max_queue_size=MOST_WAITING),
        ),
    )


def scaled16(rows: Any) -> Any:
    """Doubles in half precision."""
    return rows * np.float16(2)


def slow() -> Models:
    """What the tests of draining ask."""
    three = TensorSpec((3,), "float32", name="x")
    return Models(
        Served("noted", _batcher(noted, three, max_batch_size=8), outputs=three),
        Served("held", _batcher(held, three), outputs=three),
    )
