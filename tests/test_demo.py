"""The demo: it runs to its end, it notices wrong answers, and its drivers do what they say."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import itertools
import json
import os
import signal
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tidegate import cli, demo
from tidegate.demo import digits, load, plot, report
from tidegate.demo.digits import Digits, Floats

SMALL = ["--requests=300", "--threads=8", "--coroutines=16", "--max-batch-size=8"]


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits.train(seed=0)


@pytest.fixture
def trained(data: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo takes the model that the other tests use, instead of training its own."""
    monkeypatch.setattr(digits, "train", lambda seed: data)


# The whole command


def test_it_ends_well_and_writes_table_figures_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "plot.svg"
    code = cli.main(["demo", *SMALL, f"--json={figures}", f"--plot={picture}"])
    printed = capsys.readouterr().out
    assert code == 0
    assert "All 1,200 answers are the unbatched model's." in printed
    for way in load.WAYS:
        assert printed.count(way.name) == 2, "once beside its bar, once in the table"

    written = json.loads(figures.read_text())
    assert written["settings"] == {
        "requests": 300,
        "threads": 8,
        "coroutines": 16,
        "max_batch_size": 8,
        "max_queue_delay": 0.0,
        "seed": 0,
    }
    assert [(row["callers"], row["batched"]) for row in written["rows"]] == [
        ("threads", False),
        ("threads", True),
        ("coroutines", False),
        ("coroutines", True),
    ]
    for row in written["rows"]:
        assert row["requests"] == 300
        assert row["wrong_answers"] == 0
        assert row["accuracy"] > 0.9
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["seconds"] * 1e3
        assert row["requests_per_second"] == pytest.approx(300 / row["seconds"])
        assert row["cpu_ms_per_1000_requests"] > 0
        assert 1 <= row["mean_batch_size"] <= (8 if row["batched"] else 1)
    assert ElementTree.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.usefixtures("trained")
def test_without_options_for_files_it_writes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", *SMALL, "--no-plot"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("trained")
def test_in_a_terminal_it_draws_bars() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    options = demo.Options(requests=300, threads=8, coroutines=16, max_batch_size=8)
    assert demo.run(options, terminal)
    assert isinstance(terminal.file, io.StringIO)
    assert "300/300" in terminal.file.getvalue()


def exchanging(model: digits.Model) -> digits.Model:
    """A model that gives each row of a batch its neighbour's answer."""
    return lambda batch: np.roll(model(batch), 1, axis=0)


def imprecise(model: digits.Model) -> digits.Model:
    """A model whose probabilities are off, though its labels are right, in batches only."""
    return lambda batch: model(batch) + (1e-6 if len(batch) > 1 else 0.0)


@pytest.mark.parametrize("fault", [exchanging, imprecise])
def test_answers_that_batching_spoils_are_found(
    fault: Callable[[digits.Model], digits.Model],
    data: Digits,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faulty = dataclasses.replace(data, model=fault(data.model))
    monkeypatch.setattr(digits, "train", lambda seed: faulty)
    # With this delay, callers that arrive one after another share a batch for certain.
    assert cli.main(["demo", *SMALL, "--max-queue-delay=0.05", "--no-plot"]) == cli.WRONG == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "WRONG: threads, Batcher: " in printed
    assert "WRONG: coroutines, Batcher: " in printed
    assert "WRONG: threads, unbatched" not in printed
    assert "WRONG: coroutines, unbatched" not in printed
    assert "of 300 answers are not the unbatched model's; request " in printed


def test_wrong_answers_are_found_in_unbatched_rows_too(
    data: Digits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forgetful = dataclasses.replace(data, model=lambda batch: np.full((len(batch), 10), 0.1))
    monkeypatch.setattr(digits, "train", lambda seed: forgetful)
    assert cli.main(["demo", *SMALL, "--no-plot"]) == 1
    assert capsys.readouterr().out.count("WRONG: ") == len(load.WAYS)


# The data and the check


def test_the_same_seed_gives_the_same_model(data: Digits) -> None:
    again, other = digits.train(seed=0), digits.train(seed=1)
    np.testing.assert_array_equal(again.images, data.images)
    np.testing.assert_allclose(again.expected, data.expected)
    assert not np.array_equal(other.images, data.images)


def test_the_answers_due_come_from_one_image_at_a_time(data: Digits) -> None:
    sizes: list[int] = []

    def model(batch: Floats) -> Floats:
        sizes.append(len(batch))
        return data.model(batch)

    np.testing.assert_array_equal(digits.alone(model, data.images), data.expected)
    assert sizes == [1] * len(data.images)


def test_last_bits_do_not_make_an_answer_wrong(data: Digits) -> None:
    asked = np.arange(len(data.images))
    check = digits.check(data, asked, data.expected * (1 + 1e-13))
    assert (check.wrong, check.first_wrong) == (0, None)
    assert check.accuracy == np.mean(data.expected.argmax(axis=1) == data.labels)


def test_each_wrong_answer_is_counted_and_the_first_described(data: Digits) -> None:
    asked = np.arange(100) % 40
    answers = data.expected[asked]
    answers[[17, 60]] = answers[[60, 17]]
    answers[80, 3] += 1e-6
    check = digits.check(data, asked, answers)
    assert check.wrong == 3
    assert check.first_wrong is not None
    assert check.first_wrong.startswith("request 17 expected digit ")


def test_an_answer_that_never_came_is_wrong(data: Digits) -> None:
    asked = np.arange(10)
    answers = data.expected[asked]
    answers[4] = np.nan
    check = digits.check(data, asked, answers)
    assert (check.wrong, check.first_wrong) == (1, "request 4 has no complete answer")


# The drivers

ROWS = [np.array([float(i)]) for i in range(7)]


def drive(way: str, model: digits.Model, requests: int, callers: int) -> load.Recording:
    """Ask a model, one row at a time, from threads or from coroutines."""
    recording = load.Recording.of(requests, outputs=1)
    if way == "threads":
        load.from_threads(load.unbatched(model), ROWS, recording, callers)
    else:
        asked = load.unbatched_on_loop(model)
        asyncio.run(load.from_coroutines(asked, ROWS, recording, callers))
    return recording


both = pytest.mark.parametrize("way", ["threads", "coroutines"])


@both
@pytest.mark.parametrize(("requests", "callers"), [(100, 8), (3, 8), (1, 1), (64, 64)])
def test_each_request_is_made_once_and_keeps_its_answer(
    way: str, requests: int, callers: int
) -> None:
    calls: list[float] = []

    def model(batch: Floats) -> Floats:
        assert batch.shape == (1, 1)
        calls.append(batch[0, 0])
        return batch * 10

    recording = drive(way, model, requests, callers)
    images = load.images_asked(requests, len(ROWS))
    np.testing.assert_array_equal(recording.answers[:, 0], images * 10.0)
    assert sorted(calls) == sorted(images.tolist())
    assert (recording.latencies > 0).all()
    assert recording.answered() == requests


def test_threads_ask_at_the_same_time() -> None:
    together = threading.Barrier(5)

    def model(batch: Floats) -> Floats:
        together.wait(timeout=30)  # Breaks, and fails the run, unless five threads are in here.
        return batch

    drive("threads", model, requests=50, callers=5)


def test_coroutines_take_turns_on_the_loop() -> None:
    calls: list[float] = []

    def model(batch: Floats) -> Floats:
        calls.append(batch[0, 0])
        return batch

    drive("coroutines", model, requests=6, callers=3)
    assert calls == [0, 2, 4, 1, 3, 5]


@both
def test_a_model_that_raises_ends_the_run_with_its_exception(way: str) -> None:
    calls: list[float] = []

    def model(batch: Floats) -> Floats:
        calls.append(batch[0, 0])
        if len(calls) == 20:
            raise ArithmeticError("planted")
        return batch

    with pytest.raises(ArithmeticError, match="planted"):
        drive(way, model, requests=100_000, callers=8)
    assert len(calls) < 50_000, "the other callers stop early"
    assert callers_left() == []


def test_a_thread_that_cannot_start_ends_those_that_have(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def start_some(thread: threading.Thread) -> None:
        if thread.name == "demo-caller-3":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        drive("threads", lambda batch: batch, requests=100, callers=8)
    assert callers_left() == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a shell has started us ignoring it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@both
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_the_run_and_leaves_no_thread(way: str) -> None:
    calls = itertools.count(1)

    def model(batch: Floats) -> Floats:
        if next(calls) == 2000:
            os.kill(os.getpid(), signal.SIGINT)
        if threading.current_thread().name == "demo-caller-0":
            time.sleep(0.2)  # The first to be waited for is the last to end.
        return batch

    with pytest.raises(KeyboardInterrupt):
        drive(way, model, requests=1_000_000, callers=8)
    assert next(calls) < 1_000_000
    assert callers_left() == []


def callers_left() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("demo-")]


def test_watching_shows_the_number_at_the_end_even_of_a_run_that_fails() -> None:
    recording, shown = load.Recording.of(5, outputs=1), list[int]()

    def fail() -> None:
        with load.watched(recording, shown.append, every=3600):
            recording.latencies[:3] = 1
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert shown == [3]
    assert callers_left() == []


# The report


def row(way: load.Way, latencies_ms: Floats) -> report.Row:
    return report.Row(
        way=way,
        latencies=(latencies_ms * 1e6).astype(np.int64),
        spent=load.Spent(seconds=2.0, cpu_seconds=0.5),
        mean_batch_size=1.0,
        check=digits.Check(accuracy=1.0, wrong=0, first_wrong=None),
    )


def test_the_figures_of_a_row_are_what_their_names_say() -> None:
    measured = row(load.WAYS[0], np.arange(1, 1002, dtype=np.float64))
    assert measured.throughput == 1001 / 2
    assert measured.percentile(50) == 501
    assert measured.percentile(99) == 991
    assert measured.cpu_ms_per_1000 == pytest.approx(500 / 1.001)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.05123, "0.0512"), (0.14, "0.140"), (3.14159, "3.14"), (27.25, "27.2"), (1234.5, "1,234")],
)
def test_numbers_are_shown_with_three_digits_or_all_before_the_point(
    value: float, shown: str
) -> None:
    assert report.three_digits(value) == shown


def test_a_median_that_hides_the_waiting_is_remarked_upon() -> None:
    hiding = np.where(np.arange(1000) < 970, 0.1, 300.0)
    threads, _, coroutines, _ = load.WAYS
    assert "GIL" in (report.remark([row(threads, hiding)]) or "")
    assert report.remark([row(threads, hiding + 5), row(coroutines, hiding)]) is None


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_plot_is_written_in_the_format_that_its_name_asks_for(
    suffix: str, tmp_path: Path
) -> None:
    signatures = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}
    picture = tmp_path / f"plot{suffix}"
    plot.draw(picture, measured_rows())
    assert picture.read_bytes().startswith(signatures[suffix])


def test_the_plot_shows_both_ways_and_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    plot.draw(first, measured_rows())
    plot.draw(second, measured_rows())
    assert first.read_bytes() == second.read_bytes()
    drawn = first.read_text()
    assert plot.UNBATCHED in drawn
    assert plot.BATCHED in drawn


def measured_rows() -> list[report.Row]:
    spread = np.random.default_rng(0).lognormal(size=500)
    return [row(way, spread * (i + 1)) for i, way in enumerate(load.WAYS)]
