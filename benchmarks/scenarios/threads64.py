"""64 threads in a closed loop with the identity model: how many requests a second?"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import contestants
from benchmarks.contestants import WINDOW, ForThreads
from benchmarks.harness import Column, Metrics, Scenario, Settings, Variant, ratio
from benchmarks.loads import threads_closed_loop
from benchmarks.models import Counted, identity

CALLERS = 64


def measure(make: ForThreads) -> Callable[[Settings], Metrics]:
    def run(settings: Settings) -> Metrics:
        model = Counted(identity)
        with make(model) as call:
            rate = threads_closed_loop(call, model, callers=CALLERS, seconds=settings.seconds)
        return rate.metrics()

    return run


QUEUES = ("queue.Queue, 5 ms", "queue.Queue, no window")

SCENARIO = Scenario(
    name="threads64",
    question="64 threads, identity model, batches of at most 64: how many requests a second?",
    variants=[
        Variant("tidegate", measure(contestants.tidegate())),
        Variant("tidegate, 5 ms", measure(contestants.tidegate(max_queue_delay=WINDOW))),
        Variant("queue.Queue, 5 ms", measure(contestants.queued(window=WINDOW))),
        Variant("queue.Queue, no window", measure(contestants.queued(window=0.0))),
        Variant("queue.SimpleQueue, 5 ms", measure(contestants.simple_queued(window=WINDOW))),
    ],
    columns=[
        Column("throughput", "requests/s"),
        Column("mean_batch", "mean batch", digits=1),
        Column("cpu_us", "CPU µs/request", digits=2),
    ],
    targets=[
        ratio("tidegate / queue.Queue", "throughput", "tidegate", QUEUES, 6.0),
        ratio("tidegate, 5 ms / queue.Queue", "throughput", "tidegate, 5 ms", QUEUES, 6.0),
        ratio("tidegate / tidegate, 5 ms", "throughput", "tidegate", ["tidegate, 5 ms"], 0.9),
    ],
)
