"""A soak: rounds of requests from threads and event loops, with a checkpoint after each."""

from __future__ import annotations

import asyncio
import concurrent.futures
import faulthandler
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import uvloop

from tests.soak import checkpoints
from tests.soak.checkpoints import Checkpoint
from tests.soak.from_loops import LoopCaller
from tests.soak.from_threads import ThreadCaller
from tests.soak.ledger import OPEN, Ledger
from tests.soak.stand import Stand
from tidegate import Statistics

THREADS = 4
COROUTINES = 24  # in each loop
PACE = 0.01  # seconds between two changes
ROUND_SECONDS = 600.0  # a round that takes longer hangs


@dataclass(frozen=True)
class Round:
    """What one round has shown.

    Attributes:
        seconds: How long it took.
        outcomes: Requests by how they ended; see ledger.
        statistics: Those of each Batcher that was used.
        checkpoint: What was left when all had ended.
    """

    seconds: float
    outcomes: npt.NDArray[np.int64]
    statistics: list[Statistics]
    checkpoint: Checkpoint


def in_background(work: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Starts `work` in a thread that nobody needs to wait for, should it hang."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def body() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=body, daemon=True).start()
    return future


class LoopThread:
    """An event loop in a thread, which lives as long as the round."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._running = in_background(loop.run_forever)

    def start(self, callers: list[LoopCaller]) -> concurrent.futures.Future[Any]:
        """Starts the callers; the future ends with the last of them, or the first error."""

        async def all_of_them() -> None:
            await asyncio.gather(*[caller.run() for caller in callers])

        return asyncio.run_coroutine_threadsafe(all_of_them(), self.loop)

    def end(self) -> None:
        """Ends thread and loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._running.result(ROUND_SECONDS)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def play(size: int, seed: int) -> tuple[npt.NDArray[np.int64], list[Statistics]]:
    """Plays a round of `size` requests and checks how each ended.

    Returns:
        Requests by outcome, and the statistics of all batchers.
    """
    rng = random.Random(seed)

    def child() -> random.Random:
        return random.Random(rng.random())

    ledger = Ledger(size, salt=rng.randrange(1 << 40), rng=np.random.default_rng(seed))
    loops = [LoopThread(asyncio.new_event_loop()), LoopThread(uvloop.new_event_loop())]
    stand = Stand(ledger, child(), [thread.loop for thread in loops])
    working = [in_background(ThreadCaller(ledger, stand, child()).run) for _ in range(THREADS)]
    for thread in loops:
        callers = [LoopCaller(ledger, stand, child()) for _ in range(COROUTINES)]
        working.append(thread.start(callers))
    tending = in_background(lambda: stand.tend(PACE))
    waited = concurrent.futures.wait(
        working, ROUND_SECONDS, return_when=concurrent.futures.FIRST_EXCEPTION
    )
    for future in waited.done:
        future.result()
    if waited.not_done:
        faulthandler.dump_traceback()
        raise AssertionError(f"{ledger.counts()[OPEN]} requests never ended")
    stand.stop_tending()
    tending.result(ROUND_SECONDS)
    statistics = stand.end()
    for thread in loops:
        thread.end()
    ledger.check(statistics)
    return ledger.counts(), statistics


def soak(requests: int, rounds: int, seed: int) -> Iterator[Round]:
    """Plays `requests` requests in `rounds` rounds, with a checkpoint after each."""
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        threads = threading.active_count()
        for number in range(rounds):
            started = time.monotonic()
            outcomes, statistics = play(requests // rounds, seed + number)
            checkpoints.await_threads_end(threads)
            yield Round(time.monotonic() - started, outcomes, statistics, checkpoints.take())
            del outcomes, statistics
    finally:
        if not tracing:
            tracemalloc.stop()
