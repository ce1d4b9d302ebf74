"""Futures in threads: the promises of concurrent.futures.Future, kept."""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, Holding, in_thread, until
from tidegate import Batcher, DeadlineError, Future, InputError, ModelError

NOT_LONG = 0.02


# Making them


def test_futures_come_from_batchers_only() -> None:
    with pytest.raises(TypeError, match=r"Batcher\.submit"):
        Future()


def test_a_future_can_be_hashed_compared_and_referred_to_weakly(batcher: Batcher) -> None:
    first, second = batcher.submit(ROW), batcher.submit(ROW)
    assert len({first, second, first}) == 2
    assert first != second
    assert weakref.ref(first)() is first


# result() and exception()


def test_result_waits_for_the_answer(model: Gated, running: Future) -> None:
    waiting = in_thread(running.result)
    assert not running.done()
    model.gate.set()
    np.testing.assert_array_equal(waiting.outcome(), 2 * ROW)
    assert running.done()


def test_result_gives_the_same_answer_each_time(model: Gated, running: Future) -> None:
    model.gate.set()
    assert running.result(PATIENCE) is running.result() is running.result(0)
    assert running.exception() is None


def test_many_threads_may_wait_for_one_answer(model: Gated, running: Future) -> None:
    waiting = [in_thread(running.result) for _ in range(20)]
    model.gate.set()
    answers = [thread.outcome() for thread in waiting]
    assert all(answer is answers[0] for answer in answers)


def test_many_threads_may_wait_for_one_batch(model: Gated, batcher: Batcher) -> None:
    batcher.submit(ROW)
    model.await_entry()
    futures = [batcher.submit(ROW + number) for number in range(50)]
    waiting = [in_thread(future.result) for future in futures]
    model.gate.set()
    for number, thread in enumerate(waiting):
        np.testing.assert_array_equal(thread.outcome(), 2 * (ROW + number))


@pytest.mark.parametrize("timeout", ["soon", [1.0], float("nan"), 1j, np.zeros(2), 10**400])
@pytest.mark.parametrize("many", [False, True])
def test_a_timeout_that_cannot_be_is_refused_with_its_value(
    timeout: Any, many: bool, model: Gated, batcher: Batcher, running: Future
) -> None:
    queued = batcher.submit_many([ROW, ROW]) if many else batcher.submit(ROW)
    for method in (queued.result, queued.exception):
        with pytest.raises(InputError, match="number of seconds >= 0 or None") as caught:
            method(timeout)
        assert (caught.value.expected, caught.value.given) == ("seconds >= 0", repr(timeout))
    assert not queued.done()


@pytest.mark.parametrize("timeout", [NOT_LONG, 0, 0.0, -1, -0.5, np.float64(NOT_LONG)])
def test_waiting_too_long_is_the_builtin_error_and_leaves_the_request_alone(
    timeout: Any, model: Gated, batcher: Batcher, running: Future
) -> None:
    queued = batcher.submit(ROW + 1)
    for future in (running, queued):
        for method in (future.result, future.exception):
            with pytest.raises(TimeoutError) as caught:
                method(timeout)
            assert type(caught.value) is TimeoutError
        assert not future.done()
        assert not future.cancelled()
    model.gate.set()
    np.testing.assert_array_equal(running.result(PATIENCE), 2 * ROW)
    np.testing.assert_array_equal(queued.result(PATIENCE), 2 * (ROW + 1))
    assert batcher.statistics().expired == 0


def test_an_answer_that_is_there_needs_no_time(model: Gated, running: Future) -> None:
    model.gate.set()
    until(running.done)
    for timeout in (0, -1, None, 1e100):
        np.testing.assert_array_equal(running.result(timeout), 2 * ROW)
        assert running.exception(timeout) is None


def test_any_timeout_is_long_enough(model: Gated, running: Future) -> None:
    waiting = [in_thread(lambda t=t: running.result(t)) for t in (1e9, 1e18, float("inf"), 2**70)]
    model.gate.set()
    for thread in waiting:
        np.testing.assert_array_equal(thread.outcome(), 2 * ROW)


def test_result_raises_what_exception_returns() -> None:
    def model(rows: Any) -> Any:
        raise LookupError("no such row")

    with Batcher(model) as batcher:
        future = batcher.submit(ROW)
        error = future.exception(PATIENCE)
        assert type(error) is ModelError
        assert type(error.__cause__) is LookupError
        for _ in range(3):
            with pytest.raises(ModelError) as caught:
                future.result()
            assert caught.value is error
        assert future.done()
        assert not future.cancelled()
        assert not future.running()


def test_a_traceback_does_not_grow_with_each_reading() -> None:
    def length(error: BaseException) -> int:
        traceback, count = error.__traceback__, 0
        while traceback is not None:
            traceback, count = traceback.tb_next, count + 1
        return count

    with Batcher(lambda rows: rows[:0]) as batcher:
        future = batcher.submit(ROW)
        lengths = []
        for _ in range(3):
            with pytest.raises(ModelError) as caught:
                future.result(PATIENCE)
            lengths.append(length(caught.value))
    # As with concurrent.futures, each frame that raised it anew adds itself.
    assert lengths[2] - lengths[1] <= 3


# Where it stands


def test_it_says_where_it_stands(model: Gated, batcher: Batcher, running: Future) -> None:
    queued = batcher.submit(ROW)
    assert (running.running(), queued.running()) == (True, False)
    assert not running.done()
    assert not queued.done()
    assert "pending" in repr(queued)
    model.gate.set()
    queued.result(PATIENCE)
    for future in (running, queued):
        assert future.done()
        assert not future.running()
        assert not future.cancelled()
        assert "done" in repr(future)


def test_its_text_says_how_it_ended(model: Gated, batcher: Batcher, running: Future) -> None:
    cancelled, expired = batcher.submit(ROW), batcher.submit(ROW, timeout=0)
    assert cancelled.cancel()
    assert type(expired.exception(PATIENCE)) is DeadlineError
    assert "cancelled" in repr(cancelled)
    assert "failed" in repr(expired)


# cancel()


def test_a_cancelled_request_never_reaches_the_model(
    model: Gated, batcher: Batcher, running: Future
) -> None:
    futures = [batcher.submit(ROW + number) for number in range(10)]
    for future in futures[::3]:
        assert future.cancel()
        assert future.cancel(), "cancelling again changes nothing"
        assert future.cancelled()
        assert future.done()
        assert not future.running()
    model.gate.set()
    for number, future in enumerate(futures):
        if number % 3 == 0:
            for method in (future.result, future.exception):
                with pytest.raises(concurrent.futures.CancelledError):
                    method(PATIENCE)
        else:
            np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + number))
    assert sorted(model.batches[1][:, 0]) == [1, 2, 4, 5, 7, 8]
    now = batcher.statistics()
    assert (now.cancelled, now.completed, now.submitted) == (4, 7, 11)


def test_a_batch_of_which_all_were_cancelled_never_reaches_the_model(
    model: Gated, batcher: Batcher, running: Future
) -> None:
    futures = [batcher.submit(ROW) for _ in range(5)]
    assert all(future.cancel() for future in futures)
    model.gate.set()
    np.testing.assert_array_equal(batcher(ROW + 7), 2 * (ROW + 7))
    assert model.rows_seen == 2
    assert batcher.statistics().cancelled == 5


def test_who_cancels_what_is_just_being_cancelled_hears_that_it_is() -> None:
    """Letting go of the object runs its finalizer in the middle of the first cancel()."""
    heard: list[bool] = []
    futures: list[Future] = []

    class Row:
        def __del__(self) -> None:
            heard.append(futures[0].cancel())

    model = Holding(lambda rows: rows)
    with Batcher(model, collate="list", caller_runs=False) as batcher:
        first = batcher.submit(None)
        model.await_entry()
        futures.append(batcher.submit(Row()))
        assert futures[0].cancel()
        assert heard == [True]
        model.gate.set()
        first.result(PATIENCE)
    assert batcher.statistics().cancelled == 1


def test_a_request_that_the_model_has_cannot_be_cancelled(model: Gated, running: Future) -> None:
    assert not running.cancel()
    assert not running.cancelled()
    assert running.running()
    model.gate.set()
    np.testing.assert_array_equal(running.result(PATIENCE), 2 * ROW)
    assert not running.cancel()


def test_a_request_that_has_failed_cannot_be_cancelled() -> None:
    with Batcher(lambda rows: rows[:0]) as batcher:
        future = batcher.submit(ROW)
        assert future.exception(PATIENCE) is not None
        assert not future.cancel()
        assert not future.cancelled()


def test_cancelling_wakes_those_who_wait(batcher: Batcher, running: Future) -> None:
    queued = batcher.submit(ROW)
    waiting = [in_thread(queued.result) for _ in range(5)]
    assert queued.cancel()
    for thread in waiting:
        with pytest.raises(concurrent.futures.CancelledError):
            thread.outcome()


def test_exactly_one_of_cancelling_and_running_wins() -> None:
    seen: list[float] = []

    def model(rows: Any) -> Any:
        seen.extend(rows[:, 0])
        return rows

    cancelled, answered = [], []
    with Batcher(model, max_batch_size=4, max_queue_size=2000) as batcher:
        for number in range(2000):
            future = batcher.submit(np.full(3, number))
            if future.cancel():
                cancelled.append(number)
            else:
                np.testing.assert_array_equal(future.result(PATIENCE), [number] * 3)
                answered.append(number)
        now = batcher.statistics()
    assert seen == answered
    assert (now.cancelled, now.completed) == (len(cancelled), len(answered))


# From many threads


@pytest.mark.parametrize("door", ["call", "submit"])
@pytest.mark.parametrize("size", [1, 5, 64])
def test_each_of_many_threads_gets_its_own_answers(door: str, size: int) -> None:
    def ask(number: int) -> None:
        row = np.full(4, number)
        for step in range(50):
            answer = batcher(row + step) if door == "call" else batcher.submit(row + step).result()
            np.testing.assert_array_equal(answer, -(row + step))

    with Batcher(np.negative, max_batch_size=size) as batcher:
        threads = [in_thread(lambda n=n: ask(1000 * n)) for n in range(16)]
        for thread in threads:
            thread.outcome()
        now = batcher.statistics()
        assert (now.completed, now.rows) == (800, 800)
        assert now.batch_size.count == now.batches


def pair(work: Callable[[int], None]) -> None:
    """Runs `work` in two threads at once."""
    for thread in [in_thread(lambda n=n: work(n)) for n in range(2)]:
        thread.outcome()


def test_reading_and_cancelling_from_several_threads_agree(model: Gated, batcher: Batcher) -> None:
    model.gate.set()
    outcomes: list[list[bool]] = [[], []]
    futures: list[Future] = []
    barrier = threading.Barrier(2)

    def work(number: int) -> None:
        for _ in range(200):
            if number == 0:
                futures.append(batcher.submit(ROW))
            barrier.wait(PATIENCE)
            if number == 0:
                outcomes[0].append(futures[-1].cancel())
            else:
                try:
                    futures[-1].result(PATIENCE)
                    outcomes[1].append(False)
                except concurrent.futures.CancelledError:
                    outcomes[1].append(True)
            barrier.wait(PATIENCE)

    pair(work)
    assert outcomes[0] == outcomes[1] == [future.cancelled() for future in futures]
