"""Task I: a small convolutional network in bfloat16, asked with images of bytes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.stack import Gpu
from benchmarks.gpu.tasks import (
    GRAPH_SIZES,
    Array,
    Graphed,
    Tallied,
    Task,
    Way,
    rows_of,
    uploaded,
)
from tidegate import TensorSpec
from tidegate.transforms import Affine

__all__ = ["Convolutions", "task"]

SIDE = 224
REQUESTS = 256
CLASSES = 1000
CHANNELS = (3, 32, 64, 128, 256, 256)
SCALE, BIAS = (1 / 58.4, 1 / 57.1, 1 / 57.4), (-2.1, -2.0, -1.8)


class Convolutions:
    """The model: five convolutions of stride 2, the mean over what is left, one linear layer.

    Its images have their channels last in memory, as bytes come and as cuDNN likes them.

    Args:
        gpu: Where.
    """

    def __init__(self, gpu: Gpu) -> None:
        torch = self._torch = gpu.torch
        generator = torch.Generator().manual_seed(0)

        def weights(*shape: int) -> Any:
            random = torch.randn(*shape, generator=generator)
            random *= (2 / np.prod(shape[1:])) ** 0.5
            return random.to(gpu.place, torch.bfloat16)

        self._kernels = [
            weights(after, before, 3, 3).contiguous(memory_format=torch.channels_last)
            for before, after in itertools.pairwise(CHANNELS)
        ]
        self._classes = weights(CLASSES, CHANNELS[-1])

    def __call__(self, images: Any) -> Any:
        """float32 logits of shape (n, classes), for normalised bfloat16 images (n, h, w, 3)."""
        torch, nn = self._torch, self._torch.nn.functional
        with torch.inference_mode():
            x = images.permute(0, 3, 1, 2)
            for kernel in self._kernels:
                x = nn.relu(nn.conv2d(x, kernel, stride=2, padding=1))
            return nn.linear(x.mean((2, 3)), self._classes).float()


def task(gpu: Gpu, requests: int = REQUESTS, side: int = SIDE) -> Task:
    """The task, with its model loaded."""
    torch = gpu.torch
    model = Convolutions(gpu)
    random = np.random.default_rng(6)
    rows = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(requests)]
    scale32, bias32 = (np.array(numbers, np.float32) for numbers in (SCALE, BIAS))
    scale, bias = (torch.tensor(numbers, device=gpu.place) for numbers in (SCALE, BIAS))
    scale16, bias16 = scale.to(torch.bfloat16), bias.to(torch.bfloat16)

    def widened(images: Any) -> Any:
        """Bytes on the device normalised in float32, and rounded once."""
        with torch.inference_mode():
            return torch.addcmul(bias, images.float(), scale).to(torch.bfloat16)

    def alone(row: Array) -> Array:
        answer: Array = model(widened(uploaded(gpu, row))).cpu().numpy()[0]
        return answer

    def naive(batch: Sequence[Array]) -> tuple[Array, int]:
        images = np.stack(batch).astype(np.float32) * scale32 + bias32
        given = gpu.tensor(gpu.cupy.asarray(images)).to(torch.bfloat16)
        return gpu.fetch(model(given)), len(batch)

    def fair(batch: Sequence[Array]) -> tuple[Array, int]:
        images = gpu.tensor(gpu.cupy.asarray(batch))
        with torch.inference_mode():
            given = images.to(torch.bfloat16).mul_(scale16).add_(bias16)
        return gpu.fetch(model(given)), len(batch)

    def tensors(argument: Any) -> Any:
        return gpu.tensor(argument).view(torch.bfloat16)  # their bits come as uint16

    def called() -> Tallied:
        return Tallied(lambda argument: gpu.answer(model(tensors(argument))), rows_of)

    def graphed() -> Tallied:
        return Graphed(gpu, tensors, model, rows_of)

    def widening() -> Tallied:
        """Of float32 pixels, which are normalised where the model is."""

        def run(argument: Any) -> Any:
            return gpu.answer(model(widened(gpu.tensor(argument))))

        return Tallied(run, rows_of)

    shape = (side, side, 3)
    transform = Affine(SCALE, BIAS, "bfloat16")
    plain: dict[str, Any] = {
        "inputs": TensorSpec(shape, "uint8", transform=transform),
        "max_batch_size": GRAPH_SIZES[-1],
    }
    in_floats = {**plain, "inputs": TensorSpec(shape, "float32")}
    return Task(
        name="I",
        about=f"five convolutions, bfloat16; images of {side} x {side} x 3 bytes",
        requests=rows,
        tolerance=2e-2,
        alone=alone,
        naive=naive,
        fair=fair,
        tidegate=Way(called, plain),
        graphs=Way(graphed, {**plain, "allowed_batch_sizes": GRAPH_SIZES}),
        off={
            "float32 over the bus": Way(
                widening, in_floats, [row.astype(np.float32) for row in rows]
            )
        },
    )
