"""The Chrome trace: a file that viewers take, and that agrees with the flight recorder."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tidegate
from tests.gated import PATIENCE, ROW, Gated, until
from tests.helpers import identity, occupy
from tidegate import Batcher, ConfigError, ModelPool
from tidegate.tracing import write_chrome_trace

REQUIRED = {
    "M": {"name", "pid", "tid", "args"},
    "X": {"name", "pid", "tid", "ts", "dur", "args"},
    "b": {"name", "pid", "tid", "ts", "cat", "id"},
    "e": {"name", "pid", "tid", "ts", "cat", "id"},
    "C": {"name", "pid", "tid", "ts", "args"},
}


def trace_of(path: Path, *batchers: Batcher) -> list[dict[str, Any]]:
    """The events of a trace, checked by the rules of the Trace Event Format."""
    write_chrome_trace(path, batchers)
    document = json.loads(path.read_text())
    assert document["displayTimeUnit"] == "ms"
    events: list[dict[str, Any]] = document["traceEvents"]
    for event in events:
        assert set(event) - {"ph", "cname"} == REQUIRED[event["ph"]]
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0
    opened = Counter((e["id"], e["name"]) for e in events if e["ph"] == "b")
    closed = Counter((e["id"], e["name"]) for e in events if e["ph"] == "e")
    assert opened == closed
    assert all(count == 1 for count in opened.values())
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            track = tracks[event["pid"], event["tid"]]
            track.append((event["ts"], event["ts"] + event["dur"]))
    for slices in tracks.values():
        ordered = sorted(slices)
        for (_, end), (start, _) in itertools.pairwise(ordered):
            assert start >= end - 1e-6, "slices of one track overlap"
    return events


def batches(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X" and event["args"]]


def names(events: list[dict[str, Any]], kind: str) -> dict[tuple[int, int], str]:
    return {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["ph"] == "M" and event["name"] == kind
    }


def test_every_batch_is_a_slice_a_wait_and_a_count(tmp_path: Path) -> None:
    with Batcher(identity, name="m") as batcher:
        for _ in range(20):
            batcher(ROW)
        batcher.submit_many(np.zeros((100, 3))).result(PATIENCE)
        until(lambda: all(r.delivered is not None for r in batcher.recent_batches()))
        events = trace_of(tmp_path / "trace.json", batcher)
        records = batcher.recent_batches()
    slices = batches(events)
    assert [event["args"]["sequence"] for event in slices] == list(range(22))
    assert [event["name"] for event in slices] == [
        f"{record.rows} row{'s' * (record.rows > 1)}" for record in records
    ]
    zero = min(record.submitted for record in records)
    for event, record in zip(slices, records, strict=True):
        # Later only where the delivery of the batch before had not ended.
        assert event["ts"] >= (record.model_started - zero) * 1e6 - 0.01
        assert event["ts"] + event["dur"] == pytest.approx(
            (record.model_ended - zero) * 1e6, abs=0.01
        )
        assert event["args"]["reason"] == record.reason
        assert event["args"]["led"] == record.led
    assert sum(event["ph"] == "b" for event in events) == 22
    counts = [event["args"]["rows"] for event in events if event["ph"] == "C"]
    assert counts == [record.rows for record in records]


def test_batchers_are_processes_and_executors_are_threads(tmp_path: Path, model: Gated) -> None:
    pool = ModelPool([model, model])
    with Batcher(identity, name="quick") as quick, Batcher(pool, name="slow") as slow:
        quick(ROW)
        for _ in range(2):
            slow.submit(ROW)
            model.await_entry()
        model.gate.set()
        until(lambda: len(slow.recent_batches()) == 2)
        events = trace_of(tmp_path / "trace.json", quick, slow)
    assert names(events, "process_name") == {(1, 0): "batcher quick", (2, 0): "batcher slow"}
    assert names(events, "thread_name") == {
        (1, 0): "queue",
        (1, 1): "executor 0",
        (2, 0): "queue",
        (2, 1): "executor 0",
        (2, 2): "executor 1",
    }
    assert sorted((e["pid"], e["tid"]) for e in batches(events)) == [(1, 1), (2, 1), (2, 2)]


def test_a_wait_ends_where_the_batch_is_taken(
    tmp_path: Path, model: Gated, batcher: Batcher
) -> None:
    occupy(batcher, model)
    futures = [batcher.submit(ROW) for _ in range(2)]
    model.gate.set()
    futures[1].result(PATIENCE)
    events = trace_of(tmp_path / "trace.json", batcher)
    first, second = batches(events)
    (begin,) = (e["ts"] for e in events if e["ph"] == "b" and e["name"] == "2 rows wait")
    (end,) = (e["ts"] for e in events if e["ph"] == "e" and e["name"] == "2 rows wait")
    assert first["ts"] <= begin <= first["ts"] + first["dur"] <= end <= second["ts"]
    assert second["args"]["queue_duration_us"] >= end - begin - 0.01


def test_failures_are_seen(tmp_path: Path) -> None:
    def model(rows: Any) -> Any:
        raise LookupError("no")

    with Batcher(model) as batcher:
        assert batcher.submit(ROW).exception(PATIENCE) is not None
        (event,) = batches(trace_of(tmp_path / "trace.json", batcher))
    assert (event["args"]["outcome"], event["args"]["failed_rows"]) == ("failed", 1)
    assert event["cname"] == "terrible"


def test_one_batcher_need_not_be_in_a_list_and_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text("something longer than an empty trace" * 100)
    with Batcher(identity) as batcher:
        assert write_chrome_trace(str(path), batcher) == 0
        assert len(json.loads(path.read_text())["traceEvents"]) == 2
        batcher(ROW)
        assert write_chrome_trace(path, batcher) == 1


def test_a_decorated_function_stands_for_its_batcher(tmp_path: Path) -> None:
    @tidegate.batch
    def double(rows: Any) -> Any:
        return rows * 2

    double(ROW)
    for batchers in (double, [double]):
        assert write_chrome_trace(tmp_path / "trace.json", batchers) == 1
    double.close()


def test_something_else_than_batchers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    for wrong in (identity, 5, None):
        with pytest.raises(
            ConfigError, match=f"a trace is of Batchers, got {type(wrong).__name__}"
        ):
            write_chrome_trace(path, wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a trace is of Batchers, got function"):
        write_chrome_trace(path, [identity])  # type: ignore[list-item]
    assert not path.exists()
