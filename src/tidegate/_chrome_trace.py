"""The flight recorder as a Chrome trace: JSON that Perfetto and chrome://tracing open."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tidegate.batcher import Batcher, HasBatcher, batcher_of
from tidegate.errors import ConfigError
from tidegate.recorder import BatchRecord

__all__ = ["write_chrome_trace"]

_QUEUE = 0  # the thread id of the queue's track; executors count from 1
# Names of colours that both viewers know.
_COLOURS = {"completed": "good", "failed": "terrible", "abandoned": "bad"}


def write_chrome_trace(
    path: str | os.PathLike[str], batchers: Batcher | HasBatcher | Iterable[Batcher | HasBatcher]
) -> int:
    """Writes what the batchers' flight recorders hold.

    Each batcher is a process: a track for each executor, with its batches and what went on around
    them; the waits of the batches in the queue; and a counter of rows per batch. Open the file at
    https://ui.perfetto.dev or in chrome://tracing. Zero is the first submission.

    Args:
        path: Where to; replaced if it exists.
        batchers: Whose batches; functions under ``@tidegate.batch`` stand for theirs.

    Returns:
        How many batches there are in it.

    Raises:
        ConfigError: `batchers` holds something else.
    """
    one = batcher_of(batchers)
    targets = batchers if one is None else (one,)
    if not isinstance(targets, Iterable):
        raise ConfigError(f"a trace is of Batchers, got {type(targets).__name__}")
    recorded = [(batcher, batcher.recent_batches()) for batcher in map(_checked, targets)]
    starts = [record.submitted for _, records in recorded for record in records]
    zero = min(starts, default=0.0)
    events = [
        event
        for process, (batcher, records) in enumerate(recorded, start=1)
        for event in _events(process, batcher.name, records, zero)
    ]
    document = {"displayTimeUnit": "ms", "traceEvents": events}
    Path(path).write_text(json.dumps(document, separators=(",", ":")) + "\n")
    return len(starts)


def _checked(target: object) -> Batcher:
    batcher = batcher_of(target)
    if batcher is None:
        raise ConfigError(f"a trace is of Batchers, got {type(target).__name__}")
    return batcher


def _events(
    process: int, name: str, records: list[BatchRecord], zero: float
) -> Iterator[dict[str, Any]]:
    """The events of one batcher."""
    yield _named("process_name", process, _QUEUE, f"batcher {name}")
    yield _named("thread_name", process, _QUEUE, "queue")
    for executor in sorted({record.executor for record in records}):
        yield _named("thread_name", process, executor + 1, f"executor {executor}")
    free: dict[int, float] = {}
    for record in sorted(records, key=lambda record: record.model_started):
        yield from _wait(process, record, zero)
        thread = record.executor + 1
        # A batch may be taken while the one before is being delivered; slices may not overlap.
        start = max(record.taken, free.get(thread, zero))
        model = max(record.model_started, start)
        done = max(record.model_ended, model)
        slices = [
            ("take", start, model, {}),
            (_rows(record), model, done, _arguments(record)),
            ("deliver", done, record.delivered or done, {}),
        ]
        for title, begin, end, arguments in slices:
            if end > begin or arguments:
                event = _event("X", title, process, thread, begin - zero)
                # From what is written: rounded by itself it might reach into the next.
                event["dur"] = round(_microseconds(end - zero) - event["ts"], 3)
                event["args"] = arguments
                if arguments:
                    event["cname"] = _COLOURS[record.outcome]
                yield event
        free[thread] = max(done, record.delivered or done)
        counter = _event("C", "rows per batch", process, _QUEUE, model - zero)
        counter["args"] = {"rows": record.rows}
        yield counter


def _wait(process: int, record: BatchRecord, zero: float) -> Iterator[dict[str, Any]]:
    """From the oldest row's submission to the taking; waits overlap, so they are asynchronous."""
    for phase, when in (("b", record.submitted), ("e", record.taken)):
        event = _event(phase, f"{_rows(record)} wait", process, _QUEUE, when - zero)
        yield {**event, "cat": "queue", "id": f"{process}.{record.sequence}"}


def _arguments(record: BatchRecord) -> dict[str, Any]:
    return {
        "sequence": record.sequence,
        "rows": record.rows,
        "failed_rows": record.failed_rows,
        "reason": record.reason,
        "outcome": record.outcome,
        "led": record.led,
        "queue_duration_us": _microseconds(record.queue_duration),
    }


def _rows(record: BatchRecord) -> str:
    return f"{record.rows} row{'s' if record.rows > 1 else ''}"


def _named(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _event(phase: str, name: str, process: int, thread: int, when: float) -> dict[str, Any]:
    return {"ph": phase, "name": name, "pid": process, "tid": thread, "ts": _microseconds(when)}


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 3)
