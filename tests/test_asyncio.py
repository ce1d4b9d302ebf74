"""Futures in event loops: the promises of asyncio's awaitables, kept, in asyncio and uvloop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import uvloop

from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tidegate import Batcher, ClosedError, DeadlineError, Future, InputError, ModelError

Run = Callable[[Coroutine[Any, Any, Any]], Any]
NewLoop = Callable[[], asyncio.AbstractEventLoop]
variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default=None)


async def entered(model: Gated) -> None:
    """Returns once the model has been called, without holding the loop up."""
    await asyncio.get_running_loop().run_in_executor(None, model.await_entry)


async def turns(count: int = 3) -> None:
    """Lets everything run that the loop has ready."""
    for _ in range(count):
        await asyncio.sleep(0)


# Awaiting


def test_awaiting_gives_the_answer(run: Run) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows * 2) as batcher:
            np.testing.assert_array_equal(await batcher.submit(ROW + 1), 2 * (ROW + 1))
            np.testing.assert_array_equal(await batcher.predict_async(ROW + 2), 2 * (ROW + 2))

    run(main())


def test_each_of_many_tasks_gets_its_own_answer(run: Run) -> None:
    async def ask(batcher: Batcher, number: int) -> None:
        for step in range(10):
            row = np.full(3, 100 * number + step)
            np.testing.assert_array_equal(await batcher.submit(row), -row)

    async def main() -> None:
        async with Batcher(np.negative, max_batch_size=16) as batcher:
            await asyncio.gather(*(ask(batcher, number) for number in range(200)))
            now = batcher.statistics()
            assert (now.completed, now.rows) == (2000, 2000)
            assert now.batches < 2000

    run(main())


def test_a_future_may_be_awaited_twice(run: Run) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows * 2) as batcher:
            future = batcher.submit(ROW)
            first = await future
            assert await future is first
            assert future.result() is first

    run(main())


def test_a_future_may_be_awaited_by_several_tasks(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        future = batcher.submit(ROW)

        async def wait() -> Any:
            return await future

        tasks = [asyncio.create_task(wait()) for _ in range(5)]
        await entered(model)
        model.gate.set()
        answers = await asyncio.gather(*tasks)
        assert all(answer is answers[0] for answer in answers)

    run(main())


def test_an_await_raises_what_the_request_ended_with(run: Run, model: Gated) -> None:
    def fail(rows: Any) -> Any:
        raise LookupError("no such row")

    async def main() -> None:
        async with Batcher(fail) as batcher:
            with pytest.raises(ModelError) as caught:
                await batcher.submit(ROW)
            assert type(caught.value.__cause__) is LookupError
            with pytest.raises(ModelError):
                await batcher.predict_async(ROW)
        with pytest.raises(ClosedError):
            await batcher.predict_async(ROW)
        async with Batcher(model, caller_runs=False) as slow:
            slow.submit(ROW)
            await entered(model)
            expiring = slow.submit(ROW, timeout=0.01)
            with pytest.raises(DeadlineError):
                await expiring
            model.gate.set()

    run(main())


def test_a_refused_request_raises_at_once(run: Run) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows) as batcher:
            await batcher.submit(ROW)
            with pytest.raises(InputError):
                batcher.submit("text")
            with pytest.raises(InputError):
                await batcher.predict_async("text")

    run(main())


def test_an_exception_of_the_iteration_protocol_ends_no_coroutine_quietly(run: Run) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: [StopIteration(7) for _ in rows]) as batcher:
            with pytest.raises(RuntimeError):
                await batcher.submit(ROW)

    run(main())


def test_result_in_the_loop_of_an_awaited_future_does_not_block_it(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    async def main() -> None:
        future = batcher.submit(ROW)
        task = asyncio.ensure_future(future)
        assert task is future
        future.add_done_callback(lambda _: None)
        with pytest.raises(asyncio.InvalidStateError, match="await"):
            future.result()
        with pytest.raises(asyncio.InvalidStateError):
            future.exception()
        model.gate.set()
        await future
        np.testing.assert_array_equal(future.result(), 2 * ROW)

    run(main())


def test_a_future_needs_a_running_loop_to_belong_to_one(batcher: Batcher) -> None:
    future = batcher.submit(ROW)
    with pytest.raises(RuntimeError, match="no running event loop"):
        future.get_loop()
    assert asyncio.isfuture(future)


def test_a_future_belongs_to_the_loop_that_awaits_it(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    """Submitted in a thread, awaited in a loop."""
    future = batcher.submit(ROW)

    async def main() -> None:
        assert future.get_loop() is asyncio.get_running_loop()
        model.gate.set()
        np.testing.assert_array_equal(await future, 2 * ROW)

    run(main())


def test_a_thread_may_wait_for_a_future_that_a_task_awaits(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    async def main() -> None:
        future = batcher.submit(ROW)

        async def wait() -> Any:
            return await future

        task = asyncio.create_task(wait())
        await turns()
        thread = asyncio.get_running_loop().run_in_executor(None, future.result)
        await entered(model)
        model.gate.set()
        assert await task is await thread

    run(main())


def test_another_loop_may_not_wait_for_a_future_and_does_it_no_harm(
    run: Run, new_loop: NewLoop, model: Gated, batcher: Batcher
) -> None:
    async def wait(future: Future) -> Any:
        return await future

    async def main() -> None:
        future = batcher.submit(ROW)
        task = asyncio.create_task(wait(future))
        await turns()

        def elsewhere() -> None:
            loop = new_loop()
            try:
                with pytest.raises(RuntimeError, match="different loop"):
                    loop.run_until_complete(wait(future))
            finally:
                loop.close()

        await asyncio.get_running_loop().run_in_executor(None, elsewhere)
        again = asyncio.create_task(wait(future))
        await turns()
        model.gate.set()
        assert await task is await again

    run(main())


def test_another_loop_may_read_an_answer_that_is_there(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    model.gate.set()
    future = batcher.submit(ROW)

    async def main() -> Any:
        return await future

    first = run(main())
    assert run(main()) is first


# asyncio's own functions


def test_gather_collects_answers_and_errors(run: Run) -> None:
    def model(items: list[Any]) -> list[Any]:
        return [ValueError(item) if item == 3 else item for item in items]

    async def main() -> None:
        async with Batcher(model, collate="list") as batcher:
            answers = await asyncio.gather(*(batcher.submit(number) for number in range(3)))
            assert answers == [0, 1, 2]
            mixed = await asyncio.gather(
                *(batcher.submit(number) for number in range(5)), return_exceptions=True
            )
            assert [type(answer) for answer in mixed] == [int, int, int, ValueError, int]
            with pytest.raises(ValueError, match="3"):
                await asyncio.gather(*(batcher.submit(number) for number in range(5)))

    run(main())


@pytest.mark.parametrize("return_exceptions", [True, False])
def test_gather_hears_of_a_cancelled_request(
    run: Run, model: Gated, batcher: Batcher, return_exceptions: bool
) -> None:
    async def main() -> None:
        futures = [batcher.submit(ROW) for _ in range(3)]
        gathered = asyncio.gather(*futures, return_exceptions=return_exceptions)
        await entered(model)
        assert futures[1].cancel("not wanted")
        model.gate.set()
        if return_exceptions:
            answers = await gathered
            assert type(answers[1]) is asyncio.CancelledError
            np.testing.assert_array_equal(answers[2], 2 * ROW)
        else:
            with pytest.raises(asyncio.CancelledError):
                await gathered

    run(main())


def test_cancelling_what_was_gathered_cancels_the_requests(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    async def main() -> None:
        batcher.submit(ROW)
        await entered(model)
        futures = [batcher.submit(ROW) for _ in range(3)]
        gathered = asyncio.gather(*futures)
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        assert all(future.cancelled() for future in futures)
        model.gate.set()

    run(main())
    assert batcher.statistics().cancelled == 3


def test_wait_returns_when_all_or_the_first_are_done(run: Run, model: Gated) -> None:
    async def main() -> None:
        quick = Batcher(lambda rows: rows)
        slow = Batcher(model, caller_runs=False)
        first, last = quick.submit(ROW), slow.submit(ROW)
        done, pending = await asyncio.wait([first, last], return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({first}, {last})
        done, pending = await asyncio.wait([first, last], timeout=0.01)
        assert (done, pending) == ({first}, {last})
        model.gate.set()
        done, pending = await asyncio.wait([first, last])
        assert (done, pending) == ({first, last}, set())
        await quick.aclose()
        await slow.aclose()

    run(main())


def test_wait_returns_when_the_first_fails(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows[:0]) as failing:
            waiting, failed = batcher.submit(ROW), failing.submit(ROW)
            done, pending = await asyncio.wait(
                [waiting, failed], return_when=asyncio.FIRST_EXCEPTION
            )
            assert (done, pending) == ({failed}, {waiting})
            model.gate.set()
            await waiting

    run(main())


def test_as_completed_yields_all(run: Run) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows[:, 0], max_batch_size=3) as batcher:
            asked = [batcher.submit(ROW + number) for number in range(20)]
            answers = [await answer for answer in asyncio.as_completed(asked)]
            assert sorted(answers) == list(range(20))

    run(main())


def test_wait_for_cancels_in_time_what_waits(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        batcher.submit(ROW)
        await entered(model)
        queued = batcher.submit(ROW + 5)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(queued, 0.01)
        assert queued.cancelled()
        model.gate.set()
        np.testing.assert_array_equal(
            await asyncio.wait_for(batcher.submit(ROW), PATIENCE), 2 * ROW
        )

    run(main())
    assert model.rows_seen == 2
    assert batcher.statistics().cancelled == 1


def test_wait_for_abandons_what_the_model_has(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        running = batcher.submit(ROW)
        await entered(model)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(running, 0.01)
        assert running.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await running
        model.gate.set()
        np.testing.assert_array_equal(await batcher.submit(ROW), 2 * ROW)

    run(main())
    now = batcher.statistics()
    assert (now.completed, now.cancelled) == (2, 0), "the model has answered it all the same"


def test_shield_keeps_the_request_from_being_cancelled(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    async def main() -> None:
        batcher.submit(ROW)
        await entered(model)
        queued = batcher.submit(ROW + 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(queued), 0.01)
        assert not queued.cancelled()
        model.gate.set()
        np.testing.assert_array_equal(await asyncio.shield(queued), 2 * (ROW + 1))

    run(main())


def test_shield_hears_of_a_cancelled_request(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        batcher.submit(ROW)
        await entered(model)
        queued = batcher.submit(ROW)
        shielded = asyncio.shield(queued)
        assert queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await shielded
        model.gate.set()

    run(main())


def test_wrap_future_and_ensure_future_return_it_as_it_is(run: Run) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows) as batcher:
            future = batcher.submit(ROW)
            assert asyncio.ensure_future(future) is future
            wrapped: Any = asyncio.wrap_future(future)  # type: ignore[arg-type]
            assert wrapped is future
            await future

    run(main())


def test_run_coroutine_threadsafe_works_from_threads(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Batcher(lambda rows: rows * 2) as batcher:

            async def ask() -> Any:
                return await batcher.submit(ROW + 4)

            def elsewhere() -> Any:
                return asyncio.run_coroutine_threadsafe(ask(), loop).result(PATIENCE)

            np.testing.assert_array_equal(
                await loop.run_in_executor(None, elsewhere), 2 * (ROW + 4)
            )

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup is of Python 3.11")
def test_a_task_group_cancels_the_requests_of_its_other_tasks(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    async def main() -> None:
        batcher.submit(ROW)
        await entered(model)

        async def ask() -> Any:
            return await batcher.submit(ROW)

        async def fail() -> None:
            raise LookupError("in the group")

        with pytest.raises(BaseException, match="unhandled errors") as caught:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(ask())
                await turns()
                group.create_task(fail())
        assert type(caught.value).__name__ == "ExceptionGroup"
        model.gate.set()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask()) for _ in range(3)]
        assert all(np.array_equal(task.result(), 2 * ROW) for task in tasks)

    run(main())
    now = batcher.statistics()
    assert (now.cancelled, now.completed) == (3, 4)


# Cancelling


def test_cancelling_a_task_takes_its_request_back(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        batcher.submit(ROW)
        await entered(model)
        futures: list[Future] = []

        async def ask(number: int) -> Any:
            futures.append(batcher.submit(ROW + number))
            return await futures[-1]

        tasks = [asyncio.create_task(ask(number)) for number in range(6)]
        await turns()
        for task in tasks[::2]:
            task.cancel()
        await turns()
        assert [task.cancelled() for task in tasks] == [True, False] * 3
        assert [future.cancelled() for future in futures] == [True, False] * 3
        model.gate.set()
        for number in (1, 3, 5):
            np.testing.assert_array_equal(await tasks[number], 2 * (ROW + number))

    run(main())
    assert sorted(model.batches[1][:, 0]) == [1, 3, 5]
    now = batcher.statistics()
    assert (now.cancelled, now.completed) == (3, 4)


def test_cancelling_a_task_drops_the_answer_that_the_model_is_at(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    async def main() -> None:
        async def ask(number: int) -> Any:
            return await batcher.submit(ROW + number)

        neighbour = asyncio.create_task(ask(1))
        task = asyncio.create_task(ask(2))
        await entered(model)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        model.gate.set()
        np.testing.assert_array_equal(await neighbour, 2 * (ROW + 1))

    run(main())


def test_a_task_that_is_cancelled_when_its_answer_is_there_is_cancelled(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    """As with asyncio.Future, the cancellation wins until the task has seen the answer."""

    async def main() -> None:
        future = batcher.submit(ROW)

        async def ask() -> Any:
            return await future

        task = asyncio.create_task(ask())
        await turns()
        model.gate.set()
        until(future.done)  # the loop stands still and cannot tell the task
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not future.cancelled()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the message is handed on since 3.11")
def test_the_reason_for_cancelling_is_handed_on(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        async def ask() -> Any:
            return await batcher.submit(ROW)

        task = asyncio.create_task(ask())
        await turns()
        task.cancel("too late")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("too late",)
        future = batcher.submit(ROW)
        future.get_loop()
        assert future.cancel("never mind")
        with pytest.raises(asyncio.CancelledError, match="never mind"):
            await future
        model.gate.set()

    run(main())


def test_a_task_that_shields_itself_from_cancelling_may_wait_again(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    async def main() -> None:
        async def stubborn() -> Any:
            try:
                return await batcher.submit(ROW)
            except asyncio.CancelledError:
                return await batcher.submit(ROW + 1)

        task = asyncio.create_task(stubborn())
        await turns()
        task.cancel()
        await turns()
        model.gate.set()
        np.testing.assert_array_equal(await task, 2 * (ROW + 1))

    run(main())


def test_a_thread_may_cancel_what_a_task_awaits(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        batcher.submit(ROW)
        await entered(model)
        future = batcher.submit(ROW)

        async def ask() -> Any:
            return await future

        task = asyncio.create_task(ask())
        await turns()
        assert await asyncio.get_running_loop().run_in_executor(None, future.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        model.gate.set()

    run(main())


# Done callbacks


def test_callbacks_run_in_the_loop_in_their_order(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        thread, order = threading.get_ident(), []
        future = batcher.submit(ROW)
        for number in range(5):
            future.add_done_callback(
                lambda f, number=number: order.append((number, f is future, threading.get_ident()))
            )
        await entered(model)
        model.gate.set()
        await future
        await turns()
        assert order == [(number, True, thread) for number in range(5)]
        future.add_done_callback(lambda _: order.append("late"))  # type: ignore[arg-type]
        assert len(order) == 5, "never at once, but soon"
        await turns()
        assert len(order) == 6

    run(main())


def test_callbacks_run_in_their_context(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        seen: list[Any] = []
        future = batcher.submit(ROW)
        variable.set("at adding")
        future.add_done_callback(lambda _: seen.append(variable.get()))
        given, empty = contextvars.copy_context(), contextvars.Context()
        given.run(variable.set, "given")
        future.add_done_callback(lambda _: seen.append(variable.get()), context=given)
        future.add_done_callback(lambda _: seen.append(variable.get()), context=empty)
        variable.set("later")
        model.gate.set()
        await future
        await turns()
        future.add_done_callback(lambda _: seen.append(variable.get()), context=given)
        await turns()
        assert seen == ["at adding", "given", None, "given"]

    run(main())


def test_removed_callbacks_are_not_called(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        calls: list[Any] = []

        async def ask() -> Any:
            return await future

        future = batcher.submit(ROW)
        future.add_done_callback(calls.append)
        task = asyncio.create_task(ask())
        await turns()
        future.add_done_callback(calls.append)
        assert future.remove_done_callback(calls.append) == 2
        assert future.remove_done_callback(calls.append) == 0
        model.gate.set()
        np.testing.assert_array_equal(await task, 2 * ROW)
        await turns()
        assert calls == []

    run(main())


def test_a_callback_that_raises_reaches_the_loops_handler_and_harms_no_other(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    async def main() -> None:
        errors: list[Any] = []
        called: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, c: errors.append(c["exception"]))

        def bad(_: Any) -> None:
            raise LookupError("by the callback")

        futures = [batcher.submit(ROW) for _ in range(2)]
        for future in futures:
            future.add_done_callback(bad)
            future.add_done_callback(called.append)
        model.gate.set()
        await asyncio.gather(*futures)
        await turns()
        assert [type(error) for error in errors] == [LookupError, LookupError]
        assert called == futures

    run(main())


def test_a_callback_of_a_cancelled_future_runs_in_the_loop(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    async def main() -> None:
        batcher.submit(ROW)
        await entered(model)
        called: list[Any] = []
        future = batcher.submit(ROW)
        future.add_done_callback(called.append)
        assert future.cancel()
        assert called == []
        await turns()
        assert called == [future]
        model.gate.set()

    run(main())


# Context variables


def test_a_task_keeps_its_context_over_an_await(run: Run) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows, max_batch_size=8) as batcher:

            async def ask(number: int) -> None:
                variable.set(number)
                for step in range(5):
                    await batcher.submit(ROW)
                    assert variable.get() == number + step
                    variable.set(number + step + 1)

            variable.set("outside")
            await asyncio.gather(*(ask(100 * number) for number in range(50)))
            assert variable.get() == "outside"

    run(main())


def test_the_context_of_a_request_is_not_kept(run: Run) -> None:
    class Thing:
        """Can be referred to weakly."""

    async def main() -> None:
        async with Batcher(lambda rows: rows) as batcher:

            async def first() -> weakref.ref[Thing]:
                thing = Thing()
                variable.set(thing)
                await batcher.submit(ROW)
                return weakref.ref(thing)

            reference = await asyncio.create_task(first())
            await turns()
            gc.collect()
            assert reference() is None

    run(main())


# Loops


def test_several_loops_in_several_threads_share_a_batcher(new_loop: NewLoop) -> None:
    async def main(number: int, batcher: Batcher) -> None:
        thread = threading.get_ident()

        async def ask(step: int) -> None:
            row = np.full(3, 1000 * number + step)
            np.testing.assert_array_equal(await batcher.submit(row), -row)
            assert threading.get_ident() == thread

        for _ in range(5):
            await asyncio.gather(*(ask(step) for step in range(40)))

    def loop_in_thread(number: int, batcher: Batcher) -> None:
        loop = new_loop()
        try:
            loop.run_until_complete(main(number, batcher))
        finally:
            loop.close()

    with Batcher(np.negative, max_batch_size=32) as batcher:
        threads = [in_thread(lambda n=n: loop_in_thread(n, batcher)) for n in range(4)]
        for thread in threads:
            thread.outcome()
        assert batcher.statistics().completed == 800


def test_loops_and_threads_share_a_batch(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        batcher.submit(ROW)
        await entered(model)
        awaited = [batcher.submit(ROW + number) for number in range(3)]
        threads = [in_thread(lambda n=n: batcher(ROW + n)) for n in range(3, 6)]
        other = asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(elsewhere()))
        gathered = asyncio.gather(*awaited)
        await asyncio.get_running_loop().run_in_executor(
            None, until, lambda: batcher.statistics().queue_depth == 7
        )
        model.gate.set()
        for number, answer in enumerate(await gathered):
            np.testing.assert_array_equal(answer, 2 * (ROW + number))
        await other
        for number, thread in enumerate(threads):
            np.testing.assert_array_equal(thread.outcome(), 2 * (ROW + number + 3))

    async def elsewhere() -> None:
        np.testing.assert_array_equal(await batcher.submit(ROW + 9), 2 * (ROW + 9))

    run(main())
    assert [len(batch) for batch in model.batches] == [1, 7]


def test_loops_one_after_another_share_a_batcher(run: Run) -> None:
    with Batcher(lambda rows: rows * 2) as batcher:
        for number in range(10):

            async def main(number: int = number) -> Any:
                return await batcher.submit(ROW + number)

            np.testing.assert_array_equal(run(main()), 2 * (ROW + number))


def test_one_loop_may_run_and_stop_and_run_again(new_loop: NewLoop) -> None:
    async def ask(batcher: Batcher, number: int) -> Any:
        return await batcher.submit(ROW + number)

    loop = new_loop()
    with Batcher(lambda rows: rows * 2) as batcher:
        for number in range(5):
            answer = loop.run_until_complete(ask(batcher, number))
            np.testing.assert_array_equal(answer, 2 * (ROW + number))
    loop.close()


def test_answers_that_came_while_the_loop_stood_still_are_there_when_it_runs_again(
    new_loop: NewLoop, model: Gated, batcher: Batcher
) -> None:
    async def start() -> list[asyncio.Task[Any]]:
        async def ask(number: int) -> Any:
            return await batcher.submit(ROW + number)

        tasks = [asyncio.create_task(ask(number)) for number in range(5)]
        await entered(model)
        return tasks

    async def collect(tasks: list[asyncio.Task[Any]]) -> list[Any]:
        return await asyncio.gather(*tasks)

    loop = new_loop()
    tasks = loop.run_until_complete(start())
    model.gate.set()
    until(lambda: batcher.statistics().completed == 5)
    for number, answer in enumerate(loop.run_until_complete(collect(tasks))):
        np.testing.assert_array_equal(answer, 2 * (ROW + number))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_debug_mode_finds_no_fault(
    new_loop: NewLoop, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows * 2, max_batch_size=8) as batcher:

            async def ask(number: int) -> Any:
                return await batcher.submit(ROW + number)

            for _ in range(3):
                answers = await asyncio.gather(*(ask(number) for number in range(20)))
                for number, answer in enumerate(answers):
                    np.testing.assert_array_equal(answer, 2 * (ROW + number))
            task = asyncio.create_task(ask(1))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            future = batcher.submit(ROW)
            future.add_done_callback(lambda _: None)
            await asyncio.wait_for(future, PATIENCE)

    loop = new_loop()
    loop.set_debug(True)
    with caplog.at_level(logging.ERROR, "asyncio"):
        loop.run_until_complete(main())
    loop.close()
    assert caplog.records == []
    assert list(recwarn) == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are of Python 3.12")
def test_eager_tasks_get_their_answers(new_loop: NewLoop, model: Gated) -> None:
    async def main(batcher: Batcher) -> None:
        async def ask(number: int) -> Any:
            variable.set(number)
            answer = await batcher.submit(ROW + number)
            assert variable.get() == number
            return answer

        for _ in range(3):
            tasks = [asyncio.create_task(ask(number)) for number in range(30)]
            for number, answer in enumerate(await asyncio.gather(*tasks)):
                np.testing.assert_array_equal(answer, 2 * (ROW + number))

    model.gate.set()
    for executor in ("thread", "inline"):
        loop = new_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        with Batcher(model, executor=executor, max_batch_size=8) as batcher:  # type: ignore[arg-type]
            loop.run_until_complete(main(batcher))
        loop.close()


def test_tasks_of_another_kind_get_their_answers(run: Run) -> None:
    """asyncio's tasks in Python, which are not resumed in the short way."""
    python_task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Batcher(lambda rows: rows * 2) as batcher:

            async def ask(number: int) -> Any:
                return await batcher.submit(ROW + number)

            tasks = [python_task(ask(number), loop=loop) for number in range(20)]
            for number, task in enumerate(tasks):
                np.testing.assert_array_equal(await task, 2 * (ROW + number))
            batch = [python_task(ask(number), loop=loop) for number in range(3)]
            await turns(1)
            for task in batch:
                task.cancel()
            for task in batch:
                with pytest.raises(asyncio.CancelledError):
                    await task

    run(main())


# One wake-up per batch


class Counted(asyncio.SelectorEventLoop):
    """An event loop that counts what wakes it."""

    def __init__(self) -> None:
        super().__init__()
        self.resumed = 0  # counted by the tasks
        self.wakeups = 0  # that resumed any; others only ask the loop to let the GIL go
        self.calls_from_threads = 0
        self.calls_soon = 0

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Any:
        """Counts the calls of `callback`."""
        return super().add_reader(fd, counted(self, callback), *args)

    def call_soon_threadsafe(self, *args: Any, **keywords: Any) -> Any:
        """Counts."""
        self.calls_from_threads += 1
        return super().call_soon_threadsafe(*args, **keywords)

    def call_soon(self, *args: Any, **keywords: Any) -> Any:
        """Counts."""
        self.calls_soon += 1
        return super().call_soon(*args, **keywords)


class CountedUv(uvloop.Loop):
    """The same for uvloop, whose own calls do not go through its methods."""

    def __init__(self) -> None:
        super().__init__()
        self.resumed = 0
        self.wakeups = 0
        self.calls_from_threads = 0

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        """Counts the calls of `callback`."""
        super().add_reader(fd, counted(self, callback), *args)

    def call_soon_threadsafe(self, *args: Any, **keywords: Any) -> Any:
        """Counts."""
        self.calls_from_threads += 1
        return super().call_soon_threadsafe(*args, **keywords)


def counted(loop: Counted | CountedUv, callback: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        before = loop.resumed
        answer = callback(*arguments)
        loop.wakeups += loop.resumed > before
        return answer

    return call


@pytest.mark.parametrize("kind", [Counted, CountedUv])
def test_a_batch_wakes_a_loop_once_however_many_tasks_await_it(
    kind: Any, model: Gated, batcher: Batcher
) -> None:
    async def main() -> None:
        first = batcher.submit(ROW)  # awaited by nobody
        until(lambda: model.batches)

        async def ask(number: int) -> Any:
            answer = await batcher.submit(ROW + number)
            loop.resumed += 1
            return answer

        tasks = [asyncio.create_task(ask(number)) for number in range(60)]
        await asyncio.sleep(0)
        before = loop.calls_from_threads
        model.gate.set()
        for number, task in enumerate(tasks):
            np.testing.assert_array_equal(await task, 2 * (ROW + number))
        assert loop.calls_from_threads == before
        assert first.done()

    loop = kind()
    loop.run_until_complete(main())
    loop.close()
    assert [len(batch) for batch in model.batches] == [1, 60]
    assert loop.wakeups == 1


@pytest.mark.parametrize("kind", [Counted, CountedUv])
def test_no_batch_wakes_a_loop_twice(kind: Any) -> None:
    async def main() -> None:
        async def ask() -> None:
            for _ in range(20):
                await batcher.submit(ROW)
                loop.resumed += 1

        await asyncio.gather(*(ask() for _ in range(30)))

    loop = kind()
    with Batcher(lambda rows: rows, max_batch_size=16) as batcher:
        loop.run_until_complete(main())
        assert 0 < loop.wakeups <= batcher.statistics().batches
    loop.close()
    assert loop.calls_from_threads == 0


def test_a_waiting_task_is_resumed_without_another_turn_of_the_loop(
    model: Gated, batcher: Batcher
) -> None:
    async def main() -> int:
        batcher.submit(ROW)
        until(lambda: model.batches)

        async def ask() -> Any:
            return await batcher.submit(ROW)

        tasks = [asyncio.create_task(ask()) for _ in range(50)]
        await asyncio.sleep(0)
        before = loop.calls_soon
        model.gate.set()
        await asyncio.gather(*tasks)
        return loop.calls_soon - before

    loop = Counted()
    # Each task tells gather() with one call; none is spent on waking it.
    assert loop.run_until_complete(main()) <= 52
    loop.close()


# Exits


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_exit_out_of_a_task_costs_no_other_task_its_answer(
    kind: Any, new_loop: NewLoop, model: Gated, batcher: Batcher
) -> None:
    async def ask(number: int) -> Any:
        answer = await batcher.submit(ROW + number)
        if number == 4:
            raise kind
        return answer

    async def start() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(ask(number)) for number in range(10)]
        await asyncio.sleep(0)
        return tasks

    async def collect(tasks: list[asyncio.Task[Any]]) -> list[Any]:
        return await asyncio.gather(*tasks)

    loop = new_loop()
    batcher.max_batch_size = 5  # several batches, of which one wake-up tells
    tasks = loop.run_until_complete(start())
    model.gate.set()
    until(lambda: batcher.statistics().completed == 10)
    in_vain = loop.call_later(PATIENCE, loop.stop)
    with pytest.raises(kind):
        loop.run_forever()
    in_vain.cancel()
    others = [task for number, task in enumerate(tasks) if number != 4]
    answers = loop.run_until_complete(asyncio.wait_for(collect(others), PATIENCE))
    for number, answer in zip((0, 1, 2, 3, 5, 6, 7, 8, 9), answers, strict=True):
        np.testing.assert_array_equal(answer, 2 * (ROW + number))
    assert type(tasks[4].exception()) is kind
    loop.close()


# The faces mixed


def test_callbacks_of_a_threads_future_that_a_loop_awaits_later_are_all_called(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    called: list[Any] = []
    future = batcher.submit(ROW)
    future.add_done_callback(called.append)

    async def main() -> None:
        async def ask() -> Any:
            return await future

        task = asyncio.create_task(ask())
        await entered(model)
        model.gate.set()
        np.testing.assert_array_equal(await task, 2 * ROW)
        await turns()

    run(main())
    assert called == [future]


def test_threads_may_wait_by_concurrent_futures_for_what_a_loop_awaits(
    run: Run, model: Gated, batcher: Batcher
) -> None:
    wait: Any = concurrent.futures.wait

    async def main() -> None:
        futures = [batcher.submit(ROW) for _ in range(3)]
        gathered = asyncio.gather(*futures)
        waiting = in_thread(lambda: wait(futures, timeout=PATIENCE))
        await entered(model)
        model.gate.set()
        await gathered
        done, pending = await asyncio.get_running_loop().run_in_executor(None, waiting.outcome)
        assert (done, pending) == (set(futures), set())

    run(main())


def test_waiting_by_concurrent_futures_works_even_where_it_stops_the_loop(run: Run) -> None:
    wait: Any = concurrent.futures.wait

    async def main() -> None:
        async with Batcher(lambda rows: rows) as batcher:
            futures = [batcher.submit(ROW) for _ in range(3)]
            done, pending = wait(futures, timeout=PATIENCE)
            assert (done, pending) == (set(futures), set())
            np.testing.assert_array_equal(batcher.submit(ROW).result(PATIENCE), ROW)
            np.testing.assert_array_equal(batcher(ROW), ROW)

    run(main())
