"""Every way to serve a task that is measured: something to submit to, and a tally."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.baselines.asyncio_batcher import ExecutorBatcher
from benchmarks.gpu.journal import Metrics
from benchmarks.gpu.stack import Gpu
from benchmarks.gpu.tasks import Array, ByHand, Tally, Task, Way
from tidegate import Batcher
from tidegate.gpu.waiting import CudaDevice

__all__ = ["FAIR", "GRAPHS", "TIDEGATE", "ByHandBatcher", "Served", "Variant", "variants_of"]

TIDEGATE, GRAPHS = "tidegate", "tidegate, graphs"
FAIR = ("fair naive", "fair naive, 2 threads")

# An open loop may let requests pile up for a while, at any batcher.
_QUEUE = 1 << 20


@dataclass(frozen=True)
class Served:
    """What answers requests.

    Attributes:
        submit: Takes a request, and returns what its answer is awaited from.
        tally: What the model has been given so far.
        requests: What is asked.
        facts: Returns figures of its own, once it has been asked.
    """

    submit: Callable[[Array], Awaitable[Array]]
    tally: Callable[[], Tally]
    requests: Sequence[Array]
    facts: Callable[[], Metrics] = dict


@dataclass(frozen=True)
class Variant:
    """One line of the tables.

    Attributes:
        name: Of the line.
        open: Opens it, inside an event loop; None if it is called by threads, without batches.
        threads: How many those are.
        paced: Whether it is measured in open loops, too.
    """

    name: str
    open: Callable[[], contextlib.AbstractAsyncContextManager[Served]] | None
    threads: int = 0
    paced: bool = False


class ByHandBatcher(ExecutorBatcher):
    """The hand-written asyncio batcher, with batches that are made in its executor.

    Args:
        answer: Makes a batch of rows, and answers it.
        ragged: Whether tokens are counted instead of rows.
        max_batch_size: The most rows of one batch.
        threads: Of the executor: with 2, a batch is made while the GPU has another.
    """

    def __init__(
        self, answer: ByHand, *, ragged: bool, max_batch_size: int, threads: int = 1
    ) -> None:
        super().__init__(_nothing, max_batch_size=max_batch_size)
        self._executor = ThreadPoolExecutor(threads)
        self._answer = answer
        self._ragged = ragged
        self._counting = threading.Lock()
        self.tally = Tally()

    def _call(self, rows: list[Array]) -> Any:
        try:
            outputs, seen = self._answer(rows)
        except Exception as error:
            return error
        with self._counting:
            self.tally.batches += 1
            self.tally.rows += len(rows)
            self.tally.useful += sum(map(len, rows)) if self._ragged else len(rows)
            self.tally.seen += seen
        return outputs


def _nothing(batch: Array) -> Array:
    raise AssertionError("_call() is another")


@contextlib.asynccontextmanager
async def _by_hand(task: Task, answer: ByHand, threads: int) -> AsyncIterator[Served]:
    size = task.tidegate.settings["max_batch_size"]
    batcher = ByHandBatcher(answer, ragged=task.ragged, max_batch_size=size, threads=threads)
    with contextlib.closing(batcher):
        yield Served(batcher.submit, lambda: batcher.tally, task.requests)


@contextlib.asynccontextmanager
async def _with_tidegate(gpu: Gpu, task: Task, way: Way, **device: Any) -> AsyncIterator[Served]:
    model = way.model()
    place = None if gpu.device is None else CudaDevice(gpu.device, **device)
    requests = task.requests if way.requests is None else way.requests
    async with Batcher(
        model, device=place, warmup=True, max_queue_size=_QUEUE, **way.settings
    ) as batcher:

        def tally() -> Tally:
            now = batcher.statistics()
            useful = now.tokens if task.ragged else now.rows
            return Tally(model.tally.batches, now.rows, useful, model.tally.seen)

        yield Served(batcher.submit, tally, requests, model.facts)


def variants_of(gpu: Gpu, task: Task) -> list[Variant]:
    """All variants of a task; those that the open loops compare come first."""
    given = partial(_with_tidegate, gpu, task)
    fair = [
        Variant(name, partial(_by_hand, task, task.fair, threads), paced=True)
        for threads, name in enumerate(FAIR, 1)
    ]
    variants = [
        *fair,
        Variant(TIDEGATE, partial(given, task.tidegate), paced=True),
    ]
    if task.graphs is not None:
        variants.append(Variant(GRAPHS, partial(given, task.graphs), paced=True))
    best = task.tidegate
    variants += [
        Variant("tidegate, native completion", partial(given, best, completion="native")),
        Variant("tidegate, one batch at a time", partial(given, best, depth=1)),
        *(Variant(f"tidegate, {less}", partial(given, way)) for less, way in task.off.items()),
        Variant("naive", partial(_by_hand, task, task.naive, 1)),
        Variant("unbatched, 1 thread", None, threads=1),
        Variant("unbatched, 16 threads", None, threads=16),
    ]
    return variants
