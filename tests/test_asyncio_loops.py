"""Event loops: several at once, one after another, debugged, interrupted, and woken once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import uvloop

from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tests.helpers import entered, turns
from tidegate import Batcher

Run = Callable[[Coroutine[Any, Any, Any]], Any]
NewLoop = Callable[[], asyncio.AbstractEventLoop]
# typeshed knows wait() for the standard library's own futures only.
thread_wait: Any = concurrent.futures.wait
variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default=None)


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
            loop = asyncio.get_running_loop()
            tasks = [task(ask(number), loop=loop, eager_start=True) for number in range(30)]
            for number, answer in enumerate(await asyncio.gather(*tasks)):
                np.testing.assert_array_equal(answer, 2 * (ROW + number))

    task: Any = asyncio.Task
    model.gate.set()
    for executor in ("thread", "inline"):
        loop = new_loop()
        with Batcher(model, executor=executor, max_batch_size=8) as batcher:
            loop.run_until_complete(main(batcher))
        loop.close()


def test_tasks_of_another_kind_get_their_answers(run: Run, model: Gated) -> None:
    """Tasks written in Python, which are not resumed in the short way."""
    python_task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Batcher(model) as batcher:
            model.gate.set()

            async def ask(number: int) -> Any:
                return await batcher.submit(ROW + number)

            tasks = [python_task(ask(number), loop=loop) for number in range(20)]
            for number, task in enumerate(tasks):
                np.testing.assert_array_equal(await task, 2 * (ROW + number))
            model.gate.clear()
            batch = [python_task(ask(number), loop=loop) for number in range(3)]
            await turns(1)
            for task in batch:
                task.cancel()
            for task in batch:
                with pytest.raises(asyncio.CancelledError):
                    await task
            model.gate.set()

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
    async def main() -> None:
        futures = [batcher.submit(ROW) for _ in range(3)]
        gathered = asyncio.gather(*futures)
        waiting = in_thread(lambda: thread_wait(futures, timeout=PATIENCE))
        await entered(model)
        model.gate.set()
        await gathered
        done, pending = await asyncio.get_running_loop().run_in_executor(None, waiting.outcome)
        assert (done, pending) == (set(futures), set())

    run(main())


def test_waiting_by_concurrent_futures_works_even_where_it_stops_the_loop(run: Run) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows) as batcher:
            futures = [batcher.submit(ROW) for _ in range(3)]
            done, pending = thread_wait(futures, timeout=PATIENCE)
            assert (done, pending) == (set(futures), set())
            np.testing.assert_array_equal(batcher.submit(ROW).result(PATIENCE), ROW)
            np.testing.assert_array_equal(batcher(ROW), ROW)

    run(main())
