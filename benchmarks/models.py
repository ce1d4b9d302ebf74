"""The models and rows that every benchmark here uses; each model answers so that it can be checked.

Answers are checked by value: the identity model and the accelerator return what came in, so a
caller that sees a row other than its own has been given somebody else's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

Model = Callable[[np.ndarray], np.ndarray]

FEATURES = 64


class WrongAnswerError(AssertionError):
    """A caller was given a row that is not the answer to its own."""


def row(number: int) -> np.ndarray:
    """A float32 row of 64 features, all `number`."""
    return np.full(FEATURES, number, dtype=np.float32)


def check(answer: np.ndarray, number: int) -> None:
    """Raise unless `answer` is the row of this number."""
    if answer.shape != (FEATURES,) or not (answer == number).all():
        raise WrongAnswerError(f"row {number} was answered with {answer!r}")


class Counted:
    """A model that counts its calls, which costs some 50 ns a batch, the same for every batcher."""

    def __init__(self, model: Model) -> None:
        self.batches = 0
        self._model = model

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.batches += 1
        return self._model(batch)


def identity(batch: np.ndarray) -> np.ndarray:
    """Returns the batch, so that nothing but the batcher is measured."""
    return batch


ACCELERATOR_SECONDS = 0.002


def accelerator(batch: np.ndarray) -> np.ndarray:
    """Like a GPU: 2 ms a batch whatever its size, without the GIL."""
    time.sleep(ACCELERATOR_SECONDS)
    return batch


def perceptron() -> Model:
    """A 64 → 256 → 10 perceptron in float32, some ten microseconds a row."""
    random = np.random.default_rng(0)
    hidden = random.standard_normal((FEATURES, 256), dtype=np.float32)
    output = random.standard_normal((256, 10), dtype=np.float32)

    def model(batch: np.ndarray) -> np.ndarray:
        return np.maximum(batch @ hidden, 0) @ output

    return model
