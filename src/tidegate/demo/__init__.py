"""The demonstration behind `tidegate demo`; needs the extra `demo`, and nothing else imports it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from tidegate import Batcher
from tidegate.demo import digits, load, plot, report
from tidegate.demo.digits import Floats

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run.

    Attributes:
        requests: Requests in each of the four rows.
        threads: Threads that ask at the same time.
        coroutines: Coroutines that ask at the same time.
        max_batch_size: The Batcher's, in rows.
        max_queue_delay: The Batcher's, in seconds.
        seed: For the split of the data and for the training.
        plot: Where to write the plot of the latencies; None writes none.
        json: Where to write the table as JSON; None writes none.
    """

    requests: int = 40_000
    threads: int = 64
    coroutines: int = 256
    max_batch_size: int = 64
    max_queue_delay: float = 0.0
    seed: int = 0
    plot: Path | None = None
    json: Path | None = None

    def settings(self) -> dict[str, object]:
        """What decides the figures, by name."""
        return {key: value for key, value in asdict(self).items() if key not in ("plot", "json")}


def run(options: Options, console: Console | None = None) -> bool:
    """Train, measure the four ways, and report.

    Args:
        options: What to run.
        console: Where to print; standard output if None.

    Returns:
        Whether every answer was the unbatched model's.
    """
    console = console or Console(highlight=False)
    # One BLAS thread for both ways: with more, a batch would be spread over the cores and a single
    # row would not, and the CPU time would count BLAS threads that spin while they wait.
    with threadpool_limits(limits=1):
        data = digits.train(options.seed)
        console.print(
            f"Trained a classifier on {data.trained_on:,} images of digits. Now "
            f"{options.threads} threads and {options.coroutines} coroutines classify the "
            f"{len(data.images)} others, one image at a time.\n"
        )
        with report.progress(console) as bars:
            rows = [_measure(options, data, way, bars) for way in load.WAYS]
    console.print(report.table(rows))
    if remark := report.remark(rows):
        console.print(f"{remark}\n")
    # Paths on lines of their own, never wrapped, so that they can be copied and clicked.
    if options.json is not None:
        report.write_json(options.json, options.settings(), rows)
        console.print(f"Wrote {options.json}", soft_wrap=True, markup=False)
    if options.plot is not None:
        plot.draw(options.plot, rows)
        console.print(f"Wrote {options.plot}", soft_wrap=True, markup=False)
    right = not any(row.check.wrong for row in rows)
    console.print(report.verdict(rows), style="bold green" if right else "bold red")
    return right


def _measure(options: Options, data: digits.Digits, way: load.Way, bars: Progress) -> report.Row:
    recording = load.Recording.of(options.requests, outputs=data.expected.shape[1])
    images = list(data.images)

    def ask(
        in_thread: Callable[[Floats], Floats], on_loop: Callable[[Floats], Awaitable[Floats]]
    ) -> load.Spent:
        with load.watched(recording, report.bar(bars, way, options.requests)):
            if way.callers == "threads":
                return load.from_threads(in_thread, images, recording, options.threads)
            asking = load.from_coroutines(on_loop, images, recording, options.coroutines)
            return asyncio.run(asking)

    if way.batched:
        with Batcher(
            data.model,
            max_batch_size=options.max_batch_size,
            max_queue_delay=options.max_queue_delay,
            overflow="block",  # More callers than the queue has room for wait their turn.
        ) as batcher:
            batcher(images[0])  # Buffers and threads exist before the clock starts.
            before = batcher.statistics()
            spent = ask(batcher, batcher.predict_async)
            after = batcher.statistics()
        mean_batch_size = (after.rows - before.rows) / (after.batches - before.batches)
    else:
        spent = ask(load.unbatched(data.model), load.unbatched_on_loop(data.model))
        mean_batch_size = 1.0

    asked = load.images_asked(options.requests, len(images))
    return report.Row(
        way=way,
        latencies=recording.latencies,
        spent=spent,
        mean_batch_size=mean_batch_size,
        check=digits.check(data, asked, recording.answers),
    )
