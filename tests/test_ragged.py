"""Ragged rows: what models are called with, and that each token goes back to its caller."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gated import PATIENCE, Holding
from tidegate import Batcher, InputError, Packed, Padded, PerToken, TensorSpec, _fast

TOKENS = TensorSpec((None,), np.int64)
DTYPES = ("bool", "u1", "i2", "i8", "f2", "f4", "c16", "U3", "M8[s]", [("a", "i4"), ("b", "f8")])
LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=12)


class Text(NamedTuple):
    """A request of two ragged arrays and a fixed one."""

    ids: Any
    weights: Any
    language: Any


TEXT = Text(TOKENS, TensorSpec((None, 2), "f4"), TensorSpec((3,), "u1"))


def random_rows(lengths: list[int], dtype: Any, token: tuple[int, ...], seed: int) -> list[Any]:
    """Rows of any bytes that the dtype can have."""
    chance = np.random.default_rng(seed)
    resolved = np.dtype(dtype)

    def row(length: int) -> Any:
        numbers = chance.integers(0, 100, (length, *token))
        if resolved.names:
            made = np.zeros(numbers.shape, resolved)
            for name in resolved.names:
                made[name] = numbers
            return made
        return numbers.astype(resolved)

    return [row(length) for length in lengths]


def end_to_end(rows: list[Any]) -> tuple[Any, Any]:
    """The rows as they lie in staging memory, and their offsets."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return np.ascontiguousarray(np.concatenate(rows)), offsets


def echo(batch: Padded | Packed) -> PerToken:
    """Answers each token with itself."""
    return PerToken(batch.values)


def unpadded(batch: Padded) -> list[Any]:
    return [row[:length] for row, length in zip(batch.values, batch.lengths, strict=True)]


def unpacked(batch: Packed) -> list[Any]:
    return np.split(batch.values, batch.cu_seqlens[1:-1])


# Padding and packing


@given(LENGTHS, st.sampled_from(DTYPES), st.sampled_from([(), (1,), (3,), (2, 0), (2, 3)]))
def test_padding_lays_every_row_at_its_place_and_nothing_else(
    lengths: list[int], dtype: Any, token: tuple[int, ...]
) -> None:
    rows = random_rows(lengths, dtype, token, seed=len(lengths))
    values, offsets = end_to_end(rows)
    fill = random_rows([1], dtype, (), seed=1)[0]
    length = max(lengths) + 1
    padded = _fast.pad_rows(values, offsets, 0, len(rows), len(rows) + 2, length, fill)
    assert padded.shape == (len(rows) + 2, length, *token)
    assert padded.dtype == values.dtype
    for number, row in enumerate([*rows, rows[0], rows[0]]):
        np.testing.assert_array_equal(padded[number, : len(row)], row)
        assert np.all(padded[number, len(row) :] == fill)


@given(LENGTHS, st.data())
def test_padding_some_rows_is_padding_all_of_them_and_taking_those(
    lengths: list[int], data: st.DataObject
) -> None:
    rows = random_rows(lengths, "i4", (2,), seed=7)
    values, offsets = end_to_end(rows)
    first = data.draw(st.integers(0, len(rows) - 1))
    count = data.draw(st.integers(1, len(rows) - first))
    fill = np.array([-1], "i4")
    some = _fast.pad_rows(values, offsets, first, count, count, max(lengths), fill)
    every = _fast.pad_rows(values, offsets, 0, len(rows), len(rows), max(lengths), fill)
    np.testing.assert_array_equal(some, every[first : first + count])


@pytest.mark.parametrize("collate", ["pad", "pack"])
@settings(max_examples=25)
@given(
    LENGTHS,
    st.sampled_from(DTYPES),
    st.sampled_from([(), (1,), (3,), (2, 0), (2, 3)]),
    st.integers(1, 5),
)
def test_a_batcher_gives_every_token_back_to_its_caller(
    collate: Any, lengths: list[int], dtype: Any, token: tuple[int, ...], size: int
) -> None:
    rows = random_rows(lengths, dtype, token, seed=3)
    spec = TensorSpec((None, *token), dtype)
    with Batcher(echo, inputs=spec, collate=collate, max_batch_size=size) as batcher:
        futures = [batcher.submit(row) for row in rows]
        for row, future in zip(rows, futures, strict=True):
            answer = future.result(PATIENCE)
            assert answer.dtype == row.dtype
            np.testing.assert_array_equal(answer, row)


def test_a_padded_batch_has_values_a_mask_and_lengths() -> None:
    model = Holding(lambda batch: batch.lengths)
    with Batcher(
        model, inputs=TOKENS, collate="pad", padding_value=-1, caller_runs=False
    ) as batcher:
        futures = model.ask_together(batcher, [[7], [1, 2, 3], [], [4, 5]])
        assert [future.result(PATIENCE) for future in futures] == [1, 3, 0, 2]
    batch = model.batches[1]
    assert isinstance(batch, Padded)
    np.testing.assert_array_equal(batch.values, [[1, 2, 3], [-1, -1, -1], [4, 5, -1]])
    np.testing.assert_array_equal(batch.mask, [[1, 1, 1], [0, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(batch.lengths, [3, 0, 2])
    assert (batch.values.dtype, batch.mask.dtype) == (np.int64, np.bool_)
    assert batch.lengths.dtype == np.int32
    assert batch.values.flags.c_contiguous


def test_a_packed_batch_has_values_offsets_and_the_longest_length() -> None:
    model = Holding(lambda batch: np.diff(batch.cu_seqlens))
    with Batcher(model, inputs=TOKENS, collate="pack", caller_runs=False) as batcher:
        futures = model.ask_together(batcher, [[7], [1, 2, 3], [], [4, 5]])
        assert [future.result(PATIENCE) for future in futures] == [1, 3, 0, 2]
    batch = model.batches[1]
    assert isinstance(batch, Packed)
    np.testing.assert_array_equal(batch.values, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(batch.cu_seqlens, [0, 3, 3, 5])
    assert batch.cu_seqlens.dtype == np.int32
    assert batch.max_seqlen == 3
    assert type(batch.max_seqlen) is int


@pytest.mark.parametrize(("collate", "shape"), [("pad", (2, 0)), ("pack", (0,))])
def test_a_batch_of_empty_rows_only_is_a_batch(collate: Any, shape: tuple[int, ...]) -> None:
    model = Holding(echo)
    with Batcher(model, inputs=TOKENS, collate=collate, caller_runs=False) as batcher:
        for future in model.ask_together(batcher, [[1], [], []]):
            assert future.result(PATIENCE).ndim == 1
    assert model.batches[1].values.shape == shape


def test_rows_are_padded_to_the_next_of_the_lengths_that_are_asked_for() -> None:
    seen = []

    def model(batch: Padded) -> Any:
        seen.append(batch.values.shape)
        return PerToken(batch.values)

    with Batcher(model, inputs=TOKENS, collate="pad", pad_to=[4, 8, 16]) as batcher:
        for length in (0, 1, 4, 5, 8, 9, 16):
            np.testing.assert_array_equal(batcher(np.arange(length)), np.arange(length))
        with pytest.raises(InputError, match="at most 16 tokens, got 17"):
            batcher(np.arange(17))
    assert seen == [(1, 4), (1, 4), (1, 4), (1, 8), (1, 8), (1, 16), (1, 16)]


def test_a_nan_pads_what_can_be_one() -> None:
    with Batcher(
        lambda batch: np.isnan(batch.values).sum(axis=1),
        inputs=TensorSpec((None,), "f4"),
        collate="pad",
        padding_value=float("nan"),
        pad_to=[5],
    ) as batcher:
        assert batcher([1.0, 2.0]) == 3


@pytest.mark.parametrize("value", [True, np.True_, np.float32(1), 1])
def test_numbers_of_any_kind_pad(value: Any) -> None:
    with Batcher(
        lambda batch: batch.values.sum(axis=1),
        inputs=TensorSpec((None,), "?"),
        collate="pad",
        padding_value=value,
        pad_to=[5],
    ) as batcher:
        assert batcher([False, True]) == 4


def test_longer_rows_than_before_still_make_full_batches() -> None:
    model = Holding(echo)
    with Batcher(
        model, inputs=TOKENS, collate="pack", max_batch_size=8, caller_runs=False
    ) as batcher:
        short = [np.arange(3)] * 40
        for future in model.ask_together(batcher, short):
            future.result(PATIENCE)
        model.gate.clear()
        while model.entered.acquire(blocking=False):
            pass
        before = len(model.batches)
        for future in model.ask_together(batcher, [np.arange(400)] * 41):
            np.testing.assert_array_equal(future.result(PATIENCE), np.arange(400))
    sizes = [len(batch.cu_seqlens) - 1 for batch in model.batches[before:]]
    assert sizes[:2] != [1, 2], "memory that was made for short rows was kept"
    assert max(sizes) == 8
    assert len(sizes) <= 8


# Structures of requests and answers


def text(length: int, number: int) -> Text:
    return Text(
        np.full(length, number), np.full((length, 2), number, "f4"), np.full(3, number, "u1")
    )


@pytest.mark.parametrize("collate", ["pad", "pack"])
@pytest.mark.parametrize(
    ("spec", "ask"),
    [
        pytest.param(TEXT, lambda row: row, id="named tuple"),
        pytest.param(tuple(TEXT), tuple, id="tuple"),
        pytest.param(TEXT._asdict(), lambda row: row._asdict(), id="mapping"),
    ],
)
def test_requests_may_mix_ragged_and_fixed_arrays(collate: Any, spec: Any, ask: Any) -> None:
    kinds = []

    def model(batch: Padded | Packed) -> Any:
        kinds.append(type(batch.values))
        values = batch.values
        ids, weights, language = values.values() if isinstance(values, dict) else values
        return {"ids": PerToken(ids), "weights": PerToken(weights), "language": language}

    with Batcher(model, inputs=spec, collate=collate, max_batch_size=4) as batcher:
        rows = [text(length, number) for number, length in enumerate([3, 0, 5, 1, 2, 2, 7, 0])]
        for row, future in [(row, batcher.submit(ask(row))) for row in rows]:
            answer = future.result(PATIENCE)
            assert list(answer) == ["ids", "weights", "language"]
            for part, given_part in zip(answer.values(), row, strict=True):
                np.testing.assert_array_equal(part, given_part)
    assert set(kinds) == {type(ask(text(1, 1)))}


def test_answers_may_mix_what_is_for_each_token_and_for_each_row() -> None:
    def model(batch: Packed) -> Any:
        return Text(PerToken(batch.values), PerToken(batch.values * 2), np.diff(batch.cu_seqlens))

    with Batcher(model, inputs=TOKENS, collate="pack") as batcher:
        answer = batcher([5, 6, 7])
        assert isinstance(answer, Text)
        np.testing.assert_array_equal(answer.ids, [5, 6, 7])
        np.testing.assert_array_equal(answer.weights, [10, 12, 14])
        assert answer.language == 3


def test_ragged_arrays_of_one_request_are_equally_long() -> None:
    with Batcher(echo, inputs=TEXT, collate="pack") as batcher:
        with pytest.raises(InputError, match=r"of the same length in one request, got \[2, 3\]"):
            batcher((np.zeros(2, int), np.zeros((3, 2), "f4"), np.zeros(3, "u1")))
        assert batcher.statistics().submitted == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(np.zeros((2, 2), int), r"shape \(2, 2\)", id="an axis more"),
        pytest.param(3, r"shape \(\)", id="a number"),
        pytest.param([1.5], "dtype float64, which does not convert", id="another dtype"),
        pytest.param([[1], [2, 3]], "no array", id="a ragged list"),
        pytest.param("text", "got str", id="text"),
    ],
)
@pytest.mark.parametrize("collate", ["pad", "pack"])
def test_what_is_no_row_of_tokens_is_refused_alone(collate: Any, bad: Any, message: str) -> None:
    model = Holding(echo)
    with Batcher(model, inputs=TOKENS, collate=collate, caller_runs=False) as batcher:
        batcher.submit([1])
        model.await_entry()
        before = batcher.submit([2, 3])
        with pytest.raises(InputError, match=message) as caught:
            batcher.submit(bad)
        assert "int64 array of shape (None,)" in str(caught.value)
        after = batcher.submit([4])
        model.gate.set()
        np.testing.assert_array_equal(before.result(PATIENCE), [2, 3])
        np.testing.assert_array_equal(after.result(PATIENCE), [4])
    assert len(model.batches) == 2
