"""The Batcher: who is batched with whom, how long a row is held back, who runs the model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tests.helpers import occupy
from tidegate import Batcher, ModelError, ModelPool, TensorSpec, TidegateError

# Who is batched with whom


def test_what_came_while_the_model_was_busy_goes_together(model: Gated, batcher: Batcher) -> None:
    occupy(batcher, model)
    futures = [batcher.submit(ROW + number) for number in range(30)]
    model.gate.set()
    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + number))
    assert [len(batch) for batch in model.batches] == [1, 30]
    np.testing.assert_array_equal(model.batches[1][:, 0], np.arange(30))


def test_no_batch_is_larger_than_allowed_and_rows_keep_their_order(model: Gated) -> None:
    with Batcher(model, max_batch_size=4, caller_runs=False) as batcher:
        occupy(batcher, model)
        futures = [batcher.submit(ROW + number) for number in range(10)]
        model.gate.set()
        for future in futures:
            future.result(PATIENCE)
    assert [len(batch) for batch in model.batches] == [1, 4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(model.batches[1:])[:, 0], np.arange(10))


def test_a_batch_looks_like_a_request_with_another_axis(model: Gated) -> None:
    seen = []

    def look(rows: Any) -> Any:
        seen.append((rows.shape, rows.dtype, rows.flags.c_contiguous, rows.flags.writeable))
        return model(rows)

    with Batcher(look, caller_runs=False) as batcher:
        batcher.submit(np.zeros((2, 5), np.int16))
        model.await_entry()
        futures = [batcher.submit(np.zeros((2, 5), np.int16)) for _ in range(3)]
        model.gate.set()
        for future in futures:
            future.result(PATIENCE)
    kind = np.dtype(np.int16)
    assert seen == [((1, 2, 5), kind, True, True), ((3, 2, 5), kind, True, True)]


def test_batchers_do_not_mix_their_requests() -> None:
    with Batcher(lambda rows: rows + 1) as up, Batcher(lambda rows: rows - 1) as down:
        ups = [up.submit(ROW + number) for number in range(50)]
        downs = [down.submit(ROW + number) for number in range(50)]
        for number in range(50):
            np.testing.assert_array_equal(ups[number].result(PATIENCE), ROW + number + 1)
            np.testing.assert_array_equal(downs[number].result(PATIENCE), ROW + number - 1)


def test_a_model_may_use_another_batcher() -> None:
    with (
        Batcher(lambda rows: rows + 1) as inner,
        Batcher(lambda rows: np.array([inner(row) for row in rows])) as outer,
    ):
        futures = [outer.submit(ROW + number) for number in range(20)]
        for number, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(PATIENCE), ROW + number + 1)


# How long a row waits


def test_an_idle_executor_waits_for_nobody() -> None:
    with Batcher(lambda rows: rows, max_batch_size=1000) as batcher:
        for _ in range(5):
            np.testing.assert_array_equal(batcher.submit(ROW).result(PATIENCE), ROW)
        assert batcher.statistics().dispatched["delay"] == 0


@pytest.mark.parametrize("door", ["submit", "call"])
def test_a_queue_delay_holds_an_idle_executor_back(door: str) -> None:
    called: list[float] = []

    def model(rows: Any) -> Any:
        called.append(time.monotonic())
        return rows

    with Batcher(model, max_queue_delay=0.05) as batcher:
        for _ in range(3):
            start = time.monotonic()
            if door == "call":
                batcher(ROW)
            else:
                batcher.submit(ROW).result(PATIENCE)
            assert called[-1] - start >= 0.05
        assert batcher.statistics().dispatched["delay"] == 3
        assert batcher.statistics().led == 0


def test_the_delay_counts_from_the_oldest_row() -> None:
    """Counted from the newest, it would never be up while rows keep coming."""
    entered = threading.Event()

    def model(rows: Any) -> Any:
        entered.set()
        return rows

    with Batcher(model, max_queue_delay=0.05, max_batch_size=2**20, max_queue_size=2**40) as b:
        deadline = time.monotonic() + PATIENCE
        while not entered.wait(0.002):
            b.submit(ROW)
            assert time.monotonic() < deadline, "the delay was never up"


def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    with Batcher(lambda rows: rows, max_queue_delay=3600.0, max_batch_size=4) as batcher:
        for future in [batcher.submit(ROW) for _ in range(8)]:
            np.testing.assert_array_equal(future.result(PATIENCE), ROW)
        assert batcher.statistics().dispatched["full"] == 2


def test_a_batch_that_cannot_become_fuller_does_not_wait_for_the_delay() -> None:
    with Batcher(lambda rows: rows, max_queue_delay=3600.0, max_queue_size=3) as batcher:
        for future in [batcher.submit(ROW) for _ in range(3)]:
            np.testing.assert_array_equal(future.result(PATIENCE), ROW)


# Who runs the model


@pytest.fixture
def whereabouts() -> tuple[list[int], Callable[[Any], Any]]:
    """A model that notes the threads that run it, and fails if two do at once."""
    threads: list[int] = []
    lock = threading.Lock()

    def model(rows: Any) -> Any:
        assert lock.acquire(blocking=False), "two threads are in the model"
        threads.append(threading.get_ident())
        lock.release()
        return rows * 2

    return threads, model


def test_a_lone_caller_runs_the_model_itself(whereabouts: Any) -> None:
    threads, model = whereabouts
    with Batcher(model) as batcher:

        def led() -> bool:
            np.testing.assert_array_equal(batcher(ROW + 1), 2 * (ROW + 1))
            return batcher.statistics().led > 0

        until(led)
        assert threading.get_ident() in threads
        now = batcher.statistics()
        assert now.led == threads.count(threading.get_ident())
        assert now.batches == len(threads)


def test_a_caller_does_not_run_the_model_if_told_not_to(whereabouts: Any) -> None:
    threads, model = whereabouts
    with Batcher(model, caller_runs=False) as batcher:
        for _ in range(50):
            np.testing.assert_array_equal(batcher(ROW), 2 * ROW)
        assert batcher.statistics().led == 0
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


def test_submitting_never_runs_the_model(whereabouts: Any) -> None:
    threads, model = whereabouts
    with Batcher(model) as batcher:
        for _ in range(50):
            batcher.submit(ROW).result(PATIENCE)
    assert threading.get_ident() not in threads


def test_a_model_is_never_run_by_two_threads_at_once(whereabouts: Any) -> None:
    _, model = whereabouts
    with Batcher(model, max_batch_size=2) as batcher:

        def ask() -> None:
            for number in range(100):
                if number % 3:
                    batcher(ROW)
                else:
                    batcher.submit(ROW).result(PATIENCE)

        workers = [in_thread(ask) for _ in range(8)]
        for worker in workers:
            worker.outcome()
        assert batcher.statistics().failed == 0


# On the loop itself


def test_inline_runs_the_model_once_for_all_that_one_turn_of_the_loop_submits(
    run: Callable[[Any], Any],
) -> None:
    sizes: list[int] = []
    threads: set[int] = set()

    def model(rows: Any) -> Any:
        sizes.append(len(rows))
        threads.add(threading.get_ident())
        return rows * 2

    async def main() -> None:
        async with Batcher(model, executor="inline", max_batch_size=32) as batcher:

            async def ask(number: int) -> Any:
                return await batcher.submit(ROW + number)

            answers = await asyncio.gather(*(ask(number) for number in range(10)))
            for number, answer in enumerate(answers):
                np.testing.assert_array_equal(answer, 2 * (ROW + number))
            await asyncio.gather(*(ask(number) for number in range(40)))
            np.testing.assert_array_equal(await batcher.predict_async(ROW), 2 * ROW)
        assert threads == {threading.get_ident()}

    run(main())
    assert sizes == [10, 32, 8, 1]


def test_inline_works_in_threads_too() -> None:
    with Batcher(lambda rows: rows * 2, executor="inline") as batcher:
        np.testing.assert_array_equal(batcher(ROW + 1), 2 * (ROW + 1))
        futures = [batcher.submit(ROW + number) for number in range(5)]
        for number, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + number))
        assert batcher.statistics().batches == 2


def test_inline_serves_several_loops_and_threads_at_once(
    run: Callable[[Any], Any], whereabouts: Any
) -> None:
    _, model = whereabouts

    def in_a_thread() -> None:
        for number in range(100):
            np.testing.assert_array_equal(batcher(ROW + number), 2 * (ROW + number))

    def in_a_loop() -> None:
        async def ask(number: int) -> None:
            np.testing.assert_array_equal(await batcher.submit(ROW + number), 2 * (ROW + number))

        async def main() -> None:
            for _ in range(5):
                await asyncio.gather(*(ask(number) for number in range(20)))

        run(main())

    with Batcher(model, executor="inline", max_batch_size=8) as batcher:
        works = [in_thread(work) for work in (in_a_thread, in_a_loop) * 3]
        for work in works:
            work.outcome()
        now = batcher.statistics()
        assert (now.completed, now.failed) == (600, 0)


def test_inline_a_model_that_raises_fails_its_batch_only(run: Callable[[Any], Any]) -> None:
    def model(rows: Any) -> Any:
        if rows[0, 0] < 0:
            raise LookupError("below zero")
        return rows

    async def main() -> None:
        async with Batcher(model, executor="inline", max_batch_size=1) as batcher:
            answers = await asyncio.gather(
                *(batcher.submit(ROW + number) for number in (1, -1, 2)), return_exceptions=True
            )
            np.testing.assert_array_equal(answers[0], ROW + 1)
            assert type(answers[1]) is ModelError
            np.testing.assert_array_equal(answers[2], ROW + 2)

    run(main())


def test_inline_a_cancelled_request_never_reaches_the_model(run: Callable[[Any], Any]) -> None:
    seen: list[float] = []

    def model(rows: Any) -> Any:
        seen.extend(rows[:, 0])
        return rows

    async def main() -> None:
        async with Batcher(model, executor="inline") as batcher:
            futures = [batcher.submit(ROW + number) for number in range(4)]
            futures[1].cancel()
            await asyncio.gather(*futures, return_exceptions=True)
            assert batcher.statistics().cancelled == 1

    run(main())
    assert sorted(seen) == [0, 2, 3]


# A model that calls its own batcher


@pytest.mark.parametrize("door", ["call", "result", "bulk", "map"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"caller_runs": False}, {"executor": "inline"}],
    ids=["led", "thread", "inline"],
)
def test_a_model_that_waits_for_its_own_batcher_is_told_so(door: str, settings: Any) -> None:
    asked = threading.Event()

    def model(rows: Any) -> Any:
        if asked.is_set():
            return rows
        asked.set()
        if door == "call":
            return [batcher(row) for row in rows]
        if door == "result":
            return [batcher.submit(row).result() for row in rows]
        if door == "bulk":
            return batcher.submit_many(rows).result()
        return list(batcher.map(rows))

    with Batcher(model, inputs=TensorSpec((3,), "f8"), **settings) as batcher:
        with pytest.raises(ModelError, match="waits for its own batcher") as caught:
            batcher(ROW)
        assert type(caught.value.__cause__) is TidegateError
        np.testing.assert_array_equal(batcher(ROW + 1), ROW + 1)


def test_a_model_may_submit_to_its_own_batcher() -> None:
    follow_ups: list[Any] = []

    def model(rows: Any) -> Any:
        follow_ups.extend(batcher.submit(row - 1) for row in rows if row[0] > 0)
        return rows

    with Batcher(model) as batcher:
        np.testing.assert_array_equal(batcher(ROW + 3), ROW + 3)
        until(lambda: len(follow_ups) == 3)
        for number, future in enumerate(follow_ups):
            np.testing.assert_array_equal(future.result(PATIENCE), ROW + 2 - number)


# Several instances


def test_instances_run_at_the_same_time() -> None:
    both = threading.Barrier(2)

    def model(rows: Any) -> Any:
        both.wait(PATIENCE)  # passes only if two are here at once
        return rows

    with Batcher(ModelPool([model, model]), max_batch_size=1) as batcher:
        for _ in range(20):
            futures = [batcher.submit(ROW), batcher.submit(ROW)]
            for future in futures:
                future.result(PATIENCE)
