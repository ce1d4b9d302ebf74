"""Requests: what is converted, what is refused and how, and that neighbours never suffer."""

from __future__ import annotations

import array
import asyncio
from collections import UserDict, namedtuple
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.gated import PATIENCE, ROW, Gated, until
from tidegate import Batcher, ClosedError, InputError, QueueFullError, TensorSpec, TidegateError

SPEC = TensorSpec((3,), np.float32)
PAIR = {"image": TensorSpec((2, 2), np.float32), "id": TensorSpec((), np.int64)}
GOOD_PAIR = {"image": np.ones((2, 2), np.float32), "id": 7}


def identity(rows: Any) -> Any:
    return rows


class Unreadable:
    """Says that it is an array, and cannot be read."""

    def __array__(self, *_: object, **__: object) -> Any:
        raise RuntimeError("the device is gone")


class Wrapped:
    """Holds an array, as tensors of other libraries do."""

    def __init__(self, value: Any) -> None:
        self.value = np.asarray(value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self.value, dtype=dtype)


class Subclass(np.ndarray):  # type: ignore[type-arg]
    """An array of another type."""


# What is refused

REFUSED = [
    pytest.param(np.zeros(4, np.float32), "float32 array of shape (4,)", id="another length"),
    pytest.param(np.zeros((1, 3), np.float32), "float32 array of shape (1, 3)", id="an axis more"),
    pytest.param(np.float32(1), "float32 array of shape ()", id="an axis less"),
    pytest.param(np.zeros(0, np.float32), "float32 array of shape (0,)", id="nothing in it"),
    pytest.param(np.zeros(3, complex), "dtype complex128", id="complex"),
    pytest.param(np.zeros(3, "M8[s]"), "dtype datetime64[s]", id="dates"),
    pytest.param(np.array(["1", "2", "3"]), "dtype <U1", id="digits as text"),
    pytest.param(np.array([1, None, 3]), "dtype object", id="objects"),
    pytest.param(np.zeros(3, [("a", "f4")]), "dtype [('a', '<f4')]", id="records"),
    pytest.param("text", "str", id="text"),
    pytest.param(b"text", "bytes", id="bytes"),
    pytest.param(None, "NoneType", id="None"),
    pytest.param(object(), "object", id="an object"),
    pytest.param({"a": 1.0}, "dict", id="a mapping"),
    pytest.param({1.0, 2.0, 3.0}, "set", id="a set"),
    pytest.param((number for number in range(3)), "generator", id="a generator"),
    pytest.param([[1.0, 2.0], [3.0]], "list", id="a ragged list"),
    pytest.param([1.0, None, 3.0], "object", id="a list with None in it"),
    pytest.param(Unreadable(), "Unreadable", id="an unreadable array"),
    pytest.param(Wrapped(np.zeros(5)), "float64 array of shape (5,)", id="a foreign tensor"),
]


@pytest.mark.parametrize(("bad", "came"), REFUSED)
def test_a_request_that_does_not_fit_says_what_was_expected_and_what_came(
    bad: Any, came: str
) -> None:
    with Batcher(identity, inputs=SPEC) as batcher:
        for door in (batcher.submit, batcher, batcher.predict_async):
            with pytest.raises(InputError) as caught:
                door(bad)
            message = str(caught.value)
            assert "float32 array of shape (3,)" in message
            assert came in message
            assert caught.value.expected == "float32 array of shape (3,)"
            assert caught.value.given
            assert isinstance(caught.value, ValueError)
            assert isinstance(caught.value, TidegateError)
        assert batcher.statistics().submitted == 0


@pytest.mark.parametrize(("bad", "came"), REFUSED)
def test_neighbours_of_a_refused_request_are_answered_in_one_batch(
    bad: Any, came: str, model: Gated
) -> None:
    with Batcher(model, inputs=SPEC, caller_runs=False) as batcher:
        batcher.submit(ROW)
        model.await_entry()
        before = batcher.submit(ROW + 1)
        with pytest.raises(InputError):
            batcher.submit(bad)
        after = batcher.submit(ROW + 2)
        model.gate.set()
        np.testing.assert_array_equal(before.result(PATIENCE), 2 * (ROW + 1))
        np.testing.assert_array_equal(after.result(PATIENCE), 2 * (ROW + 2))
    assert [len(batch) for batch in model.batches] == [1, 2]


@pytest.mark.parametrize(("bad", "came"), REFUSED)
def test_neighbours_in_an_event_loop_are_answered_too(bad: Any, came: str) -> None:
    async def main() -> list[Any]:
        async with Batcher(identity, inputs=SPEC) as batcher:

            async def ask(x: Any) -> Any:
                return await batcher.predict_async(x)

            return await asyncio.gather(ask(ROW), ask(bad), ask(ROW + 1), return_exceptions=True)

    first, refused, last = asyncio.run(main())
    assert isinstance(refused, InputError)
    np.testing.assert_array_equal(first, ROW)
    np.testing.assert_array_equal(last, ROW + 1)


def test_a_precision_that_would_be_lost_without_asking_is_refused_with_the_way_out() -> None:
    with Batcher(identity) as batcher:
        batcher(np.zeros(3, np.int64))
        with pytest.raises(InputError, match="float64, which does not convert safely") as caught:
            batcher(np.zeros(3))
        assert "pass inputs=TensorSpec(...)" in str(caught.value)


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), "soon", [1.0], 1j])
def test_a_timeout_that_cannot_be_is_refused_with_its_value(timeout: Any) -> None:
    with Batcher(identity) as batcher:
        for door in (batcher.submit, batcher, batcher.predict_async):
            with pytest.raises(InputError, match="number of seconds >= 0") as caught:
                door(ROW, timeout=timeout)
            assert repr(timeout) in str(caught.value)
        with pytest.raises(InputError, match="number of seconds >= 0"):
            batcher.submit_many([ROW], timeout=timeout)
        assert batcher.statistics().submitted == 0


def test_a_closed_batcher_is_named_by_every_door() -> None:
    batcher = Batcher(identity, name="embed")
    batcher.close()

    async def amap() -> list[Any]:
        return [y async for y in batcher.amap([ROW])]

    for refused in (
        lambda: batcher.submit(ROW),
        lambda: batcher(ROW),
        lambda: batcher.predict_async(ROW),
        lambda: batcher.submit_many([ROW]),
        lambda: list(batcher.map([ROW])),
        lambda: asyncio.run(amap()),
    ):
        with pytest.raises(ClosedError, match="'embed' is closed"):
            refused()


# What is converted


def unaligned() -> Any:
    memory = np.zeros(13, np.uint8)
    view = memory[1:].view(np.float32)
    view[:] = [1, 2, 3]
    return view


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(np.array([1, 2, 3], np.float32), id="the same"),
        pytest.param(np.array([1, 2, 3], np.float64), id="wider"),
        pytest.param(np.array([1, 2, 3], np.float16), id="narrower"),
        pytest.param(np.array([1, 2, 3], np.int64), id="integers"),
        pytest.param(np.array([1, 2, 3], ">f4"), id="big-endian"),
        pytest.param(np.arange(1, 7, dtype=np.float32).repeat(2)[:6:2], id="not contiguous"),
        pytest.param(np.array([3, 2, 1], np.float32)[::-1], id="reversed"),
        pytest.param(np.arange(1, 10, dtype=np.float32).reshape(3, 3).T[0][:1].repeat(3), id="T"),
        pytest.param(unaligned(), id="unaligned"),
        pytest.param(np.array([1, 2, 3], np.float32).view(Subclass), id="a subclass"),
        pytest.param(np.ma.masked_array([1, 2, 3], [0, 0, 0]), id="a masked array"),
        pytest.param([1, 2, 3], id="a list"),
        pytest.param((1, 2, 3), id="a tuple"),
        pytest.param(range(1, 4), id="a range"),
        pytest.param([np.float32(1), 2, True], id="a mixed list"),
        pytest.param(array.array("d", [1, 2, 3]), id="array.array"),
        pytest.param(memoryview(array.array("f", [1, 2, 3])), id="a memoryview"),
        pytest.param(Wrapped([1, 2, 3]), id="a foreign tensor"),
    ],
)
def test_what_converts_safely_is_converted(request_: Any) -> None:
    seen = []

    def model(rows: Any) -> Any:
        seen.append((type(rows), rows.dtype, rows.flags.c_contiguous, rows.flags.aligned))
        return rows + 1

    expected = np.asarray(request_, np.float32) + 1
    with Batcher(model, inputs=SPEC) as batcher:
        np.testing.assert_array_equal(batcher(request_), expected)
        np.testing.assert_array_equal(batcher.submit(request_).result(PATIENCE), expected)
    assert set(seen) == {(np.ndarray, np.dtype(np.float32), True, True)}


@pytest.mark.parametrize(
    ("to", "fine", "refused"),
    [
        ("f4", ["f2", "f8", "i8", "u1", "?"], ["c8", "U3", "M8[s]", "O"]),
        ("i4", ["i1", "u2", "i8", "u8", "?"], ["f4", "c8", "U3", "M8[s]"]),
        ("u1", ["u8", "?"], ["i1", "i8", "f4"]),
        ("c8", ["f8", "i8", "c16"], ["U3", "m8[s]"]),
        ("?", ["?"], ["i1", "f4", "U1"]),
        ("M8[ms]", ["M8[s]", "M8[ns]"], ["m8[s]", "f4", "U3"]),
        # NumPy would cut these off and call it the same kind.
        ("U4", ["U4", "U2", "S3"], ["U5", "S5", "i8"]),
        ("S4", ["S4", "S1"], ["S5", "f4", "U2"]),
        ("V4", ["V4", "V2"], ["V8"]),
        ([("a", "f4"), ("b", "U2")], [[("a", "f4"), ("b", "U1")]], [[("a", "f4"), ("b", "U3")]]),
        ([("a", "f4")], [[("a", "f2")]], [[("a", "f8")], [("b", "f4")], "f4"]),
    ],
)
def test_kinds_convert_to_the_same_kind_only(to: str, fine: list[str], refused: list[str]) -> None:
    with Batcher(identity, inputs=TensorSpec((2,), to)) as batcher:
        for kind in fine:
            answer = batcher(np.ones(2, kind))
            assert answer.dtype == np.dtype(to)
            np.testing.assert_array_equal(answer, np.ones(2, kind).astype(to))
        for kind in refused:
            with pytest.raises(InputError, match="does not convert safely"):
                batcher(np.ones(2, kind))


def test_what_is_not_a_number_is_none_of_our_business() -> None:
    strange = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324])
    with Batcher(identity) as batcher:
        assert batcher(strange).tobytes() == strange.tobytes()
        assert batcher.submit(strange).result(PATIENCE).tobytes() == strange.tobytes()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 2)])
def test_rows_without_elements_are_rows(shape: tuple[int, ...]) -> None:
    sizes = []

    def model(rows: Any) -> Any:
        assert rows.shape[1:] == shape
        sizes.append(len(rows))
        return np.arange(len(rows))

    with Batcher(model) as batcher:
        futures = [batcher.submit(np.zeros(shape)) for _ in range(100)]
        assert all(0 <= future.result(PATIENCE) < 64 for future in futures)
    assert sum(sizes) == 100


@pytest.mark.parametrize(
    "number", [1.5, 3, True, 2 + 1j, np.float16(0.5), np.array(7, np.uint8), np.datetime64(1, "s")]
)
def test_numbers_are_rows_of_no_axes(number: Any) -> None:
    with Batcher(identity) as batcher:
        answer = batcher(number)
        assert answer == number
        assert answer.dtype == np.asarray(number).dtype
        assert isinstance(answer, np.generic)


def test_records_are_rows() -> None:
    kind = np.dtype([("id", "i4"), ("box", "f4", (4,)), ("name", "U5")], align=True)
    record = np.array((7, [1, 2, 3, 4], "seven"), kind)
    other = record.astype(kind.newbyteorder(">"))

    def model(rows: Any) -> Any:
        return {"id": rows["id"], "box": rows["box"] * 2, "name": rows["name"]}

    with Batcher(model, inputs=TensorSpec((), kind)) as batcher:
        for request_ in (record, other, record[()]):
            answer = batcher(request_)
            assert (answer["id"], answer["name"]) == (7, "seven")
            np.testing.assert_array_equal(answer["box"], [2, 4, 6, 8])
        with pytest.raises(InputError, match="expected a"):
            batcher(np.array((7, 1.0), [("id", "i4"), ("other", "f8")]))


def test_text_of_a_fixed_width_is_a_row_and_never_cut() -> None:
    with Batcher(lambda rows: np.char.upper(rows), inputs=TensorSpec((), "U5")) as batcher:
        assert batcher("abc") == "ABC"
        assert batcher("grün") == "GRÜN"
        with pytest.raises(InputError, match="<U5 array of shape .*<U7"):
            batcher("toolong")


def test_a_caller_may_reuse_its_array_at_once(model: Gated, batcher: Batcher) -> None:
    row = np.zeros(3)
    futures = []
    for number in range(20):
        row[:] = number
        futures.append(batcher.submit(row))
    row[:] = -1
    model.gate.set()
    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(PATIENCE), [2 * number] * 3)


def test_large_rows_come_back_as_they_went() -> None:
    rows = np.random.default_rng(0).standard_normal((9, 200_000))
    with Batcher(identity, max_batch_size=4) as batcher:
        futures = [batcher.submit(row) for row in rows]
        for row, future in zip(rows, futures, strict=True):
            np.testing.assert_array_equal(future.result(PATIENCE), row)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        npst.scalar_dtypes(), npst.unicode_string_dtypes(), npst.array_dtypes(max_size=3)
    ).flatmap(
        lambda dtype: npst.arrays(
            dtype, npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
        )
    )
)
def test_rows_of_any_kind_come_back_as_they_went(rows: Any) -> None:
    native = rows.astype(rows.dtype.newbyteorder("="))
    spec = TensorSpec(rows.shape[1:], rows.dtype)
    with Batcher(identity, inputs=spec, max_batch_size=3) as batcher:
        futures = [batcher.submit(row) for row in rows]
        for row, future in zip(native, futures, strict=True):
            answer = np.asarray(future.result(PATIENCE), native.dtype)
            assert answer.shape == spec.shape
            # The padding of records is nobody's: compare the values.
            assert repr(answer.tolist()) == repr(np.asarray(row).tolist())


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


def test_a_tuple_may_come_as_a_list() -> None:
    seen = []

    def model(rows: Any) -> Any:
        seen.append((type(rows), len(rows)))
        return rows[0] + rows[1][:, 0]

    with Batcher(model, inputs=(TensorSpec((), "f8"), TensorSpec((1,), "f8"))) as batcher:
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


# The first request


def test_a_first_request_that_is_refused_decides_nothing() -> None:
    with Batcher(identity) as batcher:
        for bad in ("text", None, [[1], [1, 2]], (), {}, Unreadable()):
            with pytest.raises(InputError):
                batcher(bad)
        np.testing.assert_array_equal(batcher(ROW), ROW)
        with pytest.raises(InputError, match=r"float64 array of shape \(3,\), got .* \(4,\)"):
            batcher(np.zeros(4))


def test_a_first_request_that_is_refused_for_want_of_room_still_decides(model: Gated) -> None:
    with Batcher(model, max_queue_size=1) as batcher:
        batcher.submit(ROW)
        model.await_entry()
        batcher.submit(ROW)
        with pytest.raises(QueueFullError):
            batcher.submit(ROW)
        model.gate.set()


def test_what_is_no_array_of_numbers_is_told_about_lists() -> None:
    with Batcher(identity) as batcher, pytest.raises(InputError, match="collate='list'"):
        batcher("some text")


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
    import weakref

    class Thing:
        """Can be referred to weakly."""

    with Batcher(lambda items: [1 for _ in items], collate="list") as batcher:
        thing = Thing()
        reference = weakref.ref(thing)
        future = batcher.submit(thing)
        del thing
        assert future.result(PATIENCE) == 1
        until(lambda: reference() is None)
