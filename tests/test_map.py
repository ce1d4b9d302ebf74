"""Streams of rows: map() and amap()."""

from __future__ import annotations

import asyncio
import itertools
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.gated import ROW, Gated, in_thread, until
from tests.helpers import occupy, rows_of
from tidegate import Batcher, DeadlineError, InputError, ModelError

Point = namedtuple("Point", ["x", "y"])


# map()


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_map_yields_answers_in_order(count: int) -> None:
    with Batcher(lambda rows: rows * 2, max_batch_size=8) as batcher:
        answers = list(batcher.map(rows_of(count)))
        assert len(answers) == count
        for number, answer in enumerate(answers):
            np.testing.assert_array_equal(answer, 2 * (ROW + number))


def test_map_takes_no_more_rows_than_it_has_in_flight() -> None:
    taken = 0

    def endless() -> Iterator[Any]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield ROW + number

    with Batcher(lambda rows: rows, max_batch_size=4) as batcher:
        answers = batcher.map(endless())
        for number in range(100):
            np.testing.assert_array_equal(next(answers), ROW + number)
            assert taken <= number + 1 + 4 * 4
        answers.close()


def test_map_keeps_the_model_busy(model: Gated) -> None:
    """More than one batch is in flight, or the executor would idle while answers are read."""
    with Batcher(model, max_batch_size=4, caller_runs=False) as batcher:
        mapping = in_thread(lambda: list(batcher.map(rows_of(50))))
        until(lambda: batcher.statistics().submitted >= 8)
        model.gate.set()
        assert len(mapping.outcome()) == 50


@pytest.mark.parametrize("overflow", ["reject", "block"])
def test_map_waits_for_room(model: Gated, overflow: Any) -> None:
    with Batcher(
        model, max_batch_size=2, max_queue_size=3, overflow=overflow, caller_runs=False
    ) as batcher:
        occupy(batcher, model)
        batcher.submit_many(rows_of(3))
        mapping = in_thread(lambda: list(batcher.map(rows_of(30))))
        assert mapping.is_alive()
        model.gate.set()
        for number, answer in enumerate(mapping.outcome()):
            np.testing.assert_array_equal(answer, 2 * (ROW + number))
        assert batcher.statistics().rejected == 0


def all_accounted_for(batcher: Batcher) -> bool:
    now = batcher.statistics()
    return now.submitted == now.completed + now.failed + now.cancelled


def test_map_ends_with_the_first_error_and_takes_back_what_waits() -> None:
    def failing(rows: Any) -> Any:
        if 3 in rows:
            raise LookupError("three")
        return rows

    with Batcher(failing, max_batch_size=1) as batcher:
        mapping = batcher.map(rows_of(100))
        answers = [next(mapping) for _ in range(3)]
        with pytest.raises(ModelError, match="three"):
            next(mapping)
        assert batcher.statistics().submitted < 100
        until(lambda: all_accounted_for(batcher))
    for number, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, ROW + number)


def test_map_takes_back_what_waits_when_it_is_left(model: Gated) -> None:
    with Batcher(model, max_batch_size=2, caller_runs=False) as batcher:

        def rows() -> Iterator[Any]:
            for number in itertools.count():
                if number == 4:
                    model.gate.set()
                yield ROW + number

        answers = batcher.map(rows())
        np.testing.assert_array_equal(next(answers), 0 * ROW)
        answers.close()
        until(lambda: all_accounted_for(batcher))


def test_map_refuses_a_row_that_does_not_fit() -> None:
    with Batcher(lambda rows: rows) as batcher:
        answers = batcher.map([ROW, ROW, np.zeros(4), ROW])
        with pytest.raises(InputError):
            list(answers)


def test_map_hands_on_what_the_iterable_raises() -> None:
    def rows() -> Iterator[Any]:
        yield ROW
        raise LookupError("no more")

    with Batcher(lambda rows: rows) as batcher, pytest.raises(LookupError, match="no more"):
        list(batcher.map(rows()))


def test_map_gives_each_row_its_timeout(model: Gated) -> None:
    with Batcher(model, caller_runs=False) as batcher:
        occupy(batcher, model)
        with pytest.raises(DeadlineError):
            list(batcher.map(rows_of(3), timeout=0.01))
        model.gate.set()


def test_map_works_inline() -> None:
    with Batcher(lambda rows: rows * 2, executor="inline", max_batch_size=4) as batcher:
        for number, answer in enumerate(batcher.map(rows_of(50))):
            np.testing.assert_array_equal(answer, 2 * (ROW + number))
        assert batcher.statistics().batches < 50


# amap()


async def as_they_come(rows: Any) -> AsyncIterator[Any]:
    for row in rows:
        await asyncio.sleep(0)
        yield row


@pytest.mark.parametrize("convert", [lambda rows: rows, as_they_come], ids=["sync", "async"])
@pytest.mark.parametrize("executor", ["thread", "inline"])
def test_amap_yields_answers_in_order(
    run: Callable[[Any], Any], convert: Any, executor: Any
) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows * 2, max_batch_size=8, executor=executor) as batcher:
            for count in (0, 1, 200):
                answers = [y async for y in batcher.amap(convert(rows_of(count)))]
                assert len(answers) == count
                for number, answer in enumerate(answers):
                    np.testing.assert_array_equal(answer, 2 * (ROW + number))

    run(main())


def test_amap_waits_for_room(run: Callable[[Any], Any], model: Gated) -> None:
    async def main() -> None:
        async with Batcher(model, max_batch_size=2, max_queue_size=3, caller_runs=False) as batcher:
            occupy(batcher, model)
            batcher.submit_many(rows_of(3))

            async def collect() -> list[Any]:
                return [y async for y in batcher.amap(rows_of(30))]

            task = asyncio.create_task(collect())
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
            assert batcher.statistics().queue_depth == 3
            model.gate.set()
            for number, answer in enumerate(await task):
                np.testing.assert_array_equal(answer, 2 * (ROW + number))
            assert batcher.statistics().rejected == 0

    run(main())


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon"])
@pytest.mark.parametrize("overflow", ["reject", "block"])
def test_what_is_no_timeout_is_refused_by_all_alike(
    run: Callable[[Any], Any], overflow: Any, timeout: Any
) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows, overflow=overflow) as batcher:
            with pytest.raises(InputError, match="number of seconds >= 0"):
                list(batcher.map(rows_of(3), timeout=timeout))
            with pytest.raises(InputError, match="number of seconds >= 0"):
                await batcher.predict_async(ROW, timeout=timeout)
            with pytest.raises(InputError, match="number of seconds >= 0"):
                [y async for y in batcher.amap(rows_of(3), timeout=timeout)]
            assert batcher.statistics().submitted == 0

    run(main())


def test_amap_gives_each_row_its_timeout(run: Callable[[Any], Any], model: Gated) -> None:
    async def main() -> None:
        async with Batcher(model, max_queue_size=2, caller_runs=False) as batcher:
            occupy(batcher, model)
            batcher.submit_many(rows_of(2))
            with pytest.raises(DeadlineError, match="for room"):
                [y async for y in batcher.amap(rows_of(3), timeout=0.01)]
            model.gate.set()

    run(main())


def test_amap_takes_back_what_waits_when_it_fails_or_is_cancelled(
    run: Callable[[Any], Any], model: Gated
) -> None:
    async def main() -> None:
        async with Batcher(model, max_batch_size=2, caller_runs=False) as batcher:
            occupy(batcher, model)

            async def collect(rows: Any) -> list[Any]:
                return [y async for y in batcher.amap(rows)]

            task = asyncio.create_task(collect(rows_of(4)))
            for _ in range(5):
                await asyncio.sleep(0)
            assert batcher.statistics().submitted == 5
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(InputError):
                await collect([ROW, "text"])
            assert batcher.statistics().cancelled == 5
            model.gate.set()

    run(main())
    assert model.rows_seen == 1


def test_amap_takes_no_more_rows_than_it_has_in_flight(run: Callable[[Any], Any]) -> None:
    taken = 0

    def endless() -> Iterator[Any]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield ROW + number

    async def main() -> None:
        async with Batcher(lambda rows: rows, max_batch_size=4) as batcher:
            answers = batcher.amap(endless())
            for number in range(50):
                np.testing.assert_array_equal(await anext(answers), ROW + number)
                assert taken <= number + 1 + 4 * 4
            await answers.aclose()

    run(main())
