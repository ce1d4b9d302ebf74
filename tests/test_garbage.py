"""Letting go: what nobody refers to any more goes, with its threads, memory and descriptors."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from tests import child
from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tidegate import Batcher, ClosedError, ModelError, ModelPool, TensorSpec, batch

NEW_LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def living() -> collections.Counter[str]:
    """How many objects of each of the extension's types there are, but for the process's own."""
    gc.collect()
    names = [
        type(thing).__name__
        for thing in gc.get_objects()
        if type(thing).__module__ == "tidegate._fast"
    ]
    # A thread for callbacks, and the channel of the loop that ran last, are kept.
    return collections.Counter(name for name in names if not name.endswith("Channel"))


@pytest.fixture(autouse=True, scope="module")
def only_what_is_new() -> Iterator[None]:
    """The collector looks at nothing from before these tests, which others may have left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_remains() -> Iterator[None]:
    """Each test leaves neither objects nor threads of tidegate's behind."""

    def threads() -> list[str]:
        names = [thread.name for thread in threading.enumerate()]
        return [name for name in names if name.startswith("tidegate-batcher")]

    before = living(), collections.Counter(threads())
    yield
    until(lambda: not collections.Counter(threads()) - before[1])
    until(lambda: not living() - before[0])


def await_end_of(*references: weakref.ref[Any]) -> None:
    until(
        lambda: gc.collect() >= 0 and not any(reference() is not None for reference in references)
    )


def double(rows: Any) -> Any:
    return rows * 2


# A Batcher that is dropped


def test_a_dropped_batcher_goes_at_once_and_its_requests_are_answered() -> None:
    model = Gated()
    batcher = Batcher(model, max_batch_size=4)
    futures = [batcher.submit(ROW + index) for index in range(10)]
    many = batcher.submit_many(np.ones((9, 3)))
    model.await_entry()
    gone = weakref.ref(batcher)
    del batcher
    assert gone() is None, "something keeps the Batcher alive"
    model.gate.set()
    for index, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + index))
    np.testing.assert_array_equal(many.result(PATIENCE), 2 * np.ones((9, 3)))


@pytest.mark.parametrize("new_loop", NEW_LOOPS)
@pytest.mark.parametrize("executor", ["thread", "inline"])
def test_a_loop_gets_the_answers_of_a_dropped_batcher(
    new_loop: Callable[[], asyncio.AbstractEventLoop], executor: Any
) -> None:
    async def main() -> None:
        batcher = Batcher(double, max_batch_size=4, executor=executor)
        futures = [batcher.submit(ROW + index) for index in range(10)]
        del batcher
        for index, row in enumerate(await asyncio.gather(*futures)):
            np.testing.assert_array_equal(row, 2 * (ROW + index))

    with contextlib.closing(new_loop()) as loop:
        loop.run_until_complete(main())


def test_a_dropped_inline_batcher_answers_whoever_waits() -> None:
    futures = [Batcher(double, executor="inline").submit(ROW + index) for index in range(10)]
    for index, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + index))


def test_a_queue_delay_does_not_hold_a_dropped_batcher_back() -> None:
    future = Batcher(double, max_queue_delay=3600.0).submit(ROW + 1)
    np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + 1))


def test_dropping_with_nobody_interested_in_the_answers() -> None:
    model = Gated()
    batcher = Batcher(model, max_batch_size=2)
    for index in range(7):
        batcher.submit(ROW + index)
    model.await_entry()
    del batcher
    model.gate.set()
    until(lambda: model.rows_seen == 7)


def test_callbacks_run_after_batcher_and_future_were_dropped() -> None:
    model = Gated()
    answers: list[Any] = []
    Batcher(model).submit(ROW + 1).add_done_callback(lambda future: answers.append(future.result()))
    model.gate.set()
    until(lambda: answers)
    np.testing.assert_array_equal(answers[0], 2 * (ROW + 1))


def test_the_model_goes_with_its_batcher() -> None:
    for close in (True, False):
        model = Gated()
        model.gate.set()
        batcher = Batcher(model)
        future = batcher.submit(ROW)
        future.result(PATIENCE)
        gone = weakref.ref(model)
        if close:
            batcher.close()
        del model, batcher, future
        await_end_of(gone)


def test_a_pool_outlives_its_batchers() -> None:
    pool = ModelPool([double, double])
    for _ in range(3):
        batcher = Batcher(pool)
        np.testing.assert_array_equal(batcher(ROW + 1), 2 * (ROW + 1))
        del batcher
    with pool.acquire(timeout=PATIENCE) as model:
        np.testing.assert_array_equal(model(ROW), 2 * ROW)


def test_the_model_may_drop_its_own_batcher() -> None:
    holder: list[Batcher] = []

    def model(rows: Any) -> Any:
        holder.clear()
        gc.collect()
        return rows * 2

    holder.append(Batcher(model, caller_runs=False))
    future = holder[0].submit(ROW + 1)
    np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + 1))


def test_a_done_callback_may_drop_the_batcher() -> None:
    holder = [Batcher(double)]
    done = threading.Event()

    def drop(_: Any) -> None:
        holder.clear()
        done.set()

    holder[0].submit(ROW).add_done_callback(drop)
    assert done.wait(PATIENCE)


def test_dropping_in_a_thread_while_others_wait() -> None:
    model = Gated()
    batcher = Batcher(model, max_batch_size=2)
    futures = [batcher.submit(ROW + index) for index in range(8)]
    waiting = [in_thread(functools.partial(future.result, PATIENCE)) for future in futures]
    holder = [batcher]
    del batcher
    model.await_entry()
    in_thread(holder.clear).outcome()
    model.gate.set()
    for index, thread in enumerate(waiting):
        np.testing.assert_array_equal(thread.outcome(), 2 * (ROW + index))


# Reference cycles


def test_a_batcher_in_a_cycle_with_its_model_is_collected() -> None:
    class Service:
        def __init__(self) -> None:
            self.batcher = Batcher(self.model)

        def model(self, rows: Any) -> Any:
            return rows * 2

    # A thread that runs the model keeps it: as long as it may be called, it is no garbage. What
    # closes it is the end of its owner's use.
    service = Service()
    np.testing.assert_array_equal(service.batcher(ROW + 1), 2 * (ROW + 1))
    service.batcher.close()
    gone = weakref.ref(service)
    del service
    gc.collect()
    assert gone() is None


def test_a_batched_method_ends_with_its_object() -> None:
    class Service:
        def rows_doubled(self, rows: Any) -> Any:
            return rows * 2

        double = batch(rows_doubled, name="batcher-of-a-method")

    service = Service()
    np.testing.assert_array_equal(service.double(ROW + 1), 2 * (ROW + 1))
    gone = weakref.ref(service)
    del service
    gc.collect()
    assert gone() is None


def test_futures_in_cycles_are_collected_in_every_state() -> None:
    model = Gated()
    batcher = Batcher(model, max_batch_size=4)

    def knot(future: Any) -> weakref.ref[Any]:
        cell = [future]
        future.add_done_callback(lambda _: cell)
        return weakref.ref(future)

    batcher.submit(ROW)
    model.await_entry()
    cancelled = batcher.submit(ROW)
    refs = [knot(batcher.submit(ROW)) for _ in range(6)]
    refs.append(knot(batcher.submit(ROW, timeout=0.0)))
    refs.append(knot(batcher.submit_many(np.zeros((9, 3)))))
    refs.append(knot(cancelled))
    cancelled.cancel()
    del cancelled
    model.gate.set()
    await_end_of(*refs)
    batcher.close()


def test_tasks_of_a_closed_loop_are_collected_with_what_they_await() -> None:
    model = Gated()
    batcher = Batcher(model, max_batch_size=2)
    refs: list[weakref.ref[Any]] = []

    async def ask() -> None:
        future = batcher.submit(ROW)
        refs.append(weakref.ref(future))
        await future

    async def main() -> None:
        # No asyncio.run(): it would cancel them.
        tasks.extend(asyncio.ensure_future(ask()) for _ in range(7))
        await asyncio.to_thread(model.await_entry)

    for new_loop in NEW_LOOPS:
        tasks: list[asyncio.Task[None]] = []
        loop = new_loop()
        loop.set_exception_handler(lambda *_: None)  # of tasks destroyed while they wait
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        del loop, tasks[:]
        model.gate.set()
        until(lambda: batcher.statistics().completed == len(refs))
        model.gate.clear()
        await_end_of(*refs)
    batcher.close()


def test_collecting_all_the_time_harms_nothing() -> None:
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            gc.collect()

    def hammer(batcher: Batcher) -> None:
        for value in range(40):
            future = batcher.submit(ROW + value)
            future.add_done_callback(functools.partial(max, future, key=id))  # a cycle
            np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + value))
            np.testing.assert_array_equal(batcher(ROW + value), 2 * (ROW + value))

    async def hammer_loop(batcher: Batcher) -> None:
        for value in range(40):
            futures = [batcher.submit(ROW + value) for _ in range(4)]
            futures[0].cancel()
            for row in (await asyncio.gather(*futures, return_exceptions=True))[1:]:
                np.testing.assert_array_equal(row, 2 * (ROW + value))

    collecting = in_thread(collect)
    batcher = Batcher(double, max_batch_size=4)
    working = [in_thread(lambda: hammer(batcher)) for _ in range(2)]
    working.append(in_thread(lambda: asyncio.run(hammer_loop(batcher))))
    working.append(in_thread(lambda: uvloop.run(hammer_loop(batcher))))
    for thread in working:
        thread.outcome()
    stop.set()
    collecting.outcome()
    batcher.close()


# Answers and requests


def test_what_the_collector_runs_may_ask_the_batcher() -> None:
    # Before 3.12 it may come in wherever an object is made: also where a row has its place already
    # and is not in it yet, and the batch waits for it.
    child.run("""
        import gc, threading
        from tidegate import Batcher

        class Asking:
            def __init__(self):
                self.cycle = self

            def __del__(self):
                # The thread that runs the model may not, and finds it too.
                ours = threading.current_thread() is threading.main_thread()
                answers.append(batcher(1) if ours else 1)

        answers, kept = [], []
        gc.disable()
        with Batcher(lambda rows: rows, collate="list", max_batch_size=4) as batcher:
            for number in range(400):
                gc.collect()
                Asking()
                gc.set_threshold(gc.get_count()[0] + number % 8)
                gc.enable()
                kept.append(batcher.submit(1))
                gc.disable()
                kept[-1].result()
            gc.collect()
        assert answers == [1] * 400
    """)


def test_outputs_go_when_their_last_row_was_read() -> None:
    outputs: list[weakref.ref[Any]] = []

    def model(rows: Any) -> Any:
        answer = rows * 2
        outputs.append(weakref.ref(answer))
        return answer

    batcher = Batcher(model, outputs="copy", caller_runs=False)
    futures = [batcher.submit(ROW) for _ in range(3)]
    kept = [future.result(PATIENCE) for future in futures]
    assert len(kept) == 3
    await_end_of(*outputs)
    batcher.close()


def test_views_keep_the_outputs_and_nothing_else() -> None:
    outputs: list[weakref.ref[Any]] = []

    def model(rows: Any) -> Any:
        answer = rows * 2
        outputs.append(weakref.ref(answer))
        return answer

    batcher = Batcher(model, outputs="view", max_batch_size=4)
    row = batcher(ROW + 1)
    batcher.close()
    del batcher
    np.testing.assert_array_equal(row, 2 * (ROW + 1))
    assert outputs[0]() is not None
    del row
    assert outputs[0]() is None


def test_answers_that_nobody_reads_go_with_their_futures() -> None:
    outputs: list[weakref.ref[Any]] = []

    def model(rows: Any) -> Any:
        answer = rows * 2
        outputs.append(weakref.ref(answer))
        return answer

    batcher = Batcher(model)
    futures = [batcher.submit(ROW) for _ in range(3)]
    until(lambda: batcher.statistics().completed == 3)
    futures.clear()
    await_end_of(*outputs)
    batcher.close()


class Thing:
    """An object to submit, of which one can see when it goes."""


class NoGoodError(Exception):
    """An exception of which one can see when it goes."""


@pytest.mark.parametrize("executor", ["thread", "inline"])
def test_submitted_objects_go_when_they_are_answered(executor: Any) -> None:
    batcher = Batcher(lambda things: [1] * len(things), collate="list", executor=executor)
    things = [Thing() for _ in range(5)]
    refs = [weakref.ref(thing) for thing in things]
    futures = [batcher.submit(things.pop()) for _ in range(5)]
    assert [future.result(PATIENCE) for future in futures] == [1] * 5
    await_end_of(*refs)
    batcher.close()


def test_a_cancelled_object_goes_at_once() -> None:
    model = Gated()
    batcher = Batcher(lambda things: list(model(ROW[: len(things)])), collate="list")
    first = batcher.submit(Thing())
    model.await_entry()
    thing = Thing()
    gone = weakref.ref(thing)
    future = batcher.submit(thing)
    del thing
    assert gone() is not None
    future.cancel()
    assert gone() is None
    model.gate.set()
    assert first.result(PATIENCE) == 0.0
    batcher.close()


def test_refused_objects_go() -> None:
    model = Gated()
    batcher = Batcher(lambda things: list(model(ROW)), collate="list", max_batch_size=3)
    futures = [batcher.submit(Thing()) for _ in range(3)]
    model.await_entry()
    refs = []
    for _ in range(5):
        thing = Thing()
        refs.append(weakref.ref(thing))
        futures.append(batcher.submit(thing))
    del thing
    batcher.close(drain=False, timeout=0.0)
    with pytest.raises(ClosedError):
        futures[5].result(0)
    del futures
    assert not any(ref() for ref in refs)
    model.gate.set()


def test_the_models_exception_goes_when_nobody_looks_at_it() -> None:
    errors: list[weakref.ref[Any]] = []

    def model(rows: Any) -> Any:
        error = NoGoodError()
        errors.append(weakref.ref(error))
        raise error

    batcher = Batcher(model)
    future = batcher.submit(ROW)
    with pytest.raises(ModelError):
        future.result(PATIENCE)
    del future
    await_end_of(*errors)
    batcher.close()


# Threads, descriptors, memory


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("close", [True, False])
def test_threads_end_with_their_batchers(close: bool) -> None:
    before = native_threads()
    for _ in range(100):
        batcher = Batcher(ModelPool([double, double]), max_queue_delay=0.0001)
        # A time limit needs the timer thread as well.
        np.testing.assert_array_equal(batcher(ROW + 1, timeout=60.0), 2 * (ROW + 1))
        if close:
            batcher.close()
        del batcher
    until(lambda: native_threads() <= before)


@pytest.mark.parametrize("new_loop", NEW_LOOPS)
def test_descriptors_do_not_leak_over_thousands_of_loops(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    batcher = Batcher(double)

    async def ask(value: int) -> None:
        np.testing.assert_array_equal(await batcher.submit(ROW + value), 2 * (ROW + value))

    counts = []
    for value in range(2000):
        with contextlib.closing(new_loop()) as loop:
            loop.run_until_complete(ask(value))
        if value % 500 == 499:
            gc.collect()
            counts.append(descriptors())
    assert max(counts) <= counts[0] + 3, counts
    batcher.close()


def test_descriptors_do_not_leak_over_loops_that_close_too_early() -> None:
    model = Gated()
    batcher = Batcher(model, max_queue_size=10_000)

    async def ask() -> None:
        batcher.submit(ROW).add_done_callback(print)

    counts = []
    for value in range(400):
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            loop.run_until_complete(ask())
        if value % 100 == 99:
            model.gate.set()
            until(lambda: batcher.statistics().completed == batcher.statistics().submitted)
            model.gate.clear()
            gc.collect()
            counts.append(descriptors())
    assert max(counts) <= counts[0] + 3, counts
    model.gate.set()
    batcher.close()


def test_staging_memory_goes_with_the_batcher() -> None:
    spec = TensorSpec((4096,), np.float64)
    row = np.zeros(4096)

    def use(close: bool) -> None:
        batcher = Batcher(lambda rows: rows[:, :1], inputs=spec, max_batch_size=32)
        batcher.submit_many(np.zeros((64, 4096))).result(PATIENCE)
        batcher.submit(row).result(PATIENCE)
        if close:
            batcher.close()

    threads = threading.active_count()
    use(close=True)
    tracemalloc.start()
    try:
        for turn in range(40):
            use(close=turn % 2 == 0)
        until(lambda: threading.active_count() <= threads)
        gc.collect()
        # One staging buffer is a megabyte.
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
