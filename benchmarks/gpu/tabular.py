"""Task T: a perceptron in float32 over rows of a table, with PyTorch or with CuPy alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.stack import Gpu
from benchmarks.gpu.tasks import GRAPH_SIZES, Array, Graphed, Tallied, Task, Way, rows_of
from tidegate import TensorSpec

__all__ = ["SIZES", "task", "weights_of"]

SIZES = (384, 1024, 1024, 16)
REQUESTS = 512

Model = Callable[[Any], Any]


def weights_of(sizes: Sequence[int]) -> list[tuple[Array, Array]]:
    """Matrix and bias of each layer, the same each time."""
    random = np.random.default_rng(7)
    return [
        (
            random.standard_normal((before, after), np.float32) * np.float32((2 / before) ** 0.5),
            random.standard_normal(after, np.float32) * np.float32(0.1),
        )
        for before, after in itertools.pairwise(sizes)
    ]


def _of_arrays(gpu: Gpu, sizes: Sequence[int]) -> Model:
    """The model in operators alone, which CuPy's arrays and NumPy's have."""
    layers = [tuple(map(gpu.cupy.asarray, layer)) for layer in weights_of(sizes)]

    def model(x: Any) -> Any:
        for number, (matrix, bias) in enumerate(layers):
            x = x @ matrix + bias
            if number + 1 < len(layers):
                x = x * (x > 0)
        return x

    return model


def _of_torch(gpu: Gpu, sizes: Sequence[int]) -> Model:
    torch = gpu.torch
    layers = [
        (torch.from_numpy(matrix.T.copy()).to(gpu.place), torch.from_numpy(bias).to(gpu.place))
        for matrix, bias in weights_of(sizes)
    ]

    def model(x: Any) -> Any:
        with torch.inference_mode():
            for matrix, bias in layers[:-1]:
                x = torch.relu(torch.nn.functional.linear(x, matrix, bias))
            return torch.nn.functional.linear(x, *layers[-1])

    return model


def task(gpu: Gpu, requests: int = REQUESTS, sizes: Sequence[int] = SIZES) -> Task:
    """The task, with its model loaded."""
    rows = list(np.random.default_rng(8).standard_normal((requests, sizes[0]), np.float32))
    torch = gpu.torch
    model = _of_arrays(gpu, sizes) if torch is None else _of_torch(gpu, sizes)

    def tensors(argument: Any) -> Any:
        return argument if torch is None else gpu.tensor(argument)

    def run(argument: Any) -> Any:
        answer = model(tensors(argument))
        return answer if torch is None else gpu.answer(answer)

    def fetched(batch: Any) -> Array:
        answer = model(tensors(batch))
        found: Array = answer.get() if torch is None else gpu.fetch(answer)
        return found

    def alone(row: Array) -> Array:
        answer: Array = fetched(gpu.cupy.asarray(row[np.newaxis]))[0]
        return answer

    def naive(batch: Sequence[Array]) -> tuple[Array, int]:
        return fetched(gpu.cupy.asarray(np.stack(batch))), len(batch)

    def fair(batch: Sequence[Array]) -> tuple[Array, int]:
        return fetched(gpu.cupy.asarray(batch)), len(batch)

    plain: dict[str, Any] = {
        "inputs": TensorSpec((sizes[0],), "float32"),
        "max_batch_size": GRAPH_SIZES[-1],
    }
    by = "CuPy" if torch is None else "PyTorch"
    graphs = Way(
        lambda: Graphed(gpu, tensors, model, rows_of),
        {**plain, "allowed_batch_sizes": GRAPH_SIZES},
    )
    return Task(
        name="T",
        about=f"perceptron {' → '.join(map(str, sizes))}, float32, in {by}",
        requests=rows,
        tolerance=1e-5,
        alone=alone,
        naive=naive,
        fair=fair,
        tidegate=Way(lambda: Tallied(run, rows_of), plain),
        graphs=None if torch is None else graphs,
    )
