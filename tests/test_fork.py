"""Forking: the child's batchers say so at once, the parent's are unharmed, new ones work."""

from __future__ import annotations

import textwrap

import pytest

from tests import child

PRELUDE = """
import asyncio, gc, multiprocessing, os, sys, threading, time
import numpy as np
from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tidegate import *

def refused(call):
    try:
        call()
    except ForkedProcessError:
        return
    raise AssertionError("it was not refused")

async def awaited(future):
    return await future

def doubles(batcher):
    for index in range(20):
        assert batcher(ROW + index)[0] == 2 * index
        assert batcher.submit(ROW + index).result(PATIENCE)[0] == 2 * index

def in_child(work):
    # Runs `work` in a fork; the child ends as interpreters do, with all exit handlers.
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)
    return pid

def ended_well(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, status
"""


def run(script: str) -> None:
    child.run(PRELUDE + textwrap.dedent(script))


def test_every_door_of_the_childs_copy_is_shut() -> None:
    run("""
        batcher = Batcher(lambda rows: rows * 2)
        doubles(batcher)

        def work():
            refused(lambda: batcher(ROW))
            refused(lambda: batcher.submit(ROW))
            refused(lambda: batcher.submit(ROW, timeout=1.0))
            refused(lambda: batcher.submit_many(np.zeros((100, 3))))
            refused(lambda: list(batcher.map([ROW])))
            refused(lambda: asyncio.run(awaited(batcher.predict_async(ROW))))
            async def amap():
                return [answer async for answer in batcher.amap([ROW])]
            refused(lambda: asyncio.run(amap()))
            assert batcher.closed
            assert batcher.statistics().completed == 40
            batcher.max_batch_size = 7
            batcher.close()
            batcher.close(drain=False, timeout=0.0)
            asyncio.run(batcher.aclose())
            refused(lambda: batcher(ROW))

        ended_well(in_child(work))
        doubles(batcher)
        batcher.close()
    """)


def test_requests_in_flight_end_in_the_parent_only() -> None:
    run("""
        model = Gated()
        batcher = Batcher(model, max_batch_size=2)
        answered = batcher.submit(ROW + 1)
        model.gate.set()
        answered.result(PATIENCE)
        answered = batcher.submit(ROW + 1)
        until(lambda: batcher.statistics().completed == 2)  # ended, and not read yet
        model.gate.clear()
        futures = [batcher.submit(ROW + index) for index in range(9)]
        many = batcher.submit_many(np.zeros((5, 3)))
        for _ in range(3):
            model.await_entry()

        def work():
            assert answered.result()[0] == 2
            refused(lambda: futures[0].result())  # with the model
            refused(lambda: futures[8].result())  # waiting
            refused(lambda: futures[7].result(timeout=0.0))
            refused(many.result)
            assert isinstance(futures[1].exception(), ForkedProcessError)
            refused(lambda: asyncio.run(awaited(futures[2])))
            refused(lambda: asyncio.run(awaited(futures[6])))
            called = []
            futures[3].add_done_callback(called.append)
            assert called == [futures[3]]
            assert not futures[4].cancel() and futures[4].done()
            assert not futures[5].cancelled()

        ended_well(in_child(work))
        assert not any(future.done() for future in futures)
        model.gate.set()
        for index, future in enumerate(futures):
            assert future.result(PATIENCE)[0] == 2 * index
        assert many.result(PATIENCE).shape == (5, 3)
        batcher.close()
    """)


def test_requests_of_a_batcher_that_was_dropped_are_refused_in_the_child_too() -> None:
    run("""
        model = Gated()
        future = Batcher(model).submit(ROW + 1)
        model.await_entry()
        pid = in_child(lambda: refused(future.result))
        ended_well(pid)
        model.gate.set()
        assert future.result(PATIENCE)[0] == 2
    """)


def test_a_batcher_made_in_the_child_works() -> None:
    run("""
        batcher = Batcher(lambda rows: rows * 2)
        doubles(batcher)

        async def from_a_loop(batcher):
            futures = [batcher.submit(ROW + index) for index in range(100)]
            answers = await asyncio.gather(*futures)
            assert [answer[0] for answer in answers] == [2 * index for index in range(100)]

        asyncio.run(from_a_loop(batcher))  # the parent has had a loop and a callback thread
        called = threading.Event()
        batcher.submit(ROW).add_done_callback(lambda _: called.set())
        assert called.wait(PATIENCE)

        def work():
            with Batcher(lambda rows: rows * 2, name="child") as mine:
                doubles(mine)
                asyncio.run(from_a_loop(mine))
                called = threading.Event()
                mine.submit(ROW).add_done_callback(lambda _: called.set())
                assert called.wait(PATIENCE)
            left_open = Batcher(lambda rows: rows * 2)
            doubles(left_open)
            with Batcher(lambda rows: rows * 2, executor="inline") as inline:
                doubles(inline)

        ended_well(in_child(work))
        asyncio.run(from_a_loop(batcher))
        doubles(batcher)
        batcher.close()
    """)


def test_a_fork_of_a_fork_is_as_good() -> None:
    run("""
        batcher = Batcher(lambda rows: rows * 2)
        doubles(batcher)

        def grandchild(parents):
            refused(lambda: batcher(ROW))
            refused(lambda: parents(ROW))
            with Batcher(lambda rows: rows * 2) as mine:
                doubles(mine)

        def work():
            with Batcher(lambda rows: rows * 2) as mine:
                doubles(mine)
                ended_well(in_child(lambda: grandchild(mine)))
                doubles(mine)

        ended_well(in_child(work))
        doubles(batcher)
        batcher.close()
    """)


def test_forking_within_a_coroutine() -> None:
    run("""
        async def main():
            batcher = Batcher(lambda rows: rows * 2)
            assert (await batcher.submit(ROW + 1))[0] == 2
            pending = [batcher.submit(ROW + index) for index in range(10)]
            pid = os.fork()
            if pid == 0:
                refused(lambda: batcher.submit(ROW))
                with Batcher(lambda rows: rows * 2) as mine:
                    doubles(mine)
                os._exit(0)  # the loop is the parent's
            ended_well(pid)
            answers = await asyncio.gather(*pending)
            assert [answer[0] for answer in answers] == [2 * index for index in range(10)]
            await batcher.aclose()

        asyncio.run(main())
    """)


def test_forking_in_a_thread_that_is_not_the_main_one() -> None:
    run("""
        batcher = Batcher(lambda rows: rows * 2)
        doubles(batcher)

        def work():
            pid = os.fork()
            if pid == 0:
                refused(lambda: batcher(ROW))
                with Batcher(lambda rows: rows * 2) as mine:
                    doubles(mine)
                    asyncio.run(awaited(mine.submit(ROW)))
                os._exit(0)
            ended_well(pid)

        in_thread(work).outcome()
        doubles(batcher)
        batcher.close()
    """)


def test_dropping_the_childs_copy_leaves_the_parents_alone() -> None:
    run("""
        model = Gated()
        batchers = {
            "thread": Batcher(model),
            "inline": Batcher(model, executor="inline"),
            "pool": Batcher(ModelPool([model, model]), max_queue_delay=3600.0),
        }
        futures = [batcher.submit(ROW + 1, timeout=60.0) for batcher in batchers.values()]
        model.await_entry()

        def work():
            batchers.clear()
            futures.clear()
            gc.collect()

        ended_well(in_child(work))
        model.gate.set()
        for batcher in batchers.values():
            batcher.close()
        assert [future.result(0)[0] for future in futures] == [2, 2, 2]
    """)


def test_forking_while_threads_and_loops_hammer() -> None:
    run("""
        batcher = Batcher(lambda rows: rows * 2, max_batch_size=8)
        stop = threading.Event()

        def hammer(first):
            value = first
            while not stop.is_set():
                value += 1
                assert batcher(ROW + value)[0] == 2 * value
            return value - first

        async def hammer_loop():
            value = 0
            while not stop.is_set():
                value += 1
                asked = [batcher.submit(ROW + value + step, timeout=60.0) for step in range(4)]
                answers = await asyncio.gather(*asked)
                assert [row[0] for row in answers] == [2 * (value + step) for step in range(4)]
            return value

        workers = [in_thread(lambda first=first: hammer(first)) for first in range(0, 4000, 1000)]
        workers += [in_thread(lambda: asyncio.run(hammer_loop())) for _ in range(2)]

        def work():
            stop.set()
            refused(lambda: batcher(ROW))
            batcher.close()
            with Batcher(lambda rows: rows * 2) as mine:
                doubles(mine)
                asyncio.run(awaited(mine.submit(ROW)))

        for _ in range(25):
            before = batcher.statistics().completed
            pid = in_child(work)
            until(lambda: batcher.statistics().completed > before + 100)
            ended_well(pid)
        stop.set()
        for worker in workers:
            assert worker.outcome() > 0
        batcher.close()
        now = batcher.statistics()
        assert now.submitted == now.completed
    """)


@pytest.mark.parametrize("settings", ["", ", max_queue_delay=0.001, default_timeout=60.0"])
def test_children_of_multiprocessing(settings: str) -> None:
    run(f"""
        batcher = Batcher(lambda rows: rows * 2{settings})
        doubles(batcher)
        in_flight = batcher.submit(ROW + 1)

        def work(queue):
            refused(lambda: batcher(ROW))
            with Batcher(lambda rows: rows * 2{settings}) as mine:
                doubles(mine)
                queue.put(float(mine(ROW + 4)[0]))

        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        children = [context.Process(target=work, args=(queue,)) for _ in range(4)]
        for process in children:
            process.start()
        doubles(batcher)
        for process in children:
            process.join(PATIENCE)
            assert process.exitcode == 0
            assert queue.get() == 8.0
        assert in_flight.result(PATIENCE)[0] == 2
        batcher.close()
    """)


def test_a_pool_is_usable_in_both() -> None:
    run("""
        pool = ModelPool([lambda rows: rows * 2, lambda rows: rows * 2])
        batcher = Batcher(pool)
        doubles(batcher)

        def work():
            refused(lambda: batcher(ROW))
            with Batcher(ModelPool([lambda rows: rows * 2])) as mine:
                doubles(mine)

        ended_well(in_child(work))
        doubles(batcher)
        batcher.close()
    """)


def test_a_native_model_stays_with_the_parent() -> None:
    run("""
        import ctypes

        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64,
                          ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p))
        def copy(_, rows, inputs, outputs):
            ctypes.memmove(outputs[0], inputs[0], rows * 24)
            return 0

        spec = TensorSpec((3,), float)
        batcher = Batcher(NativeModel(copy, outputs=spec), inputs=spec)
        assert batcher(ROW + 5)[0] == 5

        def work():
            global batcher
            refused(lambda: batcher(ROW))
            batcher.close()
            del batcher
            gc.collect()
            with Batcher(NativeModel(copy, outputs=spec), inputs=spec) as mine:
                assert mine(ROW + 6)[0] == 6

        ended_well(in_child(work))
        assert batcher(ROW + 7)[0] == 7
        batcher.close()
    """)
