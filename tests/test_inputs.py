"""Requests that are refused: what each is told, and that neighbours never suffer."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated
from tests.helpers import Tensor, Unreadable, identity
from tidegate import Batcher, ClosedError, InputError, QueueFullError, TensorSpec, TidegateError

SPEC = TensorSpec((3,), np.float32)


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
    pytest.param(Tensor(np.zeros(5)), "float64 array of shape (5,)", id="a foreign tensor"),
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
    async def main() -> Any:
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


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), "soon", [1.0], 1j, 10**400])
def test_a_timeout_that_cannot_be_is_refused_with_its_value(timeout: Any) -> None:
    with Batcher(identity) as batcher:
        for door in (batcher.submit, batcher, batcher.predict_async):
            with pytest.raises(InputError, match="number of seconds >= 0") as caught:
                door(ROW, timeout=timeout)
            assert repr(timeout) in str(caught.value)
        with pytest.raises(InputError, match="number of seconds >= 0"):
            batcher.submit_many([ROW], timeout=timeout)
        assert batcher.statistics().submitted == 0


def test_a_request_with_a_timeout_that_cannot_be_teaches_nothing() -> None:
    with Batcher(identity) as batcher:
        wrong = {"another": np.zeros(7)}
        for door in (batcher.submit, batcher, batcher.predict_async):
            with pytest.raises(InputError, match="number of seconds >= 0"):
                door(wrong, timeout="soon")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="number of seconds >= 0"):
            batcher.submit_many(np.zeros((2, 7)), timeout=-1)
        np.testing.assert_array_equal(batcher(ROW), ROW)


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


# The first request


def test_a_first_request_that_is_refused_decides_nothing() -> None:
    with Batcher(identity) as batcher:
        refused: list[Any] = ["text", None, [[1], [1, 2]], (), {}, Unreadable()]
        for bad in refused:
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


class Speechless(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("inputs", [None, TensorSpec((3,), "float64")])
@pytest.mark.parametrize("where", ["array", "group_key", "cost_fn"])
def test_errors_of_callers_code_are_input_errors_whatever_they_say(where: str, inputs: Any) -> None:
    class Unwilling:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise Speechless

    def refuse(row: Any) -> Any:
        raise Speechless

    settings: dict[str, Any] = {where: refuse} if where != "array" else {}
    if where == "cost_fn":
        settings["max_batch_cost"] = 3
    request = Unwilling() if where == "array" else ROW
    with (
        Batcher(identity, inputs=inputs, **settings) as batcher,
        pytest.raises(InputError, match="Speechless"),
    ):
        batcher.submit(request)


def test_what_is_no_array_of_numbers_is_told_about_lists() -> None:
    with Batcher(identity) as batcher, pytest.raises(InputError, match="collate='list'"):
        batcher("some text")
