"""group_key and length_buckets: who shares a batch with whom, and that nobody pays for it."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, Holding
from tests.grouped import Busy, answers, checked, key_of, row_of
from tests.helpers import identity
from tidegate import Batcher, InputError, PerToken, TensorSpec

TOKENS = TensorSpec((None,), np.int64)


# Who shares a batch


def test_only_requests_with_equal_keys_share_a_batch() -> None:
    model = Holding(checked)
    with Batcher(model, group_key=key_of, caller_runs=False) as batcher:
        asked = [(number % 3, number) for number in range(30)]
        futures = model.ask_together(batcher, [row_of(*each) for each in asked])
        assert answers(futures) == [list(each) for each in asked]
    assert sorted(map(len, model.batches[1:])) == [9, 10, 10]


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([None, 0, "", (), frozenset()], id="of several kinds"),
        pytest.param([1, 1.0, True], id="that are equal"),
        pytest.param([(1, "a"), (1, "b")], id="tuples"),
    ],
)
def test_keys_may_be_anything_hashable(keys: list[Any]) -> None:
    model = Holding(identity)
    with Batcher(
        model, group_key=lambda row: keys[row[0]], caller_runs=False, max_batch_size=8
    ) as batcher:
        occupied = batcher.submit(row_of(0))
        model.await_entry()
        futures = [batcher.submit(row_of(number)) for number in range(len(keys)) for _ in "ab"]
        model.gate.set()
        for future in [occupied, *futures]:
            future.result(PATIENCE)
    assert len(model.batches) == 1 + len(set(keys))


def test_objects_are_grouped_too() -> None:
    model = Holding(lambda texts: [text.upper() for text in texts])
    with Batcher(model, collate="list", group_key=len, caller_runs=False) as batcher:
        futures = model.ask_together(batcher, ["x", "a", "bb", "c", "dd"])
        assert [future.result(PATIENCE) for future in futures] == ["X", "A", "BB", "C", "DD"]
    assert sorted(model.batches[1:]) == [["a", "c"], ["bb", "dd"]]


def test_the_key_is_made_of_what_the_caller_submits() -> None:
    seen: list[Any] = []
    spec = {"a": TensorSpec((2,), "f4"), "b": TensorSpec((), "i8")}

    def group_key(request: Any) -> Any:
        seen.append(request)
        return int(request["b"])

    with Batcher(identity, inputs=spec, group_key=group_key) as batcher:
        request = {"a": [1, 2], "b": 3}
        batcher(request)
        assert seen[0] is request
        batcher.submit_many({"a": np.zeros((4, 2)), "b": range(4)}).result(PATIENCE)
    assert [int(each["b"]) for each in seen[1:]] == [0, 1, 2, 3]
    assert all(each["a"].shape == (2,) for each in seen[1:])


def test_many_rows_are_split_by_group_and_come_back_in_order() -> None:
    with Batcher(checked, group_key=key_of, max_batch_size=4) as batcher:
        rows = np.array([[number % 5, number, 0] for number in range(50)])
        np.testing.assert_array_equal(batcher.submit_many(rows).result(PATIENCE), rows * 2)
        for row, answer in zip(rows, batcher.map(rows), strict=True):
            np.testing.assert_array_equal(answer, row * 2)


def test_lengths_of_one_bucket_share_a_batch() -> None:
    model = Holding(lambda batch: PerToken(batch.values))
    with Batcher(
        model, inputs=TOKENS, collate="pad", length_buckets=[4, 8], caller_runs=False
    ) as batcher:
        lengths = [1, 0, 5, 4, 8, 6, 2]
        for length, future in zip(
            lengths, model.ask_together(batcher, map(np.arange, lengths)), strict=True
        ):
            np.testing.assert_array_equal(future.result(PATIENCE), np.arange(length))
        with pytest.raises(InputError, match="at most 8 tokens, got 9"):
            batcher.submit(np.arange(9))
    assert sorted(batch.lengths.tolist() for batch in model.batches[1:]) == [[0, 4, 2], [5, 8, 6]]


def test_buckets_and_keys_divide_together() -> None:
    model = Holding(lambda batch: PerToken(batch.values))
    with Batcher(
        model,
        inputs=TOKENS,
        collate="pack",
        length_buckets=[2, 4],
        group_key=lambda row: int(row[0]),
        caller_runs=False,
    ) as batcher:
        rows = [[1], [1, 5], [2, 5], [1, 5, 5], [2], [2, 5, 5], [1, 6, 6]]
        for row, future in zip(rows, model.ask_together(batcher, rows), strict=True):
            assert future.result(PATIENCE).tolist() == row
    assert sorted(batch.values.tolist() for batch in model.batches[1:]) == [
        [1, 5],
        [1, 5, 5, 1, 6, 6],
        [2, 5, 2],
        [2, 5, 5],
    ]


# Keys that cannot be


class Unhashable(list[int]):
    """Not hashable."""


def raising(_: Any) -> Any:
    """Fails."""
    raise ZeroDivisionError("no key")


@pytest.mark.parametrize(
    ("bad_key", "message"),
    [
        pytest.param(raising, "group_key failed .* ZeroDivisionError: no key", id="raises"),
        pytest.param(lambda _: [1], "TypeError: unhashable", id="unhashable"),
        pytest.param(lambda _: Unhashable(), "TypeError: unhashable", id="a subclass"),
    ],
)
def test_a_key_that_cannot_be_harms_its_own_request_only(bad_key: Any, message: str) -> None:
    model = Holding(checked)

    def group_key(row: Any) -> Any:
        return bad_key(row) if row[0] == 13 else int(row[0])

    with Batcher(model, group_key=group_key, caller_runs=False) as batcher:
        occupied = batcher.submit(row_of(1))
        model.await_entry()
        before = batcher.submit(row_of(1, 1))
        for ask in (batcher.submit, batcher, batcher.predict_async):
            with pytest.raises(InputError, match=message):
                ask(row_of(13))
        with pytest.raises(InputError, match=message):
            batcher.submit_many([row_of(1), row_of(13), row_of(1)])
        after = batcher.submit(row_of(1, 2))
        model.gate.set()
        assert answers([occupied, before, after]) == [[1, 0], [1, 1], [1, 2]]
    statistics = batcher.statistics()
    assert statistics.submitted == statistics.completed + statistics.cancelled


class Restless:
    """A key that is found again by chance only."""

    def __hash__(self) -> int:
        """Another one each time."""
        return random.getrandbits(60)

    def __eq__(self, other: object) -> bool:
        """Equal to nothing."""
        return False


def test_keys_that_are_hardly_ever_found_again_harm_nobody() -> None:
    with Batcher(
        checked, group_key=lambda row: Restless() if row[0] == 13 else int(row[0])
    ) as batcher:
        for number in range(300):
            with contextlib.suppress(InputError):  # if chance did not help
                np.testing.assert_array_equal(batcher(row_of(13)), 2 * row_of(13))
            np.testing.assert_array_equal(batcher(row_of(14 + number)), 2 * row_of(14 + number))


class Changing:
    """A key whose hash a caller may change later."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __hash__(self) -> int:
        """By its value."""
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        """By its value."""
        return isinstance(other, Changing) and other.value == self.value


def test_keys_that_change_later_do_not_stop_others() -> None:
    made: list[Changing] = []

    def group_key(row: Any) -> Any:
        made.append(Changing(int(row[0])))
        return made[-1]

    with Batcher(checked, group_key=group_key) as batcher:
        for number in range(300):
            np.testing.assert_array_equal(batcher(row_of(number)), 2 * row_of(number))
            made[-1].value += 1_000_000


def test_a_group_that_comes_back_while_its_lane_is_given_away_stays_alone() -> None:
    model = Holding(checked)
    model.gate.set()
    back: list[Any] = []
    asked = 0

    def during(value: int) -> None:
        nonlocal asked
        if asked and value != asked:  # the key of a group that is to make place
            asked = 0
            back.append((value, batcher.submit(row_of(value))))

    with Batcher(
        model, group_key=lambda row: Busy(int(row[0]), during), caller_runs=False
    ) as batcher:
        for value in range(1, 100):
            assert answers([batcher.submit(row_of(value))]) == [[value, 0]]
            model.await_entry()
        model.gate.clear()
        occupied = batcher.submit(row_of(1000))
        model.await_entry()
        asked = 1001
        new = batcher.submit(row_of(1001))
        model.gate.set()
        ((value, future),) = back
        assert answers([occupied, new, future]) == [[1000, 0], [1001, 0], [value, 0]]


def test_two_that_make_a_group_of_one_key_share_it() -> None:
    model = Holding(checked)
    futures: list[Any] = []
    hashed = 0

    def during(value: int) -> None:
        nonlocal hashed
        if value != 7:
            return
        hashed += 1
        if hashed == 3:  # is it hashable, is there a group, make one
            futures.append(batcher.submit(row_of(7, 1)))

    with Batcher(
        model, group_key=lambda row: Busy(int(row[0]), during), caller_runs=False
    ) as batcher:
        occupied = batcher.submit(row_of(1))
        model.await_entry()
        futures.append(batcher.submit(row_of(7, 2)))
        model.gate.set()
        assert answers([occupied, *futures]) == [[1, 0], [7, 1], [7, 2]]
    assert [len(batch) for batch in model.batches] == [1, 2]


def test_groups_may_be_given_up_while_one_is_looked_for() -> None:
    made: list[Busy] = []
    hashed = 0

    def during(value: int) -> None:
        nonlocal hashed
        hashed += value == 500
        if value == 500 and hashed == 2:  # it is being looked for
            np.testing.assert_array_equal(batcher(row_of(501)), 2 * row_of(501))

    def group_key(row: Any) -> Any:
        made.append(Busy(int(row[0]), during))
        return made[-1]

    with Batcher(checked, group_key=group_key) as batcher:
        for value in range(100):
            np.testing.assert_array_equal(batcher(row_of(value)), 2 * row_of(value))
        for key in made:
            key.value += 1_000_000  # so that none is found again
        np.testing.assert_array_equal(batcher(row_of(500)), 2 * row_of(500))
    assert hashed > 2
