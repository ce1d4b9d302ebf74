"""Closing: what waits is served or refused, every request ends once, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import uvloop

from tests import child
from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tidegate import (
    Batcher,
    ClosedError,
    ConfigError,
    DeadlineError,
    Future,
    ModelPool,
    TidegateError,
)


@pytest.fixture
def model() -> Iterator[Gated]:
    gated = Gated()
    yield gated
    gated.gate.set()


def queued(batcher: Batcher, model: Gated, rows: int) -> tuple[Future, list[Future]]:
    """A request that the model has, and `rows` that wait behind it."""
    running = batcher.submit(ROW)
    model.await_entry()
    return running, [batcher.submit(ROW + index) for index in range(rows)]


def assert_accounted_for(batcher: Batcher) -> None:
    now = batcher.statistics()
    ended = now.completed + now.failed + now.cancelled + now.expired + now.closed
    assert (now.submitted, now.queue_depth) == (ended, 0)


# What becomes of the requests


def test_draining_serves_all_that_waits(model: Gated) -> None:
    batcher = Batcher(model, max_batch_size=4)
    running, waiting = queued(batcher, model, 10)
    closing = in_thread(batcher.close)
    until(lambda: batcher.closed)
    assert not running.done()
    with pytest.raises(ClosedError):
        batcher.submit(ROW)
    model.gate.set()
    closing.outcome()
    assert running.done()
    assert all(future.done() for future in waiting), "close() returned before their batches ended"
    for index, future in enumerate(waiting):
        np.testing.assert_array_equal(future.result(0), 2 * (ROW + index))
    assert batcher.statistics().completed == 11
    assert batcher.statistics().executors[0].state == "gone"
    assert_accounted_for(batcher)


def test_without_draining_what_waits_is_refused_and_what_runs_is_served(model: Gated) -> None:
    batcher = Batcher(model, max_batch_size=4)
    running, waiting = queued(batcher, model, 10)
    closing = in_thread(lambda: batcher.close(drain=False))
    for future in waiting:
        with pytest.raises(ClosedError):
            future.result(PATIENCE)
    assert closing.is_alive(), "the batch that the model has is waited for"
    model.gate.set()
    closing.outcome()
    np.testing.assert_array_equal(running.result(0), 2 * ROW)
    assert model.rows_seen == 1
    assert batcher.statistics().closed == 10
    assert_accounted_for(batcher)


def test_a_drain_that_takes_too_long_becomes_a_refusal(model: Gated) -> None:
    batcher = Batcher(model, max_batch_size=4, name="stuck")
    running, waiting = queued(batcher, model, 10)
    batcher.close(timeout=0.05)
    for future in [running, *waiting]:
        assert future.done()
        with pytest.raises(ClosedError, match="stuck"):
            future.result(0)
    now = batcher.statistics()
    assert (now.closed, now.completed) == (11, 0)
    assert_accounted_for(batcher)
    # The model is still in there, and that can be seen.
    assert now.executors[0].state == "busy"
    assert now.executors[0].busy_for >= 0.05
    assert batcher.statistics().executors[0].busy_for > now.executors[0].busy_for


def test_a_model_that_comes_back_after_all_changes_nothing(model: Gated) -> None:
    batcher = Batcher(model, max_batch_size=4)
    running, _ = queued(batcher, model, 10)
    batcher.close(timeout=0)
    model.gate.set()
    until(lambda: batcher.statistics().executors[0].state == "gone")
    with pytest.raises(ClosedError):
        running.result(0)
    assert model.rows_seen == 1
    assert batcher.statistics().closed == 11
    assert_accounted_for(batcher)


def test_refusing_with_a_time_limit_abandons_a_model_that_never_returns(model: Gated) -> None:
    batcher = Batcher(model)
    running, waiting = queued(batcher, model, 3)
    batcher.close(drain=False, timeout=0.05)
    for future in [running, *waiting]:
        with pytest.raises(ClosedError):
            future.result(0)


def test_requests_of_many_rows_are_served_or_refused_whole(model: Gated) -> None:
    batcher = Batcher(model, max_batch_size=4)
    queued(batcher, model, 0)
    many = batcher.submit_many(np.arange(30.0).reshape(10, 3))
    batcher.close(drain=False, timeout=0)
    with pytest.raises(ClosedError):
        many.result(0)
    assert_accounted_for(batcher)


def test_a_request_that_was_cancelled_or_expired_stays_so(model: Gated) -> None:
    batcher = Batcher(model)
    queued(batcher, model, 0)
    cancelled, expiring = batcher.submit(ROW), batcher.submit(ROW, timeout=0.0)
    assert cancelled.cancel()
    with pytest.raises(DeadlineError):
        expiring.result(PATIENCE)
    batcher.close(drain=False, timeout=0)
    assert cancelled.cancelled()
    with pytest.raises(DeadlineError):
        expiring.result(0)
    now = batcher.statistics()
    assert (now.cancelled, now.expired, now.closed) == (1, 1, 1)


def test_a_queue_delay_does_not_hold_a_closing_batcher_back() -> None:
    batcher = Batcher(lambda rows: rows * 2, max_queue_delay=3600.0)
    futures = [batcher.submit(ROW + index) for index in range(3)]
    batcher.close(timeout=PATIENCE)
    for index, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(0), 2 * (ROW + index))


# Who closes, and how often


def test_closing_is_idempotent(model: Gated) -> None:
    batcher = Batcher(model)
    queued(batcher, model, 2)
    model.gate.set()
    for drain in (True, True, False, True):
        batcher.close(drain=drain, timeout=PATIENCE)
        assert batcher.closed
        with pytest.raises(ClosedError):
            batcher(ROW)
    assert batcher.statistics().completed == 3


def test_a_refusal_overtakes_a_drain(model: Gated) -> None:
    batcher = Batcher(model, max_batch_size=2)
    running, waiting = queued(batcher, model, 6)
    draining = in_thread(batcher.close)
    until(lambda: batcher.closed)
    refusing = in_thread(lambda: batcher.close(drain=False))
    for future in waiting:
        with pytest.raises(ClosedError):
            future.result(PATIENCE)
    model.gate.set()
    draining.outcome()
    refusing.outcome()
    assert running.result(0) is not None
    assert_accounted_for(batcher)


def test_all_of_several_closing_threads_return_when_it_is_drained(model: Gated) -> None:
    batcher = Batcher(model, max_batch_size=2)
    _, waiting = queued(batcher, model, 9)

    def close() -> bool:
        batcher.close()
        return all(future.done() for future in waiting)

    closing = [in_thread(close) for _ in range(8)]
    until(lambda: batcher.closed)
    model.gate.set()
    assert all(thread.outcome() for thread in closing)


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("caller_runs", [True, False])
def test_a_model_may_close_its_own_batcher(drain: bool, caller_runs: bool) -> None:
    def model(rows: Any) -> Any:
        batcher.close(drain=drain)
        return rows * 2

    batcher = Batcher(model, caller_runs=caller_runs)
    calling = in_thread(lambda: batcher(ROW + 1))
    np.testing.assert_array_equal(calling.outcome(), 2 * (ROW + 1))
    batcher.close(timeout=PATIENCE)
    assert batcher.statistics().completed == 1
    with pytest.raises(ClosedError):
        batcher.submit(ROW)


def test_a_done_callback_may_close_its_batcher() -> None:
    batcher = Batcher(lambda rows: rows)
    closed = threading.Event()

    def close(_: Future) -> None:
        batcher.close()
        closed.set()

    batcher.submit(ROW).add_done_callback(close)
    assert closed.wait(PATIENCE)


def test_a_leading_caller_is_waited_for(model: Gated) -> None:
    batcher = Batcher(model)
    leading = in_thread(lambda: batcher(ROW + 1))
    model.await_entry()
    closing = in_thread(batcher.close)
    until(lambda: batcher.closed)
    assert closing.is_alive()
    model.gate.set()
    closing.outcome()
    np.testing.assert_array_equal(leading.outcome(), 2 * (ROW + 1))


def test_every_executor_of_a_pool_ends() -> None:
    models = [Gated() for _ in range(3)]
    batcher = Batcher(ModelPool(models), max_batch_size=1)
    futures = [batcher.submit(ROW + index) for index in range(7)]
    for gated in models:
        gated.await_entry()
    closing = in_thread(batcher.close)
    until(lambda: batcher.closed)
    for gated in models:
        gated.gate.set()
    closing.outcome()
    for index, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(0), 2 * (ROW + index))
    assert {executor.state for executor in batcher.statistics().executors} == {"gone"}


def test_its_threads_are_gone_when_close_returns(model: Gated) -> None:
    model.gate.set()
    batcher = Batcher(model, name="short-lived")
    batcher(ROW)
    batcher.submit(ROW).result(PATIENCE)
    assert any("short-lived" in thread.name for thread in threading.enumerate())
    batcher.close()
    assert not any("short-lived" in thread.name for thread in threading.enumerate())


# Callers that wait while it closes


@pytest.mark.parametrize("drain", [True, False])
def test_callers_that_wait_for_room_are_refused(model: Gated, drain: bool) -> None:
    batcher = Batcher(model, max_batch_size=1, max_queue_size=2, overflow="block")
    running, waiting = queued(batcher, model, 2)
    blocked = [in_thread(lambda: batcher(ROW)) for _ in range(4)]
    mapping = in_thread(lambda: list(batcher.map([ROW] * 4)))
    until(lambda: all(caller.asleep for caller in [*blocked, mapping]))
    closing = in_thread(lambda: batcher.close(drain=drain))
    until(lambda: batcher.closed)
    model.gate.set()
    closing.outcome()
    for caller in [*blocked, mapping]:
        with pytest.raises(ClosedError):
            caller.outcome()
    assert running.result(0) is not None
    for future in waiting:
        assert future.done()
        assert isinstance(future.exception(0), ClosedError) is not drain
    assert_accounted_for(batcher)


def test_coroutines_that_wait_for_room_are_refused(model: Gated) -> None:
    async def main() -> list[Any]:
        batcher = Batcher(model, max_batch_size=1, max_queue_size=2, overflow="block")
        tasks = [asyncio.ensure_future(batcher.predict_async(ROW)) for _ in range(8)]
        await asyncio.sleep(0)  # each has taken its first step, and found the queue full
        await asyncio.get_running_loop().run_in_executor(None, model.await_entry)
        closing = asyncio.create_task(batcher.aclose(drain=False))
        while not batcher.closed:
            await asyncio.sleep(0.001)
        model.gate.set()
        await closing
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(main())
    assert model.rows_seen == 1
    assert sum(isinstance(answer, ClosedError) for answer in answers) == 7


def test_submitting_and_closing_at_once_leaves_no_request_open() -> None:
    for attempt in range(30):
        batcher = Batcher(lambda rows: rows * 2, max_batch_size=4)
        taken: list[Future] = []
        started = threading.Barrier(5)

        def submit(
            batcher: Batcher = batcher,
            taken: list[Future] = taken,
            started: threading.Barrier = started,
        ) -> None:
            started.wait(PATIENCE)
            try:
                while True:
                    taken.append(batcher.submit(ROW))
            except TidegateError:  # closed, or full before it was
                pass

        callers = [in_thread(submit) for _ in range(4)]
        started.wait(PATIENCE)
        batcher.close(drain=attempt % 2 == 0, timeout=PATIENCE)
        for caller in callers:
            caller.outcome()
        assert all(future.done() for future in taken)
        assert batcher.statistics().submitted == len(taken)
        assert_accounted_for(batcher)


def test_large_rows_are_refused_while_they_are_copied() -> None:
    # Rows so large that their copy gives the GIL up; nobody may hold a lock and wait for it then.
    # In a process of its own, as nothing of this one could run any more.
    child.run("""
        import numpy as np
        from tests.gated import in_thread, until
        from tidegate import Batcher, TidegateError

        def submit():
            try:
                while True:
                    batcher.submit(large)
            except TidegateError:
                pass

        large = np.zeros(1 << 17)
        for _ in range(20):
            batcher = Batcher(lambda rows: rows[:, :1], max_batch_size=16)
            batcher(large)
            callers = [in_thread(submit) for _ in range(3)]
            until(lambda: batcher.statistics().batches > 2)
            batcher.close(drain=False)
            for caller in callers:
                caller.outcome()
            now = batcher.statistics()
            assert now.submitted == now.completed + now.closed
    """)


# Context managers and event loops


def test_leaving_the_context_serves_what_waits() -> None:
    with Batcher(lambda rows: rows * 2) as batcher:
        futures = [batcher.submit(ROW + index) for index in range(100)]
    assert batcher.closed
    assert all(future.done() for future in futures)
    np.testing.assert_array_equal(futures[99].result(0), 2 * (ROW + 99))


def test_leaving_the_context_with_an_error_serves_what_waits_too() -> None:
    with pytest.raises(LookupError), Batcher(lambda rows: rows * 2) as batcher:
        future = batcher.submit(ROW + 1)
        raise LookupError
    np.testing.assert_array_equal(future.result(0), 2 * (ROW + 1))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("executor", ["thread", "inline"])
def test_leaving_the_async_context_serves_what_waits(
    run: Callable[[Any], Any], executor: Any
) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows * 2, executor=executor) as batcher:
            futures = [batcher.submit(ROW + index) for index in range(100)]
        assert batcher.closed
        for index, future in enumerate(futures):
            assert future.done()
            np.testing.assert_array_equal(await future, 2 * (ROW + index))

    run(main())


def test_the_loop_goes_on_while_aclose_waits(model: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(model)
        future = batcher.submit(ROW)
        closing = asyncio.create_task(batcher.aclose())
        while not batcher.closed:
            await asyncio.sleep(0.001)
        assert not closing.done()
        model.gate.set()
        await closing
        assert future.done()

    asyncio.run(main())


@pytest.mark.parametrize("timeout", [np.float32(10), 10**9, float("inf"), True])
def test_any_number_of_seconds_is_a_time_limit(timeout: Any) -> None:
    batcher = Batcher(lambda rows: rows)
    future = batcher.submit(ROW)
    batcher.close(timeout=timeout)
    np.testing.assert_array_equal(future.result(PATIENCE), ROW)


@pytest.mark.parametrize("timeout", ["soon", float("nan"), [1.0], 1j])
def test_what_is_no_time_limit_is_refused_and_nothing_closed(timeout: Any) -> None:
    with Batcher(lambda rows: rows) as batcher:
        with pytest.raises(ConfigError, match="timeout must be a number of seconds"):
            batcher.close(timeout=timeout)
        np.testing.assert_array_equal(batcher(ROW), ROW)


def test_a_time_limit_that_is_over_is_none_left(model: Gated) -> None:
    batcher = Batcher(model, caller_runs=False)
    running, waiting = queued(batcher, model, 2)
    batcher.close(timeout=-1)
    for future in (running, *waiting):
        with pytest.raises(ClosedError):
            future.result(PATIENCE)


def test_aclose_turns_a_drain_into_a_refusal_in_time(model: Gated) -> None:
    async def main() -> None:
        batcher = Batcher(model, max_batch_size=1)
        futures = [batcher.submit(ROW) for _ in range(3)]
        await batcher.aclose(timeout=0.05)
        for future in futures:
            with pytest.raises(ClosedError):
                await future

    asyncio.run(main())


def test_awaiting_tasks_learn_of_a_refusal(model: Gated) -> None:
    async def main() -> list[Any]:
        batcher = Batcher(model, max_batch_size=2)
        tasks = [asyncio.ensure_future(batcher.submit(ROW)) for _ in range(7)]
        await asyncio.sleep(0)
        await batcher.aclose(drain=False, timeout=0)
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(answer, ClosedError) for answer in asyncio.run(main()))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_that_closes_before_its_batch_ends_is_tolerated(
    model: Gated, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    batcher = Batcher(model, max_batch_size=4)
    called: list[Future] = []

    async def leave_some() -> list[Future]:
        futures = [batcher.submit(ROW + index) for index in range(6)]
        for future in futures:
            future.add_done_callback(called.append)
        await asyncio.get_running_loop().run_in_executor(None, model.await_entry)
        return futures

    loop = new_loop()
    futures = loop.run_until_complete(leave_some())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    model.gate.set()
    # Nobody is left to be told, but the answers are there, and the batcher goes on.
    batcher.close(timeout=PATIENCE)
    for index, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + index))
    assert called == []


def test_a_new_loop_works_after_one_was_closed_with_requests_in_flight(model: Gated) -> None:
    batcher = Batcher(model)

    async def abandon() -> None:
        asyncio.ensure_future(batcher.submit(ROW)).add_done_callback(lambda _: None)
        await asyncio.get_running_loop().run_in_executor(None, model.await_entry)

    async def ask() -> Any:
        return await batcher.submit(ROW + 1)

    for _ in range(5):
        model.gate.clear()
        asyncio.run(abandon())  # which cancels what it leaves behind
        model.gate.set()
        np.testing.assert_array_equal(asyncio.run(ask()), 2 * (ROW + 1))
    batcher.close(timeout=PATIENCE)
    assert_accounted_for(batcher)


# executor="inline": whoever waits runs the model


def test_inline_requests_are_served_by_whoever_closes() -> None:
    batcher = Batcher(lambda rows: rows * 2, executor="inline")
    futures = [batcher.submit(ROW + index) for index in range(5)]
    batcher.close()
    for index, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(0), 2 * (ROW + index))


def test_inline_requests_are_refused_without_draining() -> None:
    batcher = Batcher(lambda rows: rows * 2, executor="inline")
    futures = [batcher.submit(ROW) for _ in range(5)]
    batcher.close(drain=False)
    for future in futures:
        with pytest.raises(ClosedError):
            future.result(0)
    assert batcher.statistics().batches == 0
    assert_accounted_for(batcher)


def test_an_inline_model_may_close_its_own_batcher() -> None:
    def model(rows: Any) -> Any:
        batcher.close()
        return rows * 2

    batcher = Batcher(model, executor="inline")
    np.testing.assert_array_equal(in_thread(lambda: batcher(ROW + 1)).outcome(), 2 * (ROW + 1))
