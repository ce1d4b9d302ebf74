"""``tidegate top``: what it reads, what it makes of it, and what it says if it cannot."""

from __future__ import annotations

import io
import math
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from rich.console import Console

from tests.gated import PATIENCE, ROW
from tests.helpers import identity
from tidegate import Batcher, ConfigError, cli
from tidegate.metrics import Collector
from tidegate.serving import top
from tidegate.serving.top import Options, ScrapeError
from tidegate.serving.top.rates import Row, compare, quantile
from tidegate.serving.top.scrape import Target
from tidegate.serving.top.snapshot import Histogram, Snapshot, Watched, parse
from tidegate.serving.top.table import draw, duration, number


class Page:
    """A server on this machine with one page; remembers what it was asked."""

    def __init__(self, answer: Callable[[], tuple[int, dict[str, str], bytes]]) -> None:
        self.asked: list[tuple[str, str | None]] = []
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page.asked.append((self.path, self.headers["Authorization"]))
                status, headers, body = answer()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.address}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)


@pytest.fixture
def serve() -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def start(body: Any, status: int = 200, **headers: str) -> Page:
        made = body if callable(body) else lambda: body
        pages.append(Page(lambda: (status, headers, made())))
        return pages[-1]

    yield start
    for page in pages:
        page.close()


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    with Batcher(identity, name="digits") as made:
        yield made


@pytest.fixture
def page(batcher: Batcher, serve: Callable[..., Page]) -> Page:
    """The metrics of `batcher`; each scrape finds it to have done some more."""
    registry = CollectorRegistry()
    registry.register(Collector(batcher))
    Counter("unrelated", "Of somebody else.", registry=registry).inc()

    def scrape() -> bytes:
        batcher.submit_many(np.zeros((64, 3))).result(PATIENCE)
        return generate_latest(registry)

    return serve(scrape)


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def shown(what: Any, width: int = 118) -> str:
    written = io.StringIO()
    Console(file=written, width=width).print(what)
    return written.getvalue()


def terminal(**settings: Any) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, width=118, **settings), written


# Reading


def test_a_page_of_metrics_says_what_the_statistics_say(batcher: Batcher) -> None:
    registry = CollectorRegistry()
    registry.register(Collector(batcher))
    batcher.submit_many(np.zeros((100, 3))).result(PATIENCE)
    batcher(ROW)
    snapshot = parse(generate_latest(registry).decode(), at=7.0)
    now = batcher.statistics()
    assert snapshot.at == 7.0
    assert list(snapshot.batchers) == ["digits"]
    watched = snapshot.batchers["digits"]
    assert watched.outcomes["completed"] == 101
    assert watched.dispatched == now.dispatched
    assert sum(watched.instances.values()) == 1
    assert watched.queue_depth == 0
    assert watched.histograms["request"].count == 101
    assert watched.histograms["queue"].sum == pytest.approx(now.queue_duration.sum)
    assert watched.histograms["size"].sum == 101
    buckets = watched.histograms["size"].buckets
    assert buckets[math.inf] == now.batches
    assert buckets[64.0] - buckets[32.0] >= 1


def test_what_is_of_others_is_left_out() -> None:
    assert parse("# TYPE python_info gauge\npython_info 1.0\n", at=0.0).batchers == {}
    assert parse("", at=0.0).batchers == {}


# Rates


def watched(completed: float, depth: float = 0.0, **more: Any) -> Watched:
    made = Watched(queue_depth=depth, outcomes={"completed": completed, **more})
    made.dispatched = {"full": completed / 64, "idle": 1.0}
    made.instances = {"idle": 1.0, "busy": 2.0, "lent": 0.0}
    made.histograms["size"] = Histogram({64.0: completed / 64, math.inf: completed / 64})
    made.histograms["size"].count, made.histograms["size"].sum = completed / 64, completed
    made.histograms["request"] = Histogram(
        {0.01: completed / 2, 0.02: completed, math.inf: completed}, completed, completed / 100
    )
    return made


def test_rates_are_over_the_time_between_two_scrapes() -> None:
    before = Snapshot(10.0, {"m": watched(640, failed=1.0, rejected=0.0, cancelled=3.0)})
    now = Snapshot(12.0, {"m": watched(1920, 5.0, failed=2.0, rejected=7.0, cancelled=9.0)})
    (row,) = compare(before, now, server="here")
    assert (row.server, row.batcher) == ("here", "m")
    assert row.requests == 640
    assert row.errors == 4
    assert row.size == 64
    assert row.dispatched == {"full": 1.0}, "none went for another reason meanwhile"
    assert row.queue_depth == 5
    assert row.instances == {"idle": 1, "busy": 2}
    assert row.request == (pytest.approx(0.01), pytest.approx(0.0198))
    assert row.queue == (None, None)


def test_the_first_look_has_no_rates_but_what_is_now() -> None:
    (row,) = compare(None, Snapshot(10.0, {"m": watched(640, 5.0)}))
    assert row.requests is row.errors is row.size is None
    assert row.request == (None, None)
    assert (row.queue_depth, row.instances) == (5, {"idle": 1, "busy": 2})


def test_a_new_batcher_and_one_of_a_restarted_server_count_from_zero() -> None:
    before = Snapshot(10.0, {"old": watched(1000), "gone": watched(5)})
    now = Snapshot(11.0, {"old": watched(64), "new": watched(128)})
    new, old = compare(before, now)
    assert (new.batcher, new.requests) == ("new", 128)
    assert (old.batcher, old.requests) == ("old", 64)


def test_without_requests_there_are_no_quantiles() -> None:
    still = watched(640)
    (row,) = compare(Snapshot(1.0, {"m": still}), Snapshot(2.0, {"m": still}))
    assert (row.requests, row.errors, row.size) == (0, 0, None)
    assert row.request == (None, None)
    assert row.dispatched == {}


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ({}, 0.5, None),
        ({1.0: 0, math.inf: 0}, 0.5, None),
        ({1.0: 10, math.inf: 10}, 0.5, 0.5),
        ({1.0: 10, 2.0: 20, math.inf: 20}, 0.75, 1.5),
        ({1.0: 10, 2.0: 10, 4.0: 20, math.inf: 20}, 0.75, 3.0),
        ({1.0: 10, math.inf: 20}, 0.75, math.inf),
        ({1.0: 0, 2.0: 10, math.inf: 10}, 0.99, 1.99),
    ],
)
def test_quantiles_are_those_of_prometheus(
    buckets: dict[float, float], q: float, expected: float | None
) -> None:
    found = quantile(Histogram(buckets), q)
    assert found == (None if expected is None else pytest.approx(expected))


# Showing


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "·"), (0, "0"), (3, "3"), (0.5, "0.50"), (12.34, "12.3"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "·"),
        (math.inf, "∞"),
        (0.0, "0.00 µs"),
        (12.34e-6, "12.3 µs"),
        (0.9999e-3, "1.00 ms"),
        (0.0456, "45.6 ms"),
        (0.5, "500 ms"),
        (12.0, "12.0 s"),
    ],
)
def test_durations_have_three_digits_and_a_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def row(name: str, **changed: Any) -> Row:
    fields: dict[str, Any] = {
        "server": "",
        "requests": 1234.0,
        "errors": 2.0,
        "request": (0.001, 0.002),
        "queue": (0.0001, 0.0002),
        "batch": (0.0005, 0.0007),
        "size": 31.7,
        "dispatched": {"idle": 0.25, "full": 0.75},
        "queue_depth": 3.0,
        "instances": {"busy": 1},
    }
    return Row(batcher=name, **{**fields, **changed})


def test_each_batcher_has_a_line_with_all_there_is_to_know() -> None:
    lines = shown(draw([row("digits"), row("[bold]")], {})).splitlines()
    (line,) = (line for line in lines if "digits" in line)
    assert re.sub(" +", " ", line).strip() == (
        "digits 1,234 2 1.00 ms 2.00 ms 100 µs 200 µs 500 µs 31.7 full 75%, idle 25% 3 1 busy"
    )
    assert any("[bold]" in line for line in lines), "a name is no markup"
    assert "server" not in lines[1]


def test_servers_are_named_where_there_are_several() -> None:
    text = shown(draw([row("a", server="one:1"), row("a", server="two:2")], {"u": "u is gone"}))
    assert "one:1" in text
    assert "two:2" in text
    assert "u is gone" in text


def test_a_server_without_batchers_says_so() -> None:
    assert "There are no batchers." in shown(draw([], {}))


@pytest.mark.parametrize(
    ("width", "there", "left_out"),
    [
        (118, ["full 75%, idle 25%", "500 µs", "100 µs", "1 busy", "31.7"], []),
        (105, ["500 µs", "100 µs", "200 µs", "1 busy", "31.7"], ["full 75%"]),
        (91, ["100 µs", "200 µs", "1 busy", "31.7"], ["full 75%", "500 µs"]),
        (80, ["200 µs", "31.7", "waiting"], ["full 75%", "500 µs", "100 µs", "busy"]),
        (60, ["31.7"], ["full", "500 µs", "200 µs", "busy"]),
        (45, [], ["31.7"]),
    ],
)
def test_a_narrow_terminal_leaves_out_columns_and_cuts_no_figure(
    width: int, there: list[str], left_out: list[str]
) -> None:
    text = shown(draw([row("digits")], {}), width=width)
    for figure in ("digits", "1,234", "1.00 ms", "2.00 ms", *there):
        assert figure in text
    for figure in left_out:
        assert figure not in text
    assert max(map(len, text.splitlines())) <= width


# Asking


def test_once_prints_one_table_of_one_interval(page: Page) -> None:
    console, written = terminal()
    assert top.run(Options(urls=[f"http://{page.address}"], interval=0.01, once=True), console)
    assert written.getvalue().count("digits") == 1
    assert "full 100%" in written.getvalue()
    assert "64" in written.getvalue()
    assert [path for path, _ in page.asked] == ["/metrics", "/metrics"]


def test_a_terminal_is_drawn_anew_until_ctrl_c(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = iter([None, None])

    def sleep(_: float) -> None:
        if next(pauses, 1) is not None:
            raise KeyboardInterrupt

    for forced in (True, False):
        pauses = iter([None, None])
        monkeypatch.setattr("tidegate.serving.top.time.sleep", sleep)
        console, written = terminal(force_terminal=forced)
        assert top.run(Options(urls=[page.url]), console)
        assert written.getvalue().count("digits") >= 2
        assert ("every 2 s" in written.getvalue()) == forced
        assert ("\x1b[" in written.getvalue()) == forced


def test_the_token_is_sent(page: Page) -> None:
    Target(page.url, token="secret").scrape()
    Target(page.url).scrape()
    assert page.asked == [("/metrics", "Bearer secret"), ("/metrics", None)]


def test_a_refusal_says_that_there_are_tokens(serve: Callable[..., Page]) -> None:
    page = serve(b"", status=401)
    with pytest.raises(ScrapeError, match=r"answers 401 Unauthorized; give a token with --token$"):
        Target(page.url).scrape()


def test_a_redirection_is_not_followed(serve: Callable[..., Page], page: Page) -> None:
    elsewhere = serve(b"", status=302, Location=page.url)
    with pytest.raises(ScrapeError, match="answers 302"):
        Target(elsewhere.url, token="secret").scrape()
    assert page.asked == []


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"\xff\xfe", b"a{ 1\n"])
def test_a_page_that_is_no_metrics_is_said_to_be_so(
    body: bytes, serve: Callable[..., Page]
) -> None:
    page = serve(body)
    with pytest.raises(ScrapeError, match=f"{page.url} does not answer with metrics"):
        Target(page.url).scrape()


def test_an_endless_page_is_not_read(
    serve: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.serving.top.scrape._LARGEST", 1000)
    page = serve(b"a 1\n" * 1000)
    with pytest.raises(ScrapeError, match="answers more than 1000 bytes"):
        Target(page.url).scrape()


def test_where_nothing_listens_the_error_names_the_address() -> None:
    url = f"http://127.0.0.1:{unused_port()}/metrics"
    with pytest.raises(ScrapeError, match=f"nothing answers at {url}: .*refused"):
        top.run(Options(urls=[url]))


def test_one_server_that_does_not_answer_does_not_hide_the_others(page: Page) -> None:
    dead = f"http://127.0.0.1:{unused_port()}/metrics"
    console, written = terminal()
    assert not top.run(Options(urls=[page.url, dead], interval=0.01, once=True), console)
    assert "digits" in written.getvalue()
    assert page.address in written.getvalue()
    assert f"nothing answers at {dead}" in written.getvalue().replace("\n", "")


def test_a_server_that_comes_back_is_shown_again(
    batcher: Batcher, serve: Callable[..., Page]
) -> None:
    registry = CollectorRegistry()
    registry.register(Collector(batcher))
    turns = iter([True, False, True, True])

    def scrape() -> bytes:
        return generate_latest(registry) if next(turns) else b"\xff"

    watch = top._Watch(Options(urls=[serve(scrape).url]))
    assert [row.requests for row in watch.look()] == [None]
    assert watch.look() == []
    assert watch.all_failed
    assert [row.requests for row in watch.look()] == [None]
    batcher(ROW)
    (again,) = watch.look()
    assert again.requests is not None
    assert again.requests > 0
    assert not watch.failures


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "file:///etc/passwd", "http://", "http://h:port/", "ftp://h/", ""]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="an address of metrics is like"):
        top.run(Options(urls=[url]))


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="interval must be more than 0 seconds, got 0"):
        Options(interval=0)
    with pytest.raises(ConfigError, match="at least one address"):
        Options(urls=[])
    with pytest.raises(ConfigError, match="no certificates in"):
        Target("https://127.0.0.1:1/", ca=tmp_path / "none.pem")
    assert Target("https://127.0.0.1:1").url == "https://127.0.0.1:1/metrics"
    assert Target("https://127.0.0.1:1/own").url == "https://127.0.0.1:1/own"


# The command


def test_the_command_ends_with_0_when_all_answered(
    page: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["top", page.url, "--once", "--interval=0.01", "--token=secret"]) == 0
    assert "digits" in capsys.readouterr().out
    assert page.asked == [("/metrics", "Bearer secret")] * 2


def test_the_command_takes_the_token_from_the_environment(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_TOKEN", "secret")
    assert cli.main(["top", page.url, "--once", "--interval=0.01"]) == 0
    assert page.asked == [("/metrics", "Bearer secret")] * 2


def test_the_command_ends_with_1_when_some_did_not_answer(page: Page) -> None:
    dead = f"http://127.0.0.1:{unused_port()}"
    assert cli.main(["top", page.url, dead, "--once", "--interval=0.01"]) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["localhost"], "an address of metrics is like http://127.0.0.1:8000/metrics"),
        (["--interval=0"], "interval must be more than 0 seconds, got 0.0"),
    ],
)
def test_the_command_ends_with_2_when_it_cannot_run(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["top", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_the_command_says_where_nothing_listens(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{unused_port()}/metrics"
    assert cli.main(["top", url]) == 2
    assert capsys.readouterr().err.startswith(f"tidegate top: error: nothing answers at {url}")
