"""Asks a model from many threads or many coroutines at once, and records answers and latencies."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]
Work = Iterator[tuple[int, Row]]
"""One caller's requests: each one's number, and its image."""


@dataclass(frozen=True)
class Way:
    """One of the ways in which the demo asks.

    Attributes:
        callers: "threads" or "coroutines".
        batched: Whether they ask through a Batcher.
    """

    callers: str
    batched: bool

    @property
    def name(self) -> str:
        """What the way is called wherever it is shown."""
        return f"{self.callers}, {'Batcher' if self.batched else 'unbatched'}"


WAYS = [Way(callers, batched) for callers in ("threads", "coroutines") for batched in (False, True)]


@dataclass(frozen=True)
class Recording:
    """Room made beforehand, one place per request, so that recording costs the callers little.

    Attributes:
        latencies: Nanoseconds from asking to having the answer, (requests,); 0 until answered.
        answers: What came, (requests, outputs); NaN until answered.
    """

    latencies: NDArray[np.int64]
    answers: NDArray[np.float64]

    @classmethod
    def of(cls, requests: int, outputs: int) -> Recording:
        """Make room for so many requests of so many outputs each."""
        return cls(np.zeros(requests, np.int64), np.full((requests, outputs), np.nan))

    def answered(self) -> int:
        """How many requests have their answer by now; any thread may ask."""
        return int(np.count_nonzero(self.latencies))


@dataclass(frozen=True)
class Spent:
    """What a run took: time on the wall, and time of this process's threads on the CPU."""

    seconds: float
    cpu_seconds: float


class _Stopwatch:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Spent:
        return Spent(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def from_threads(
    classify: Callable[[Row], Row], rows: Sequence[Row], recording: Recording, callers: int
) -> Spent:
    """Ask from threads, each with one request in flight.

    Args:
        classify: Called by every thread, with one row; waits for the answer.
        rows: The images; the callers go round them.
        recording: Filled with what comes; its length says how many requests to make.
        callers: The number of threads.

    Returns:
        What it took, from the moment at which all threads are ready.

    Raises:
        BaseException: The first that `classify` raised, or that interrupted the waiting.
    """
    now = time.perf_counter_ns
    latencies, answers = recording.latencies, recording.answers
    ready = threading.Barrier(callers + 1)
    ended = threading.Semaphore(0)
    failures: list[BaseException] = []  # Not empty also tells the other threads to stop.

    def call(work: Work) -> None:
        try:
            ready.wait()
            for request, row in work:
                if failures:
                    return
                asked = now()
                answer = classify(row)
                latencies[request] = now() - asked
                answers[request] = answer
        except BaseException as failure:
            failures.append(failure)
        finally:
            ended.release()

    threads = [
        threading.Thread(target=call, args=(work,), name=f"demo-caller-{i}")
        for i, work in enumerate(_shares(rows, len(latencies), callers))
    ]
    try:
        for thread in threads:
            thread.start()
        stopwatch = _Stopwatch()
        ready.wait()
        # Not join(), which CPython up to 3.12 cannot interrupt cleanly: it then takes the thread
        # that it waited for as ended, and nobody can wait for that one any more.
        for _ in threads:
            ended.acquire()
        spent = stopwatch.read()
    except BaseException as failure:
        failures.insert(0, failure)
        ready.abort()
    for thread in threads:
        if thread.ident is not None:  # It has started.
            thread.join()
    if failures:
        raise failures[0]
    return spent


async def from_coroutines(
    classify: Callable[[Row], Awaitable[Row]],
    rows: Sequence[Row],
    recording: Recording,
    callers: int,
) -> Spent:
    """Ask from coroutines of the running loop, each with one request in flight.

    Args:
        classify: Called by every coroutine, with one row; awaited for the answer.
        rows: The images; the callers go round them.
        recording: Filled with what comes; its length says how many requests to make.
        callers: The number of coroutines.

    Returns:
        What it took.
    """
    now = time.perf_counter_ns
    latencies, answers = recording.latencies, recording.answers

    async def call(work: Work) -> None:
        for request, row in work:
            asked = now()
            answer = await classify(row)
            latencies[request] = now() - asked
            answers[request] = answer

    stopwatch = _Stopwatch()
    await asyncio.gather(*(call(work) for work in _shares(rows, len(latencies), callers)))
    return stopwatch.read()


def unbatched(model: Callable[[Row], Row]) -> Callable[[Row], Row]:
    """Ask the model for one row, in the thread that wants the answer."""

    def classify(row: Row) -> Row:
        answer: Row = model(row[np.newaxis])[0]
        return answer

    return classify


def unbatched_on_loop(model: Callable[[Row], Row]) -> Callable[[Row], Awaitable[Row]]:
    """Ask the model for one row, on the event loop, when the request's turn comes.

    Requests reach a loop as events and wait for their turn. A coroutine that never suspended
    would make all its requests before the next one's first, and nobody's waiting would be seen.
    """

    async def classify(row: Row) -> Row:
        await asyncio.sleep(0)
        answer: Row = model(row[np.newaxis])[0]
        return answer

    return classify


def images_asked(requests: int, images: int) -> NDArray[np.intp]:
    """The index of the image of each request, (requests,)."""
    return np.arange(requests) % images


def _shares(rows: Sequence[Row], requests: int, callers: int) -> Iterator[Work]:
    """Each caller's part of the requests, in one piece; made in C while it is gone through."""
    for caller in range(callers):
        first, end = requests * caller // callers, requests * (caller + 1) // callers
        yield zip(range(first, end), islice(cycle(rows), first % len(rows), None), strict=False)


@contextmanager
def watched(
    recording: Recording, show: Callable[[int], None], every: float = 0.25
) -> Iterator[None]:
    """Show now and then, from a thread of its own, how many requests have been answered.

    The callers know nothing of it: they only fill the recording.

    Args:
        recording: The recording that is being filled.
        show: Called with the number, and once more at the end.
        every: Seconds between two calls.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            show(recording.answered())

    watcher = threading.Thread(target=watch, name="demo-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        show(recording.answered())
