"""The queue: how long a request may wait in it, and for how many there is room."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tests.helpers import occupy
from tidegate import Batcher, DeadlineError, InputError, QueueFullError, TidegateError


class Signalling:
    """A request that says when it is being read, which is just before it is queued."""

    def __init__(self) -> None:
        self.read = threading.Event()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        self.read.set()
        return np.array(ROW, dtype=dtype)


def fill(batcher: Batcher) -> int:
    """Submits until there is no room; returns how many rows there was room for."""
    for count in range(100_000):
        try:
            batcher.submit(ROW)
        except QueueFullError:
            return count
    raise AssertionError("the queue has no end")


# Deadlines


def test_a_request_that_waited_too_long_never_reaches_the_model(
    model: Gated, batcher: Batcher
) -> None:
    occupy(batcher, model)
    expiring = [batcher.submit(ROW - 1, timeout=0.01) for _ in range(3)]
    waiting = [batcher.submit(ROW + number) for number in range(3)]
    for future in expiring:
        error = future.exception(PATIENCE)
        assert type(error) is DeadlineError
        assert isinstance(error, TidegateError)
        assert isinstance(error, TimeoutError)
        assert "waited in the queue" in str(error)
        assert not future.cancelled()
        assert not future.cancel()
    model.gate.set()
    for number, future in enumerate(waiting):
        np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + number))
    assert -1 not in model.batches[1]
    now = batcher.statistics()
    assert (now.expired, now.completed) == (3, 4)


def test_requests_expire_in_the_order_of_their_deadlines(model: Gated, batcher: Batcher) -> None:
    occupy(batcher, model)
    order: list[int] = []
    done = threading.Semaphore(0)
    for number in (3, 1, 2):
        future = batcher.submit(ROW, timeout=0.02 * number)
        future.add_done_callback(lambda _, number=number: [order.append(number), done.release()])
    for _ in range(3):
        assert done.acquire(timeout=PATIENCE)
    assert order == [1, 2, 3]


def test_a_request_that_the_model_has_does_not_expire() -> None:
    """Its caller runs it at once, so it is taken long before the time is up, and answered after."""
    expired = threading.Event()

    def model(rows: Any) -> Any:
        until(lambda: time.monotonic() > deadline)
        expired.set()
        return rows

    with Batcher(model, executor="inline") as batcher:
        deadline = time.monotonic() + 0.5
        future = batcher.submit(ROW, timeout=0.4)
        np.testing.assert_array_equal(future.result(PATIENCE), ROW)
        assert expired.is_set()
        assert batcher.statistics().expired == 0


def test_no_time_at_all_is_too_little() -> None:
    with Batcher(lambda rows: rows) as batcher:
        with pytest.raises(DeadlineError):
            batcher.submit(ROW, timeout=0).result(PATIENCE)
        with pytest.raises(DeadlineError):
            batcher(ROW, timeout=0)
        assert batcher.statistics().rows == 0


def test_a_call_gives_up_when_its_time_is_up(model: Gated, batcher: Batcher) -> None:
    occupy(batcher, model)
    with pytest.raises(DeadlineError):
        batcher(ROW, timeout=0.01)


def test_the_default_timeout_holds_where_none_is_given(model: Gated) -> None:
    with Batcher(model, default_timeout=0.01, caller_runs=False) as batcher:
        while not model.batches:  # until one was in time
            batcher.submit(ROW).exception(PATIENCE) if model.gate.is_set() else None
            future = batcher.submit(ROW, timeout=3600)
            model.await_entry()
        assert type(batcher.submit(ROW).exception(PATIENCE)) is DeadlineError
        with pytest.raises(DeadlineError):
            batcher(ROW)
        longer = batcher.submit(ROW + 1, timeout=3600)
        model.gate.set()
        np.testing.assert_array_equal(longer.result(PATIENCE), 2 * (ROW + 1))
        np.testing.assert_array_equal(future.result(PATIENCE), 2 * ROW)


def test_a_timeout_may_be_longer_than_any_clock() -> None:
    with Batcher(lambda rows: rows) as batcher:
        for timeout in (1e9, 1e18, float("inf"), 2**70):
            np.testing.assert_array_equal(batcher(ROW, timeout=timeout), ROW)


# Room in the queue


@pytest.mark.parametrize("bound", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 100])
@pytest.mark.parametrize("size", [1, 4, 64])
def test_the_queue_takes_exactly_as_many_rows_as_it_may(
    bound: int, size: int, model: Gated
) -> None:
    with Batcher(model, max_queue_size=bound, max_batch_size=size, caller_runs=False) as batcher:
        occupy(batcher, model)
        assert fill(batcher) == bound
        now = batcher.statistics()
        assert (now.queue_depth, now.rejected) == (bound, 1)
        with pytest.raises(QueueFullError, match=r"queue of .* is full") as caught:
            batcher(ROW)
        assert isinstance(caught.value, TidegateError)
        model.gate.set()
    assert model.rows_seen == 1 + bound


def test_the_queue_takes_no_row_too_many_from_many_threads(model: Gated) -> None:
    with Batcher(model, max_queue_size=1000, max_batch_size=7, caller_runs=False) as batcher:
        occupy(batcher, model)
        threads = [in_thread(lambda: fill(batcher)) for _ in range(8)]
        assert sum(thread.outcome() for thread in threads) == 1000
        assert batcher.statistics().rejected == 8
        model.gate.set()


def test_rows_that_come_many_at_once_are_counted_one_by_one(model: Gated) -> None:
    with Batcher(model, max_queue_size=10, max_batch_size=4, caller_runs=False) as batcher:
        occupy(batcher, model)
        batcher.submit_many(np.zeros((7, 3)))
        with pytest.raises(QueueFullError):
            batcher.submit_many(np.zeros((4, 3)))
        assert batcher.statistics().queue_depth == 7, "none of them was queued"
        batcher.submit_many(np.zeros((3, 3)))
        with pytest.raises(QueueFullError):
            batcher.submit(ROW)
        assert batcher.statistics().rejected == 5
        model.gate.set()


@pytest.mark.parametrize("group_key", [None, len])
def test_more_rows_than_the_queue_can_ever_hold_are_no_matter_of_time(group_key: Any) -> None:
    with Batcher(lambda rows: rows, max_queue_size=10, group_key=group_key) as batcher:
        with pytest.raises(InputError, match=r"at most max_queue_size=10 .* got 11; .* in parts"):
            batcher.submit_many(np.zeros((11, 3)))
        statistics = batcher.statistics()
        assert (statistics.submitted, statistics.rejected) == (0, 0)
        batcher.max_queue_size = 11
        assert batcher.submit_many(np.zeros((11, 3))).result(PATIENCE).shape == (11, 3)


def test_there_is_room_again_once_a_batch_was_taken(model: Gated) -> None:
    steps = threading.Semaphore(0)

    def step(rows: Any) -> Any:
        model.entered.release()
        assert steps.acquire(timeout=PATIENCE)
        return rows

    with Batcher(step, max_queue_size=6, max_batch_size=2, caller_runs=False) as batcher:
        occupy(batcher, model)
        assert fill(batcher) == 6
        steps.release()
        model.await_entry()
        assert fill(batcher) == 2
        steps.release(100)


def test_cancelled_rows_do_not_count_as_waiting(model: Gated, batcher: Batcher) -> None:
    occupy(batcher, model)
    futures = [batcher.submit(ROW) for _ in range(5)]
    for future in futures[:3]:
        future.cancel()
    now = batcher.statistics()
    assert now.queue_depth == 2
    assert now.submitted == now.cancelled + now.queue_depth + 1


def test_a_cancelled_row_has_its_place_until_its_batch_is_taken(model: Gated) -> None:
    with Batcher(model, max_queue_size=2, caller_runs=False) as batcher:
        occupy(batcher, model)
        for future in [batcher.submit(ROW) for _ in range(2)]:
            assert future.cancel()
        with pytest.raises(QueueFullError):
            batcher.submit(ROW)
        model.gate.set()

        def answered() -> bool:
            with contextlib.suppress(QueueFullError):
                np.testing.assert_array_equal(batcher.submit(ROW).result(PATIENCE), 2 * ROW)
                return True
            return False

        until(answered)


@pytest.mark.parametrize("overflow", ["reject", "block"])
def test_submit_never_waits(overflow: Any, model: Gated) -> None:
    with Batcher(model, max_queue_size=2, overflow=overflow, caller_runs=False) as batcher:
        occupy(batcher, model)
        assert fill(batcher) == 2
        with pytest.raises(QueueFullError):
            batcher.submit(ROW)
        with pytest.raises(QueueFullError):
            batcher.submit_many([ROW])
        model.gate.set()


def test_a_call_waits_for_room_if_told_to(model: Gated) -> None:
    with Batcher(model, max_queue_size=2, overflow="block", caller_runs=False) as batcher:
        occupy(batcher, model)
        assert fill(batcher) == 2
        requests = [Signalling() for _ in range(5)]
        threads = [in_thread(lambda x=request: batcher(x)) for request in requests]
        for request in requests:
            assert request.read.wait(PATIENCE)
        assert all(thread.is_alive() for thread in threads)
        assert batcher.statistics().queue_depth == 2
        model.gate.set()
        for thread in threads:
            np.testing.assert_array_equal(thread.outcome(), 2 * ROW)
        now = batcher.statistics()
        assert now.completed == 8
        assert now.rejected == 1, "those who waited for room were not refused"


def test_a_coroutine_waits_for_room_if_told_to(run: Callable[[Any], Any], model: Gated) -> None:
    async def main() -> None:
        async with Batcher(model, max_queue_size=2, overflow="block", caller_runs=False) as batcher:
            occupy(batcher, model)
            assert fill(batcher) == 2

            async def ask(number: int) -> Any:
                return await batcher.predict_async(ROW + number)

            tasks = [asyncio.create_task(ask(number)) for number in range(5)]
            await asyncio.sleep(0)
            tasks[2].cancel()
            await asyncio.sleep(0)
            assert [task.done() for task in tasks] == [False, False, True, False, False]
            assert batcher.statistics().queue_depth == 2
            model.gate.set()
            for number in (0, 1, 3, 4):
                np.testing.assert_array_equal(await tasks[number], 2 * (ROW + number))
            now = batcher.statistics()
            assert now.completed == 7
            assert now.rejected == 1, "those who waited for room were not refused"

    run(main())


def test_a_coroutine_is_refused_if_not_told_to_wait(
    run: Callable[[Any], Any], model: Gated
) -> None:
    async def main() -> None:
        async with Batcher(model, max_queue_size=2, caller_runs=False) as batcher:
            occupy(batcher, model)
            assert fill(batcher) == 2
            with pytest.raises(QueueFullError):
                await batcher.predict_async(ROW)
            model.gate.set()

    run(main())


def test_a_call_waits_for_room_no_longer_than_its_timeout(model: Gated) -> None:
    with Batcher(model, max_queue_size=1, overflow="block", caller_runs=False) as batcher:
        occupy(batcher, model)
        assert fill(batcher) == 1
        with pytest.raises(DeadlineError, match="waited for room"):
            batcher(ROW, timeout=0.01)
        model.gate.set()
