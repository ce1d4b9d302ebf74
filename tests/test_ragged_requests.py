"""Ragged requests through every door: threads, event loops, many at once, and every end."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import weakref
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, Holding, in_thread
from tidegate import (
    Batcher,
    ClosedError,
    DeadlineError,
    ForkedProcessError,
    InputError,
    PerToken,
    QueueFullError,
    TensorSpec,
)

TOKENS = TensorSpec((None,), np.int64)
BOTH = pytest.mark.parametrize("collate", ["pad", "pack"])


def doubled(batch: Any) -> PerToken:
    return PerToken(batch.values * 2)


def rows(count: int) -> list[Any]:
    """Rows of 0 to 6 tokens, no two rows alike if they have any."""
    return [np.arange(10 * number, 10 * number + number * 5 % 7) for number in range(count)]


def check(answers: list[Any], asked: list[Any]) -> None:
    assert len(answers) == len(asked)
    for answer, row in zip(answers, asked, strict=True):
        np.testing.assert_array_equal(answer, 2 * row)


# Doors


@BOTH
def test_k_rows_are_asked_at_once(collate: Any) -> None:
    asked = rows(50)
    with Batcher(doubled, inputs=TOKENS, collate=collate, max_batch_size=8) as batcher:
        check(batcher.submit_many(asked).result(PATIENCE), asked)
        check(batcher.submit_many(iter(asked)).result(PATIENCE), asked)
        check(list(batcher.map(asked)), asked)


@BOTH
def test_k_rows_of_several_arrays_are_asked_at_once(collate: Any) -> None:
    spec = {"ids": TOKENS, "scale": TensorSpec((), np.int64)}

    def model(batch: Any) -> Any:
        ids = batch.values["ids"]
        return {"ids": PerToken(ids), "scale": batch.values["scale"]}

    asked = rows(20)
    with Batcher(model, inputs=spec, collate=collate, max_batch_size=8) as batcher:
        answers = batcher.submit_many({"ids": asked, "scale": range(20)}).result(PATIENCE)
        assert [answer["scale"] for answer in answers] == list(range(20))
        check([2 * answer["ids"] for answer in answers], asked)
        more = {"ids": asked, "scale": range(20), "more": range(20)}
        for wrong in ({"ids": asked, "scale": range(19)}, {"ids": asked}, more, {}, asked, 5):
            with pytest.raises(InputError):
                batcher.submit_many(wrong)


@BOTH
def test_k_rows_with_something_for_each_row_come_as_one_array(collate: Any) -> None:
    def model(batch: Any) -> Any:
        return np.diff(batch.cu_seqlens) if collate == "pack" else batch.lengths

    asked = rows(20)
    with Batcher(model, inputs=TOKENS, collate=collate, max_batch_size=8) as batcher:
        answer = batcher.submit_many(asked).result(PATIENCE)
        assert isinstance(answer, np.ndarray)
        np.testing.assert_array_equal(answer, [len(row) for row in asked])


@BOTH
def test_one_bad_row_of_many_refuses_all(collate: Any) -> None:
    with Batcher(doubled, inputs=TOKENS, collate=collate) as batcher:
        with pytest.raises(InputError, match="dtype float64"):
            batcher.submit_many([[1, 2], [1.5], [3]])
        with pytest.raises(InputError, match="at least one row"):
            batcher.submit_many([])
        assert batcher.statistics().submitted == 0


@BOTH
@pytest.mark.parametrize("executor", ["thread", "inline"])
def test_event_loops_get_their_own_rows(collate: Any, executor: Any, run: Any) -> None:
    asked = rows(40)

    async def main() -> None:
        async with Batcher(
            doubled, inputs=TOKENS, collate=collate, executor=executor, max_batch_size=8
        ) as batcher:
            check(await asyncio.gather(*[batcher.submit(row) for row in asked]), asked)
            check(await asyncio.gather(*map(batcher.predict_async, asked)), asked)
            check([answer async for answer in batcher.amap(asked)], asked)
            check(await batcher.submit_many(asked), asked)

    run(main())


@BOTH
def test_threads_get_their_own_rows(collate: Any) -> None:
    asked = rows(60)
    with Batcher(doubled, inputs=TOKENS, collate=collate, max_batch_size=8) as batcher:
        work = [in_thread(lambda: [batcher(row) for row in asked]) for _ in range(4)]
        for thread in work:
            check(thread.outcome(), asked)


@BOTH
def test_an_inline_batcher_serves_threads_too(collate: Any) -> None:
    asked = rows(30)
    with Batcher(doubled, inputs=TOKENS, collate=collate, executor="inline") as batcher:
        check([batcher(row) for row in asked], asked)
        check(list(batcher.map(asked)), asked)


# Rows that do not reach the model


@BOTH
@pytest.mark.parametrize("gone", [{0}, {1, 2}, {0, 3, 4}, {5}, {0, 1, 2, 3, 4, 5}])
def test_cancelled_rows_leave_the_others_as_they_were(collate: Any, gone: set[int]) -> None:
    model = Holding(doubled)
    with Batcher(model, inputs=TOKENS, collate=collate, caller_runs=False) as batcher:
        asked = rows(6)
        batcher.submit([1])
        model.await_entry()
        futures = [batcher.submit(row) for row in asked]
        for number in gone:
            assert futures[number].cancel()
        model.gate.set()
        kept = [number for number in range(6) if number not in gone]
        check([futures[number].result(PATIENCE) for number in kept], [asked[n] for n in kept])
    assert batcher.statistics().cancelled == len(gone)
    if collate == "pack" and kept:
        tokens = np.concatenate([asked[number] for number in kept])
        np.testing.assert_array_equal(model.batches[1].values, tokens)


@BOTH
def test_rows_that_waited_too_long_leave_the_others_as_they_were(collate: Any) -> None:
    model = Holding(doubled)
    with Batcher(model, inputs=TOKENS, collate=collate, caller_runs=False) as batcher:
        batcher.submit([1])
        model.await_entry()
        asked = rows(9)
        futures = [
            batcher.submit(row, timeout=0.01 if number % 3 == 0 else None)
            for number, row in enumerate(asked)
        ]
        for late in futures[::3]:
            assert isinstance(late.exception(PATIENCE), DeadlineError)
        model.gate.set()
        kept = [number for number in range(9) if number % 3]
        check([futures[number].result(PATIENCE) for number in kept], [asked[n] for n in kept])


@BOTH
def test_many_rows_are_cancelled_as_one(collate: Any) -> None:
    model = Holding(doubled)
    with Batcher(
        model, inputs=TOKENS, collate=collate, max_batch_size=4, caller_runs=False
    ) as batcher:
        batcher.submit([1])
        model.await_entry()
        many = batcher.submit_many(rows(10))
        other = batcher.submit([3])
        assert many.cancel()
        model.gate.set()
        np.testing.assert_array_equal(other.result(PATIENCE), [6])
    assert batcher.statistics().cancelled == 10


# Ends of life


@BOTH
def test_closing_serves_what_waits(collate: Any) -> None:
    model = Holding(doubled)
    asked = rows(20)
    batcher = Batcher(model, inputs=TOKENS, collate=collate, max_batch_size=4)
    futures = [batcher.submit(row) for row in asked]
    model.gate.set()
    batcher.close()
    check([future.result(0) for future in futures], asked)
    with pytest.raises(ClosedError):
        batcher.submit([1])


@BOTH
def test_closing_at_once_refuses_what_waits(collate: Any) -> None:
    model = Holding(doubled)
    batcher = Batcher(model, inputs=TOKENS, collate=collate, caller_runs=False)
    running = batcher.submit([1, 2])
    model.await_entry()
    waiting = [batcher.submit(row) for row in rows(5)]
    closing = in_thread(lambda: batcher.close(drain=False))
    for future in waiting:
        assert isinstance(future.exception(PATIENCE), ClosedError)
    model.gate.set()
    closing.outcome()
    np.testing.assert_array_equal(running.result(0), [2, 4])


@BOTH
def test_a_dropped_batcher_serves_what_waits_and_goes(collate: Any) -> None:
    model = Holding(doubled)
    batcher = Batcher(model, inputs=TOKENS, collate=collate, max_batch_size=4)
    asked = rows(10)
    futures = [batcher.submit(row) for row in asked]
    watched = weakref.ref(batcher)
    del batcher
    gc.collect()
    assert watched() is None
    model.gate.set()
    check([future.result(PATIENCE) for future in futures], asked)


def test_a_child_of_a_fork_is_refused_and_the_parent_goes_on() -> None:
    code = """
        import os, warnings
        import numpy as np
        from tidegate import Batcher, ForkedProcessError, PerToken, TensorSpec
        warnings.simplefilter("ignore")
        batcher = Batcher(lambda batch: PerToken(batch.values), collate="pack",
                          inputs=TensorSpec((None,), np.int64), group_key=len)
        batcher([1, 2])
        child = os.fork()
        if child == 0:
            refused = 0
            for ask in (batcher.submit, batcher, lambda x: batcher.submit_many([x])):
                try:
                    ask([1])
                except ForkedProcessError:
                    refused += 1
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        print(batcher([1, 2, 3]).tolist())
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.returncode) == ("[1, 2, 3]\n", 0), ran.stderr
    assert issubclass(ForkedProcessError, RuntimeError)


# Room in the queue


@BOTH
def test_a_full_queue_refuses_and_a_patient_caller_waits(collate: Any) -> None:
    model = Holding(doubled)
    with Batcher(
        model,
        inputs=TOKENS,
        collate=collate,
        max_batch_size=2,
        max_queue_size=3,
        overflow="block",
        caller_runs=False,
    ) as batcher:
        batcher.submit([1])
        model.await_entry()
        for row in rows(3):
            batcher.submit(row)
        with pytest.raises(QueueFullError):
            batcher.submit([9])
        with pytest.raises(QueueFullError):
            batcher.submit_many([[9], [9]])
        waiting = in_thread(lambda: batcher([7, 8]))
        model.gate.set()
        np.testing.assert_array_equal(waiting.outcome(), [14, 16])
        assert batcher.statistics().rejected == 3
