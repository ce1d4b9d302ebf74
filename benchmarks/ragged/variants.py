"""How the ragged rows are batched: plain padding, length buckets, packing, and padding by hand."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.baselines.asyncio_batcher import Rows, ThreadBatcher
from benchmarks.baselines.queue_batcher import QueueBatcher
from benchmarks.contestants import Call, Submit
from benchmarks.ragged.traffic import LONGEST, Encoder
from tidegate import Batcher, Padded, TensorSpec

MAX_BATCH_SIZE = 64
BUCKETS = (16, 32, 64, LONGEST)
TOKENS = 2048
"""The budget of one batch: 64 requests have some 2100 tokens."""

BUDGETED_BATCH_SIZE = 256
"""Where the tokens are limited, short requests may well be more."""

PLAIN = "tidegate, pad"
BY_BUCKET = "tidegate, buckets"
PACKED = "tidegate, pack"
BUDGETED = "tidegate, pack, budget"
BY_HAND = "by hand, pad"


@dataclass(frozen=True)
class Count:
    """What the model was called with, so far or within a while."""

    batches: int = 0
    rows: int = 0
    tokens: int = 0
    padding: int = 0

    def __sub__(self, other: Count) -> Count:
        return Count(
            self.batches - other.batches,
            self.rows - other.rows,
            self.tokens - other.tokens,
            self.padding - other.padding,
        )

    def __add__(self, other: Count) -> Count:
        return Count(
            self.batches + other.batches,
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.padding + other.padding,
        )

    def metrics(self) -> dict[str, float]:
        return {
            "mean_batch": self.rows / max(1, self.batches),
            "padding": self.padding / max(1, self.tokens + self.padding),
        }


Counted = Callable[[], Count]
ForLoop = Callable[[], contextlib.AbstractAsyncContextManager[tuple[Submit, Counted]]]
ForThreads = Callable[[], contextlib.AbstractContextManager[tuple[Call, Counted]]]


@dataclass(frozen=True)
class Contender:
    """One way to batch, in front of coroutines and of threads."""

    name: str
    for_loop: ForLoop
    for_threads: ForThreads


def counted(batcher: Batcher) -> Counted:
    """What a Batcher's statistics say of its model's calls."""

    def count() -> Count:
        seen = batcher.statistics()
        return Count(seen.batches, seen.rows, seen.tokens, seen.padding_tokens)

    return count


def tidegate(name: str, model: Callable[[Any], np.ndarray], **options: Any) -> Contender:
    """A `Batcher`; it is told beforehand what a request looks like."""

    def make() -> Batcher:
        settings = {"max_batch_size": MAX_BATCH_SIZE, **options}
        return Batcher(model, inputs=TensorSpec((None,), np.int32), **settings)

    @contextlib.asynccontextmanager
    async def for_loop() -> AsyncIterator[tuple[Submit, Counted]]:
        async with make() as batcher:
            yield batcher.submit, counted(batcher)

    @contextlib.contextmanager
    def for_threads() -> Iterator[tuple[Call, Counted]]:
        with make() as batcher:
            yield batcher, counted(batcher)

    return Contender(name, for_loop, for_threads)


def pad_by_hand(rows: Rows) -> Padded:
    """Rows made as long as the longest of them, with a mask, as everybody writes it."""
    lengths = np.array([len(row) for row in rows], np.int32)
    values = np.zeros((len(rows), lengths.max()), np.int32)
    for place, row in enumerate(rows):
        values[place, : len(row)] = row
    return Padded(values, np.arange(values.shape[1]) < lengths[:, np.newaxis], lengths)


class Counting:
    """A model of padded rows that counts what it is called with."""

    def __init__(self, model: Callable[[Padded], np.ndarray]) -> None:
        self.count = Count()
        self._model = model

    def __call__(self, batch: Padded) -> np.ndarray:
        tokens = int(batch.lengths.sum())
        self.count += Count(1, len(batch.values), tokens, batch.values.size - tokens)
        return self._model(batch)


def by_hand(name: str, model: Callable[[Padded], np.ndarray]) -> Contender:
    """The batchers in plain Python, which pad with np.zeros."""
    options: dict[str, Any] = {"max_batch_size": MAX_BATCH_SIZE, "collate": pad_by_hand}

    @contextlib.asynccontextmanager
    async def for_loop() -> AsyncIterator[tuple[Submit, Counted]]:
        counting = Counting(model)
        with contextlib.closing(ThreadBatcher(counting, **options)) as batcher:
            yield batcher.submit, lambda: counting.count

    @contextlib.contextmanager
    def for_threads() -> Iterator[tuple[Call, Counted]]:
        counting = Counting(model)
        with contextlib.closing(QueueBatcher(counting, window=0.0, **options)) as batcher:
            yield batcher, lambda: counting.count

    return Contender(name, for_loop, for_threads)


def contenders(encoder: Encoder) -> list[Contender]:
    """All variants, with one model."""
    return [
        tidegate(PLAIN, encoder.padded, collate="pad"),
        tidegate(BY_BUCKET, encoder.padded, collate="pad", length_buckets=BUCKETS),
        tidegate(PACKED, encoder.packed, collate="pack"),
        tidegate(
            BUDGETED,
            encoder.packed,
            collate="pack",
            max_batch_size=BUDGETED_BATCH_SIZE,
            max_batch_cost=TOKENS,
        ),
        by_hand(BY_HAND, encoder.padded),
    ]
