"""Fixtures of the Python tests: a model that waits for the test, and both kinds of event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import hypothesis
import pytest
import uvloop

from tests.gated import PATIENCE, ROW, Gated
from tidegate import Batcher, Future

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile(
    "tidegate", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tidegate")


@pytest.fixture
def model() -> Iterator[Gated]:
    """A model that doubles its batches, each only once the test has opened its gate."""
    gated = Gated()
    yield gated
    gated.gate.set()


@pytest.fixture
def batcher(model: Gated) -> Iterator[Batcher]:
    """A Batcher in front of `model`, which only its executor runs."""
    made = Batcher(model, caller_runs=False)
    yield made
    model.gate.set()
    made.close(timeout=PATIENCE)


@pytest.fixture
def running(model: Gated, batcher: Batcher) -> Future:
    """A request that the model has."""
    future = batcher.submit(ROW)
    model.await_entry()
    return future


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes an event loop of either kind."""
    return asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop


@pytest.fixture
def run(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine in an event loop of either kind, as asyncio.run() does."""

    def runner(coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop = new_loop()
        try:
            return loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    return runner
