"""The perceptron's weights in a file that Go and NumPy both read, and the models made from it."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import numpy as np

from benchmarks.models import ACCELERATOR_SECONDS, FEATURES
from benchmarks.serving.batchers import Model

HIDDEN = 256
OUTPUTS = 10
SEED = 0
"""That of `benchmarks.models.perceptron`, so that the checks of answers are the same."""


def write(path: Path) -> None:
    """Both matrices, row by row, as little-endian float32."""
    random = np.random.default_rng(SEED)
    hidden = random.standard_normal((FEATURES, HIDDEN), dtype=np.float32)
    output = random.standard_normal((HIDDEN, OUTPUTS), dtype=np.float32)
    path.write_bytes(hidden.astype("<f4").tobytes() + output.astype("<f4").tobytes())


class Calls:
    """Counts calls of the model in a file of eight bytes, where another process reads them."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)
        self._count = memoryview(self._memory).cast("q")

    def read(self) -> int:
        return self._count[0]

    def one_more(self) -> None:
        self._count[0] += 1


def model(path: Path, calls: Calls, *, accelerator: bool) -> Model:
    """The perceptron; with an accelerator it takes 2 ms a call, whatever the rows."""
    numbers = np.fromfile(path, "<f4")
    hidden = numbers[: FEATURES * HIDDEN].reshape(FEATURES, HIDDEN)
    output = numbers[FEATURES * HIDDEN :].reshape(HIDDEN, OUTPUTS)

    def perceptron(batch: np.ndarray) -> np.ndarray:
        calls.one_more()
        answers: np.ndarray = np.maximum(batch @ hidden, 0) @ output
        return answers

    def slow(batch: np.ndarray) -> np.ndarray:
        time.sleep(ACCELERATOR_SECONDS)
        return perceptron(batch)

    return slow if accelerator else perceptron
