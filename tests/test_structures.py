"""Requests of several arrays, and of arbitrary objects."""

from __future__ import annotations

import weakref
from collections import UserDict, namedtuple
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, Gated, until
from tidegate import Batcher, InputError, TensorSpec

PAIR = {"image": TensorSpec((2, 2), np.float32), "id": TensorSpec((), np.int64)}
GOOD_PAIR = {"image": np.ones((2, 2), np.float32), "id": 7}


# Several arrays in a request


@pytest.mark.parametrize(
    ("bad", "came"),
    [
        ({"image": np.ones((2, 2))}, "mapping with the keys ['image']"),
        ({**GOOD_PAIR, "more": 1}, "mapping with the keys ['image', 'id', 'more']"),
        ({"image": np.ones((2, 2)), "ID": 1}, "mapping with the keys ['image', 'ID']"),
        ({}, "mapping with the keys []"),
        ((np.ones((2, 2)), 7), "tuple"),
        (np.ones((2, 2)), "float64 array of shape (2, 2)"),
        (None, "NoneType"),
        (7, "int"),
        ("image", "str"),
    ],
    ids=repr,
)
def test_a_mapping_needs_exactly_its_keys(bad: Any, came: str) -> None:
    with Batcher(lambda rows: rows["id"], inputs=PAIR) as batcher:
        for door in (batcher.submit, batcher):
            with pytest.raises(InputError) as caught:
                door(bad)
            assert "a mapping with the keys ['image', 'id']" in str(caught.value)
            assert came in str(caught.value)
            assert caught.value.expected == "a mapping with the keys ['image', 'id']"
        assert batcher(GOOD_PAIR) == 7


@pytest.mark.parametrize(
    ("bad", "came"),
    [
        ((), "a tuple of 0"),
        ((np.ones(2),), "a tuple of 1"),
        ((np.ones(2), 1, 2), "a tuple of 3"),
        ({"a": np.ones(2), "b": 1}, "dict"),
        (np.ones(2), "float64 array of shape (2,)"),
        (None, "NoneType"),
        (3.0, "float"),
    ],
    ids=repr,
)
def test_a_tuple_needs_exactly_its_parts(bad: Any, came: str) -> None:
    with Batcher(lambda rows: rows[1]) as batcher:
        batcher((np.ones(2), 1))
        with pytest.raises(InputError, match="expected a tuple of 2 arrays") as caught:
            batcher(bad)
        assert came in str(caught.value)


def test_the_part_that_does_not_fit_is_named(model: Gated) -> None:
    with Batcher(lambda rows: rows["id"], inputs=PAIR) as batcher:
        with pytest.raises(InputError, match=r"float32 array of shape \(2, 2\)\['image'\]"):
            batcher({"image": np.ones((2, 3)), "id": 1})
        with pytest.raises(InputError, match=r"int64 array of shape \(\)\['id'\]"):
            batcher({"image": np.ones((2, 2)), "id": 1.5})
    with Batcher(lambda rows: rows[1]) as batcher:
        batcher((np.ones(2), 1))
        with pytest.raises(InputError, match=r"\[1\]"):
            batcher((np.ones(2), [1, 2]))


def test_a_part_that_does_not_fit_leaves_no_other_part_behind(model: Gated) -> None:
    def double(rows: Any) -> Any:
        model(rows["id"])
        return {"image": rows["image"] * 2, "id": rows["id"]}

    with Batcher(double, inputs=PAIR, caller_runs=False) as batcher:
        batcher.submit(GOOD_PAIR)
        model.await_entry()
        futures = []
        for number in range(5):
            futures.append(batcher.submit({**GOOD_PAIR, "id": number}))
            with pytest.raises(InputError):
                batcher.submit({"image": np.full((2, 2), 9), "id": "no number"})
        model.gate.set()
        for number, future in enumerate(futures):
            answer = future.result(PATIENCE)
            assert answer["id"] == number
            np.testing.assert_array_equal(answer["image"], 2 * np.ones((2, 2)))


Point = namedtuple("Point", ["x", "y"])


@pytest.mark.parametrize(
    "request_",
    [
        {"image": np.ones((2, 2), np.float32), "id": 7},
        {"id": 7, "image": [[1, 1], [1, 1]]},
        UserDict(GOOD_PAIR),
        MappingProxyType(GOOD_PAIR),
    ],
)
def test_any_mapping_in_any_order_will_do(request_: Any) -> None:
    seen = []

    def model(rows: Any) -> Any:
        seen.append((type(rows), list(rows), rows["image"].shape, rows["id"].shape))
        return rows["id"]

    with Batcher(model, inputs=PAIR) as batcher:
        assert batcher(request_) == 7
    assert seen == [(dict, ["image", "id"], (1, 2, 2), (1,))]


def test_a_tuple_may_come_as_a_list_and_so_may_its_spec() -> None:
    seen = []

    def model(rows: Any) -> Any:
        seen.append((type(rows), len(rows)))
        return rows[0] + rows[1][:, 0]

    axes: Sequence[int] = [1]
    with Batcher(model, inputs=[TensorSpec((), "f8"), TensorSpec(axes, "f8")]) as batcher:
        assert batcher((1.0, [2.0])) == 3.0
        assert batcher([1.0, [2.0]]) == 3.0
    assert seen == [(tuple, 2), (tuple, 2)]


@pytest.mark.parametrize("given", [True, False], ids=["given", "inferred"])
def test_a_named_tuple_reaches_the_model_with_its_names(given: bool) -> None:
    spec: Any = Point(TensorSpec((), "f8"), TensorSpec((2,), "f8"))
    with Batcher(
        lambda rows: rows.x + rows.y.sum(axis=1), inputs=spec if given else None
    ) as batcher:
        assert batcher(Point(1.0, np.array([2.0, 3.0]))) == 6.0
        if given:
            assert batcher((1.0, [2.0, 3.0])) == 6.0


# Arbitrary objects


def test_objects_reach_the_model_as_they_are() -> None:
    class Thing:
        """Neither hashable nor comparable."""

        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

    things = [Thing(), None, "text", 3, [1, [2]], {"a": 1}, np.zeros(2), ValueError("an input")]
    with Batcher(lambda items: [(type(items), item) for item in items], collate="list") as batcher:
        futures = [batcher.submit(thing) for thing in things]
        for thing, future in zip(things, futures, strict=True):
            kind, answer = future.result(PATIENCE)
            assert kind is list
            assert answer is thing
        assert batcher(things)[1] is things


def test_objects_of_a_batch_keep_their_order(model: Gated) -> None:
    with Batcher(
        lambda items: [model(np.array(items)), items][1], collate="list", caller_runs=False
    ) as batcher:
        batcher.submit(0)
        model.await_entry()
        futures = [batcher.submit(number) for number in range(10)]
        assert futures[3].cancel()
        model.gate.set()
        del futures[3]
        assert [future.result(PATIENCE) for future in futures] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    # A hole is filled by the last row.
    assert sorted(model.batches[1].tolist()) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_objects_are_let_go_of_once_they_were_used() -> None:
    class Thing:
        """Can be referred to weakly."""

    with Batcher(lambda items: [1 for _ in items], collate="list") as batcher:
        thing = Thing()
        reference = weakref.ref(thing)
        future = batcher.submit(thing)
        del thing
        assert future.result(PATIENCE) == 1
        until(lambda: reference() is None)
