"""Models that raise: who learns of it, and how."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, until
from tidegate import Batcher, ModelError

Scores = namedtuple("Scores", ["best", "all"])


def test_an_exception_in_a_list_fails_its_own_request_only() -> None:
    class OfItsOwn(Exception):
        """Not one of ours."""

    errors = {2: ValueError("two"), 5: OfItsOwn("five")}
    with Batcher(
        lambda items: [errors.get(item, item) for item in items], collate="list"
    ) as batcher:
        futures = [batcher.submit(item) for item in range(8)]
        for item, future in enumerate(futures):
            if item in errors:
                assert future.exception(PATIENCE) is errors[item]
                with pytest.raises(type(errors[item])):
                    future.result()
            else:
                assert future.result(PATIENCE) == item
        now = batcher.statistics()
        assert (now.completed, now.failed) == (6, 2)


def test_an_exception_in_a_list_fails_its_own_request_in_a_loop_too(
    run: Callable[[Any], Any],
) -> None:
    async def main() -> list[Any]:
        async with Batcher(
            lambda items: [ValueError(item) if item % 2 else item for item in items],
            collate="list",
        ) as batcher:
            asked = [batcher.submit(item) for item in range(6)]
            return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(main())
    assert answers[::2] == [0, 2, 4]
    assert [str(error) for error in answers[1::2]] == ["1", "3", "5"]


def test_the_traceback_of_a_model_does_not_say_where_tidegate_was_built() -> None:
    def model(rows: Any) -> Any:
        raise LookupError("on purpose")

    with Batcher(model) as batcher, pytest.raises(ModelError) as failure:
        batcher(ROW)
    cause = failure.value.__cause__
    assert cause is not None
    first, *_, last = traceback.extract_tb(cause.__traceback__)
    assert first.filename == "csrc/bindings/fast/runner.pxi"
    assert last.name == "model"


@pytest.mark.parametrize("caller_runs", [True, False])
def test_a_model_that_raises_fails_its_batch_only(caller_runs: bool) -> None:
    def model(rows: Any) -> Any:
        if rows[0, 0] < 0:
            raise LookupError("below zero")
        return rows

    with Batcher(model, name="embed", caller_runs=caller_runs, max_batch_size=1) as batcher:
        for _ in range(3):
            with pytest.raises(ModelError, match=r"'embed' raised LookupError: below zero") as seen:
                batcher(ROW - 1)
            assert type(seen.value) is ModelError
            assert type(seen.value.__cause__) is LookupError
            np.testing.assert_array_equal(batcher(ROW + 1), ROW + 1)
        now = batcher.statistics()
        assert (now.completed, now.failed, now.batches) == (3, 3, 6)


def test_each_caller_gets_an_exception_of_its_own(model: Gated) -> None:
    def fail(rows: Any) -> Any:
        model(rows)
        raise LookupError("no such row")

    with Batcher(fail, caller_runs=False) as batcher:
        batcher.submit(ROW)
        model.await_entry()
        futures = [batcher.submit(ROW) for _ in range(5)]
        model.gate.set()
        errors = [future.exception(PATIENCE) for future in futures]
        assert len({id(error) for error in errors}) == 5
        assert len({id(error.__cause__) for error in errors if error is not None}) == 1
        assert futures[0].exception() is errors[0]
        assert batcher.statistics().failed == 6


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exit_out_of_the_model_fails_its_batch_and_the_executor_goes_on(kind: Any) -> None:
    def model(rows: Any) -> Any:
        if rows[0, 0] < 0:
            raise kind
        return rows

    with Batcher(model, caller_runs=False, max_batch_size=1) as batcher:
        with pytest.raises(ModelError) as seen:
            batcher(ROW - 1)
        assert type(seen.value.__cause__) is kind
        np.testing.assert_array_equal(batcher(ROW), ROW)


def test_ctrl_c_in_a_model_that_the_caller_runs_reaches_the_caller() -> None:
    leaders = []

    def model(rows: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            leaders.append(rows[0, 0])
            raise KeyboardInterrupt
        return rows

    def interrupted() -> bool:
        try:
            batcher(ROW)
        except KeyboardInterrupt:
            return True
        return False

    with Batcher(model) as batcher:
        until(interrupted)
        assert leaders
        np.testing.assert_array_equal(batcher.submit(ROW).result(PATIENCE), ROW)


def test_an_error_that_cannot_be_shown_is_still_an_error() -> None:
    class Unspeakable(Exception):
        """Has no text."""

        def __str__(self) -> str:
            raise RuntimeError("no text")

    def model(rows: Any) -> Any:
        raise Unspeakable

    with Batcher(model, caller_runs=False) as batcher:
        error = batcher.submit(ROW).exception(PATIENCE)
        assert type(error) is ModelError
        assert type(error.__cause__) is Unspeakable
        with pytest.raises(ModelError):
            batcher(ROW)
