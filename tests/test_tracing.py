"""Spans of batches: linked with the requests, around the model, and never in the way."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import tidegate
from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tests.helpers import identity, occupy
from tidegate import Batcher, ConfigError, ModelError, NativeModel, OutputError, TensorSpec
from tidegate.tracing import instrument, uninstrument


class Stand:
    """A provider whose spans stay here."""

    def __init__(self) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self._kept = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer: Tracer = self.provider.get_tracer("test")  # type: ignore[assignment]

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._kept.get_finished_spans() if span.name == name]

    def batches(self, count: int) -> list[ReadableSpan]:
        """The spans of batches, once there are so many."""
        until(lambda: len(self.spans("tidegate.batch")) >= count)
        spans = self.spans("tidegate.batch")
        assert len(spans) == count
        return spans


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()
    yield made
    made.provider.shutdown()


def linked(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def id_of(span: trace.Span | ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def ids(spans: list[ReadableSpan]) -> set[int]:
    return {id_of(span) for span in spans}


def asked(stand: Stand, ask: Callable[[], Any]) -> Any:
    """Asks inside a span of its own."""
    with stand.tracer.start_as_current_span("request"):
        return ask()


# What a span says


def test_a_span_of_a_batch_links_every_request_in_it(stand: Stand, model: Gated) -> None:
    with Batcher(model, name="m", caller_runs=False) as batcher:
        instrument(batcher, stand.provider)
        occupy(batcher, model)
        futures = [asked(stand, lambda: batcher.submit(ROW)) for _ in range(5)]
        model.gate.set()
        for future in futures:
            future.result(PATIENCE)
        first, second = stand.batches(2)
    assert linked(first) == set(), "it was submitted outside of any span"
    assert linked(second) == ids(stand.spans("request"))
    assert len(second.links) == 5
    assert second.parent is None
    assert second.status.status_code is StatusCode.UNSET
    attributes = dict(second.attributes or {})
    waited = attributes.pop("tidegate.batch.queue_duration")
    assert isinstance(waited, float)
    assert waited > 0
    assert attributes == {
        "tidegate.batcher": "m",
        "tidegate.batch.rows": 5,
        "tidegate.batch.reason": "idle",
    }


def test_a_batch_that_went_for_its_cost_says_so(stand: Stand) -> None:
    with Batcher(identity, cost_fn=lambda row: 5, max_batch_cost=5, caller_runs=False) as batcher:
        instrument(batcher, stand.provider)
        batcher(ROW)
        (span,) = stand.batches(1)
    assert (span.attributes or {})["tidegate.batch.reason"] == "cost"


def test_spans_of_the_model_are_children_of_the_batch(stand: Stand) -> None:
    def model(rows: Any) -> Any:
        with stand.tracer.start_as_current_span("layer"):
            return rows

    with Batcher(model, caller_runs=False) as batcher:
        instrument(batcher, stand.provider)
        asked(stand, lambda: batcher(ROW))
        (batch,) = stand.batches(1)
    (layer,) = stand.spans("layer")
    assert layer.parent is not None
    assert layer.parent.span_id == id_of(batch)


def test_a_caller_that_leads_gets_its_own_context_back(stand: Stand) -> None:
    seen: list[int] = []

    def model(rows: Any) -> Any:
        seen.append(id_of(trace.get_current_span()))
        return rows

    with Batcher(model) as batcher:
        instrument(batcher, stand.provider)
        until(lambda: batcher.statistics().executors[0].state == "idle")
        with stand.tracer.start_as_current_span("request") as request:
            batcher(ROW)
            assert trace.get_current_span() is request
        assert batcher.statistics().led == 1
        (batch,) = stand.batches(1)
    assert seen == [id_of(batch)]
    assert linked(batch) == {id_of(request)}
    assert batch.parent is None


def test_requests_of_tasks_are_linked_with_the_spans_of_the_tasks(
    stand: Stand, run: Callable[[Any], Any]
) -> None:
    async def request(batcher: Batcher) -> None:
        with stand.tracer.start_as_current_span("request"):
            await batcher.submit(ROW)

    async def main(batcher: Batcher) -> None:
        await asyncio.gather(*[request(batcher) for _ in range(8)])

    for executor in ("thread", "inline"):
        with Batcher(identity, executor=executor) as batcher:
            instrument(batcher, stand.provider)
            run(main(batcher))
    until(lambda: len(stand.spans("request")) == 16)
    spans = stand.spans("tidegate.batch")
    assert set().union(*map(linked, spans)) == ids(stand.spans("request"))
    assert sum(len(span.links) for span in spans) == 16


def test_many_rows_of_one_request_are_one_link_in_each_batch(stand: Stand) -> None:
    with Batcher(identity, max_batch_size=8) as batcher:
        instrument(batcher, stand.provider)
        asked(stand, lambda: batcher.submit_many(np.zeros((20, 3))).result(PATIENCE))
        spans = stand.batches(3)
    assert [linked(span) for span in spans] == [ids(stand.spans("request"))] * 3
    assert all(len(span.links) == 1 for span in spans)


def test_lists_are_traced_too(stand: Stand) -> None:
    with Batcher(list, collate="list") as batcher:
        instrument(batcher, stand.provider)
        asked(stand, lambda: batcher.submit("row").result(PATIENCE))
        asked(stand, lambda: batcher.submit_many(["a", "b"]).result(PATIENCE))
        first, second = stand.batches(2)
    assert linked(first) | linked(second) == ids(stand.spans("request"))


def test_a_cancelled_request_is_not_linked(stand: Stand, model: Gated) -> None:
    with Batcher(model, caller_runs=False) as batcher:
        instrument(batcher, stand.provider)
        occupy(batcher, model)
        futures = [asked(stand, lambda: batcher.submit(ROW)) for _ in range(4)]
        futures[1].cancel()
        model.gate.set()
        futures[3].result(PATIENCE)
        _, second = stand.batches(2)
    requests = stand.spans("request")
    assert linked(second) == ids([requests[0], requests[2], requests[3]])


def test_the_links_are_no_more_than_the_rows(stand: Stand) -> None:
    with Batcher(identity, max_batch_size=4, max_queue_delay=1e6) as batcher:
        instrument(batcher, stand.provider)
        futures = [asked(stand, lambda: batcher.submit(ROW)) for _ in range(12)]
        for future in futures:
            future.result(PATIENCE)
        assert [len(span.links) for span in stand.batches(3)] == [4, 4, 4]


# Failures


def test_a_model_that_raises_is_an_error(stand: Stand) -> None:
    def model(rows: Any) -> Any:
        raise LookupError("no such row")

    with Batcher(model) as batcher:
        instrument(batcher, stand.provider)
        with pytest.raises(ModelError):
            batcher(ROW)
        (span,) = stand.batches(1)
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "LookupError: no such row"
    assert [event.name for event in span.events] == ["exception"]


def test_an_answer_that_does_not_fit_is_an_error(stand: Stand) -> None:
    with Batcher(lambda rows: rows[:0]) as batcher:
        instrument(batcher, stand.provider)
        with pytest.raises(OutputError):
            batcher(ROW)
        (span,) = stand.batches(1)
    assert span.status.status_code is StatusCode.ERROR


def test_rows_that_fail_by_themselves_are_counted(stand: Stand) -> None:
    with Batcher(lambda rows: [ValueError("no"), *rows[1:]]) as batcher:
        instrument(batcher, stand.provider)
        assert batcher.submit_many(np.zeros((3, 3))).exception(PATIENCE) is not None
        (span,) = stand.batches(1)
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["tidegate.batch.failed_rows"] == 1


def test_a_tracer_that_fails_harms_no_request(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> Any:
            return self

        def start_span(self, *_: object, **__: object) -> Any:
            raise RuntimeError("out of order")

    with Batcher(identity, name="m") as batcher:
        instrument(batcher, Broken(shutdown_on_exit=False))
        with caplog.at_level(logging.CRITICAL + 1, logger="tidegate"):
            assert np.array_equal(batcher(ROW), ROW)
        assert np.array_equal(batcher.submit(ROW).result(PATIENCE), ROW)
    assert "no span for a batch of 'm'" in caplog.text


# Beginning and ending


def test_without_instrumentation_there_are_no_spans(stand: Stand) -> None:
    with Batcher(identity) as batcher:
        batcher(ROW)
        instrument(batcher, stand.provider)
        batcher(ROW)
        uninstrument(batcher)
        asked(stand, lambda: batcher(ROW))
        asked(stand, lambda: batcher.submit(ROW).result(PATIENCE))
    stand.batches(1)


def test_requests_from_before_are_served_and_not_linked(stand: Stand, model: Gated) -> None:
    with Batcher(model, caller_runs=False) as batcher:
        occupy(batcher, model)
        before = asked(stand, lambda: batcher.submit(ROW))
        instrument(batcher, stand.provider)
        after = asked(stand, lambda: batcher.submit(ROW))
        bulk = asked(stand, lambda: batcher.submit_many(np.zeros((2, 3))))
        model.gate.set()
        for future in (before, after, bulk):
            future.result(PATIENCE)
        (span,) = stand.batches(1)
    assert (span.attributes or {})["tidegate.batch.rows"] == 4
    assert linked(span) == set(), "the batch was opened before somebody traced"


def test_instrumenting_while_others_ask_loses_nothing(stand: Stand) -> None:
    with Batcher(identity, max_batch_size=8) as batcher:
        work = [
            in_thread(lambda: [asked(stand, partial(batcher, ROW + i))[0] for i in range(200)])
            for _ in range(3)
        ]
        while any(thread.is_alive() for thread in work):
            instrument(batcher, stand.provider)
            batcher(ROW)
            uninstrument(batcher)
        for thread in work:
            assert thread.outcome() == list(range(200))
    requests = ids(stand.spans("request"))
    for span in stand.spans("tidegate.batch"):
        assert linked(span) <= requests
        assert len(span.links) <= 8


def test_a_decorated_function_is_traced_by_its_batcher(stand: Stand) -> None:
    @tidegate.batch
    def double(rows: Any) -> Any:
        return rows * 2

    instrument(double, stand.provider)
    double(ROW)
    uninstrument(double)
    double(ROW)
    double.close()
    assert len(stand.spans("tidegate.batch")) == 1


def test_what_cannot_be_traced_is_refused(stand: Stand) -> None:
    with pytest.raises(ConfigError, match="only a Batcher can be traced, got function"):
        instrument(identity, stand.provider)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="only a Batcher can be traced, got str"):
        uninstrument("m")  # type: ignore[arg-type]


def test_a_native_model_is_refused(stand: Stand) -> None:
    import ctypes

    @ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
    )
    def function(*_: object) -> int:
        return 0

    model = NativeModel(function, outputs=TensorSpec((), "float32"))
    with (
        Batcher(model, inputs=TensorSpec((3,), "float32"), name="m") as batcher,
        pytest.raises(ConfigError, match="'m' runs a NativeModel"),
    ):
        instrument(batcher, stand.provider)


def test_without_opentelemetry_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None; from tidegate import Batcher, tracing; "
        "tracing.instrument(Batcher(lambda rows: rows))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: tidegate.tracing needs opentelemetry-api: "
        "pip install 'tidegate[tracing]'"
    )
