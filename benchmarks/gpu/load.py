"""Closed and open loops for whatever answers requests, with one answer in fifty compared.

Both are in the process that they load, as the handlers of a web service are; a request is a task of
the event loop. A thread times the arrivals of the open loop, since a loop's own timers are a
millisecond late; it looks at most five thousand times a second. Latencies count from when a request
was due, and how late requests went out is reported.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

import numpy as np

from benchmarks.gpu.checker import Checker
from benchmarks.gpu.journal import Metrics
from benchmarks.gpu.meter import Meter
from benchmarks.gpu.tasks import Array, Tally

__all__ = ["Submit", "closed_loop", "open_loop", "threads_closed_loop"]

Submit = Callable[[Array], Awaitable[Array]]

TICK = 2e-4
"""Seconds between two looks at what is due, so that the client does not wake for each request."""

PATIENCE = 10.0
"""Seconds behind the end of a loop in which all requests must have their answers."""


async def closed_loop(
    submit: Submit,
    requests: Sequence[Array],
    check: Checker,
    tally: Callable[[], Tally],
    *,
    clients: int,
    seconds: float,
    warm_up: float,
) -> Metrics:
    """Each client asks, awaits the answer, and asks again with another request."""
    running = True
    meter = Meter(tally)

    async def client(number: int) -> None:
        while running:
            begin = perf_counter()
            answer = await submit(requests[number % len(requests)])
            meter.latencies.append(perf_counter() - begin)
            check(number, answer)
            number += clients

    tasks = [asyncio.ensure_future(client(number)) for number in range(clients)]
    try:
        await _unless_over(tasks, warm_up)
        meter.begin()
        await _unless_over(tasks, seconds)
        metrics = meter.metrics()
        running = False
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    finally:
        await _cancel(tasks)
    return {**metrics, "worst": check.worst, "checked": float(check.checked)}


def threads_closed_loop(
    call: Callable[[Array], Array],
    requests: Sequence[Array],
    check: Checker,
    *,
    clients: int,
    seconds: float,
    warm_up: float,
) -> Metrics:
    """The same with a thread for each client and a call that waits; each call is a batch."""
    running = True
    errors: list[BaseException] = []
    done = [0] * clients

    def tally() -> Tally:
        count = sum(done)
        return Tally(batches=count, rows=count, useful=count, seen=count)

    meter = Meter(tally)

    def client(place: int) -> None:
        number = place
        try:
            while running:
                begin = perf_counter()
                answer = call(requests[number % len(requests)])
                meter.latencies.append(perf_counter() - begin)
                done[place] += 1
                check(number, answer)
                number += clients
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(warm_up)
    meter.begin()
    time.sleep(seconds)
    running = False
    if errors:
        raise errors[0]
    metrics = meter.metrics()
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    return {**metrics, "worst": check.worst, "checked": float(check.checked)}


async def open_loop(
    submit: Submit,
    requests: Sequence[Array],
    check: Checker,
    tally: Callable[[], Tally],
    *,
    per_second: float,
    seconds: float,
    warm_up: float,
) -> Metrics:
    """Requests at random times, so many a second on the average, whatever became of the others."""
    loop = asyncio.get_running_loop()
    meter = Meter(tally)
    tasks: set[asyncio.Task[None]] = set()
    failed: list[BaseException] = []
    late: list[float] = []
    sent = 0

    async def ask(number: int, due: float) -> None:
        answer = await submit(requests[number % len(requests)])
        meter.latencies.append(perf_counter() - due)
        check(number, answer)

    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            failed.append(error)

    def release(dues: list[float]) -> None:
        nonlocal sent
        late.append(perf_counter() - dues[0])
        for due in dues:
            task = loop.create_task(ask(sent, due))
            tasks.add(task)
            task.add_done_callback(ended)
            sent += 1

    arrivals = _Arrivals(per_second, lambda dues: loop.call_soon_threadsafe(release, dues))
    try:
        await asyncio.sleep(warm_up)
        meter.begin()
        late.clear()
        await asyncio.sleep(seconds)
        metrics = meter.metrics()
        lag = float(np.percentile(late, 99)) if late else 0.0
        arrivals.stop()
        await asyncio.sleep(0)  # for those released last
        end = loop.time() + PATIENCE
        while tasks and loop.time() < end:
            await asyncio.wait(set(tasks), timeout=end - loop.time())
        unanswered = len(tasks)
    finally:
        arrivals.stop()
        await _cancel(list(tasks))
    if failed:
        raise failed[0]
    if unanswered:
        raise TimeoutError(f"{unanswered} requests have no answer after {PATIENCE:g} s")
    worst = {"worst": check.worst, "checked": float(check.checked)}
    return {**metrics, "offered": per_second, "late_p99": lag, **worst}


class _Arrivals:
    """A thread that says when requests are due, those together that are due by now."""

    def __init__(self, per_second: float, release: Callable[[list[float]], object]) -> None:
        self._per_second = per_second
        self._release = release
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it; idempotent."""
        self._stopped.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        drawn = random.Random(9)
        due = perf_counter()
        while not self._stopped.is_set():
            time.sleep(max(TICK, due - perf_counter()))
            now, dues = perf_counter(), []
            while due <= now:
                dues.append(due)
                due += drawn.expovariate(self._per_second)
            if dues:
                self._release(dues)


async def _unless_over(tasks: Sequence[asyncio.Future[None]], seconds: float) -> None:
    """Sleeps, unless a client ends meanwhile, which it does by an error only."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _cancel(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
