"""Task E: a text encoder of six layers in bfloat16, asked with token ids of log-normal lengths."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.lengths import LONGEST, lengths_of
from benchmarks.gpu.stack import Gpu
from benchmarks.gpu.tasks import GRAPH_SIZES, Array, Graphed, Tallied, Task, Way, uploaded
from tidegate import TensorSpec
from tidegate.transforms import TokenIds

__all__ = ["BUCKETS", "Encoder", "task"]

WIDTH, HEADS, LAYERS, VOCABULARY = 384, 12, 6, 30522
REQUESTS = 512
# Rows share a batch with those of up to the same length; with graphs they are padded to it.
BUCKETS = (32, 64, LONGEST)


class Encoder:
    """The model: embeddings, layers of attention and perceptron, the mean over the tokens.

    Args:
        gpu: Where.
        width: Of a token.
        layers: How many.
    """

    def __init__(self, gpu: Gpu, width: int = WIDTH, layers: int = LAYERS) -> None:
        torch = self._torch = gpu.torch
        generator = torch.Generator().manual_seed(0)

        def weights(*shape: int) -> Any:
            random = torch.randn(*shape, generator=generator) / shape[-1] ** 0.5
            return random.to(gpu.place, torch.bfloat16)

        self._width, self._heads = width, HEADS
        self._tokens = weights(VOCABULARY, width) * width**0.5
        self._places = weights(LONGEST, width) * width**0.5
        self._first = (torch.arange(LONGEST) == 0).to(gpu.place, torch.int64)
        self._layers = [
            (
                weights(3 * width, width),
                weights(width, width),
                weights(4 * width, width),
                weights(width, 4 * width),
            )
            for _ in range(layers)
        ]

    def __call__(self, ids: Any, mask: Any) -> Any:
        """float32 embeddings of shape (n, width), for int64 ids and mask of shape (n, length)."""
        torch, nn = self._torch, self._torch.nn.functional
        with torch.inference_mode():
            n, length = ids.shape
            # The first token is always seen: rows of no tokens, which fill up batches, stay finite.
            seen = (mask + self._first[:length] > 0)[:, None, None, :]
            x = self._tokens[ids] + self._places[:length]
            shape = (self._width,)
            for into, out, up, down in self._layers:
                projected = nn.linear(nn.layer_norm(x, shape), into)
                parts = projected.view(n, length, 3, self._heads, self._width // self._heads)
                q, k, v = parts.permute(2, 0, 3, 1, 4)
                attended = nn.scaled_dot_product_attention(q, k, v, attn_mask=seen)
                x = x + nn.linear(attended.transpose(1, 2).reshape(n, length, self._width), out)
                x = x + nn.linear(nn.gelu(nn.linear(nn.layer_norm(x, shape), up)), down)
            kept = mask[:, :, None].to(torch.bfloat16)
            summed = (nn.layer_norm(x, shape) * kept).float().sum(1)
            return summed / mask.sum(1, keepdim=True).clamp(min=1)


class _Pinned:
    """Page-locked ids for batches by hand, one block for each thread that makes them."""

    def __init__(self, gpu: Gpu, rows: int) -> None:
        self._gpu = gpu
        self._rows = rows
        self._local = threading.local()

    def ids(self, rows: Sequence[Array]) -> tuple[Any, Any]:
        """int32 ids on the device, padded to the longest, and the lengths."""
        torch = self._gpu.torch
        if not hasattr(self._local, "memory"):
            locked = self._gpu.device is not None
            shape = (self._rows * (LONGEST + 1),)
            self._local.memory = torch.zeros(shape, dtype=torch.int32, pin_memory=locked)
        longest = max(map(len, rows))
        parcel = self._local.memory[: len(rows) * (longest + 1)].view(len(rows), longest + 1)
        filling = parcel.numpy()
        for place, row in zip(filling, rows, strict=True):
            place[0] = len(row)
            place[1 : len(row) + 1] = row
            place[len(row) + 1 :] = 0
        device = parcel.to(self._gpu.place, non_blocking=True)
        return device[:, 1:], device[:, 0]


def task(gpu: Gpu, requests: int = REQUESTS, layers: int = LAYERS) -> Task:
    """The task, with its model loaded."""
    torch = gpu.torch
    model = Encoder(gpu, layers=layers)
    random = np.random.default_rng(5)
    rows = [
        random.integers(1, VOCABULARY, length, dtype=np.int32) for length in lengths_of(requests)
    ]
    pinned = _Pinned(gpu, GRAPH_SIZES[-1])

    def alone(row: Array) -> Array:
        ids = uploaded(gpu, row).long()
        answer: Array = model(ids, torch.ones_like(ids)).cpu().numpy()[0]
        return answer

    def naive(batch: Sequence[Array]) -> tuple[Array, int]:
        longest = max(map(len, batch))
        ids = np.stack([np.pad(row.astype(np.int64), (0, longest - len(row))) for row in batch])
        lengths = np.array([len(row) for row in batch])
        mask = (np.arange(longest) < lengths[:, np.newaxis]).astype(np.int64)
        given = (gpu.tensor(gpu.cupy.asarray(array)) for array in (ids, mask))
        return gpu.fetch(model(*given)), ids.size

    def fair(batch: Sequence[Array]) -> tuple[Array, int]:
        ids, lengths = pinned.ids(batch)
        mask = (torch.arange(ids.shape[1], device=gpu.place) < lengths[:, None]).long()
        answer: Array = model(ids.long(), mask).cpu().numpy()
        return answer, ids.shape[0] * ids.shape[1]

    def tensors(argument: Any) -> tuple[Any, Any]:
        return gpu.tensor(argument.values), gpu.tensor(argument.mask)

    def seen(argument: Any) -> int:
        n, length = argument.values.shape
        return int(n * length)

    def called() -> Tallied:
        return Tallied(lambda argument: gpu.answer(model(*tensors(argument))), seen)

    def graphed() -> Tallied:
        return Graphed(gpu, tensors, lambda given: model(*given), seen)

    plain: dict[str, Any] = {
        "inputs": TensorSpec((None,), "int32", transform=TokenIds()),
        "collate": "pad",
        "max_batch_size": GRAPH_SIZES[-1],
    }
    grouped = {**plain, "length_buckets": BUCKETS}
    fixed = {**grouped, "pad_to": BUCKETS, "allowed_batch_sizes": GRAPH_SIZES}
    return Task(
        name="E",
        about=f"encoder, {layers} layers of width {WIDTH}, bfloat16; ids of up to {LONGEST} tokens",
        requests=rows,
        tolerance=2e-2,
        alone=alone,
        naive=naive,
        fair=fair,
        tidegate=Way(called, grouped),
        graphs=Way(graphed, fixed),
        off={
            "without length buckets": Way(called, plain),
            "padded to the maximum": Way(called, {**plain, "pad_to": (LONGEST,)}),
        },
        ragged=True,
    )
