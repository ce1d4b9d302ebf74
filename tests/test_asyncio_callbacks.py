"""Done callbacks in event loops, and the contexts in which tasks and callbacks run."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from tests.gated import ROW, Gated
from tests.helpers import entered, turns
from tidegate import Batcher

Run = Callable[[Coroutine[Any, Any, Any]], Any]
variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default=None)


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
