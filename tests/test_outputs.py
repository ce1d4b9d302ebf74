"""Answers: each caller gets its own row, of whatever the model returns."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated
from tests.helpers import Subclass, Tensor
from tidegate import Batcher, ModelError, OutputError, TidegateError

Scores = namedtuple("Scores", ["best", "all"])


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
