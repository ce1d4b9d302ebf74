"""Whose memory an answer is, whatever the model returns, keeps or writes to later."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, until
from tests.helpers import Subclass, Tensor
from tidegate import Batcher

Scores = namedtuple("Scores", ["best", "all"])


def ask(batcher: Batcher, count: int = 10) -> list[Any]:
    """Answers to the rows 0, 1, 2, ..., submitted one by one."""
    futures = [batcher.submit(ROW + number) for number in range(count)]
    return [future.result(PATIENCE) for future in futures]


def overwrite(wrap: Callable[[Any], Any], batch: int) -> Callable[[Any], Any]:
    """A model that answers with a buffer of its own, which its next call overwrites."""
    buffer = np.zeros((batch, 3))

    def model(rows: Any) -> Any:
        buffer[: len(rows)] = rows
        return wrap(buffer if len(rows) == batch else buffer[: len(rows)])

    return model


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
        pytest.param(list, id="list"),
        pytest.param(lambda y: [row.view(Subclass) for row in y], id="list of a subclass"),
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
        pytest.param(list, id="a list of rows"),
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
        pytest.param(list, id="list"),
        pytest.param(lambda rows: [rows[0]] * len(rows), id="list of the same"),
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
        alone = batcher(ROW)  # a batch of one row
        futures = [batcher.submit(ROW) for _ in range(8)]
        answers = [alone, *(future.result(PATIENCE) for future in futures)]
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


@pytest.mark.parametrize("kind", [list, type("Other", (list,), {})])
def test_a_model_may_use_its_list_of_answers_again(kind: Any) -> None:
    answers = kind()

    def model(objects: Any) -> Any:
        answers[:] = [2 * each for each in objects]
        return answers

    with Batcher(model, collate="list", max_batch_size=4) as batcher:
        futures = [batcher.submit(number) for number in range(50)]
        until(lambda: all(future.done() for future in futures))
        answers.clear()
        assert [future.result(PATIENCE) for future in futures] == [2 * n for n in range(50)]


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
