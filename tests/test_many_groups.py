"""Many groups: memory that is bounded, a queue that is shared, and turns for the rare ones."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, Holding, in_thread, until
from tests.grouped import Busy, answers, checked, key_of, row_of
from tidegate import Batcher, ClosedError, NativeModel, QueueFullError, TensorSpec

# Many groups


def test_more_groups_than_are_kept_never_mix() -> None:
    with Batcher(checked, group_key=key_of, max_batch_size=4, max_queue_size=3000) as batcher:
        chance = random.Random(5)
        asked = [(chance.randrange(300), number) for number in range(3000)]
        futures = [batcher.submit(row_of(*each)) for each in asked]
        assert answers(futures) == [list(each) for each in asked]


def stagings(besides: Sequence[object] = ()) -> list[object]:
    """Pieces of staging memory that there are, of all batchers, besides some.

    Those of other tests may go at any time: whoever compares must hold on to them.
    """
    known = set(map(id, besides))
    return [
        each
        for each in gc.get_objects()
        if type(each).__name__ == "Staging" and id(each) not in known
    ]


def test_groups_that_are_gone_leave_no_memory() -> None:
    gc.collect()
    before = stagings()
    model = Holding(checked)
    with Batcher(model, group_key=key_of, max_batch_size=4, caller_runs=False) as batcher:
        futures = [batcher.submit(row_of(0))]
        model.await_entry()
        futures += [batcher.submit(row_of(key // 2)) for key in range(1, 1000)]
        assert len(stagings(before)) > 490
        model.gate.set()
        assert answers(futures) == [[key // 2, 0] for key in range(1000)]
        until(lambda: len(stagings(before)) <= 8)
        for key in range(2000):
            assert answers([batcher.submit(row_of(key))]) == [[key, 0]]
        assert len(stagings(before)) <= 8


def test_groups_of_a_native_model_leave_no_memory_either() -> None:
    pointers = ctypes.POINTER(ctypes.c_void_p)
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, pointers, pointers
    )
    function = prototype(lambda *_: 0)
    row = TensorSpec((3,), "int64")
    gc.collect()
    before = stagings()
    with Batcher(
        NativeModel(function, outputs=row), inputs=row, group_key=key_of, max_batch_size=4
    ) as batcher:
        for future in [batcher.submit(row_of(key)) for key in range(1000)]:
            future.result(PATIENCE)
        # Native threads leave it to the next who has the GIL.
        batcher.submit(row_of(0)).result(PATIENCE)
        assert len(stagings(before)) <= 2 * 64 + 8


def test_a_few_groups_keep_their_memory() -> None:
    gc.collect()
    before = stagings()
    with Batcher(checked, group_key=key_of, max_batch_size=4) as batcher:
        for number in range(1000):
            assert answers([batcher.submit(row_of(number % 20))]) == [[number % 20, 0]]
        assert len(stagings(before)) <= 24


def test_a_rare_group_is_served_beside_a_flood() -> None:
    order: list[int] = []

    def model(rows: Any) -> Any:
        order.append(int(rows[0, 0]))
        return checked(rows)

    holding = Holding(model)
    with Batcher(holding, group_key=key_of, max_batch_size=2, caller_runs=False) as batcher:
        flood = [row_of(1, number) for number in range(60)]
        futures = holding.ask_together(batcher, [row_of(1), row_of(7), *flood])
        for future in futures:
            future.result(PATIENCE)
    # Four full batches may pass it over.
    assert order.index(7) <= 5


def test_a_flood_that_never_ends_starves_nobody() -> None:
    with Batcher(checked, group_key=key_of, max_batch_size=2, max_queue_size=64) as batcher:
        stop = False

        def flood() -> None:
            while not stop:
                try:
                    batcher.submit(row_of(1))
                except QueueFullError:
                    continue

        work = [in_thread(flood) for _ in range(2)]
        try:
            served = 0
            while served < 20:
                try:
                    np.testing.assert_array_equal(
                        batcher(row_of(100 + served)), 2 * row_of(100 + served)
                    )
                    served += 1
                except QueueFullError:
                    continue
        finally:
            stop = True
        for thread in work:
            thread.outcome()


# The queue


def test_the_queue_is_shared_by_all_groups() -> None:
    model = Holding(checked)
    with Batcher(model, group_key=key_of, max_queue_size=5, caller_runs=False) as batcher:
        first = batcher.submit(row_of(0))
        model.await_entry()
        futures = [batcher.submit(row_of(number)) for number in range(5)]
        for key in (0, 1, 99):
            with pytest.raises(QueueFullError):
                batcher.submit(row_of(key))
        with pytest.raises(QueueFullError):
            batcher.submit_many([row_of(1), row_of(2)])
        assert batcher.statistics().queue_depth == 5
        assert batcher.statistics().rejected == 5
        model.gate.set()
        answers([first, *futures])
        until(lambda: batcher.statistics().queue_depth == 0)
        answers([batcher.submit_many(np.array([row_of(1), row_of(2)]))])


def test_of_many_rows_that_find_no_room_none_is_left_behind() -> None:
    model = Holding(checked)
    others: list[Any] = []
    hashed = 0

    def during(value: int) -> None:
        nonlocal hashed
        hashed += value == 3
        if value == 3 and hashed == 2:  # the first two rows are in, and the model gets one of them
            model.await_entry()
            others.extend(batcher.submit(row_of(9)) for _ in range(3))

    with Batcher(
        model,
        group_key=lambda row: Busy(int(row[0]), during),
        max_batch_size=1,
        max_queue_size=4,
        caller_runs=False,
    ) as batcher:
        with pytest.raises(QueueFullError):
            batcher.submit_many([row_of(1), row_of(2), row_of(3)])
        model.gate.set()
        assert answers(others) == [[9, 0]] * 3
    assert batcher.statistics().cancelled == 1
    assert [int(batch[0, 0]) for batch in model.batches] == [1, 9, 9, 9]


def test_nobody_waits_for_more_rows_while_the_queue_is_full() -> None:
    with Batcher(
        checked, group_key=key_of, max_queue_size=3, max_queue_delay=60.0, caller_runs=False
    ) as batcher:
        futures = [batcher.submit(row_of(1)) for _ in range(3)]
        assert answers(futures) == [[1, 0]] * 3
        futures = [batcher.submit(row_of(number)) for number in range(3)]
        # One of the groups makes room; the others may still hope for more rows.
        until(lambda: any(future.done() for future in futures))


def test_callers_wait_for_room_whatever_their_group() -> None:
    with Batcher(
        checked, group_key=key_of, max_batch_size=3, max_queue_size=4, overflow="block"
    ) as batcher:

        def work(number: int) -> None:
            for key in range(60):
                row = row_of(key % 7, number)
                np.testing.assert_array_equal(batcher(row), 2 * row)

        async def main() -> None:
            rows = [row_of(number % 5, number) for number in range(100)]
            each = [batcher.predict_async(row) for row in rows]
            for row, answer in zip(rows, await asyncio.gather(*each), strict=True):
                np.testing.assert_array_equal(answer, 2 * row)

        threads = [in_thread(lambda number=number: work(number)) for number in range(4)]
        asyncio.run(main())
        for thread in threads:
            thread.outcome()
    assert batcher.statistics().rejected == 0


def test_a_caller_with_no_room_waits_for_the_batch_that_goes_next() -> None:
    model = Holding(checked)
    with Batcher(
        model,
        group_key=key_of,
        max_batch_size=2,
        max_queue_size=5,
        max_queue_delay=30.0,
        overflow="block",
        caller_runs=False,
    ) as batcher:
        first = [batcher.submit(row_of(7)) for _ in range(2)]
        model.await_entry()
        rare = batcher.submit(row_of(7))  # goes in half a minute
        flood = [batcher.submit(row_of(1)) for _ in range(4)]
        with pytest.raises(QueueFullError):
            batcher.submit(row_of(7))
        waiting = in_thread(lambda: batcher(row_of(7, 1)))
        until(lambda: waiting.asleep)
        model.gate.set()
        assert answers([*first, *flood]) == [[7, 0]] * 2 + [[1, 0]] * 4
        # The two of group 7 are a full batch then.
        np.testing.assert_array_equal(waiting.outcome(), 2 * row_of(7, 1))
        assert answers([rare]) == [[7, 0]]


# Ends of life


def test_closing_serves_every_group() -> None:
    model = Holding(checked)
    batcher = Batcher(model, group_key=key_of, max_queue_delay=30.0)
    futures = [batcher.submit(row_of(number)) for number in range(100)]
    model.gate.set()
    batcher.close()
    assert answers(futures) == [[number, 0] for number in range(100)]


def test_closing_at_once_refuses_every_group() -> None:
    batcher = Batcher(checked, group_key=key_of, max_queue_delay=30.0)
    futures = [batcher.submit(row_of(number)) for number in range(100)]
    batcher.close(drain=False)
    assert all(isinstance(future.exception(0), ClosedError) for future in futures)
    with pytest.raises(ClosedError):
        batcher.submit(row_of(1000))
