"""What does it cost to submit 64 rows and to read their 64 answers, from one thread?"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import contestants
from benchmarks.contestants import ForThreads
from benchmarks.models import check, identity, row

ROWS = [row(number) for number in range(64)]


@pytest.mark.benchmark(group="submit: 64 rows, then their 64 answers")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(contestants.tidegate(), id="tidegate"),
        pytest.param(contestants.queued(), id="queue.Queue"),
        pytest.param(contestants.simple_queued(), id="queue.SimpleQueue"),
    ],
)
def test_submitting_64_rows_and_reading_their_answers(
    benchmark: BenchmarkFixture, make: ForThreads
) -> None:
    with make(identity) as batcher:

        def turn() -> list[object]:
            futures = [batcher.submit(own) for own in ROWS]
            return [future.result() for future in futures]

        answers = benchmark(turn)
        for number, answer in enumerate(answers):
            check(answer, number)
