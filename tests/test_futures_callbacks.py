"""Done callbacks outside of event loops."""

from __future__ import annotations

import contextvars
import logging
import threading
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, in_thread
from tests.helpers import Calls
from tidegate import Batcher, ClosedError, DeadlineError, Future

NOT_LONG = 0.02


def test_a_callback_is_called_once_with_the_future(model: Gated, running: Future) -> None:
    calls = Calls()
    running.add_done_callback(calls)
    assert calls.calls == []
    model.gate.set()
    calls.wait()
    assert calls.calls == [running]
    assert calls.threads != [threading.get_ident()]


def test_a_callback_of_a_future_that_is_done_is_called_at_once(
    model: Gated, running: Future
) -> None:
    model.gate.set()
    running.result(PATIENCE)
    calls = Calls()
    running.add_done_callback(calls)
    assert calls.calls == [running]
    assert calls.threads == [threading.get_ident()]


def test_callbacks_are_called_in_the_order_they_came(model: Gated, running: Future) -> None:
    order: list[int] = []
    last = Calls()
    for number in range(10):
        running.add_done_callback(lambda _, number=number: order.append(number))
    running.add_done_callback(last)
    model.gate.set()
    last.wait()
    assert order == list(range(10))


def test_a_callback_that_was_added_twice_is_called_twice(model: Gated, running: Future) -> None:
    calls = Calls()
    running.add_done_callback(calls)
    running.add_done_callback(calls)
    model.gate.set()
    calls.wait(2)
    assert calls.calls == [running, running]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_callback_that_raises_is_logged_and_harms_no_other(
    kind: Any, model: Gated, batcher: Batcher, running: Future, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(_: Any) -> None:
        raise kind("by the callback")

    neighbour, before, after, other = batcher.submit(ROW), Calls(), Calls(), Calls()
    for callback in (before, bad, after):
        running.add_done_callback(callback)
    neighbour.add_done_callback(bad)
    neighbour.add_done_callback(other)
    with caplog.at_level(logging.ERROR, "tidegate"):
        model.gate.set()
        before.wait()
        after.wait()
        other.wait()
    assert "by the callback" in caplog.text
    later = Calls()
    batcher.submit(ROW).add_done_callback(later)
    later.wait()
    np.testing.assert_array_equal(running.result(PATIENCE), 2 * ROW)


def test_a_callback_that_raises_at_once_is_logged_too(
    model: Gated, running: Future, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(_: Any) -> None:
        raise ValueError("by the callback")

    model.gate.set()
    running.result(PATIENCE)
    running.add_done_callback(bad)
    assert "by the callback" in caplog.text


def test_a_removed_callback_is_not_called(model: Gated, running: Future) -> None:
    kept, removed, last = Calls(), Calls(), Calls()
    for callback in (removed, kept, removed, last):
        running.add_done_callback(callback)
    assert running.remove_done_callback(removed) == 2
    assert running.remove_done_callback(removed) == 0
    model.gate.set()
    last.wait()
    assert (len(kept.calls), len(removed.calls)) == (1, 0)


def test_callbacks_may_come_back_after_all_were_removed(model: Gated, running: Future) -> None:
    calls = Calls()
    running.add_done_callback(calls)
    assert running.remove_done_callback(calls) == 1
    running.add_done_callback(calls)
    model.gate.set()
    calls.wait()
    assert len(calls.calls) == 1


def test_cancelling_calls_the_callbacks_at_once(batcher: Batcher, running: Future) -> None:
    queued, calls = batcher.submit(ROW), Calls()
    queued.add_done_callback(calls)
    assert queued.cancel()
    assert calls.calls == [queued]
    assert calls.threads == [threading.get_ident()]


def test_expiring_and_closing_call_the_callbacks(model: Gated) -> None:
    batcher = Batcher(model, caller_runs=False)
    batcher.submit(ROW)
    model.await_entry()
    expiring, refused = Calls(), Calls()
    batcher.submit(ROW, timeout=NOT_LONG).add_done_callback(expiring)
    batcher.submit(ROW).add_done_callback(refused)
    expiring.wait()
    assert type(expiring.calls[0].exception()) is DeadlineError
    batcher.close(drain=False, timeout=0)
    refused.wait()
    assert type(refused.calls[0].exception()) is ClosedError


def test_a_callback_may_use_the_batcher_and_its_futures(model: Gated, running: Future) -> None:
    answers: list[Any] = []
    calls = Calls()
    with Batcher(lambda rows: rows + 1) as other:

        def ask_again(future: Future) -> None:
            answers.append(other(future.result()))
            other.submit(future.result() + 1).add_done_callback(calls)

        running.add_done_callback(ask_again)
        model.gate.set()
        calls.wait()
        np.testing.assert_array_equal(answers[0], 2 * ROW + 1)
        np.testing.assert_array_equal(calls.calls[0].result(), 2 * ROW + 2)


def test_callbacks_may_be_added_from_many_threads_at_once(model: Gated, batcher: Batcher) -> None:
    futures = [batcher.submit(ROW) for _ in range(20)]
    calls = [Calls() for _ in futures]

    def add() -> None:
        for future, called in zip(futures, calls, strict=True):
            future.add_done_callback(called)

    threads = [in_thread(add) for _ in range(8)]
    model.gate.set()
    for thread in threads:
        thread.outcome()
    for future, called in zip(futures, calls, strict=True):
        called.wait(8)
        assert called.calls == [future] * 8


def test_a_callback_sees_the_context_in_which_it_was_added(model: Gated, running: Future) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []
    last = Calls()
    for value in ("first", "second"):
        variable.set(value)
        running.add_done_callback(lambda _: seen.append(variable.get()))
    other = contextvars.Context()
    running.add_done_callback(lambda _: seen.append(variable.get()), context=other)
    variable.set("third")
    running.add_done_callback(last)
    model.gate.set()
    last.wait()
    assert seen == ["first", "second", "none"]


def test_a_future_may_be_forgotten_and_its_callback_is_called(
    model: Gated, batcher: Batcher, running: Future
) -> None:
    calls = Calls()
    batcher.submit(ROW + 3).add_done_callback(calls)
    model.gate.set()
    calls.wait()
    np.testing.assert_array_equal(calls.calls[0].result(), 2 * (ROW + 3))
