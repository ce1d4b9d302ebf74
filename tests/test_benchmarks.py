"""The benchmarks run, and what tidegate is compared with answers correctly."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the benchmarks are run from the repository's root, never installed

from benchmarks import harness, report  # noqa: E402
from benchmarks.baselines.asyncio_batcher import (  # noqa: E402
    ExecutorBatcher,
    InlineBatcher,
    ThreadBatcher,
)
from benchmarks.baselines.batched_package import BatchedPackage, is_installed  # noqa: E402
from benchmarks.baselines.queue_batcher import QueueBatcher  # noqa: E402
from benchmarks.harness import Column, Outcome, Scenario, Settings, Variant  # noqa: E402

ROWS = [np.full(4, number, dtype=np.float32) for number in range(100)]
ASYNCIO = [InlineBatcher, ExecutorBatcher, ThreadBatcher]


def double(batch: np.ndarray) -> np.ndarray:
    return 2 * batch


def fail(batch: np.ndarray) -> np.ndarray:
    raise ValueError("no answer")


@pytest.mark.parametrize("window", [0.0, 0.005])
def test_the_queue_batcher_gives_each_thread_its_own_answer(window: float) -> None:
    sizes: list[int] = []

    def model(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return 2 * batch

    batcher = QueueBatcher(model, max_batch_size=16, window=window)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(batcher, ROWS))
    batcher.close()
    assert [answer[0] for answer in answers] == [2 * number for number in range(100)]
    assert sum(sizes) == 100
    assert max(sizes) <= 16


def test_the_queue_batcher_hands_on_what_its_model_raises_and_goes_on() -> None:
    batcher = QueueBatcher(fail, max_batch_size=2, window=0.0)
    futures = [batcher.submit(row) for row in ROWS[:5]]
    for future in futures:
        with pytest.raises(ValueError, match="no answer"):
            future.result(timeout=10)
    batcher.close()


@pytest.mark.parametrize("kind", ASYNCIO)
@pytest.mark.parametrize("window", [0.0, 0.005])
def test_an_asyncio_batcher_gives_each_coroutine_its_own_answer(kind: Any, window: float) -> None:
    sizes: list[int] = []

    def model(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return 2 * batch

    async def main() -> None:
        batcher = kind(model, max_batch_size=16, window=window)
        for _ in range(3):  # full batches, then one that only the timer or the turn sends
            answers = await asyncio.gather(*map(batcher.submit, ROWS))
            assert [answer[0] for answer in answers] == [2 * number for number in range(100)]
        batcher.close()

    asyncio.run(main())
    assert sum(sizes) == 300
    assert max(sizes) == 16


@pytest.mark.parametrize("kind", ASYNCIO)
def test_an_asyncio_batcher_hands_on_what_its_model_raises(kind: Any) -> None:
    async def main() -> None:
        batcher = kind(fail, max_batch_size=2)
        answers = await asyncio.gather(*map(batcher.submit, ROWS[:5]), return_exceptions=True)
        assert all(isinstance(answer, ValueError) for answer in answers)
        batcher.close()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ASYNCIO)
def test_an_asyncio_batcher_survives_a_cancelled_caller(kind: Any) -> None:
    async def main() -> None:
        batcher = kind(double, max_batch_size=16)
        futures = [batcher.submit(row) for row in ROWS[:5]]
        futures[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await futures.pop(2)
        answers = await asyncio.gather(*futures)
        assert [answer[0] for answer in answers] == [0, 2, 6, 8]
        batcher.close()

    asyncio.run(main())


@pytest.mark.skipif(not is_installed(), reason="pip install batched")
@pytest.mark.filterwarnings("default")
def test_the_package_batched_gives_each_coroutine_its_own_answer() -> None:
    async def main() -> None:
        batcher = BatchedPackage(double, max_batch_size=16)
        answers = await asyncio.gather(*map(batcher.submit, ROWS))
        assert [answer[0] for answer in answers] == [2 * number for number in range(100)]
        batcher.close()

    asyncio.run(main())


def scenario(*variants: Variant) -> Scenario:
    return Scenario(
        name="test",
        question="?",
        variants=variants,
        columns=[Column("throughput", "requests/s")],
        targets=[
            harness.ratio("ours / theirs", "throughput", "ours", ["slow", "fast"], at_least=2.0),
            harness.share("theirs / ours", "throughput", "fast", ["ours"], at_most=0.4),
        ],
    )


def rising(start: float, step: float) -> Any:
    """A variant whose throughput differs from round to round."""
    values = iter(start + step * number for number in range(100))
    return lambda settings: {"throughput": next(values)}


def test_a_ratio_is_taken_within_each_round_against_the_best_rival() -> None:
    outcome = harness.run(
        scenario(
            Variant("ours", rising(30, 30)),
            Variant("slow", rising(1, 0)),
            Variant("fast", rising(10, 10)),
        ),
        Settings(),
        rounds=5,
    )
    ratio, share = outcome.verdicts
    assert ratio.spread == harness.Spread(3.0, 3.0, 3.0)
    assert ratio.reached
    assert share.spread is not None
    assert share.spread.median == pytest.approx(1 / 3)
    assert share.reached
    assert outcome.metrics["fast"]["throughput"] == harness.Spread(30, 10, 50)
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


def test_a_variant_that_fails_is_reported_and_harms_no_other() -> None:
    def wrong(settings: Settings) -> dict[str, float]:
        raise AssertionError("a wrong answer")

    outcome = harness.run(
        scenario(
            Variant("ours", rising(30, 0)),
            Variant("slow", wrong),
            Variant("fast", rising(20, 0)),
            Variant("absent", wrong, available=lambda: False),
        ),
        Settings(),
        rounds=3,
    )
    assert "a wrong answer" in outcome.failed["slow"]
    assert outcome.skipped == ["absent"]
    assert outcome.metrics["ours"]["throughput"].median == 30
    ratio, share = outcome.verdicts
    assert not ratio.reached  # one of its sides is missing
    assert not share.reached  # 20 / 30 is more than was allowed


def test_the_tables_show_what_was_missed(capsys: pytest.CaptureFixture[str]) -> None:
    variants = [Variant("ours", rising(10, 0)), Variant("slow", rising(9, 0))]
    outcome = harness.run(scenario(*variants, Variant("fast", rising(20, 0))), Settings(), rounds=1)
    report.print_scenario(outcome, scenario().columns)
    report.print_targets([outcome])
    printed = capsys.readouterr().out
    assert "ours / theirs" in printed
    assert "0.50 x" in printed
    assert "NO" in printed


def test_a_quick_comparison_runs_and_writes_its_results(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.compare", "--quick", "--out", str(tmp_path)]
    command += ["--only", "threads64,asyncio256,lone,memory"]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Ratios and figures against their targets" in ended.stdout
    record = json.loads((tmp_path / "compare.json").read_text())
    assert [entry["name"] for entry in record["scenarios"]] == [
        "threads64",
        "asyncio256",
        "lone",
        "memory",
    ]
    assert record["machine"]["cpu"]
    for entry in record["scenarios"]:
        assert not entry["failed"]
        assert any("tidegate" in variant for variant in entry["metrics"])
        for verdict in entry["verdicts"]:
            if "batched" not in verdict["label"]:
                assert verdict["spread"]["median"] is not None


def test_an_unknown_scenario_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.compare", "--only", "thread64"]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "thread64" in ended.stderr
