"""on_batch_error="bisect": only those rows fail that the model cannot take."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gated import PATIENCE, Holding, until
from tests.helpers import rows_of
from tidegate import (
    Batcher,
    ConfigError,
    InputError,
    ModelError,
    ModelPool,
    OutputError,
    PerToken,
    TensorSpec,
)
from tidegate._chunks import Chunk, halves, split
from tidegate._isolation import isolate, patience

Scores = namedtuple("Scores", ["best", "all"])
SIZES = st.none() | st.sets(st.integers(1, 70), min_size=1, max_size=5).map(sorted)


class Refused(Exception):
    """The model cannot take a row."""


class Picky:
    """Raises for batches with one of some numbers in their first column, and doubles others."""

    def __init__(self, *refused: int, wrap: Callable[[Any], Any] = lambda rows: rows) -> None:
        self.calls: list[list[int]] = []
        self._refused = set(refused)
        self._wrap = wrap

    def __call__(self, rows: Any) -> Any:
        """The model."""
        numbers = [int(number) for number in rows[:, 0]]
        self.calls.append(numbers)
        if bad := self._refused.intersection(numbers):
            raise Refused(min(bad))
        return self._wrap(rows * 2)


def outcomes(batcher: Batcher, model: Holding, rows: Any) -> list[Any]:
    """Answers or errors of rows in one batch, behind a batch of the first of them alone."""
    futures = model.ask_together(batcher, rows)
    return [future.exception(PATIENCE) or future.result() for future in futures]


# Which parts are run


def halving(sizes: Any, policy: Any) -> Callable[[Chunk], list[Chunk]]:
    return lambda chunk: halves(chunk, sizes, policy)


@given(st.data(), SIZES, st.sampled_from(["pad_up", "batch_down", "none"]))
def test_every_row_ends_once_and_only_the_bad_ones_fail(data: Any, sizes: Any, policy: Any) -> None:
    rows = data.draw(st.integers(2, sizes[-1] if sizes and sizes[-1] > 1 else 70))
    bad = data.draw(st.sets(st.integers(0, rows - 1), max_size=rows // 2))
    bad.discard(rows - 1)
    calls = []

    def call(chunk: Chunk) -> list[int]:
        calls.append(chunk)
        assert chunk.last == (chunk.first + chunk.rows == rows)
        assert sizes is None or policy == "none" or chunk.size in sizes
        numbers = list(range(chunk.first, chunk.first + chunk.rows))
        if bad.intersection(numbers):
            raise Refused(numbers)
        return numbers

    chunks = split(rows, sizes, policy)
    cut = halving(sizes, policy)
    failure = Refused("all of them")
    try:
        parts = isolate(call, cut(chunks[0]) if len(chunks) == 1 else chunks, cut, failure)
    except Refused as given_up:
        assert given_up is failure
        assert len(calls) == patience(rows) - 1
        assert all(bad.intersection(range(c.first, c.first + c.rows)) for c in calls)
        return
    assert list(
        itertools.chain.from_iterable(range(c.first, c.first + c.rows) for c, _, _ in parts)
    ) == list(range(rows))
    for chunk, answer, error in parts:
        if error is None:
            assert answer == list(range(chunk.first, chunk.first + chunk.rows))
        else:
            assert chunk.rows == 1
            assert chunk.first in bad
            assert error.args == ([chunk.first],)
    assert sum(error is not None for _, _, error in parts) == len(bad)


@pytest.mark.parametrize("rows", [2, 3, 7, 8, 64, 1000])
def test_one_bad_row_costs_two_calls_for_each_halving(rows: int) -> None:
    data = rows_of(rows)
    for bad in {0, 1, rows // 2, rows - 1}:
        model = Picky(bad)
        isolate(
            lambda chunk, model=model: model(data[chunk.first : chunk.first + chunk.rows]),
            halves(Chunk(0, rows, rows), None, "none"),
            lambda chunk: halves(chunk, None, "none"),
            Refused(),
        )
        assert len(model.calls) <= 2 * np.ceil(np.log2(rows))


def test_a_model_that_takes_nothing_is_called_but_a_few_times() -> None:
    calls = []

    def broken(rows: Any) -> Any:
        calls.append(len(rows))
        raise Refused(len(rows))

    model = Holding(broken)
    with Batcher(model, on_batch_error="bisect", max_batch_size=64, caller_runs=False) as batcher:
        _, *errors = outcomes(batcher, model, rows_of(65))
        statistics = batcher.statistics()
    assert calls == [1, 64, 32, 16, 8, 4, 2, 1, 1, 2, 1, 1, 4, 2, 1]
    assert len(calls) - 1 == patience(64)
    assert {str(error) for error in errors} == {f"the model of {batcher.name!r} raised Refused: 64"}
    assert (statistics.completed, statistics.failed, statistics.batches) == (0, 65, 2)


# What callers get


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda rows: rows, id="array"),
        pytest.param(lambda rows: (rows, rows[:, 0]), id="tuple"),
        pytest.param(lambda rows: Scores(rows[:, 0], rows), id="named tuple"),
        pytest.param(lambda rows: {"y": rows}, id="mapping"),
        pytest.param(list, id="list"),
        pytest.param(lambda rows: [tuple(row) for row in rows], id="objects"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"allowed_batch_sizes": [3, 8]}])
def test_any_kind_of_answer_comes_without_the_bad_rows(wrap: Any, settings: Any) -> None:
    picky = Picky(3, 6, wrap=wrap)
    model = Holding(picky)
    with Batcher(
        model, on_batch_error="bisect", max_batch_size=8, caller_runs=False, **settings
    ) as batcher:
        got = outcomes(batcher, model, rows_of(9))
        statistics = batcher.statistics()
    for number, answer in enumerate(got):
        if number in (3, 6):
            assert type(answer) is ModelError
            assert type(answer.__cause__) is Refused
            assert str(answer.__cause__) == str(number)
            continue
        expected = wrap(rows_of(1, start=number) * 2)
        for part, due in zip(
            answer.values() if isinstance(answer, dict) else answer,
            expected.values() if isinstance(expected, dict) else expected,
            strict=False,
        ):
            np.testing.assert_array_equal(np.ravel(part), np.ravel(due)[: np.size(part)])
        if isinstance(answer, Scores):
            assert answer.best == 2 * number
    assert (statistics.completed, statistics.failed, statistics.batches) == (7, 2, 2)


@pytest.mark.parametrize("collate", ["pad", "pack"])
def test_ragged_rows_are_told_apart_too(collate: Any) -> None:
    def read(batch: Any) -> Any:
        if np.any(batch.values == -1):
            raise Refused
        tokens = PerToken(batch.values * 2)
        lengths = batch.lengths if collate == "pad" else np.diff(batch.cu_seqlens)
        return tokens, lengths

    model = Holding(read)
    rows = [np.arange(number, number + number % 5) for number in range(12)]
    rows[7] = np.array([7, -1])
    with Batcher(
        model,
        inputs=TensorSpec((None,), np.int64),
        collate=collate,
        max_batch_size=16,
        allowed_batch_sizes=[4, 16],
        on_batch_error="bisect",
        caller_runs=False,
    ) as batcher:
        got = outcomes(batcher, model, rows)
    for row, answer in zip(rows, got, strict=True):
        if -1 in row:
            assert type(answer.__cause__) is Refused
        else:
            np.testing.assert_array_equal(answer[0], 2 * row)
            assert answer[1] == len(row)


def test_objects_are_told_apart_too() -> None:
    model = Holding(lambda texts: [str(int(text)) for text in texts])
    with Batcher(model, collate="list", on_batch_error="bisect", caller_runs=False) as batcher:
        got = outcomes(batcher, model, ["0", "01", "two", "03", "four", "5"])
    assert [str(one) for one in got if not isinstance(one, ModelError)] == ["0", "1", "3", "5"]
    assert [type(got[row].__cause__) for row in (2, 4)] == [ValueError, ValueError]


def test_exceptions_in_a_list_stay_those_of_their_rows() -> None:
    def read(texts: list[str]) -> list[Any]:
        if "raise" in texts:
            raise Refused
        return [KeyError(text) if text == "item" else text for text in texts]

    model = Holding(read)
    with Batcher(model, collate="list", on_batch_error="bisect", caller_runs=False) as batcher:
        got = outcomes(batcher, model, ["a", "b", "item", "raise", "c"])
        statistics = batcher.statistics()
    assert got[:2] + got[4:] == ["a", "b", "c"]
    assert type(got[2]) is KeyError
    assert type(got[3]) is ModelError
    assert (statistics.completed, statistics.failed) == (3, 2)


def test_two_rows_that_are_both_bad_fail_with_an_error_each() -> None:
    model = Holding(Picky(1, 2))
    with Batcher(model, on_batch_error="bisect", caller_runs=False) as batcher:
        good, *errors = outcomes(batcher, model, rows_of(3))
    np.testing.assert_array_equal(good, [0, 0, 0])
    assert [str(error.__cause__) for error in errors] == ["1", "2"]
    assert errors[0].__cause__.__context__ is None


def test_cancelled_rows_are_left_out_and_each_answer_goes_to_its_own() -> None:
    model = Holding(Picky(5))
    with Batcher(model, on_batch_error="bisect", caller_runs=False) as batcher:
        futures = [batcher.submit(rows_of(1)[0])]
        model.await_entry()
        futures += [batcher.submit(row) for row in rows_of(9, start=1)]
        assert futures[2].cancel()
        assert futures[7].cancel()
        model.gate.set()
        for number, future in enumerate(futures):
            if number == 5:
                assert type(future.exception(PATIENCE)) is ModelError
            elif number not in (2, 7):
                np.testing.assert_array_equal(future.result(PATIENCE), [2 * number] * 3)


def test_many_rows_at_once_fail_only_with_their_own_rows() -> None:
    model = Holding(Picky(2))
    with Batcher(model, on_batch_error="bisect", caller_runs=False) as batcher:
        first = batcher.submit(rows_of(1)[0])
        model.await_entry()
        bad = batcher.submit_many(rows_of(3, start=1))
        good = batcher.submit_many(rows_of(4, start=4))
        model.gate.set()
        first.result(PATIENCE)
        np.testing.assert_array_equal(good.result(PATIENCE), rows_of(4, start=4) * 2)
        error = bad.exception(PATIENCE)
    assert type(error) is ModelError
    assert str(error.__cause__) == "2"


def test_a_loop_hears_of_it_too(run: Callable[[Any], Any]) -> None:
    async def main() -> list[Any]:
        async with Batcher(Picky(3), on_batch_error="bisect", executor="inline") as batcher:
            futures = [batcher.submit(row) for row in rows_of(8)]
            return [
                await future if number != 3 else future for number, future in enumerate(futures)
            ]

    answers = run(main())
    assert type(answers[3].exception()) is ModelError
    for number in (0, 1, 2, 4, 5, 6, 7):
        np.testing.assert_array_equal(answers[number], [2 * number] * 3)


def test_instances_of_a_pool_isolate() -> None:
    model = Holding(Picky(2))
    with (
        ModelPool(lambda: model) as pool,
        Batcher(pool, on_batch_error="bisect") as batcher,
    ):
        got = outcomes(batcher, model, rows_of(4))
    assert [type(one) is ModelError for one in got] == [False, False, True, False]


def test_the_model_may_answer_each_call_in_the_same_memory() -> None:
    buffer = np.zeros((8, 3))

    def double(rows: Any) -> Any:
        if np.any(rows == 4):
            raise Refused
        np.multiply(rows, 2, out=buffer[: len(rows)])
        return buffer[: len(rows)]

    model = Holding(double)
    with Batcher(model, max_batch_size=8, on_batch_error="bisect", caller_runs=False) as batcher:
        got = outcomes(batcher, model, rows_of(9))
    for number in (1, 2, 3, 5, 6, 7, 8):
        np.testing.assert_array_equal(got[number], [2 * number] * 3)


# What is nobody's fault


def test_an_answer_that_does_not_fit_is_not_the_fault_of_a_row() -> None:
    picky = Picky(1, wrap=lambda rows: rows[:1])
    model = Holding(picky)
    with Batcher(model, on_batch_error="bisect", caller_runs=False) as batcher:
        _, *errors = outcomes(batcher, model, rows_of(6))
    assert {type(error) for error in errors} == {OutputError}
    assert {str(error) for error in errors} == {
        "expected 3 rows from the model, got 1 (an output of shape (1, 3))"
    }


def test_an_exit_out_of_the_model_is_not_tried_again() -> None:
    calls = []

    def leave(rows: Any) -> Any:
        calls.append(len(rows))
        if len(rows) > 1:
            raise SystemExit
        return rows

    model = Holding(leave)
    with Batcher(model, on_batch_error="bisect", caller_runs=False) as batcher:
        _, *errors = outcomes(batcher, model, rows_of(5))
    assert calls == [1, 4]
    assert {type(error.__cause__) for error in errors} == {SystemExit}


def test_what_failed_is_let_go_of_with_its_error() -> None:
    class Heavy(Refused):
        """Can be referred to weakly by what it has."""

        def __init__(self) -> None:
            self.load = np.zeros(1)
            loads.append(weakref.ref(self.load))

    loads: list[Any] = []

    def model(rows: Any) -> Any:
        if len(rows) > 1 or rows[0, 0] == 2:
            raise Heavy
        return rows

    holding = Holding(model)
    gc.collect()
    gc.disable()  # no cycles
    try:
        with Batcher(holding, on_batch_error="bisect", caller_runs=False) as batcher:
            got = outcomes(batcher, holding, rows_of(4))
            assert [type(one) is ModelError for one in got] == [False, False, True, False]
            del got
            holding.batches.clear()
            assert len(loads) == 3
            until(lambda: all(load() is None for load in loads))
    finally:
        gc.enable()


# Settings


@pytest.mark.parametrize("value", ["halves", None, True])
def test_another_word_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"on_batch_error must be one of 'fail', 'bisect'"):
        Batcher(Picky(), on_batch_error=value)


def test_without_it_the_whole_batch_fails() -> None:
    model = Holding(Picky(2))
    with Batcher(model, caller_runs=False) as batcher:
        _, *errors = outcomes(batcher, model, rows_of(4))
    assert {type(error) for error in errors} == {ModelError}


def test_a_row_that_does_not_fit_is_refused_before_it_is_in_a_batch() -> None:
    with Batcher(Picky(), inputs=TensorSpec((3,), np.float64), on_batch_error="bisect") as batcher:
        with pytest.raises(InputError):
            batcher(np.zeros(4))
        np.testing.assert_array_equal(batcher(np.ones(3)), [2, 2, 2])
