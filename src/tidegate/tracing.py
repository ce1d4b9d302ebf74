"""Traces of batches: spans for OpenTelemetry, and the flight recorder as a Chrome trace.

``instrument`` needs the extra ``tracing``, ``pip install 'tidegate[tracing]'``; the Chrome trace
needs nothing.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from tidegate._chrome_trace import write_chrome_trace
from tidegate.batcher import Batcher, HasBatcher, batcher_of
from tidegate.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, TracerProvider

__all__ = ["instrument", "uninstrument", "write_chrome_trace"]

_logger = logging.getLogger("tidegate")


def instrument(
    batcher: Batcher | HasBatcher, tracer_provider: TracerProvider | None = None
) -> None:
    """Makes a span of each batch, ``tidegate.batch``, linked with the spans of its requests.

    A request's span is the one that is current where it is submitted. The model runs inside the
    batch's span, so that spans of its own are children of it. The batch's span is the root of a
    trace, since it belongs to many. It has the attributes ``tidegate.batcher``,
    ``tidegate.batch.rows``, ``tidegate.batch.reason``, ``tidegate.batch.queue_duration`` (seconds
    that the oldest row waited) and, where rows failed by themselves, their number as
    ``tidegate.batch.failed_rows``. Its status is ERROR if the model raised.

    Args:
        batcher: What is traced from now on, or a function under ``@tidegate.batch``. Once more
            replaces what was said before.
        tracer_provider: Where spans go; None for OpenTelemetry's global one.

    Raises:
        ConfigError: It is no Batcher, or runs a NativeModel, in whose thread there is no Python.
        ModuleNotFoundError: opentelemetry-api is not installed.
    """
    batcher = _checked(batcher)
    if batcher._runtime.native:
        raise ConfigError(
            f"{batcher.name!r} runs a NativeModel, which cannot be traced from Python"
        )
    batcher._session.tracer = _Tracer(batcher.name, tracer_provider)


def uninstrument(batcher: Batcher | HasBatcher) -> None:
    """Ends what instrument() began; batches under way may still make a span."""
    _checked(batcher)._session.tracer = None


def _checked(target: object) -> Batcher:
    batcher = batcher_of(target)
    if batcher is None:
        raise ConfigError(f"only a Batcher can be traced, got {type(target).__name__}")
    return batcher


class _Tracer:
    """What the extension module calls: once per request, and twice per batch.

    Nothing here may raise: a request never fails because somebody watches.
    """

    def __init__(self, name: str, provider: TracerProvider | None) -> None:
        try:
            from opentelemetry import context, trace
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "tidegate.tracing needs opentelemetry-api: pip install 'tidegate[tracing]'",
                name=error.name,
            ) from error
        self._name = name
        self._attach, self._detach = context.attach, context.detach
        self._nowhere = context.Context
        self._trace = trace
        self._tracer = trace.get_tracer("tidegate", tracer_provider=provider)

    def context(self) -> SpanContext | None:
        """Where the request comes from that is submitted now."""
        current = self._trace.get_current_span().get_span_context()
        return current if current.is_valid else None

    def begin(
        self, contexts: list[SpanContext], rows: int, reason: str, queue_duration: float
    ) -> tuple[Span, Any] | None:
        """Begins a batch's span and makes it the current one."""
        # Many rows may come from one span, which is linked once.
        links = {(each.trace_id, each.span_id): each for each in contexts}
        try:
            span = self._tracer.start_span(
                "tidegate.batch",
                context=self._nowhere(),
                links=[self._trace.Link(each) for each in links.values()],
                attributes={
                    "tidegate.batcher": self._name,
                    "tidegate.batch.rows": rows,
                    "tidegate.batch.reason": reason,
                    "tidegate.batch.queue_duration": queue_duration,
                },
            )
            return span, self._attach(self._trace.set_span_in_context(span, self._nowhere()))
        except Exception:
            _logger.exception("no span for a batch of %r", self._name)
            return None

    def leave(self, begun: tuple[Span, Any] | None) -> tuple[Span, Any] | None:
        """Makes it the current one no more, for a batch whose end another thread sees."""
        if begun is None:
            return None
        span, token = begun
        try:
            self._detach(token)
        except Exception:
            _logger.exception("the context of a span of %r stays", self._name)
        return span, None

    def end(
        self,
        begun: tuple[Span, Any],
        error: BaseException | None,
        failed_rows: int,
        ago: int = 0,
    ) -> None:
        """Ends it, with what the model raised or how many rows failed by themselves.

        `ago` are nanoseconds since the batch ended, if that is known only now.
        """
        span, token = begun
        try:
            if token is not None:
                self._detach(token)
            if error is not None:
                span.record_exception(error)
                said = f"{type(error).__name__}: {error}"
                span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, said))
            elif failed_rows:
                span.set_attribute("tidegate.batch.failed_rows", failed_rows)
        except Exception:
            _logger.exception("a span of %r is incomplete", self._name)
        finally:
            self._end(span, ago)

    def _end(self, span: Span, ago: int) -> None:
        try:
            span.end(time.time_ns() - ago if ago else None)
        except Exception:
            _logger.exception("a span of %r could not be ended", self._name)
