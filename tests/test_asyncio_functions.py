"""Futures given to asyncio's own functions: gather, wait, wait_for, shield and their like."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated
from tests.helpers import entered, turns
from tidegate import Batcher

Run = Callable[[Coroutine[Any, Any, Any]], Any]
# typeshed knows wait() for the standard library's own futures only.
wait: Any = asyncio.wait


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
        done, pending = await wait([first, last], return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({first}, {last})
        done, pending = await wait([first, last], timeout=0.01)
        assert (done, pending) == ({first}, {last})
        model.gate.set()
        done, pending = await wait([first, last])
        assert (done, pending) == ({first, last}, set())
        await quick.aclose()
        await slow.aclose()

    run(main())


def test_wait_returns_when_the_first_fails(run: Run, model: Gated, batcher: Batcher) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows[:0]) as failing:
            waiting, failed = batcher.submit(ROW), failing.submit(ROW)
            done, pending = await wait([waiting, failed], return_when=asyncio.FIRST_EXCEPTION)
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
