"""Answers: each caller gets its own row, whatever the model returns, keeps or writes to later."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, until
from tidegate import Batcher, ModelError, OutputError, TidegateError

Scores = namedtuple("Scores", ["best", "all"])


class Tensor:
    """An array of another library."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.array if dtype is None else self.array.astype(dtype)


class Subclass(np.ndarray):  # type: ignore[type-arg]
    """An array of another type."""


def ask(batcher: Batcher, count: int = 10) -> list[Any]:
    """Answers to the rows 0, 1, 2, ..., submitted one by one."""
    futures = [batcher.submit(ROW + number) for number in range(count)]
    return [future.result(PATIENCE) for future in futures]


# Each its own row


@pytest.mark.parametrize("outputs", ["auto", "view", "copy"])
def test_an_array_gives_each_caller_its_row(outputs: Any) -> None:
    with Batcher(lambda rows: rows * 2, outputs=outputs, max_batch_size=4) as batcher:
        for number, answer in enumerate(ask(batcher)):
            assert type(answer) is np.ndarray
            np.testing.assert_array_equal(answer, 2 * (ROW + number))


def test_an_array_of_one_axis_gives_each_caller_a_number() -> None:
    with Batcher(lambda rows: rows.sum(axis=1)) as batcher:
        answers = ask(batcher)
        assert all(type(answer) is np.float64 for answer in answers)
        assert answers == [3.0 * number for number in range(10)]


def test_a_tuple_gives_each_caller_a_tuple() -> None:
    with Batcher(lambda rows: (rows.max(axis=1), rows + 1)) as batcher:
        for number, answer in enumerate(ask(batcher)):
            assert type(answer) is tuple
            assert answer[0] == number
            np.testing.assert_array_equal(answer[1], ROW + number + 1)


def test_a_named_tuple_gives_each_caller_a_named_tuple() -> None:
    with Batcher(lambda rows: Scores(rows.max(axis=1), rows)) as batcher:
        for number, answer in enumerate(ask(batcher)):
            assert type(answer) is Scores
            assert answer.best == number
            np.testing.assert_array_equal(answer.all, ROW + number)


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_a_mapping_gives_each_caller_a_dictionary(kind: Any) -> None:
    with Batcher(lambda rows: kind({"best": rows.max(axis=1), 7: rows})) as batcher:
        for number, answer in enumerate(ask(batcher)):
            assert type(answer) is dict
            assert list(answer) == ["best", 7]
            assert answer["best"] == number
            np.testing.assert_array_equal(answer[7], ROW + number)


def test_a_list_gives_each_caller_its_item() -> None:
    items = [object() for _ in range(10)]
    with Batcher(lambda rows: [items[int(row[0])] for row in rows]) as batcher:
        assert ask(batcher) == items


def test_a_list_may_hold_the_rows_that_the_model_was_given() -> None:
    with Batcher(lambda rows: list(rows), max_batch_size=3) as batcher:
        answers = ask(batcher, 30)
        for number, answer in enumerate(answers):
            np.testing.assert_array_equal(answer, ROW + number)


@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(Tensor, id="a foreign tensor"),
        pytest.param(lambda rows: rows.view(Subclass), id="a subclass"),
        pytest.param(np.asfortranarray, id="in Fortran's order"),
        pytest.param(lambda rows: np.repeat(rows, 2, axis=1)[:, ::2], id="not contiguous"),
        pytest.param(lambda rows: rows[::-1].copy()[::-1], id="reversed"),
        pytest.param(lambda rows: rows.astype(">f8"), id="big-endian"),
        pytest.param(lambda rows: rows.astype(object), id="objects"),
        pytest.param(lambda rows: rows.astype("U8").astype("f8"), id="from text"),
        pytest.param(lambda rows: np.ma.masked_array(rows), id="masked"),
    ],
)
@pytest.mark.parametrize("outputs", ["view", "copy"])
@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: (y,), lambda y: {"y": y}])
def test_any_kind_of_array_will_do(convert: Any, outputs: Any, wrap: Any) -> None:
    with Batcher(lambda rows: wrap(convert(rows)), outputs=outputs, max_batch_size=4) as batcher:
        for number, answer in enumerate(ask(batcher)):
            if isinstance(answer, tuple):
                (answer,) = answer
            elif isinstance(answer, dict):
                answer = answer["y"]
            assert type(answer) is np.ndarray
            np.testing.assert_array_equal(answer.astype(float), ROW + number)


def test_values_of_any_dtype_come_back_as_scalars() -> None:
    kinds = ["f2", "i1", "u8", "?", "c8", "M8[s]", "m8[ms]", "U3", "S3", ">i4"]
    with Batcher(lambda rows: tuple(rows[:, 0].astype("i1").astype(k) for k in kinds)) as batcher:
        answer = batcher(ROW + 1)
        for kind, value in zip(kinds, answer, strict=True):
            assert value == np.ones(1, "i1").astype(kind)[0]
            assert type(value) is np.dtype(kind).type


def test_records_give_each_caller_its_record() -> None:
    kind = np.dtype([("best", "f8"), ("name", "U4")])

    def model(rows: Any) -> Any:
        records = np.empty(len(rows), kind)
        records["best"], records["name"] = rows.max(axis=1), "row"
        return records

    with Batcher(model) as batcher:
        for number, answer in enumerate(ask(batcher)):
            assert (answer["best"], answer["name"]) == (number, "row")


# Whose memory an answer is


def overwrite(wrap: Callable[[Any], Any], batch: int) -> Callable[[Any], Any]:
    """A model that answers with a buffer of its own, which its next call overwrites."""
    buffer = np.zeros((batch, 3))

    def model(rows: Any) -> Any:
        buffer[: len(rows)] = rows
        return wrap(buffer if len(rows) == batch else buffer[: len(rows)])

    return model


KEPT: list[Any] = []


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda y: y, id="array"),
        pytest.param(lambda y: (y, y[:, 0]), id="tuple"),
        pytest.param(lambda y: {"y": y}, id="mapping"),
        pytest.param(Tensor, id="foreign tensor"),
        pytest.param(lambda y: np.frombuffer(y.data).reshape(y.shape), id="frombuffer"),
        pytest.param(lambda y: y.reshape(-1).reshape(y.shape), id="view of a view"),
        pytest.param(lambda y: y.view(Subclass), id="subclass"),
        pytest.param(np.asarray, id="asarray"),
    ],
)
@pytest.mark.parametrize("outputs", ["auto", "view", "copy"])
def test_a_model_may_overwrite_its_own_buffer_in_the_next_call(wrap: Any, outputs: Any) -> None:
    for batch in (1, 4):
        with Batcher(overwrite(wrap, batch), outputs=outputs, max_batch_size=batch) as batcher:
            for number, answer in enumerate(ask(batcher, 40)):
                row = answer[0] if isinstance(answer, tuple) else answer
                row = row["y"] if isinstance(row, dict) else row
                np.testing.assert_array_equal(row, ROW + number)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda rows: rows, id="itself"),
        pytest.param(lambda rows: rows[:, :2], id="columns"),
        pytest.param(lambda rows: rows.reshape(-1, 3, 1), id="reshaped"),
        pytest.param(lambda rows: rows.reshape(-1).reshape(-1, 3)[:, :], id="a view of a view"),
        pytest.param(lambda rows: (rows, rows[:, :2]), id="twice"),
        pytest.param(lambda rows: [row for row in rows], id="a list of rows"),
        pytest.param(lambda rows: np.multiply(rows, 1, out=rows), id="in place"),
    ],
)
@pytest.mark.parametrize("outputs", ["auto", "view", "copy"])
def test_a_model_may_answer_with_what_it_was_given(view: Any, outputs: Any) -> None:
    with Batcher(view, outputs=outputs, max_batch_size=4) as batcher:
        answers = ask(batcher, 100)
        for number, answer in enumerate(answers):
            part = answer[0] if isinstance(answer, tuple) else answer
            assert np.all(part == number)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda rows: rows, id="input"),
        pytest.param(lambda rows: rows.copy(), id="array"),
        pytest.param(lambda rows: (rows, rows), id="tuple"),
        pytest.param(lambda rows: {"y": rows}, id="mapping"),
        pytest.param(lambda rows: np.broadcast_to(np.zeros(3), rows.shape), id="broadcast"),
        pytest.param(lambda rows: np.broadcast_arrays(np.zeros(3), rows)[0], id="broadcast arrays"),
        pytest.param(
            lambda rows: np.lib.stride_tricks.sliding_window_view(np.zeros(len(rows) + 2), 3),
            id="overlapping windows",
        ),
    ],
)
@pytest.mark.parametrize("outputs", ["auto", "view", "copy"])
def test_a_caller_may_write_to_its_answer_without_harm_to_others(model: Any, outputs: Any) -> None:
    with Batcher(model, outputs=outputs) as batcher:
        futures = [batcher.submit(ROW) for _ in range(8)]
        answers = [future.result(PATIENCE) for future in futures]
        parts = [
            part
            for answer in answers
            for part in (
                answer
                if isinstance(answer, tuple)
                else answer.values()
                if isinstance(answer, dict)
                else [answer]
            )
        ]
        for number, part in enumerate(parts):
            assert part.flags.writeable
            part[:] = number
        for number, part in enumerate(parts):
            np.testing.assert_array_equal(part, [number] * 3)


def test_a_model_may_keep_its_batches() -> None:
    kept = []

    def model(rows: Any) -> Any:
        kept.append(rows)
        return rows.sum(axis=1)

    with Batcher(model, max_batch_size=3) as batcher:
        assert ask(batcher, 50) == [3.0 * number for number in range(50)]
    values = np.concatenate(kept)[:, 0]
    np.testing.assert_array_equal(np.sort(values), np.arange(50))


def test_a_model_may_keep_a_view_of_its_batch_only() -> None:
    kept = []

    def model(rows: Any) -> Any:
        kept.append(memoryview(rows[:1, 0]))
        return rows[:, 0]

    with Batcher(model, max_batch_size=1, caller_runs=False) as batcher:
        assert ask(batcher, 50) == list(range(50))
    assert sorted(view[0] for view in kept) == list(range(50))


def test_a_model_may_keep_its_answers_and_write_to_them_later() -> None:
    kept: list[Any] = []

    def model(rows: Any) -> Any:
        for earlier in kept:
            earlier[:] = -1
        kept.append(rows * 2)
        return kept[-1]

    with Batcher(model, outputs="view", max_batch_size=2) as batcher:
        answers = ask(batcher, 20)
        for number, answer in enumerate(answers):
            np.testing.assert_array_equal(answer, 2 * (ROW + number))


def test_answers_stay_right_when_the_batcher_is_gone() -> None:
    with Batcher(lambda rows: rows, outputs="view", max_batch_size=4) as batcher:
        answers = ask(batcher, 50)
    del batcher
    for number, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, ROW + number)


def test_unread_answers_stay_right_over_many_batches(model: Gated, batcher: Batcher) -> None:
    model.gate.set()
    futures = [batcher.submit(ROW + number) for number in range(500)]
    until(lambda: futures[-1].done())
    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + number))


def batch_of(outputs: Literal["auto", "view", "copy"], rows: int, width: int) -> list[Any]:
    """Answers to `rows` requests that ran in one batch."""
    gated = Gated()
    with Batcher(
        lambda x: np.zeros((len(gated(x)), width)), outputs=outputs, caller_runs=False
    ) as batcher:
        batcher.submit(ROW)
        gated.await_entry()
        futures = [batcher.submit(ROW) for _ in range(rows)]
        gated.gate.set()
        answers = [future.result(PATIENCE) for future in futures]
    assert [len(batch) for batch in gated.batches] == [1, rows]
    return answers


def test_views_share_the_memory_of_their_batch() -> None:
    answers = batch_of("view", 3, 5000)
    bases = {id(answer.base) for answer in answers}
    assert len(bases) == 1
    assert answers[0].base is not None
    assert not np.shares_memory(answers[0], answers[1])


def test_copies_have_memory_of_their_own() -> None:
    for width in (1, 5000):
        assert all(answer.flags.owndata for answer in batch_of("copy", 3, width))


def test_automatically_small_batches_give_views_and_large_ones_copies() -> None:
    # 64 KiB of outputs is the border.
    assert all(answer.base is not None for answer in batch_of("auto", 4, 2048))
    assert all(answer.flags.owndata for answer in batch_of("auto", 5, 2048))


# Answers that are none


@pytest.mark.parametrize(
    ("answer", "came"),
    [
        pytest.param(lambda rows: rows[:-1], "got 1", id="a row too few"),
        pytest.param(lambda rows: np.concatenate([rows, rows]), "got 4", id="too many rows"),
        pytest.param(lambda rows: rows[:0], "got 0", id="no rows"),
        pytest.param(lambda rows: rows.T, "got 3 ", id="transposed"),
        pytest.param(lambda rows: np.float64(1), "got a scalar", id="a NumPy scalar"),
        pytest.param(lambda rows: np.array(1.0), "got a scalar", id="an array of no axes"),
        pytest.param(lambda rows: 1.0, "float", id="a number"),
        pytest.param(lambda rows: None, "NoneType", id="None"),
        pytest.param(lambda rows: "ab", "str", id="text"),
        pytest.param(lambda rows: iter(rows), "array_iterator|iterator", id="an iterator"),
        pytest.param(lambda rows: {1, 2}, "set", id="a set"),
        pytest.param(lambda rows: object(), "object", id="an object"),
        pytest.param(lambda rows: [1], "list of 2 objects from the model, got 1", id="short list"),
        pytest.param(lambda rows: [1] * 3, "list of 2 objects from the model, got 3", id="long"),
        pytest.param(lambda rows: [], "got 0", id="an empty list"),
        pytest.param(lambda rows: (rows, rows[:1]), "got 1", id="a short part of a tuple"),
        pytest.param(lambda rows: (rows, None), "NoneType", id="no part of a tuple"),
        pytest.param(lambda rows: (rows, [1, 2]), "list", id="a list in a tuple"),
        pytest.param(lambda rows: {"y": rows, "z": rows[:1]}, "got 1", id="a short value"),
        pytest.param(lambda rows: {"y": 1}, "int", id="no value"),
        pytest.param(lambda rows: (), "an empty tuple", id="an empty tuple"),
        pytest.param(lambda rows: {}, "an empty mapping", id="an empty mapping"),
    ],
)
def test_an_answer_without_a_row_for_each_is_an_error_for_all(answer: Any, came: str) -> None:
    gated = Gated()
    good = False

    def model(rows: Any) -> Any:
        gated(rows)
        return rows if good or len(rows) == 1 else answer(rows)

    with Batcher(model, caller_runs=False) as batcher:
        batcher.submit(ROW)
        gated.await_entry()
        futures = [batcher.submit(ROW), batcher.submit(ROW)]
        gated.gate.set()
        for future in futures:
            error = future.exception(PATIENCE)
            assert type(error) is OutputError
            assert isinstance(error, ModelError)
            assert isinstance(error, TidegateError)
            assert any(word in str(error) for word in came.split("|"))
            assert "2" in str(error)
        good = True
        np.testing.assert_array_equal(batcher(ROW + 1), ROW + 1)
        now = batcher.statistics()
        assert (now.completed, now.failed) == (2, 2)


def test_an_output_error_says_how_many_rows_were_expected_and_came() -> None:
    with Batcher(lambda rows: rows[:0]) as batcher, pytest.raises(OutputError) as caught:
        batcher(ROW)
    assert (caught.value.expected, caught.value.given) == (1, 0)
    with Batcher(lambda rows: []) as batcher, pytest.raises(OutputError) as caught:
        batcher(ROW)
    assert (caught.value.expected, caught.value.given) == (1, 0)


# Models that raise


def test_an_exception_in_a_list_fails_its_own_request_only() -> None:
    class OfItsOwn(Exception):
        """Not one of ours."""

    errors = {2: ValueError("two"), 5: OfItsOwn("five")}
    with Batcher(
        lambda items: [errors.get(item, item) for item in items], collate="list"
    ) as batcher:
        futures = [batcher.submit(item) for item in range(8)]
        for item, future in enumerate(futures):
            if item in errors:
                assert future.exception(PATIENCE) is errors[item]
                with pytest.raises(type(errors[item])):
                    future.result()
            else:
                assert future.result(PATIENCE) == item
        now = batcher.statistics()
        assert (now.completed, now.failed) == (6, 2)


def test_an_exception_in_a_list_fails_its_own_request_in_a_loop_too(
    run: Callable[[Any], Any],
) -> None:
    async def main() -> list[Any]:
        async with Batcher(
            lambda items: [ValueError(item) if item % 2 else item for item in items],
            collate="list",
        ) as batcher:
            asked = [batcher.submit(item) for item in range(6)]
            return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(main())
    assert answers[::2] == [0, 2, 4]
    assert [str(error) for error in answers[1::2]] == ["1", "3", "5"]


@pytest.mark.parametrize("caller_runs", [True, False])
def test_a_model_that_raises_fails_its_batch_only(caller_runs: bool) -> None:
    def model(rows: Any) -> Any:
        if rows[0, 0] < 0:
            raise LookupError("below zero")
        return rows

    with Batcher(model, name="embed", caller_runs=caller_runs, max_batch_size=1) as batcher:
        for _ in range(3):
            with pytest.raises(ModelError, match=r"'embed' raised LookupError: below zero") as seen:
                batcher(ROW - 1)
            assert type(seen.value) is ModelError
            assert type(seen.value.__cause__) is LookupError
            np.testing.assert_array_equal(batcher(ROW + 1), ROW + 1)
        now = batcher.statistics()
        assert (now.completed, now.failed, now.batches) == (3, 3, 6)


def test_each_caller_gets_an_exception_of_its_own(model: Gated) -> None:
    def fail(rows: Any) -> Any:
        model(rows)
        raise LookupError("no such row")

    with Batcher(fail, caller_runs=False) as batcher:
        batcher.submit(ROW)
        model.await_entry()
        futures = [batcher.submit(ROW) for _ in range(5)]
        model.gate.set()
        errors = [future.exception(PATIENCE) for future in futures]
        assert len({id(error) for error in errors}) == 5
        assert len({id(error.__cause__) for error in errors if error is not None}) == 1
        assert futures[0].exception() is errors[0]
        assert batcher.statistics().failed == 6


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exit_out_of_the_model_fails_its_batch_and_the_executor_goes_on(kind: Any) -> None:
    def model(rows: Any) -> Any:
        if rows[0, 0] < 0:
            raise kind
        return rows

    with Batcher(model, caller_runs=False, max_batch_size=1) as batcher:
        with pytest.raises(ModelError) as seen:
            batcher(ROW - 1)
        assert type(seen.value.__cause__) is kind
        np.testing.assert_array_equal(batcher(ROW), ROW)


def test_ctrl_c_in_a_model_that_the_caller_runs_reaches_the_caller() -> None:
    leaders = []

    def model(rows: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            leaders.append(rows[0, 0])
            raise KeyboardInterrupt
        return rows

    def interrupted() -> bool:
        try:
            batcher(ROW)
        except KeyboardInterrupt:
            return True
        return False

    with Batcher(model) as batcher:
        until(interrupted)
        assert leaders
        np.testing.assert_array_equal(batcher.submit(ROW).result(PATIENCE), ROW)


def test_an_error_that_cannot_be_shown_is_still_an_error() -> None:
    class Unspeakable(Exception):
        """Has no text."""

        def __str__(self) -> str:
            raise RuntimeError("no text")

    def model(rows: Any) -> Any:
        raise Unspeakable

    with Batcher(model, caller_runs=False) as batcher:
        error = batcher.submit(ROW).exception(PATIENCE)
        assert type(error) is ModelError
        assert type(error.__cause__) is Unspeakable
        with pytest.raises(ModelError):
            batcher(ROW)
