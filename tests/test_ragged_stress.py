"""Ragged rows, groups, budgets and sizes at random and all at once: each request ends as it should.

The seed is printed; ``TIDEGATE_SEED`` chooses another.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, in_thread
from tidegate import (
    Batcher,
    ClosedError,
    DeadlineError,
    InputError,
    ModelError,
    ModelPool,
    PerToken,
    QueueFullError,
    TensorSpec,
)

SEED = int(os.environ.get("TIDEGATE_SEED", "20261130"))
LONGEST = 30


class Wrong(Exception):
    """What the model raises for a batch, or answers for a row."""


class Model:
    """Doubles tokens; sees to it that what it is called with is what was promised."""

    def __init__(self, seed: int, settings: dict[str, Any]) -> None:
        self._chance = random.Random(seed)
        self._settings = settings
        self._kept: list[tuple[Any, Any]] = []

    def __call__(self, batch: Any) -> Any:
        """The model."""
        values, extra = batch.values
        padded = self._settings["collate"] == "pad"
        lengths = batch.lengths if padded else np.diff(batch.cu_seqlens)
        self._check(batch, values, extra, lengths, padded)
        if self._chance.random() < 0.1:
            self._kept.append((batch, values.copy()))
        if self._kept and self._chance.random() < 0.3:
            kept, then = self._kept.pop()
            np.testing.assert_array_equal(kept.values[0], then)
        if self._chance.random() < 0.02:
            raise Wrong("all of it")
        return {"tokens": PerToken(values * 2), "length": lengths, "extra": extra + 1}

    def _check(self, batch: Any, values: Any, extra: Any, lengths: Any, padded: bool) -> None:
        settings = self._settings
        rows = len(lengths)
        assert len(extra) == rows
        assert 1 <= rows <= settings["max_batch_size"]
        if settings.get("padding_policy", "none") != "none":
            assert rows in settings["allowed_batch_sizes"]
        if settings.get("group_key"):
            assert len(set(extra[:, 1].tolist())) == 1, "two groups in one batch"
        if padded:
            assert values.shape[0] == rows
            assert batch.mask.shape == values.shape
            np.testing.assert_array_equal(batch.mask.sum(axis=1), lengths)
            assert np.all(values[~batch.mask] == -7)
        else:
            assert len(values) == batch.cu_seqlens[-1]
            assert batch.max_seqlen == max(lengths)


def settings_of(chance: random.Random) -> dict[str, Any]:
    """What a batcher may be made with."""
    size = chance.choice([1, 3, 8, 16])
    settings: dict[str, Any] = {
        "inputs": (TensorSpec((None,), np.int64), TensorSpec((3,), np.int64)),
        "collate": chance.choice(["pad", "pack"]),
        "max_batch_size": size,
        "max_queue_size": chance.choice([None, 10, 40]),
        "overflow": chance.choice(["reject", "block"]),
        "outputs": chance.choice(["auto", "view", "copy"]),
        "caller_runs": chance.random() < 0.7,
    }
    if settings["collate"] == "pad":
        settings["padding_value"] = -7
        settings["pad_to"] = chance.choice([None, [10, LONGEST]])
    if chance.random() < 0.5:
        settings["allowed_batch_sizes"] = sorted({size, chance.randint(1, size)})
        settings["padding_policy"] = chance.choice(["pad_up", "batch_down", "none"])
    if chance.random() < 0.5:
        settings["group_key"] = lambda request: int(request[1][1])
    if chance.random() < 0.3:
        settings["length_buckets"] = [5, 20, LONGEST]
    if chance.random() < 0.5:
        settings["max_batch_cost"] = chance.choice([LONGEST, 60])
    if chance.random() < 0.3:
        settings["executor"] = "inline"
    elif chance.random() < 0.3:
        settings["max_queue_delay"] = 0.0005
    return settings


class Callers:
    """Requests of one batcher, and how they ended."""

    def __init__(self, batcher: Batcher, seed: int, groups: int) -> None:
        self.batcher = batcher
        self.ends: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._groups = groups
        self._number = 0

    def request(self) -> tuple[Any, Any]:
        """A request unlike all others."""
        self._number += 1
        length = self._chance.choice([0, 1, 2, 7, self._chance.randint(0, LONGEST)])
        tokens = np.arange(length) + self._number * 1000
        return tokens, np.array([self._number, self._chance.randrange(self._groups), 5])

    def check(self, request: tuple[Any, Any], answer: Any) -> None:
        np.testing.assert_array_equal(answer["tokens"], request[0] * 2)
        assert answer["length"] == len(request[0])
        np.testing.assert_array_equal(answer["extra"], request[1] + 1)
        self.ends["completed"] += 1

    def count(self, error: BaseException, rows: int = 1) -> None:
        """Enters what else may happen; anything else is a failure of the test."""
        for kind in (QueueFullError, DeadlineError, ClosedError, CancelledError, InputError):
            if isinstance(error, kind):
                self.ends[kind.__name__] += rows
                return
        if isinstance(error, asyncio.CancelledError):
            self.ends["CancelledError"] += rows
        elif isinstance(error, ModelError) and isinstance(error.__cause__, Wrong):
            self.ends["failed"] += rows
        else:
            raise error

    def in_thread(self, count: int) -> None:
        """A thread's requests, in every way that there is."""
        for _ in range(count):
            way = self._chance.randrange(4)
            many = [self.request() for _ in range(1 if way < 2 else self._chance.randint(1, 12))]
            timeout = self._chance.choice([None, None, 0.0, 0.002])
            try:
                if way == 0:
                    self.check(many[0], self.batcher(many[0], timeout=timeout))
                elif way == 1 and self._chance.random() < 0.05:
                    self.batcher((np.arange(LONGEST + 1), np.zeros(3, int)))
                elif way == 2:
                    parts = tuple(zip(*many, strict=True))
                    answers = self.batcher.submit_many(parts).result(PATIENCE)
                    for request, answer in zip(many, answers, strict=True):
                        self.check(request, answer)
                else:
                    self.one_by_one(many, timeout)
            except Exception as error:
                self.count(error, len(many) if way == 2 else 1)

    def one_by_one(self, many: list[Any], timeout: float | None) -> None:
        futures = []
        for request in many:
            try:
                futures.append((request, self.batcher.submit(request, timeout=timeout)))
            except QueueFullError as error:
                self.count(error)
        for _, future in futures:
            if self._chance.random() < 0.2:
                future.cancel()
        for request, future in futures:
            try:
                self.check(request, future.result(PATIENCE))
            except (CancelledError, Exception) as error:
                self.count(error)

    async def in_loop(self, count: int) -> None:
        """A task's requests."""
        for _ in range(count):
            request = self.request()
            try:
                self.check(request, await self.batcher.predict_async(request))
                pair = [self.request(), self.request()]
                futures = [self.batcher.submit(each) for each in pair]
                if self._chance.random() < 0.2:
                    futures[0].cancel()
                done = await asyncio.gather(*futures, return_exceptions=True)
                for each, answer in zip(pair, done, strict=True):
                    if isinstance(answer, BaseException):
                        self.count(answer)
                    else:
                        self.check(each, answer)
            except (asyncio.CancelledError, Exception) as error:
                self.count(error)


@pytest.mark.parametrize("number", range(24))
def test_every_request_ends_as_it_should(number: int) -> None:
    seed = SEED + number
    chance = random.Random(seed)
    settings = settings_of(chance)
    print(f"seed {seed}: {settings}")
    model: Any = Model(seed, settings)
    if settings.get("executor") != "inline" and chance.random() < 0.4:
        model = ModelPool([Model(seed + each, settings) for each in range(2)])
    callers = []
    groups = chance.choice([2, 5, 200])

    async def tasks(batcher: Batcher) -> None:
        each = [Callers(batcher, seed * 100 + task, groups) for task in range(8)]
        callers.extend(each)
        await asyncio.gather(*(caller.in_loop(8) for caller in each))

    with Batcher(model, **settings) as batcher:
        threads = []
        for thread in range(3):
            callers.append(Callers(batcher, seed * 50 + thread, groups))
            threads.append(in_thread(lambda caller=callers[-1]: caller.in_thread(25)))
        asyncio.run(tasks(batcher))
        if "max_batch_cost" in settings:
            batcher.max_batch_cost = 45
        early = chance.random() < 0.3
        if early:
            batcher.close(drain=chance.random() < 0.5)
        for work in threads:
            work.outcome()
    statistics = batcher.statistics()
    total = sum((caller.ends for caller in callers), Counter[str]())
    assert total["completed"] > 0 or early
    assert statistics.queue_depth == 0
    assert statistics.submitted == (
        statistics.completed
        + statistics.failed
        + statistics.cancelled
        + statistics.expired
        + statistics.closed
    )
    # Rows of a submit_many that failed as a whole may have been answered.
    assert statistics.completed >= total["completed"]
    assert statistics.rows == statistics.completed + statistics.failed
    assert sum(statistics.dispatched.values()) == statistics.batches
