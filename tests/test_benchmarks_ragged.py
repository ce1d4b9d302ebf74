"""The comparison of ragged rows runs, and notices answers that are wrong."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from benchmarks.harness import Outcome
from benchmarks.models import WrongAnswerError
from benchmarks.ragged import page, rounds, traffic, variants
from benchmarks.ragged.load import closed_loop, open_loop, threads_closed_loop
from benchmarks.ragged.variants import Contender, Counting
from tidegate import Packed, Padded

ROOT = Path(__file__).parents[1]
ENCODER = traffic.Encoder()
TRAFFIC = traffic.Traffic(256)
BRIEF = 0.02


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As in the measuring process; several would be in each other's way."""
    with threadpool_limits(1):
        yield


class Maskless(traffic.Encoder):
    """A model that takes padding for text; where there is none, it is off by one in a hundred."""

    def padded(self, batch: Padded) -> np.ndarray:
        return super().padded(batch._replace(mask=np.ones_like(batch.mask)))

    def packed(self, batch: Packed) -> np.ndarray:
        return super().packed(batch) * np.float32(0.99)


def load_all(contender: Contender) -> None:
    async def main() -> None:
        async with contender.for_loop() as (submit, counted):
            reading = await closed_loop(submit, counted, TRAFFIC, callers=8, seconds=BRIEF)
            assert reading.metrics()["mean_batch"] >= 1
            await open_loop(submit, counted, TRAFFIC, per_second=500, seconds=BRIEF)

    asyncio.run(main())
    with contender.for_threads() as (call, counted):
        threads_closed_loop(call, counted, TRAFFIC, callers=4, seconds=BRIEF)


@pytest.mark.parametrize("contender", variants.contenders(ENCODER), ids=lambda each: each.name)
def test_each_variant_answers_as_the_model_does_alone(contender: Contender) -> None:
    load_all(contender)


@pytest.mark.parametrize("contender", variants.contenders(Maskless()), ids=lambda each: each.name)
def test_a_model_that_forgets_the_mask_is_noticed(contender: Contender) -> None:
    with pytest.raises(WrongAnswerError, match="answers are wrong"):
        load_all(contender)


def test_one_wrong_answer_among_many_is_noticed() -> None:
    answers = [ENCODER.alone(row) for row in TRAFFIC.rows[:100]]
    TRAFFIC.check(range(100), answers)
    answers[70], answers[71] = answers[71], answers[70]
    with pytest.raises(WrongAnswerError, match="2 of 100 answers are wrong; request 70"):
        TRAFFIC.check(range(100), answers)
    answers[70] = np.full(traffic.SCORES, np.nan, np.float32)
    with pytest.raises(WrongAnswerError):
        TRAFFIC.check(range(70, 71), answers[70:71])


def test_a_variant_with_wrong_answers_is_reported() -> None:
    schedule = rounds.Schedule(rounds=1, turns=1, seconds=BRIEF)
    bench = rounds.Bench(["asyncio256"], schedule, ["pack"], encoder=Maskless(), traffic=TRAFFIC)
    outcome = rounds.run(bench)[1]
    assert set(outcome.failed) == {each.name for each in bench.contenders}
    assert not outcome.metrics
    assert not any(verdict.reached for verdict in outcome.verdicts)


def test_the_traffic_is_what_the_page_says() -> None:
    lengths = traffic.lengths(4096)
    assert 32 < lengths.mean() < 35
    assert lengths.min() >= 1
    assert lengths.max() == traffic.LONGEST


def test_rows_that_are_padded_by_hand_are_counted() -> None:
    counting = Counting(ENCODER.padded)
    rows = [np.arange(length, dtype=np.int32) for length in (3, 1, 5)]
    counting(variants.pad_by_hand(rows))
    assert counting.count == variants.Count(batches=1, rows=3, tokens=9, padding=6)


def test_the_page_shows_what_was_published() -> None:
    written = (ROOT / "docs/benchmarks/ragged.md").read_text()
    assert written == page.render(page.published()), "run python -m benchmarks.ragged.page"


def test_a_quick_comparison_runs_and_writes_its_results(tmp_path: Path) -> None:
    arguments = ["--quick", "--out", str(tmp_path), "--variants", "pack,buckets"]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.ragged", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "throughput: the better / pad" in ended.stdout
    record = json.loads((tmp_path / "ragged.json").read_text())
    assert record["machine"]["cpu"]
    names = [entry["name"] for entry in record["scenarios"]]
    assert names == ["model", "asyncio256", "threads64", "open50", "open80"]
    for entry in record["scenarios"][1:]:
        outcome = Outcome.from_json(entry)
        assert not outcome.failed
        assert all(verdict.spread for verdict in outcome.verdicts)
        assert outcome.metrics[variants.PACKED]["padding"].highest == 0
        if outcome.name == "asyncio256":  # batches of one need none
            assert outcome.metrics[variants.PLAIN]["padding"].lowest > 0
        assert outcome.metrics[variants.BY_BUCKET]["throughput"].lowest > 0
    assert (tmp_path / "ragged.svg").exists()
    assert "tidegate, buckets" in page.render(record)
