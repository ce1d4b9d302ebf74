"""Statistics: every row is counted once, under what became of it."""

from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tidegate import Batcher, ModelError, ModelPool, QueueFullError, Statistics, TensorSpec
from tidegate.statistics import HistogramStatistics


def test_a_new_batcher_has_done_nothing() -> None:
    with Batcher(lambda rows: rows, executor="inline") as batcher:
        now = batcher.statistics()
    assert isinstance(now, Statistics)
    counts = [value for value in dataclasses.asdict(now).values() if isinstance(value, int)]
    assert len(counts) == 14
    assert not any(counts)
    assert now.mean_batch_size == 0.0
    assert now.queue_duration.mean == 0.0
    assert now.queue_duration.quantile(0.5) == 0.0


def test_a_snapshot_cannot_be_changed_and_does_not_change() -> None:
    with Batcher(lambda rows: rows) as batcher:
        before = batcher.statistics()
        batcher(ROW)
        assert before.completed == 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            before.completed = 5


def test_a_snapshot_can_be_taken_apart_and_sent_elsewhere(model: Gated, batcher: Batcher) -> None:
    model.gate.set()
    batcher(ROW)
    now = batcher.statistics()
    assert pickle.loads(pickle.dumps(now)) == now
    parts = dataclasses.asdict(now)
    assert parts["completed"] == 1
    assert sum(parts["dispatched"].values()) == 1
    assert json.loads(json.dumps(parts))["batch_size"]["count"] == 1


def test_every_row_is_counted_under_what_became_of_it(model: Gated) -> None:
    def failing(rows: Any) -> Any:
        doubled = model(rows)
        if 13 in rows:
            raise LookupError("thirteen")
        return [ValueError("seven") if row[0] == 14 else row for row in doubled]

    batcher = Batcher(failing, max_batch_size=4, max_queue_size=10, caller_runs=False)
    batcher.submit(ROW)
    model.await_entry()
    cancelled = batcher.submit(ROW)
    expiring = [batcher.submit(ROW, timeout=0.01) for _ in range(2)]
    batcher.submit(ROW + 7)
    batcher.submit_many(np.full((4, 3), 13.0))
    batcher.submit(ROW)
    batcher.submit(ROW)
    with pytest.raises(QueueFullError):
        batcher.submit(ROW)
    with pytest.raises(QueueFullError):
        batcher.submit_many(np.zeros((3, 3)))
    assert cancelled.cancel()
    for future in expiring:
        future.exception(PATIENCE)
    model.gate.set()
    batcher.close()
    now = batcher.statistics()
    assert now.submitted == 11
    assert now.completed == 3
    assert now.failed == 5
    assert (now.cancelled, now.expired, now.closed) == (1, 2, 0)
    assert now.rejected == 4
    assert (now.batches, now.rows) == (4, 8)
    assert now.mean_batch_size == 2.0
    assert now.queue_depth == 0
    assert [len(batch) for batch in model.batches] == [1, 1, 4, 2]


def test_closing_counts_what_it_refuses(model: Gated) -> None:
    batcher = Batcher(model, caller_runs=False)
    batcher.submit(ROW)
    model.await_entry()
    batcher.submit_many(np.zeros((5, 3)))
    closing = in_thread(lambda: batcher.close(drain=False))
    until(lambda: batcher.statistics().closed == 5)
    model.gate.set()
    closing.outcome()
    now = batcher.statistics()
    assert (now.completed, now.closed, now.submitted) == (1, 5, 6)


def test_the_queue_depth_counts_what_waits_and_not_what_runs(
    model: Gated, batcher: Batcher
) -> None:
    batcher.submit(ROW)
    model.await_entry()
    assert batcher.statistics().queue_depth == 0
    futures = [batcher.submit(ROW) for _ in range(3)]
    assert batcher.statistics().queue_depth == 3
    model.gate.set()
    futures[-1].result(PATIENCE)
    assert batcher.statistics().queue_depth == 0


def test_a_caller_finds_its_own_request_counted() -> None:
    with Batcher(lambda rows: rows, max_batch_size=1) as batcher:
        for number in range(1, 300):
            if number % 2:
                batcher(ROW)
            else:
                batcher.submit(ROW).result(PATIENCE)
            now = batcher.statistics()
            assert (now.completed, now.batches, now.rows) == (number, number, number)


def test_no_snapshot_shows_more_ended_than_begun() -> None:
    with Batcher(lambda rows: rows, max_batch_size=8) as batcher:
        threads = [in_thread(lambda: [batcher(ROW) for _ in range(200)]) for _ in range(4)]
        while any(thread.is_alive() for thread in threads):
            now = batcher.statistics()
            ended = now.completed + now.failed + now.cancelled + now.expired + now.closed
            assert ended <= now.submitted
        for thread in threads:
            thread.outcome()


@pytest.mark.parametrize("collate", ["pad", "pack"])
def test_tokens_are_counted_with_what_was_added(collate: Any) -> None:
    def model(batch: Any) -> Any:
        return batch.lengths if collate == "pad" else np.diff(batch.cu_seqlens)

    with Batcher(
        model,
        inputs=TensorSpec((None,), np.int64),
        collate=collate,
        max_batch_size=4,
        allowed_batch_sizes=[4],
    ) as batcher:
        for length in (3, 0, 5):
            batcher(range(length))
        now = batcher.statistics()
    assert (now.rows, now.padding_rows, now.tokens) == (3, 9, 8)
    # Three rows more of each length.
    assert now.padding_tokens == (24 if collate == "pad" else 0)


def test_what_a_failing_model_was_called_with_is_counted_too() -> None:
    def failing(batch: Any) -> Any:
        raise LookupError

    with Batcher(failing, inputs=TensorSpec((None,), np.int64), collate="pack") as batcher:
        with pytest.raises(ModelError):
            batcher([1, 2])
        now = batcher.statistics()
    assert (now.failed, now.rows, now.tokens) == (1, 1, 2)


def test_why_each_batch_went_is_counted(model: Gated) -> None:
    batcher = Batcher(model, max_batch_size=4, caller_runs=False)
    batcher.submit(ROW)
    model.await_entry()
    batcher.submit_many(np.zeros((8, 3)))
    batcher.submit(ROW)
    closing = in_thread(batcher.close)
    until(lambda: batcher.closed)
    model.gate.set()
    closing.outcome()
    now = batcher.statistics()
    assert set(now.dispatched) == {"full", "idle", "delay", "drain", "cost"}
    assert sum(now.dispatched.values()) == now.batches == 4
    assert now.dispatched["idle"] == 1
    assert now.dispatched["drain"] >= 1
    with Batcher(lambda rows: rows, max_queue_delay=0.001) as delayed:
        delayed(ROW)
        assert dict(delayed.statistics().dispatched) == {
            "full": 0,
            "idle": 0,
            "delay": 1,
            "drain": 0,
            "cost": 0,
        }


def test_histograms_hold_every_row_and_batch(model: Gated, batcher: Batcher) -> None:
    batcher.submit(ROW)
    model.await_entry()
    futures = [batcher.submit(ROW) for _ in range(9)]
    until(lambda: batcher.statistics().executors[0].busy_for > 0.01)
    model.gate.set()
    futures[-1].result(PATIENCE)
    now = batcher.statistics()
    for histogram, count in (
        (now.queue_duration, 10),
        (now.request_duration, 10),
        (now.batch_duration, 2),
        (now.batch_size, 2),
    ):
        assert histogram.count == sum(histogram.counts) == count
        assert len(histogram.counts) == len(histogram.upper_edges)
        assert list(histogram.upper_edges) == sorted(set(histogram.upper_edges))
        assert all(histogram.counts)
    assert now.batch_size.sum == 10
    assert now.batch_size.mean == 5
    # A bucket is at most a quarter wide, and its upper edge is not in it.
    assert 1 < now.batch_size.quantile(0.5) <= 2
    assert 9 < now.batch_size.quantile(1.0) <= 12
    assert now.batch_duration.sum >= 0.01
    assert now.request_duration.sum >= now.queue_duration.sum
    assert now.request_duration.quantile(0.05) >= 0.01


def test_quantiles_are_upper_edges() -> None:
    histogram = HistogramStatistics((1.0, 2.0, 4.0), (1, 2, 1), 4, 6.0)
    assert histogram.mean == 1.5
    assert [histogram.quantile(q) for q in (0.0, 0.25, 0.26, 0.75, 0.76, 1.0)] == [1, 1, 2, 2, 4, 4]


def test_executors_show_what_they_are_at(model: Gated) -> None:
    batcher = Batcher(ModelPool([model, model]), caller_runs=False)
    until(lambda: [e.state for e in batcher.statistics().executors] == ["idle", "idle"])
    assert [e.busy_for for e in batcher.statistics().executors] == [0.0, 0.0]
    future = batcher.submit(ROW)
    model.await_entry()
    states = sorted(e.state for e in batcher.statistics().executors)
    assert states == ["busy", "idle"]
    (busy,) = [e for e in batcher.statistics().executors if e.state == "busy"]
    # One that is stuck is known by a time that only grows.
    until(lambda: max(e.busy_for for e in batcher.statistics().executors) > busy.busy_for)
    model.gate.set()
    future.result(PATIENCE)
    batcher.close()
    assert [e.state for e in batcher.statistics().executors] == ["gone", "gone"]


def test_a_leading_caller_is_seen(model: Gated) -> None:
    with Batcher(model) as batcher:
        until(lambda: batcher.statistics().executors[0].state == "idle")
        calling = in_thread(lambda: batcher(ROW))
        model.await_entry()
        (executor,) = batcher.statistics().executors
        assert executor.state == "lent"
        model.gate.set()
        calling.outcome()
        assert batcher.statistics().led == 1
