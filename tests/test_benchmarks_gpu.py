"""The benchmarks of a GPU without one: time, findings, verdicts, pages, loads, and how they end."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import load, page, section, suites, tables, verdicts
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.checker import Checker
from benchmarks.gpu.journal import Entry, Journal
from benchmarks.gpu.lengths import LONGEST, lengths_of
from benchmarks.gpu.load import closed_loop, open_loop, threads_closed_loop
from benchmarks.gpu.tasks import Tally
from benchmarks.gpu.variants import FAIR, ByHandBatcher
from benchmarks.models import WrongAnswerError
from tidegate import Batcher, ConfigError
from tidegate.gpu import findings

ROOT = Path(__file__).parents[1]
ROWS = [np.full(4, number, np.float32) for number in range(1, 40)]
ANSWERS = [2 * row for row in ROWS]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


# Time


def test_each_section_gets_its_part_of_what_is_left() -> None:
    clock = Clock()
    budget = Budget(100, {"a": 1, "b": 3, "c": 1}, clock)
    assert budget.open("a") == pytest.approx(20)
    clock.now += 40  # twice of it
    assert budget.open("b") == pytest.approx(45)
    clock.now += 5
    assert budget.open("c") == pytest.approx(55)
    clock.now += 1000
    assert budget.left == 0


def test_all_sections_have_a_share() -> None:
    budget = Budget(command.SECONDS, section.SECTIONS, Clock())
    assert all(budget.open(name) > 20 for name in section.SECTIONS)
    assert command.SECONDS + command.GRACE < 600


# Findings


def quiet(path: Path | None = None, seconds: float = 60.0, clock: Any = time.monotonic) -> Journal:
    return Journal(path, seconds, clock, progress=lambda text: None)


def test_what_was_found_is_on_disk_at_once_and_failures_harm_nothing(tmp_path: Path) -> None:
    journal = quiet(tmp_path / "found.json")

    def fail() -> dict[str, float]:
        raise ValueError("no such copy")

    assert journal.attempt("copies", "one", lambda: {"gb_per_s": 1.0}) == {"gb_per_s": 1.0}
    assert journal.attempt("copies", "two", fail) is None
    journal.state(gpu="H200")
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["facts"] == {"gpu": "H200"}
    one, two = (Entry(**entry) for entry in record["entries"])
    assert one.metrics == {"gb_per_s": 1.0}
    assert two.reason == "ValueError: no such copy"
    assert not two.metrics


def test_without_time_nothing_is_begun() -> None:
    clock = Clock()
    journal = quiet(seconds=5, clock=clock)
    clock.now += 6
    assert journal.attempt("copies", "one", lambda: pytest.fail("it was begun")) is None
    assert journal.entries[0].note == "no time was left"
    assert not journal.entries[0].error


# Requests and loads


def test_lengths_are_log_normal() -> None:
    lengths = lengths_of(20_000)
    assert lengths.min() >= 1
    assert lengths.max() == LONGEST
    assert 32 < lengths.mean() < 35
    assert 26 < np.median(lengths) < 28.5
    assert (lengths == lengths_of(20_000)).all()


def test_one_answer_in_fifty_is_compared() -> None:
    check = Checker(ANSWERS, 1e-6)
    for number in range(101):
        check(number, ANSWERS[number % len(ANSWERS)])
    assert check.checked == 3
    assert check.worst == 0


@pytest.mark.parametrize(
    "answer",
    [ANSWERS[0] * np.float32(1.01), ANSWERS[1], np.full(4, np.nan, np.float32), ANSWERS[0][:3]],
)
def test_an_answer_that_is_too_far_away_is_an_error(answer: Any) -> None:
    with pytest.raises(WrongAnswerError, match="the answer to request 0"):
        Checker(ANSWERS, 1e-3)(0, answer)


def double(batch: Any) -> Any:
    return 2 * batch


def mixed_up(batch: Any) -> Any:
    return 2 * batch[::-1] if len(batch) > 1 else -batch


async def with_batcher(
    measure: Callable[[Any, Any], Awaitable[Any]], model: Callable[[Any], Any] = double
) -> Any:
    async with Batcher(model, max_batch_size=8) as batcher:

        def tally() -> Tally:
            now = batcher.statistics()
            return Tally(now.batches, now.rows, now.rows, now.rows)

        return await measure(batcher.submit, tally)


def closed(submit: Any, tally: Any) -> Any:
    check = Checker(ANSWERS, 1e-6)
    return closed_loop(submit, ROWS, check, tally, clients=16, seconds=0.2, warm_up=0.05)


def opened(submit: Any, tally: Any) -> Any:
    check = Checker(ANSWERS, 1e-6)
    return open_loop(submit, ROWS, check, tally, per_second=400, seconds=0.4, warm_up=0.1)


def test_a_closed_loop_reads_what_a_batcher_does() -> None:
    found = asyncio.run(with_batcher(closed))
    assert found["throughput"] > 100
    assert 0 < found["p50"] <= found["p99"] <= found["p999"] < 1
    assert 1 <= found["mean_batch"] <= 8
    assert found["padding"] == 0
    assert found["cpu_us"] > 0
    assert found["checked"] >= 1


def test_an_open_loop_keeps_its_rate_whatever_becomes_of_the_answers() -> None:
    found = asyncio.run(with_batcher(opened))
    assert found["offered"] == 400
    assert 200 < found["throughput"] < 800
    assert found["late_p99"] < 1


def test_an_open_loop_counts_the_time_before_its_requests_went_out() -> None:
    def slow(batch: Any) -> Any:
        time.sleep(0.05)
        return 2 * batch

    found = asyncio.run(with_batcher(opened, slow))
    assert found["p50"] > 0.03


@pytest.mark.parametrize("measure", [closed, opened])
def test_a_load_ends_with_the_first_wrong_answer(measure: Any) -> None:
    with pytest.raises(WrongAnswerError):
        asyncio.run(with_batcher(measure, mixed_up))


def test_an_answer_that_never_comes_ends_an_open_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PATIENCE", 0.2)
    asked = 0

    async def submit(row: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 60:
            await asyncio.Event().wait()
        return 2 * row

    with pytest.raises(TimeoutError, match="1 requests have no answer"):
        asyncio.run(opened(submit, Tally))


def test_threads_are_counted_as_batches_of_one() -> None:
    check = Checker(ANSWERS, 1e-6)
    found = threads_closed_loop(double, ROWS, check, clients=3, seconds=0.1, warm_up=0.02)
    assert found["mean_batch"] == pytest.approx(1, abs=0.1)
    with pytest.raises(WrongAnswerError):
        threads_closed_loop(abs, ROWS, check, clients=3, seconds=0.1, warm_up=0.02)


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_by_hand_count_what_the_model_saw(threads: int) -> None:
    def answer(rows: Any) -> Any:
        longest = max(map(len, rows))
        return np.array([len(row) for row in rows]), longest * len(rows)

    async def main() -> Tally:
        batcher = ByHandBatcher(answer, ragged=True, max_batch_size=4, threads=threads)
        rows = [np.ones(length) for length in (1, 2, 3, 4, 5, 6, 7)]
        assert await asyncio.gather(*map(batcher.submit, rows)) == [1, 2, 3, 4, 5, 6, 7]
        batcher.close()
        return batcher.tally

    assert asyncio.run(main()) == Tally(batches=2, rows=7, useful=28, seen=16 + 21)


def test_an_error_of_a_batch_by_hand_reaches_its_callers() -> None:
    def answer(rows: Any) -> Any:
        raise RuntimeError("out of memory")

    async def main() -> None:
        batcher = ByHandBatcher(answer, ragged=False, max_batch_size=4)
        with pytest.raises(RuntimeError, match="out of memory"):
            await batcher.submit(ROWS[0])
        batcher.close()

    asyncio.run(main())


# Verdicts and the page


def sections_of(*entries: Entry, name: str = "kernels", **facts: Any) -> dict[str, Any]:
    listed = [vars(entry) for entry in entries]
    return {name: {"ended": "whole", "seconds": 7.0, "facts": facts, "entries": listed}}


def kernel(name: str, fraction: float, again: float) -> Entry:
    return Entry("kernels", name, {"fraction": fraction, "again": again, "microseconds": 430.0})


def test_the_slower_of_two_series_is_held_against_the_bar() -> None:
    sections = sections_of(
        Entry("kernels are right", "pad: a", {"passed": 1.0}),
        Entry("kernels are right", "pad: b", error="AssertionError: no"),
        kernel("pad_v16", 0.9, 0.79),
        kernel("segment_mean", 0.7, 0.75),
    )
    found = {verdict.label: verdict for _, verdict in verdicts.verdicts_of(sections)}
    assert not found["pad_v16 / copy bandwidth"].reached
    assert found["segment_mean / copy bandwidth"].reached
    assert found["unpad_v16 / copy bandwidth"].spread is None
    right = found["checks of the kernels that passed"]
    assert not right.reached
    assert right.spread
    assert right.spread.median == 0.5
    assert [entry.name for entry in verdicts.failures_of(sections)] == ["pad: b"]


def throughput(name: str, per_second: float) -> Entry:
    return Entry("E, closed loop", name, {"throughput": per_second, "p50": 0.001})


def test_tidegate_is_held_against_the_better_fair_one() -> None:
    entries = [throughput(FAIR[0], 30_000), throughput(FAIR[1], 40_000)]
    found = [verdict for _, verdict in verdicts.verdicts_of(sections_of(*entries, name="E"))]
    assert [verdict.spread for verdict in found] == [None, None]
    entries += [throughput("tidegate", 59_000), throughput("tidegate, graphs", 60_000)]
    found = [verdict for _, verdict in verdicts.verdicts_of(sections_of(*entries, name="E"))]
    assert [verdict.reached for verdict in found] == [False, True]
    assert [verdict.label for verdict in found] == [
        "requests/s: tidegate / fair naive",
        "requests/s: tidegate, graphs / fair naive",
    ]


def record_of(sections: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": {
            "date": "2026-12-01T10:00:00+00:00",
            "cpu": "Some CPU",
            "cores": 16,
            "system": "Linux 6.1-x",
            "python": "3.12.1",
            "packages": {"numpy": "2.4", "tidegate": "0.1"},
        },
        "commit": "abc1234",
        "settings": {"seconds": 540.0, "sanitize": False},
        "sections": sections,
    }


def test_the_page_names_machine_versions_and_date_and_shows_what_failed() -> None:
    sections = sections_of(
        kernel("pad_v16", 0.9, 0.88),
        Entry("kernels", "unpad_v16", error="Traceback", reason="ValueError: a | b"),
        gpu="NVIDIA H200",
        gpu_memory=139 << 30,
        driver_cuda=13000,
        cupy="14.2.0",
    )
    sections |= sections_of(throughput("tidegate", 60_000.0), name="E", clients=256)
    text = page.render(record_of(sections))
    for said in ("2026-12-01", "NVIDIA H200 (139 GiB)", "CUDA 13.0", "CuPy 14.2.0", "abc1234"):
        assert said in text
    assert "| kernels | pad_v16 / copy bandwidth | ≥ 0.80 x | 0.88 x | 0.88 to 0.9 | yes |" in text
    assert "FAILED: ValueError: a \\| b" in text
    assert "has 256 clients" in text
    assert "| tidegate | 60,000 | 1.000 |" in text
    assert "| tidegate / fair naive" not in text
    assert "not measured" in text


def test_the_page_shows_what_was_published() -> None:
    written = (ROOT / "docs/benchmarks/gpu.md").read_text()
    assert written == page.render(page.published()), "run python -m benchmarks.gpu.page"


def test_every_table_is_printed_and_the_targets_come_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sections = sections_of(kernel("pad_v16", 0.9, 0.88), Entry("copies", "one", note="no time"))
    tables.print_all(record_of(sections))
    said = capsys.readouterr().out
    assert said.index("copies") < said.index("Sections") < said.index("Against the targets")


# The command


def test_without_a_gpu_the_command_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = findings.look()
    if not found.problems:
        pytest.skip("nothing is missing here")
    assert command.main(["--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no work on a GPU is possible" in said
    assert found.problems[0].remedy in said
    with pytest.raises(ConfigError, match="no work on a GPU is possible"):
        section.run("probes", quiet(), sanitize=False)


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse(["--only", "probe"])
    assert "probe" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.parse(["--seconds", "0"])


def test_results_are_written_after_every_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(findings, "require", lambda: None)
    before: list[bool] = []

    def run(name: str, seconds: float, sanitize: bool, folder: Path) -> dict[str, Any]:
        before.append((tmp_path / "gpu.json").exists())
        return sections_of(kernel("pad_v16", 0.9, 0.88), name=name)[name]  # type: ignore[no-any-return]

    monkeypatch.setattr(command, "run", run)
    assert command.main(["--out", str(tmp_path), "--only", "E,probes"]) == 0
    assert before == [False, True]
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert list(written["sections"]) == ["probes", "E"]
    assert (tmp_path / "gpu.md").read_text() == page.render(written)


def test_a_section_that_fails_as_a_whole_says_why(tmp_path: Path) -> None:
    if not findings.look().problems:
        pytest.skip("it would run here")
    ended = command.run("probes", 30.0, False, tmp_path)
    assert ended["ended"] == "ended with 1"
    [entry] = ended["entries"]
    assert entry["reason"].startswith("ConfigError: no work on a GPU is possible")


def test_a_section_that_hangs_is_ended_with_all_that_it_started() -> None:
    program = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "time.sleep(60)"
    )
    begin = time.monotonic()
    assert command._end_of([sys.executable, "-c", program], 1.0) == "killed after 1 s"
    assert time.monotonic() - begin < 30


# The tests that need a GPU


JUNIT = (
    '<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="46" '
    'time="12.5"/></testsuites>'
)


def test_tests_are_counted() -> None:
    wanted = {"passed": 40.0, "failed": 3.0, "skipped": 3.0, "seconds": 12.5}
    assert suites.counts_of(JUNIT) == wanted


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        ("========= ERROR SUMMARY: 0 errors\n", 0),
        ("========= ERROR SUMMARY: 1 error\n========= ERROR SUMMARY: 3 errors\n", 4),
        ("========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n", 2),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0),
        ("Segmentation fault\n", None),
    ],
)
def test_the_sanitizers_summary_is_read(output: str, errors: int | None) -> None:
    assert suites.summary_of(output) == errors


def test_where_all_tests_are_skipped_none_has_passed() -> None:
    if not findings.look().problems:
        pytest.skip("they would run here")
    with pytest.raises(RuntimeError, match="no test ran"):
        suites._pytest([], 60)


def test_the_sanitizer_is_run_if_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "compute-sanitizer"
    asked = tmp_path / "asked"
    tool.write_text(f"#!/bin/sh\necho \"$@\" >> {asked}\necho '===== ERROR SUMMARY: 2 errors'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(suites, "_pytest", lambda prefix, seconds: {"passed": float(len(prefix))})
    journal = quiet()
    suites.measure(journal, sanitize=True)
    assert [entry.metrics for entry in journal.entries] == [{"passed": 0.0}, *[{"passed": 7.0}] * 3]
    status, output = suites._run([str(tool), "--tool", "memcheck"], 10)
    assert status == 0
    assert suites.summary_of(output) == 2
    journal = quiet()
    suites.measure(journal, sanitize=False)
    assert {entry.note for entry in journal.entries[1:]} == {"not asked for: --sanitize"}


def test_tests_that_take_too_long_are_ended() -> None:
    with pytest.raises(TimeoutError, match="not done after 1 s:\nbegun"):
        suites._run([sys.executable, "-uc", "print('begun'); import time; time.sleep(60)"], 1)
