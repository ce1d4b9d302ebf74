"""The GIL hand-over: an executor gets on beside threads that never quite let the GIL go.

Without the hand-over, a thread that needs the GIL beside steps of 200 microseconds starves: it
gives a few answers a second, or none. With it there are hundreds. Each test goes on until some
second has seen WANTED answers, so that a machine that has other things to do for a while spoils
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import uvloop

from tests.gated import ROW, in_thread
from tidegate import Batcher, ModelPool

WANTED = 40
PATIENCE = 40.0
STEP = 0.0002


def model(rows: Any) -> Any:
    """Like one on an accelerator: gives the GIL up, and needs it again at the end."""
    time.sleep(0.002)
    return rows * 2


def step() -> None:
    """Works in Python for STEP seconds."""
    end = time.perf_counter() + STEP
    while time.perf_counter() < end:
        pass


class Progress:
    """Knows whether there were WANTED answers in any one second."""

    def __init__(self, parts: Sequence[Progress] = ()) -> None:
        self.enough = False
        self._parts = parts
        self._last: deque[float] = deque(maxlen=WANTED)
        self._deadline = time.monotonic() + PATIENCE

    @property
    def over(self) -> bool:
        """True if there is nothing more to see, here and in all parts."""
        enough = self.enough and all(part.enough for part in self._parts)
        return enough or time.monotonic() > self._deadline

    def answered(self) -> None:
        self._last.append(time.monotonic())
        if len(self._last) == WANTED and self._last[-1] - self._last[0] <= 1.0:
            self.enough = True


@contextlib.contextmanager
def on_core(index: int) -> Iterator[None]:
    """Keeps this thread, and those that it starts meanwhile, on one core.

    Where the executor and who is busy share a core, the system may take it from one for the other
    in the very instant in which the GIL is free; apart, only the hand-over helps.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[index]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def batcher_apart(model: Any, **settings: Any) -> Batcher:
    """A Batcher whose executors stay on the last core; who is busy takes the first."""
    with on_core(-1):
        return Batcher(model, **settings)


async def stay_busy(progress: Progress) -> None:
    while not progress.over:
        step()
        await asyncio.sleep(0)


async def ask(batcher: Batcher, progress: Progress) -> None:
    for value in itertools.count():
        if progress.over:
            return
        np.testing.assert_array_equal(await batcher.submit(ROW + value), 2 * (ROW + value))
        progress.answered()


def ask_from_thread(batcher: Batcher, progress: Progress) -> None:
    for value in itertools.count():
        if progress.over:
            return
        np.testing.assert_array_equal(batcher(ROW + value), 2 * (ROW + value))
        progress.answered()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_beside_a_busy_event_loop(run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        await asyncio.gather(ask(batcher, progress), stay_busy(progress))

    progress = Progress()
    with batcher_apart(model) as batcher, on_core(0):
        run(main())
    assert progress.enough


def test_beside_a_busy_event_loop_that_is_not_the_main_threads() -> None:
    async def main() -> None:
        await asyncio.gather(ask(batcher, progress), stay_busy(progress))

    progress = Progress()
    with batcher_apart(model) as batcher, on_core(0):
        in_thread(lambda: asyncio.run(main())).outcome()
    assert progress.enough


def test_every_instance_gets_on_beside_a_busy_event_loop() -> None:
    async def main() -> None:
        asking = [ask(batcher, progress) for _ in range(3)]
        await asyncio.gather(*asking, stay_busy(progress))

    def make() -> Callable[[Any], Any]:
        progress = Progress()
        each.append(progress)

        def instance(rows: Any) -> Any:
            progress.answered()
            return model(rows)

        return instance

    each: list[Progress] = []
    pool = ModelPool(make, instances=2)
    progress = Progress(each)
    with batcher_apart(pool, max_batch_size=1) as batcher, on_core(0):
        asyncio.run(main())
    assert progress.enough
    assert all(instance.enough for instance in each)


@pytest.mark.parametrize("caller_runs", [True, False])
def test_beside_a_busy_main_thread(caller_runs: bool) -> None:
    assert threading.current_thread() is threading.main_thread()
    progress = Progress()
    with batcher_apart(model, caller_runs=caller_runs) as batcher:
        with on_core(-1):
            asking = in_thread(lambda: ask_from_thread(batcher, progress))
        with on_core(0), select.epoll() as poller:
            while not progress.over:
                step()
                poller.poll(0)  # lets the GIL go for an instant, as most calls of the system do
        asking.outcome()
    assert progress.enough


def test_beside_a_main_thread_that_never_calls_the_system() -> None:
    progress = Progress()
    with batcher_apart(model) as batcher:
        with on_core(-1):
            asking = in_thread(lambda: ask_from_thread(batcher, progress))
        with on_core(0):
            while not progress.over:
                step()
        asking.outcome()
    assert progress.enough


def test_beside_threads_that_submit_all_the_time() -> None:
    progress = Progress()
    with batcher_apart(model, caller_runs=False) as batcher:

        def stay_busy_submitting() -> None:
            while not progress.over:
                step()
                batcher.submit(ROW).cancel()

        with on_core(0):
            busy = in_thread(stay_busy_submitting)
        with on_core(-1):
            ask_from_thread(batcher, progress)
        busy.outcome()
    assert progress.enough
