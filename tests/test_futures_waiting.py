"""Futures given to wait() and as_completed() of concurrent.futures."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, in_thread
from tidegate import Batcher, Future

# typeshed's yield the standard library's own futures, and wait() takes nothing else.
wait: Any = concurrent.futures.wait
as_completed: Any = concurrent.futures.as_completed
NOT_LONG = 0.02


@pytest.fixture
def stepwise(model: Gated) -> Any:
    """A batcher of one row at a time, and what lets it take one step."""
    steps = threading.Semaphore(0)

    def stepping(rows: Any) -> Any:
        assert steps.acquire(timeout=PATIENCE)
        time.sleep(0.0002)  # the answers of shorter runs may be held back until the next has run
        if rows[0, 0] < 0:
            raise LookupError("below zero")
        return rows

    batcher = Batcher(stepping, max_batch_size=1, caller_runs=False)
    yield batcher, steps.release
    steps.release(1000)
    batcher.close(timeout=PATIENCE)


def test_wait_returns_when_all_are_done(stepwise: Any) -> None:
    batcher, step = stepwise
    futures = [batcher.submit(ROW + number) for number in (1, -1, 2)]
    waiting = in_thread(lambda: wait(futures, timeout=PATIENCE))
    step()
    step()
    futures[1].exception(PATIENCE)
    assert waiting.is_alive()
    step()
    done, not_done = waiting.outcome()
    assert (done, not_done) == (set(futures), set())


def test_wait_returns_when_the_first_is_done(stepwise: Any) -> None:
    batcher, step = stepwise
    futures = [batcher.submit(ROW + number) for number in range(3)]
    waiting = in_thread(
        lambda: wait(futures, PATIENCE, return_when=concurrent.futures.FIRST_COMPLETED)
    )
    step()
    done, not_done = waiting.outcome()
    assert (done, not_done) == ({futures[0]}, set(futures[1:]))


def test_wait_returns_when_the_first_fails(stepwise: Any) -> None:
    batcher, step = stepwise
    futures = [batcher.submit(ROW + number) for number in (1, -1, 2)]
    waiting = in_thread(
        lambda: wait(futures, PATIENCE, return_when=concurrent.futures.FIRST_EXCEPTION)
    )
    step()
    futures[0].result(PATIENCE)
    assert waiting.is_alive()
    step()
    done, not_done = waiting.outcome()
    assert (done, not_done) == (set(futures[:2]), {futures[2]})


def test_wait_hears_of_cancelled_and_expired_requests(
    model: Gated, batcher: Batcher, running: Future
) -> None:
    cancelled, expiring = batcher.submit(ROW), batcher.submit(ROW, timeout=NOT_LONG)
    waiting = in_thread(lambda: wait([cancelled, expiring], timeout=PATIENCE))
    assert cancelled.cancel()
    done, not_done = waiting.outcome()
    assert (done, not_done) == ({cancelled, expiring}, set())


def test_wait_gives_up_in_time(batcher: Batcher, running: Future) -> None:
    done, not_done = wait([running], timeout=NOT_LONG)
    assert (done, not_done) == (set(), {running})


def test_wait_knows_what_was_done_before(model: Gated, batcher: Batcher, running: Future) -> None:
    queued = batcher.submit(ROW)
    assert queued.cancel()
    model.gate.set()
    running.result(PATIENCE)
    done, not_done = wait([running, queued], timeout=0)
    assert (done, not_done) == ({running, queued}, set())


def test_as_completed_yields_each_as_it_comes(stepwise: Any) -> None:
    batcher, step = stepwise
    futures = [batcher.submit(ROW + number) for number in (1, -1, 2, 3)]
    assert futures[3].cancel()
    completed = as_completed(futures, timeout=PATIENCE)
    assert next(completed) is futures[3]
    for future in futures[:3]:
        step()
        assert next(completed) is future
    assert list(completed) == []


def test_as_completed_gives_up_in_time(batcher: Batcher, running: Future) -> None:
    with pytest.raises(concurrent.futures.TimeoutError):
        list(concurrent.futures.as_completed([running], timeout=NOT_LONG))


def test_they_mix_with_futures_of_an_executor(stepwise: Any) -> None:
    batcher, step = stepwise
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        futures = [batcher.submit(ROW), executor.submit(step)]
        done, not_done = wait(futures, timeout=PATIENCE)
    assert (done, not_done) == (set(futures), set())


def test_many_threads_may_wait_for_the_same_futures(model: Gated, batcher: Batcher) -> None:
    for _ in range(20):
        futures = [batcher.submit(ROW) for _ in range(5)]
        threads = [in_thread(lambda f=futures: wait(f, timeout=PATIENCE)) for _ in range(4)]
        model.gate.set()
        for thread in threads:
            done, not_done = thread.outcome()
            assert (done, not_done) == (set(futures), set())
        model.gate.clear()


def test_answers_of_many_batches_arrive_under_their_own_names() -> None:
    with Batcher(lambda rows: rows * 3, max_batch_size=7) as batcher:
        asked = {batcher.submit(np.full(3, number)): number for number in range(300)}
        for future in as_completed(asked, timeout=PATIENCE):
            np.testing.assert_array_equal(future.result(), [3 * asked[future]] * 3)
