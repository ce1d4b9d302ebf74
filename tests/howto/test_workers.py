"""The how-to for workers: jobs of several threads, of one, of a loop and of Celery make batches."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests import child, test_docs
from tests.gated import PATIENCE, in_thread, until
from tests.howto.sites import Held, expected, page
from tidegate import Batcher, InputError, ModelError, TensorSpec

JOBS = [{"id": number, "row": [number, 1, 2 * number]} for number in range(60)]
MISFIT = {"id": "misfit", "row": [1, 2]}


class Worker:
    """The page's functions, with a model that waits for the test."""

    def __init__(self) -> None:
        self.namespace = page("workers.md")
        self.model = Held(self.namespace["model"])
        self.model.shut()
        self.batcher = Batcher(self.model, inputs=TensorSpec((3,), "float32"), overflow="block")
        self.namespace["batcher"] = self.batcher
        self.finished: dict[Any, Any] = {}

    def finish(self, job: dict[str, Any], answer: Any) -> None:
        """What a worker does with an answer."""
        assert job["id"] not in self.finished, "finished twice"
        self.finished[job["id"]] = answer

    def let_go(self, jobs: int) -> None:
        """Opens the gate once so many jobs are under way."""
        until(lambda: self.model.rows_seen + self.batcher.statistics().queue_depth == jobs)
        self.model.gate.set()

    def check(self) -> None:
        """Every job has its own answer."""
        misfit = self.finished.pop("misfit")
        assert isinstance(misfit, InputError)
        assert set(self.finished) == {job["id"] for job in JOBS}
        for job in JOBS:
            assert self.finished[job["id"]].tolist() == expected(job["row"])


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker of the page, whose batcher is closed at the end."""
    made = Worker()
    yield made
    made.model.gate.set()
    made.batcher.close(timeout=PATIENCE)


def test_the_jobs_of_several_threads_make_batches(worker: Worker) -> None:
    jobs: queue.Queue[Any] = queue.Queue()
    for job in [*JOBS, MISFIT, *[None] * 16]:
        jobs.put(job)
    threads = [in_thread(lambda: worker.namespace["work"](jobs, worker.finish)) for _ in range(16)]
    worker.let_go(jobs=16)
    for thread in threads:
        thread.outcome()
    worker.check()
    assert max(map(len, worker.model.batches)) >= 8


def test_one_thread_keeps_a_window_of_jobs_in_flight(worker: Worker) -> None:
    receive = iter([MISFIT, *JOBS, None]).__next__
    consumer = in_thread(lambda: worker.namespace["consume"](receive, worker.finish, window=20))
    worker.let_go(jobs=20)
    consumer.outcome()
    worker.check()
    assert max(map(len, worker.model.batches)) >= 10


def test_an_event_loop_keeps_a_window_of_jobs_in_flight(worker: Worker) -> None:
    async def source() -> AsyncIterator[Any]:
        for job in [MISFIT, *JOBS]:
            yield job

    consume: Callable[..., Any] = worker.namespace["consume_async"]
    loop = in_thread(lambda: asyncio.run(consume(source(), worker.finish, window=20)))
    worker.let_go(jobs=20)
    loop.outcome()
    worker.check()
    assert max(map(len, worker.model.batches)) >= 10


def test_a_job_whose_batch_failed_ends_with_a_model_error_and_the_worker_goes_on(
    worker: Worker,
) -> None:
    worker.model.gate.set()
    worker.model.failure = RuntimeError("out of memory")
    receive = iter([JOBS[0], None]).__next__
    worker.namespace["consume"](receive, worker.finish)
    assert isinstance(worker.finished.pop(0), ModelError)
    worker.model.failure = None
    worker.namespace["consume"](iter([*JOBS, MISFIT, None]).__next__, worker.finish)
    worker.check()


# Celery keeps what it starts for the whole process, so it gets one of its own.
CELERY = """
import threading, time
from celery.contrib.testing.worker import start_worker
from celery.worker import state

gate, sizes = threading.Event(), []
plain = scores.__wrapped__

def held(batch):
    sizes.append(len(batch))
    assert gate.wait({patience})
    return plain(batch)

scores = tidegate.batch(held, inputs=TensorSpec((3,), "float32"))
app.conf.broker_transport_options = {{"polling_interval": 0.01}}
app.conf.worker_prefetch_multiplier = 4  # less of that polling
settings = {{"perform_ping_check": False, "loglevel": "CRITICAL"}}
with start_worker(app, pool="threads", concurrency=8, **settings):
    results = [predict.delay([number, 1, 0]) for number in range(40)]
    refused = predict.delay([1, 2])
    ends = threading.Event()
    def all_wait():
        while sum(sizes) + scores.statistics().queue_depth < 8 and not ends.wait(0.001):
            pass
        gate.set()
    watch = threading.Thread(target=all_wait)
    watch.start()
    answers = [result.get(timeout={patience}) for result in results]
    assert answers == [[float(number), 1.0] for number in range(40)], answers
    error = refused.get(timeout={patience}, propagate=False)
    assert type(error).__name__ == "InputError", error
    ends.set()
    watch.join()
    state.should_stop = 0  # as SIGTERM does
    while not scores.closed:
        time.sleep(0.001)
assert max(sizes) >= 4, sizes
print("ended")
"""


def test_the_tasks_of_a_celery_worker_with_threads_make_batches() -> None:
    examples = [
        source for _, source in test_docs.examples(test_docs.ROOT / "docs/how-to/workers.md")
    ]
    (tasks,) = [source for source in examples if "from celery import" in source]
    script = "\n".join(["__name__ = 'tasks'", examples[0], tasks, CELERY.format(patience=PATIENCE)])
    assert child.run(script) == "ended\n"
