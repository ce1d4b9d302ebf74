"""The flight recorder: the last batches, what became of them, and when."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tests.helpers import identity, occupy
from tidegate import Batcher, ModelPool
from tidegate.recorder import CAPACITY, BatchRecord


def ended(batcher: Batcher, count: int) -> list[BatchRecord]:
    """Its records, once there are so many and all were delivered."""
    until(lambda: sum(r.delivered is not None for r in batcher.recent_batches()) == count)
    return batcher.recent_batches()


def test_a_new_batcher_remembers_nothing() -> None:
    with Batcher(identity) as batcher:
        assert batcher.recent_batches() == []


def test_a_record_says_what_became_of_a_batch_and_when(model: Gated, batcher: Batcher) -> None:
    before = time.monotonic()
    occupy(batcher, model)
    futures = [batcher.submit(ROW) for _ in range(3)]
    futures[0].cancel()
    between = time.monotonic()
    model.gate.set()
    assert futures[2].result(PATIENCE) is not None
    first, second = ended(batcher, 2)
    assert (first.sequence, second.sequence) == (0, 1)
    assert (first.rows, second.rows) == (1, 2)
    assert first.reason == second.reason == "idle"
    assert first.outcome == second.outcome == "completed"
    assert (first.executor, first.led, first.failed_rows) == (0, False, 0)
    for record in (first, second):
        assert before <= record.submitted <= record.taken <= record.model_started
        assert record.model_started <= record.model_ended
        assert record.delivered is not None
        assert record.model_ended <= record.delivered <= time.monotonic()
    assert first.model_started <= between <= first.model_ended
    assert second.submitted <= between <= second.model_started
    assert second.queue_duration == second.model_started - second.submitted
    assert second.model_duration == second.model_ended - second.model_started


def test_records_agree_with_the_statistics() -> None:
    def model(rows: Any) -> Any:
        if 13 in rows:
            raise LookupError("thirteen")
        return [ValueError("seven") if row[0] == 7 else row for row in rows]

    with Batcher(model, max_batch_size=4) as batcher:
        for value in (1, 7, 13):
            future = batcher.submit_many(np.full((4, 3), float(value)))
            assert (future.exception(PATIENCE) is None) == (value == 1)
        batcher(ROW)
        records = ended(batcher, 4)
        now = batcher.statistics()
    assert [record.outcome for record in records] == [
        "completed",
        "completed",
        "failed",
        "completed",
    ]
    assert [record.failed_rows for record in records] == [0, 4, 4, 0]
    assert sum(record.failed_rows for record in records) == now.failed
    assert sum(record.rows for record in records) == now.rows
    assert sum(record.led for record in records) == now.led
    for reason, count in now.dispatched.items():
        assert sum(record.reason == reason for record in records) == count


def test_the_last_batches_are_kept_and_the_oldest_are_forgotten() -> None:
    with Batcher(identity, max_batch_size=1) as batcher:
        batcher.submit_many(np.zeros((1000, 3))).result(PATIENCE)
        for _ in range(CAPACITY):
            batcher(ROW)
        records = ended(batcher, CAPACITY)
    assert [record.sequence for record in records] == list(range(1000, 1000 + CAPACITY))


def test_a_caller_finds_its_own_batch() -> None:
    with Batcher(identity, max_batch_size=1) as batcher:
        for number in range(300):
            if number % 2:
                batcher(ROW)
            else:
                batcher.submit(ROW).result(PATIENCE)
            assert batcher.recent_batches()[-1].sequence == number


def test_each_instance_has_its_number(model: Gated) -> None:
    with Batcher(ModelPool([model, model]), max_batch_size=1, caller_runs=False) as batcher:
        futures = [batcher.submit(ROW) for _ in range(2)]
        model.await_entry()
        model.await_entry()
        model.gate.set()
        for future in futures:
            future.result(PATIENCE)
        assert {record.executor for record in ended(batcher, 2)} == {0, 1}


def test_an_abandoned_batch_is_recorded_when_its_model_comes_back(model: Gated) -> None:
    batcher = Batcher(model, caller_runs=False)
    occupy(batcher, model)
    batcher.close(timeout=0)
    assert batcher.recent_batches() == []
    model.gate.set()
    (record,) = ended(batcher, 1)
    assert (record.outcome, record.failed_rows) == ("abandoned", 0)


def test_readers_under_load_see_whole_records_in_order() -> None:
    with Batcher(identity, max_batch_size=4) as batcher:
        work = [in_thread(lambda: [batcher(ROW) for _ in range(1500)]) for _ in range(3)]
        last = -1
        while any(thread.is_alive() for thread in work):
            records = batcher.recent_batches()
            if not records:
                continue
            first, before, last = records[0].sequence, last, records[-1].sequence
            assert [r.sequence for r in records] == list(range(first, first + len(records)))
            assert last >= before
            for record in records:
                assert (
                    record.submitted <= record.taken <= record.model_started <= record.model_ended
                )
                assert 1 <= record.rows <= 4
        for thread in work:
            thread.outcome()
        assert batcher.recent_batches()[-1].sequence == batcher.statistics().batches - 1


def test_a_record_cannot_be_changed() -> None:
    with Batcher(identity) as batcher:
        batcher(ROW)
        (record,) = batcher.recent_batches()
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.rows = 5
