"""Answers to ragged batches: those that do not fit, and whose memory they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, Holding
from tests.helpers import Tensor
from tidegate import Batcher, ModelError, OutputError, PerToken, TensorSpec

TOKENS = TensorSpec((None,), np.int64)
FIRST, ROWS = [0], [[1, 2, 3], [4], [], [5, 6]]


def asked_together(model: Any, **settings: Any) -> list[Any]:
    """What each of ROWS is answered in one batch: an answer, or an exception."""
    holding = Holding(model)
    with Batcher(holding, inputs=TOKENS, caller_runs=False, **settings) as batcher:
        _, *futures = holding.ask_together(batcher, [FIRST, *ROWS])
        return [future.exception(PATIENCE) or future.result(0) for future in futures]


def fails_for_all(answers: list[Any], kind: type, message: str) -> None:
    for answer in answers:
        assert type(answer) is kind
        assert message in str(answer)
    assert len({id(answer) for answer in answers}) == len(answers), "each has one of its own"


# What does not fit


@pytest.mark.parametrize("collate", ["pad", "pack"])
def test_a_model_that_raises_fails_its_batch_and_no_other(collate: Any) -> None:
    def model(batch: Any) -> Any:
        if len(batch.values) > 1:
            raise ValueError("no")
        return PerToken(batch.values)

    answers = asked_together(model, collate=collate)
    fails_for_all(answers, ModelError, "ValueError: no")
    with Batcher(model, inputs=TOKENS, collate=collate) as batcher:
        with pytest.raises(ModelError):
            batcher.submit_many(ROWS).result(PATIENCE)
        np.testing.assert_array_equal(batcher([7]), [7])


@pytest.mark.parametrize(
    ("collate", "answer", "message"),
    [
        pytest.param("pad", lambda b: b.values[1:], "from the model, got 3", id="a"),
        pytest.param("pack", lambda b: b.values, "expected 4 rows from the model, got 6", id="b"),
        pytest.param("pad", lambda b: PerToken(b.values[:, 1:]), "shape (4, 3, ...)", id="c"),
        pytest.param("pad", lambda b: PerToken(b.values[1:]), "shape (4, 3, ...)", id="d"),
        pytest.param("pad", lambda b: PerToken(b.lengths), "shape (4, 3, ...)", id="e"),
        pytest.param("pack", lambda b: PerToken(b.values[1:]), "shape (6, ...)", id="f"),
        pytest.param("pack", lambda b: PerToken(5), "shape (6, ...)", id="g"),
        pytest.param("pad", lambda b: PerToken(None), "shape (4, 3, ...)", id="h"),
        pytest.param("pad", lambda b: None, "must return arrays", id="i"),
        pytest.param("pack", lambda b: (), "got an empty tuple", id="j"),
        pytest.param("pad", lambda b: (b.lengths, PerToken(b.lengths)), "(4, 3, ...)", id="k"),
        pytest.param("pack", lambda b: [1, 2], "a list of 4 objects", id="l"),
    ],
)
def test_an_answer_that_does_not_fit_says_how(collate: Any, answer: Any, message: str) -> None:
    fails_for_all(
        asked_together(
            lambda b: b.values[:1] if len(b.values) == 1 else answer(b), collate=collate
        ),
        OutputError,
        message,
    )


def test_per_token_needs_ragged_rows() -> None:
    for settings in ({}, {"allowed_batch_sizes": [2, 4], "max_batch_size": 4}):
        with (
            Batcher(PerToken, **settings) as batcher,  # type: ignore[arg-type]
            pytest.raises(OutputError, match="PerToken"),
        ):
            batcher(np.zeros(3))


def test_an_exception_in_a_list_fails_its_own_row() -> None:
    def model(batch: Any) -> Any:
        return [ValueError("four") if 4 in row else int(row.sum()) for row in batch.values]

    first, second, *others = asked_together(model, collate="pad")
    assert first == 6
    assert isinstance(second, ValueError)
    assert others == [0, 11]


@pytest.mark.parametrize(
    "wrap", [lambda x: x, Tensor, list, lambda x: x.astype("f4")[..., None] * np.ones(2, "f4")]
)
@pytest.mark.parametrize("collate", ["pad", "pack"])
def test_per_token_takes_whatever_is_an_array(collate: Any, wrap: Any) -> None:
    answers = asked_together(lambda batch: PerToken(wrap(batch.values)), collate=collate)
    for answer, row in zip(answers, ROWS, strict=True):
        assert len(answer) == len(row)
        if row:
            assert np.asarray(answer).reshape(len(row), -1)[:, 0].tolist() == row


# Whose memory it is


def walk(batcher: Batcher, count: int = 60) -> list[tuple[Any, Any]]:
    """Rows and their answers, submitted one by one."""
    asked = [np.arange(number, number + number % 5) for number in range(count)]
    futures = [batcher.submit(row) for row in asked]
    return [(row, future.result(PATIENCE)) for row, future in zip(asked, futures, strict=True)]


@pytest.mark.parametrize("outputs", ["auto", "view", "copy"])
@pytest.mark.parametrize("collate", ["pad", "pack"])
def test_a_model_may_answer_with_what_it_was_given(collate: Any, outputs: Any) -> None:
    with Batcher(
        lambda batch: PerToken(batch.values),
        inputs=TOKENS,
        collate=collate,
        outputs=outputs,
        max_batch_size=4,
    ) as batcher:
        pairs = walk(batcher)
    for row, answer in pairs:
        np.testing.assert_array_equal(answer, row)
        answer[:] = -1  # one's own
    for row, answer in pairs:
        assert answer.tolist() == [-1] * len(row)


@pytest.mark.parametrize("outputs", ["auto", "view", "copy"])
@pytest.mark.parametrize("collate", ["pad", "pack"])
def test_a_model_may_keep_its_batches_and_its_answers(collate: Any, outputs: Any) -> None:
    kept: list[tuple[Any, Any]] = []
    given: list[Any] = []

    def model(batch: Any) -> Any:
        given.append((batch, batch.values.copy()))
        doubled = batch.values * 2
        sums = np.zeros(len(batch[1]) - (collate == "pack"))
        for tokens, rows in kept:
            tokens[:], rows[:] = -1, -1
        kept.append((doubled, sums))
        return PerToken(doubled), sums

    with Batcher(
        model, inputs=TOKENS, collate=collate, outputs=outputs, max_batch_size=3
    ) as batcher:
        pairs = walk(batcher)
    for row, (tokens, of_row) in pairs:
        np.testing.assert_array_equal(tokens, 2 * row)
        assert of_row == 0
    for batch, then in given:
        np.testing.assert_array_equal(batch.values, then)


def test_a_model_may_keep_a_view_of_packed_tokens_only() -> None:
    kept = []

    def model(batch: Any) -> Any:
        kept.append((memoryview(batch.values[:1]), batch.values[:1].tolist()))
        return np.diff(batch.cu_seqlens)

    with Batcher(model, inputs=TOKENS, collate="pack", max_batch_size=2) as batcher:
        for row, length in walk(batcher):
            assert length == len(row)
    for view, then in kept:
        assert view.tolist() == then


def test_what_a_model_raised_may_be_kept_with_its_batch() -> None:
    errors = []

    def model(batch: Any) -> Any:
        if batch.values[:1].tolist() == [1]:
            raise ValueError(batch.values)
        return PerToken(batch.values)

    with Batcher(model, inputs=TOKENS, collate="pack", max_batch_size=1) as batcher:
        for number in range(20):
            future = batcher.submit([number % 2, number])
            if number % 2:
                errors.append((future.exception(PATIENCE), number))
            else:
                np.testing.assert_array_equal(future.result(PATIENCE), [0, number])
    for error, number in errors:
        assert isinstance(error, ModelError)
        assert isinstance(error.__cause__, ValueError)
        assert error.__cause__.args[0].tolist() == [1, number]


def test_answers_stay_right_when_the_batcher_is_gone() -> None:
    with Batcher(
        lambda batch: PerToken(batch.values), inputs=TOKENS, collate="pack", outputs="view"
    ) as batcher:
        pairs = walk(batcher)
    del batcher
    for row, answer in pairs:
        np.testing.assert_array_equal(answer, row)
