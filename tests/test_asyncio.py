"""Futures in event loops: awaited and cancelled, in asyncio and uvloop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from tests.gated import ROW, Gated, until
from tests.helpers import entered, turns
from tidegate import Batcher, ClosedError, DeadlineError, Future, InputError, ModelError

Run = Callable[[Coroutine[Any, Any, Any]], Any]
NewLoop = Callable[[], asyncio.AbstractEventLoop]


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
