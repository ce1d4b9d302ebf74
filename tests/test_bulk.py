"""Many rows at once: submit_many()."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gated import PATIENCE, ROW, Gated, in_thread
from tests.helpers import identity, occupy, rows_of
from tidegate import (
    Batcher,
    ClosedError,
    DeadlineError,
    Future,
    InputError,
    ModelError,
    OutputError,
    TensorSpec,
)

Point = namedtuple("Point", ["x", "y"])


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 16, 17, 100])
@pytest.mark.parametrize("outputs", ["view", "copy"])
def test_many_rows_have_one_future_and_one_answer(count: int, outputs: Any) -> None:
    with Batcher(lambda rows: rows * 2, max_batch_size=8, outputs=outputs) as batcher:
        future = batcher.submit_many(rows_of(count))
        assert isinstance(future, Future)
        answer = future.result(PATIENCE)
        assert type(answer) is np.ndarray
        np.testing.assert_array_equal(answer, 2 * rows_of(count))
        assert future.result() is answer
        now = batcher.statistics()
        assert (now.submitted, now.completed) == (count, count)
        assert now.batch_size.count >= -(-count // 8)


def test_many_rows_are_split_over_batches_and_share_them_with_others(model: Gated) -> None:
    with Batcher(model, max_batch_size=4, caller_runs=False) as batcher:
        occupy(batcher, model)
        before = batcher.submit(ROW + 100)
        many = batcher.submit_many(rows_of(9))
        after = batcher.submit(ROW + 200)
        model.gate.set()
        np.testing.assert_array_equal(many.result(PATIENCE), 2 * rows_of(9))
        np.testing.assert_array_equal(before.result(PATIENCE), 2 * (ROW + 100))
        np.testing.assert_array_equal(after.result(PATIENCE), 2 * (ROW + 200))
    assert [list(batch[:, 0]) for batch in model.batches] == [
        [0],
        [100, 0, 1, 2],
        [3, 4, 5, 6],
        [7, 8, 200],
    ]


def test_rows_that_may_not_be_split_share_a_batch(model: Gated) -> None:
    with Batcher(model, max_batch_size=4, split_oversize=False, caller_runs=False) as batcher:
        occupy(batcher, model)
        futures = [batcher.submit_many(rows_of(3, 10 * number)) for number in range(3)]
        with pytest.raises(InputError, match="at most max_batch_size=4 rows, got 5"):
            batcher.submit_many(rows_of(5))
        model.gate.set()
        for number, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(PATIENCE), 2 * rows_of(3, 10 * number))
    assert [len(batch) for batch in model.batches] == [1, 3, 3, 3]


@pytest.mark.parametrize(
    "many",
    [
        rows_of(3).tolist(),
        tuple(rows_of(3)),
        list(rows_of(3)),
        rows_of(3).astype("f4"),
        rows_of(3).astype(">f8"),
        np.asfortranarray(rows_of(3)),
        rows_of(6)[::2] / 2,
    ],
    ids=["lists", "a tuple", "a list of arrays", "f4", "big-endian", "Fortran", "strided"],
)
def test_many_rows_are_converted_as_one_is(many: Any) -> None:
    with Batcher(lambda rows: rows * 2, inputs=TensorSpec((3,), "f8")) as batcher:
        np.testing.assert_array_equal(batcher.submit_many(many).result(PATIENCE), 2 * rows_of(3))


@pytest.mark.parametrize(
    ("many", "came"),
    [
        (rows_of(3)[:, :2], "(3, 2)"),
        (ROW, "(3,)"),
        (rows_of(3)[None], "(1, 3, 3)"),
        (rows_of(3) * 1j, "complex128"),
        (rows_of(0), "0 rows"),
        ([], "(0,)"),
        ([[1, 2, 3], [4, 5]], "list"),
        (None, "NoneType"),
        (5, "int64 array of shape ()"),
        ("text", "str"),
        (iter(rows_of(3)), "array_iterator|iterator"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("given", [True, False], ids=["given", "inferred"])
def test_many_rows_that_do_not_fit_are_refused_as_one_is(many: Any, came: str, given: bool) -> None:
    with Batcher(lambda rows: rows, inputs=TensorSpec((3,), "f8") if given else None) as batcher:
        if not given:
            batcher(ROW)
        with pytest.raises(InputError) as caught:
            batcher.submit_many(many)
        assert any(word in f"{caught.value} {caught.value.given}" for word in came.split("|"))
        assert batcher.statistics().submitted == (0 if given else 1)


@pytest.mark.parametrize(
    "many", [5, None, iter([ROW]), (), {}, [], ([], []), {"a": []}, ("a", "b")]
)
def test_many_rows_that_come_first_and_are_none_are_refused(many: Any) -> None:
    with Batcher(lambda rows: rows) as batcher:
        with pytest.raises(InputError):
            batcher.submit_many(many)
        np.testing.assert_array_equal(batcher(ROW), ROW)


def test_many_rows_that_are_refused_do_not_say_what_requests_look_like() -> None:
    with Batcher(identity) as batcher:
        with pytest.raises(InputError, match="inhomogeneous"):
            batcher.submit_many([[1, 2], [3]])
        assert batcher.inputs is None
        np.testing.assert_array_equal(batcher(ROW), ROW)


def test_many_rows_may_say_what_requests_look_like() -> None:
    with Batcher(lambda rows: rows) as batcher:
        np.testing.assert_array_equal(batcher.submit_many(rows_of(3)).result(PATIENCE), rows_of(3))
        with pytest.raises(InputError):
            batcher(np.zeros(4))
    with Batcher(lambda rows: rows["a"] + rows["b"]) as batcher:
        many = {"a": np.arange(3.0), "b": np.arange(3.0)}
        assert list(batcher.submit_many(many).result(PATIENCE)) == [0, 2, 4]
    with Batcher(lambda rows: rows.x + rows.y) as batcher:
        points = Point(np.arange(3.0), np.arange(3.0))
        assert list(batcher.submit_many(points).result(PATIENCE)) == [0, 2, 4]


def test_answers_to_many_rows_are_structured_as_those_of_the_model() -> None:
    models: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
        (lambda rows: (rows, rows.sum(axis=1)), lambda y: (type(y), y[0].shape, list(y[1]))),
        (lambda rows: Point(rows, rows.sum(axis=1)), lambda y: (type(y), y.x.shape, list(y.y))),
        (
            lambda rows: {"y": rows, "z": rows.sum(axis=1)},
            lambda y: (type(y), y["y"].shape, list(y["z"])),
        ),
    ]
    for (model, look), kind in zip(models, (tuple, Point, dict), strict=True):
        with Batcher(model, max_batch_size=4) as batcher:
            answer = batcher.submit_many(rows_of(10)).result(PATIENCE)
            assert look(answer) == (kind, (10, 3), [3.0 * number for number in range(10)])
    with Batcher(lambda rows: [str(row[0]) for row in rows], max_batch_size=4) as batcher:
        answer = batcher.submit_many(rows_of(10)).result(PATIENCE)
        assert answer == [str(float(number)) for number in range(10)]


def test_arrays_of_many_rows_must_be_equally_long() -> None:
    with Batcher(lambda rows: rows[0]) as batcher:
        batcher((1.0, 2.0))
        with pytest.raises(InputError, match=r"same number of rows in each array, got \[3, 2\]"):
            batcher.submit_many((np.zeros(3), np.zeros(2)))


def test_many_objects_may_come_from_any_iterable() -> None:
    with Batcher(lambda items: [item * 2 for item in items], collate="list") as batcher:
        assert batcher.submit_many(range(100)).result(PATIENCE) == list(range(0, 200, 2))
        assert batcher.submit_many(c for c in "ab").result(PATIENCE) == ["aa", "bb"]
        with pytest.raises(InputError, match="at least one row"):
            batcher.submit_many([])
        with pytest.raises(InputError, match="int"):
            batcher.submit_many(5)


def test_a_caller_may_write_to_the_answer_of_many_rows() -> None:
    with Batcher(lambda rows: rows, outputs="view") as batcher:
        first, second = batcher.submit_many(rows_of(3)), batcher.submit_many(rows_of(3))
        first.result(PATIENCE)[:] = -1
        np.testing.assert_array_equal(second.result(PATIENCE), rows_of(3))


@pytest.mark.parametrize("kind", ["array", "tuple", "mapping"])
def test_answers_of_batches_that_differ_come_as_a_list(kind: str) -> None:
    def model(rows: Any) -> Any:
        wide = np.repeat(rows, len(rows), axis=1)
        if kind == "array":
            return wide
        return (rows, wide) if kind == "tuple" else {"rows": rows, "wide": wide}

    with Batcher(model, max_batch_size=3, caller_runs=False, max_queue_delay=0.05) as batcher:
        answer = batcher.submit_many(rows_of(4)).result(PATIENCE)
        assert isinstance(answer, list)
        for number, (row, each) in enumerate(zip(rows_of(4), answer, strict=True)):
            wide = np.repeat(row, 3 if number < 3 else 1)
            if kind == "array":
                np.testing.assert_array_equal(each, wide)
                continue
            parts = each if kind == "tuple" else (each["rows"], each["wide"])
            np.testing.assert_array_equal(parts[0], row)
            np.testing.assert_array_equal(parts[1], wide)


def test_many_rows_fail_with_the_first_error_of_any() -> None:
    def model(items: list[int]) -> list[Any]:
        return [ValueError(item) if item in (13, 17) else item for item in items]

    with Batcher(model, collate="list", max_batch_size=5) as batcher:
        future = batcher.submit_many(range(20))
        error = future.exception(PATIENCE)
        assert type(error) is ValueError
        assert error.args == (13,)
        with pytest.raises(ValueError, match="13"):
            future.result()


@pytest.mark.parametrize("kind", [ModelError, OutputError])
def test_many_rows_fail_with_the_batch_of_any(kind: Any) -> None:
    def model(rows: Any) -> Any:
        if 13 in rows:
            if kind is OutputError:
                return rows[:-1]
            raise LookupError("thirteen")
        return rows

    with Batcher(model, max_batch_size=5) as batcher:
        assert type(batcher.submit_many(rows_of(20)).exception(PATIENCE)) is kind
        np.testing.assert_array_equal(batcher.submit_many(rows_of(7)).result(PATIENCE), rows_of(7))


def test_many_rows_wait_no_longer_than_their_timeout(model: Gated) -> None:
    with Batcher(model, max_batch_size=4, caller_runs=False) as batcher:
        occupy(batcher, model)
        future = batcher.submit_many(rows_of(10), timeout=0.01)
        assert type(future.exception(PATIENCE)) is DeadlineError
        model.gate.set()
        np.testing.assert_array_equal(batcher(ROW), ROW)
        assert batcher.statistics().expired == 10
    assert model.rows_seen == 2


def test_many_rows_are_cancelled_all_together(model: Gated) -> None:
    with Batcher(model, max_batch_size=4, caller_runs=False) as batcher:
        occupy(batcher, model)
        many = batcher.submit_many(rows_of(10))
        neighbour = batcher.submit(ROW + 7)
        assert not many.done()
        assert many.cancel()
        assert many.cancelled()
        assert many.done()
        with pytest.raises(concurrent.futures.CancelledError):
            many.result()
        model.gate.set()
        np.testing.assert_array_equal(neighbour.result(PATIENCE), 2 * (ROW + 7))
        assert batcher.statistics().cancelled == 10
    assert model.rows_seen == 2


def test_objects_that_are_let_go_of_may_cancel_what_they_were_part_of(
    model: Gated, run: Callable[[Any], Any]
) -> None:
    class Owner:
        def __del__(self) -> None:
            told.append(future.cancel())

    told: list[bool] = []

    async def main() -> Any:
        many = batcher.submit_many(Owner() for _ in range(5))
        many.get_loop()
        return many

    with Batcher(model, collate="list", max_batch_size=2, caller_runs=False) as batcher:
        occupied = batcher.submit(ROW)
        model.await_entry()
        future = run(main())
        assert future.cancel()
        assert future.cancelled()
        assert len(told) == 5
        assert batcher.statistics().cancelled == 5
        model.gate.set()
        with contextlib.suppress(ModelError):  # a list times 2
            occupied.result(PATIENCE)


def test_many_rows_of_which_the_model_has_some_cannot_be_cancelled(model: Gated) -> None:
    with Batcher(model, max_batch_size=4, caller_runs=False) as batcher:
        many = batcher.submit_many(rows_of(10))
        model.await_entry()
        assert many.running()
        assert not many.cancel()
        assert not many.cancelled()
        model.gate.set()
        np.testing.assert_array_equal(many.result(PATIENCE), 2 * rows_of(10))


def test_many_rows_keep_the_promises_of_futures(model: Gated) -> None:
    wait: Any = concurrent.futures.wait
    called = threading.Event()
    with Batcher(model, max_batch_size=4, caller_runs=False) as batcher:
        many = batcher.submit_many(rows_of(10))
        many.add_done_callback(lambda _: called.set())
        with pytest.raises(TimeoutError):
            many.result(0)
        waiting = [in_thread(many.result), in_thread(lambda: wait([many], timeout=PATIENCE))]
        assert not called.is_set()
        model.gate.set()
        np.testing.assert_array_equal(waiting[0].outcome(), 2 * rows_of(10))
        assert waiting[1].outcome()[0] == {many}
        assert called.wait(PATIENCE)


def test_closing_refuses_many_rows_as_it_does_one(model: Gated) -> None:
    batcher = Batcher(model, max_batch_size=4, caller_runs=False)
    occupy(batcher, model)
    many = batcher.submit_many(rows_of(10))
    batcher.close(drain=False, timeout=0)
    assert type(many.exception(PATIENCE)) is ClosedError


@pytest.mark.parametrize("executor", ["thread", "inline"])
def test_many_rows_can_be_awaited(run: Callable[[Any], Any], executor: Any) -> None:
    async def main() -> None:
        async with Batcher(lambda rows: rows * 2, max_batch_size=4, executor=executor) as batcher:
            futures = [batcher.submit_many(rows_of(10, 100 * number)) for number in range(5)]
            single = batcher.submit(ROW)
            for number, answer in enumerate(await asyncio.gather(*futures)):
                np.testing.assert_array_equal(answer, 2 * rows_of(10, 100 * number))
            np.testing.assert_array_equal(await single, 2 * ROW)

    run(main())


def test_awaited_rows_of_many_batches_can_be_cancelled(
    run: Callable[[Any], Any], model: Gated
) -> None:
    async def main() -> None:
        batcher = Batcher(model, max_batch_size=4, caller_runs=False)
        many = batcher.submit_many(rows_of(10))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(many, 0.01)
        assert many.cancelled()
        model.gate.set()
        np.testing.assert_array_equal(await batcher.submit_many(rows_of(9)), 2 * rows_of(9))
        await batcher.aclose()

    run(main())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 25), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 10),
)
def test_rows_find_their_way_back_however_they_are_cut_and_cancelled(
    requests: list[tuple[int, bool]], size: int
) -> None:
    gated = Gated()
    with Batcher(gated, max_batch_size=size, caller_runs=False) as batcher:
        batcher.submit(ROW)
        gated.await_entry()
        futures = [
            batcher.submit_many(rows_of(count, 100 * number))
            for number, (count, _) in enumerate(requests)
        ]
        for future, (_, cancelled) in zip(futures, requests, strict=True):
            assert not cancelled or future.cancel()
        gated.gate.set()
        for number, (future, (count, cancelled)) in enumerate(zip(futures, requests, strict=True)):
            if cancelled:
                assert future.cancelled()
            else:
                np.testing.assert_array_equal(
                    future.result(PATIENCE), 2 * rows_of(count, 100 * number)
                )
    assert gated.rows_seen == 1 + sum(count for count, cancelled in requests if not cancelled)
