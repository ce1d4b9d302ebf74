"""Allowed batch sizes: the model sees no others, and callers see nothing of what was added."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gated import PATIENCE, Gated, Holding, in_thread
from tests.helpers import Tensor, identity, rows_of
from tidegate import (
    Batcher,
    OutputError,
    PerToken,
    TensorSpec,
)
from tidegate._chunks import split
from tidegate._shaping import Shaper

TOKENS = TensorSpec((None,), np.int64)
SIZES = st.sets(st.integers(1, 40), min_size=1, max_size=6).map(sorted)


def sizes_seen(count: int, policy: Any, sizes: list[int], **settings: Any) -> list[int]:
    """Sizes of the model's calls for a batch of `count` rows, whose answers are checked."""
    model = Holding(lambda rows: rows * 2)
    with Batcher(
        model,
        max_batch_size=sizes[-1],
        allowed_batch_sizes=sizes,
        padding_policy=policy,
        caller_runs=False,
        **settings,
    ) as batcher:
        rows = rows_of(count + 1)
        futures = model.ask_together(batcher, rows)
        for row, future in zip(rows, futures, strict=True):
            np.testing.assert_array_equal(future.result(PATIENCE), 2 * row)
        statistics = batcher.statistics()
    assert statistics.rows == statistics.completed == count + 1
    assert statistics.padding_rows == sum(map(len, model.batches)) - count - 1
    return [len(batch) for batch in model.batches[1:]]


def in_parts(model: Any, **settings: Any) -> Batcher:
    """Runs batches in parts of 2, 4 and 8 rows."""
    return Batcher(
        model,
        max_batch_size=8,
        allowed_batch_sizes=[2, 4, 8],
        padding_policy="batch_down",
        caller_runs=False,
        **settings,
    )


# How a batch is run


@given(st.integers(1, 40), SIZES, st.sampled_from(["pad_up", "batch_down"]))
def test_every_row_is_in_one_part_of_an_allowed_size(
    rows: int, sizes: list[int], policy: Any
) -> None:
    chunks = split(rows, sizes, policy)
    assert [chunk.first for chunk in chunks] == np.cumsum(
        [0, *[chunk.rows for chunk in chunks[:-1]]]
    ).tolist()
    assert sum(chunk.rows for chunk in chunks) == rows
    assert all(chunk.size in sizes and 1 <= chunk.rows <= chunk.size for chunk in chunks)
    # What is added is added at the end, and no more than it takes.
    assert all(chunk.rows == chunk.size for chunk in chunks[:-1])
    last = chunks[-1]
    assert not [size for size in sizes if last.rows <= size < last.size]
    if policy == "batch_down" and last.rows < last.size:
        assert last.size == sizes[0]
    if policy == "pad_up" and rows <= sizes[-1]:
        assert len(chunks) == 1


@pytest.mark.parametrize(
    ("count", "policy", "seen"),
    [
        (1, "pad_up", [2]),
        (2, "pad_up", [2]),
        (3, "pad_up", [4]),
        (5, "pad_up", [8]),
        (8, "pad_up", [8]),
        (1, "batch_down", [2]),
        (3, "batch_down", [2, 2]),
        (7, "batch_down", [4, 2, 2]),
        (8, "batch_down", [8]),
        (7, "none", [7]),
    ],
)
def test_only_allowed_sizes_reach_the_model(count: int, policy: Any, seen: list[int]) -> None:
    assert sizes_seen(count, policy, [2, 4, 8]) == seen


def test_rows_that_come_while_the_first_says_what_they_look_like_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever is between the request and its place may have to wait for the GIL."""
    set_spec = Shaper._set_spec
    others: list[Any] = []

    def slow(self: Shaper, spec: Any) -> None:
        if not others:
            others.append(None)
            others[0] = in_thread(lambda: batcher.submit(rows_of(1)[0]).result(PATIENCE))
            others[0].join(0.2)
        set_spec(self, spec)

    monkeypatch.setattr(Shaper, "_set_spec", slow)
    with Batcher(lambda rows: rows * 2, max_batch_size=4, allowed_batch_sizes=[4]) as batcher:
        np.testing.assert_array_equal(batcher(rows_of(1)[0]), 2 * rows_of(1)[0])
        np.testing.assert_array_equal(others[0].outcome(), 2 * rows_of(1)[0])


def test_added_rows_are_copies_of_the_first() -> None:
    model = Holding(identity)
    with Batcher(model, max_batch_size=4, allowed_batch_sizes=[4], caller_runs=False) as batcher:
        for future in model.ask_together(batcher, rows_of(3)):
            future.result(PATIENCE)
    np.testing.assert_array_equal(model.batches[0], [[0, 0, 0]] * 4)
    np.testing.assert_array_equal(model.batches[1][:, 0], [1, 2, 1, 1])


@pytest.mark.parametrize("answer", ["array", "tuple", "mapping", "list"])
@pytest.mark.parametrize("policy", ["pad_up", "batch_down"])
def test_any_kind_of_answer_is_cut_and_joined(answer: str, policy: Any) -> None:
    def model(rows: Any) -> Any:
        assert len(rows) in (2, 4, 8)
        return {
            "array": rows,
            "tuple": (rows, rows[:, 0]),
            "mapping": {"a": rows, "b": rows[:, 0]},
            "list": [(row, row[0]) for row in rows],
        }[answer]

    with Batcher(
        model, max_batch_size=8, allowed_batch_sizes=[2, 4, 8], padding_policy=policy
    ) as batcher:
        futures = [batcher.submit(row) for row in rows_of(100)]
        for number, future in enumerate(futures):
            answered: Any = future.result(PATIENCE)
            parts: Any = [answered] if answer == "array" else answered
            parts = list(parts.values()) if answer == "mapping" else parts
            assert all(np.all(part == number) for part in parts)


@pytest.mark.parametrize("policy", ["pad_up", "batch_down"])
def test_objects_are_padded_too(policy: Any) -> None:
    seen = []

    def model(objects: list[str]) -> list[str]:
        seen.append(len(objects))
        return [text.upper() for text in objects]

    with Batcher(
        model,
        collate="list",
        max_batch_size=4,
        allowed_batch_sizes=[2, 4],
        padding_policy=policy,
    ) as batcher:
        assert batcher.submit_many(list("abcdefg")).result(PATIENCE) == list("ABCDEFG")
    assert set(seen) <= {2, 4}


@pytest.mark.parametrize("policy", ["pad_up", "batch_down"])
@pytest.mark.parametrize("collate", ["pad", "pack"])
def test_ragged_batches_are_padded_too(collate: Any, policy: Any) -> None:
    seen = []

    def model(batch: Any) -> Any:
        seen.append(len(batch.lengths if collate == "pad" else batch.cu_seqlens[1:]))
        return PerToken(batch.values), np.arange(seen[-1])

    with Batcher(
        model,
        inputs=TOKENS,
        collate=collate,
        max_batch_size=8,
        allowed_batch_sizes=[3, 8],
        padding_policy=policy,
    ) as batcher:
        rows = [np.arange(number, number + number % 4) for number in range(50)]
        for row, (tokens, _) in zip(rows, batcher.map(rows), strict=True):
            np.testing.assert_array_equal(tokens, row)
    assert set(seen) <= {3, 8}
    statistics = batcher.statistics()
    assert statistics.padding_rows == sum(seen) - 50
    assert statistics.tokens == sum(map(len, rows))
    assert (statistics.padding_tokens == 0) == (collate == "pack")


# Failures


def test_exceptions_in_a_list_count_only_for_rows_that_are_somebodys(model: Gated) -> None:
    def failing(rows: Any) -> list[Any]:
        model(rows)
        return [ValueError(f"{row[0]:g}") for row in rows]

    with Batcher(failing, max_batch_size=8, allowed_batch_sizes=[8], caller_runs=False) as batcher:
        futures = [batcher.submit(row) for row in rows_of(1)]
        model.await_entry()
        futures += [batcher.submit(row) for row in rows_of(3, start=1)]
        model.gate.set()
        assert [str(future.exception(PATIENCE)) for future in futures] == list("0123")
    statistics = batcher.statistics()
    assert (statistics.failed, statistics.completed, statistics.padding_rows) == (4, 0, 12)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(lambda rows: rows[:-1], "expected 4 rows from the model, got 3", id="fewer"),
        pytest.param(lambda rows: list(rows)[:-1], "a list of 4 objects", id="a shorter list"),
        pytest.param(lambda rows: np.float64(1), "got a scalar", id="a scalar"),
        pytest.param(lambda rows: (rows, rows[1:]), "expected 4 rows", id="a part"),
        pytest.param(lambda rows: None, "must return arrays", id="nothing"),
    ],
)
def test_an_answer_for_fewer_rows_than_the_model_saw_is_refused(answer: Any, message: str) -> None:
    with (
        Batcher(answer, max_batch_size=4, allowed_batch_sizes=[4]) as batcher,
        pytest.raises(OutputError, match=message),
    ):
        batcher(np.zeros(3))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        # Six rows in all, and none where it belongs.
        (lambda r: np.concatenate([r, r[:1]]), lambda r: r[:1], "expected 4 rows .* got 5"),
        (lambda r: r, lambda r: (r,), "array and then tuple of 1"),
        (lambda r: (r, r), lambda r: (r,), "tuple of 2 and then tuple of 1"),
        (lambda r: {"a": r}, lambda r: {"b": r}, "mapping"),
        (lambda r: r, lambda r: r[:, :2], r"\(3,\) and then \(2,\)"),
        (lambda r: r, list, "array and then list"),
        (lambda r: None, lambda r: None, "got a scalar"),
    ],
)
def test_parts_of_a_batch_must_be_answered_alike(first: Any, second: Any, message: str) -> None:
    model = Holding(lambda rows: first(rows) if len(rows) == 4 else second(rows))
    with in_parts(model) as batcher:
        _, *futures = model.ask_together(batcher, rows_of(7))
        for future in futures:
            with pytest.raises(OutputError, match=message):
                future.result(PATIENCE)


# Memory


@pytest.mark.parametrize("outputs", ["auto", "view", "copy"])
@pytest.mark.parametrize("policy", ["pad_up", "batch_down"])
def test_models_may_keep_and_overwrite_what_they_answered(outputs: Any, policy: Any) -> None:
    buffer = np.zeros((8, 3))
    kept = []

    def model(rows: Any) -> Any:
        kept.append((rows, rows.copy()))
        buffer[: len(rows)] = rows * 2
        return buffer[: len(rows)]

    with Batcher(
        model,
        max_batch_size=8,
        allowed_batch_sizes=[2, 4, 8],
        padding_policy=policy,
        outputs=outputs,
    ) as batcher:
        futures = [batcher.submit(row) for row in rows_of(60)]
        for number, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(PATIENCE), [2 * number] * 3)
    for rows, then in kept:
        np.testing.assert_array_equal(rows, then)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda rows: rows, id="array"),
        pytest.param(lambda rows: (rows, rows[:, 0]), id="tuple"),
        pytest.param(lambda rows: {"y": rows}, id="mapping"),
        pytest.param(list, id="list"),
        pytest.param(Tensor, id="foreign tensor"),
    ],
)
def test_the_parts_of_a_batch_may_be_answered_in_the_same_memory(wrap: Any) -> None:
    buffer = np.zeros((8, 3))

    def double(rows: Any) -> Any:
        np.multiply(rows, 2, out=buffer[: len(rows)])
        return wrap(buffer[: len(rows)])

    model = Holding(double)
    with in_parts(model) as batcher:
        _, *futures = model.ask_together(batcher, rows_of(8))
        for number, future in enumerate(futures, start=1):
            answer: Any = future.result(PATIENCE)
            answer = answer["y"] if isinstance(answer, dict) else answer
            row = answer[0] if isinstance(answer, tuple) else answer
            np.testing.assert_array_equal(row, [2 * number] * 3)
    assert [len(batch) for batch in model.batches] == [2, 4, 2, 2]


def test_tokens_of_the_parts_of_a_batch_may_be_answered_in_the_same_memory() -> None:
    buffer = np.zeros(100, np.int64)

    def double(batch: Any) -> Any:
        tokens = buffer[: len(batch.values)]
        np.multiply(batch.values, 2, out=tokens)
        return PerToken(tokens)

    model = Holding(double)
    with in_parts(model, inputs=TOKENS, collate="pack") as batcher:
        rows = [np.arange(number, number + number % 4) for number in range(8)]
        for row, future in zip(rows, model.ask_together(batcher, rows), strict=True):
            np.testing.assert_array_equal(future.result(PATIENCE), 2 * row)
    assert len(model.batches) == 4
