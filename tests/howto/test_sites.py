"""The how-tos for web frameworks, behind real servers: answers, batches, errors, ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.gated import PATIENCE, in_thread, until
from tests.howto.sites import SITES, Site, answer_of, expected, forget_django, site_of

LIFESPANS = ["fastapi", "starlette", "litestar"]


@pytest.fixture(scope="module", autouse=True)
def _django_is_left_as_it_was() -> Iterator[None]:
    yield
    forget_django()


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Each page's application, served."""
    with site_of(request.param) as served:
        yield served


def test_many_clients_get_their_own_answers_out_of_large_batches(site: Site) -> None:
    site.model.shut()
    rows = [[client, 2 * client, 1] for client in range(40)]
    first = site.occupy()
    clients = [in_thread(lambda row=row: site.post(row)) for row in rows]
    until(lambda: site.batcher.statistics().queue_depth == len(rows))
    site.model.gate.set()
    assert [answer_of(client.outcome()) for client in clients] == [expected(row) for row in rows]
    assert answer_of(first.outcome()) == [0, 0]
    assert max(map(len, site.model.batches)) == len(rows)


def test_clients_that_come_and_go_freely_get_their_own_answers(site: Site) -> None:
    def ask(client: int) -> None:
        for number in range(6):
            row = [client, number, client * number]
            assert answer_of(site.post(row)) == expected(row)

    for client in [in_thread(lambda number=number: ask(number)) for number in range(8)]:
        client.outcome()
    assert site.batcher.statistics().completed >= 48


def test_a_row_that_does_not_fit_is_refused_and_never_reaches_the_model(site: Site) -> None:
    before = site.model.rows_seen
    wrong = site.post([1, 2, 3, 4])
    assert wrong.status == 400
    assert "expected a float32 array of shape (3,)" in wrong.json["error"]
    assert site.post([1, "two", 3]).status == site.invalid
    assert site.post({"row": None}).status == site.invalid
    assert site.post(None).status == site.invalid
    assert site.ask("POST", site.path, b"[1, 2").status == site.invalid
    assert site.model.rows_seen == before
    assert answer_of(site.post([1, 2, 3])) == [4, 5]


def test_a_full_queue_is_too_many_requests(site: Site) -> None:
    site.model.shut()
    first = site.occupy()
    site.batcher.max_queue_size = 1
    second = in_thread(lambda: site.post([1, 2, 3]))
    until(lambda: site.batcher.statistics().queue_depth == 1)
    refused = site.post([1, 2, 3])
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    site.model.gate.set()
    assert answer_of(first.outcome()) == [0, 0]
    assert answer_of(second.outcome()) == [4, 5]


def test_a_row_that_waited_too_long_never_reaches_the_model() -> None:
    # The pages say two seconds, which these sites wait out together.
    with contextlib.ExitStack() as stack:
        names = ["fastapi", "litestar", "flask", "django-async"]
        sites = [stack.enter_context(site_of(name)) for name in names]
        for site in sites:
            site.model.shut()
        first = [site.occupy() for site in sites]
        late = [in_thread(lambda site=site: site.post([1, 2, 3])) for site in sites]
        assert [each.outcome().status for each in late] == [504] * len(sites)
        for site in sites:
            site.model.gate.set()
        assert [each.outcome().status for each in first] == [200] * len(sites)  # it had those
        assert [site.model.rows_seen for site in sites] == [1] * len(sites)


def test_a_model_that_raises_keeps_its_words_to_itself(site: Site) -> None:
    site.model.failure = RuntimeError("the password is swordfish")
    failed = site.post([1, 2, 3])
    assert failed.status == 500
    assert failed.json == {"error": "the model failed with RuntimeError"}
    site.model.failure = None
    assert answer_of(site.post([1, 2, 3])) == [4, 5]


def test_a_closed_batcher_is_unavailable(site: Site) -> None:
    site.batcher.close(timeout=PATIENCE)
    refused = site.post([1, 2, 3])
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("name", ["fastapi", "flask", "django-async"])
def test_a_stuck_model_is_not_ready(name: str) -> None:
    with site_of(name) as site:
        assert site.ask("GET", "/health/ready").json == {"ready": True}
        site.model.shut()
        first = site.occupy()
        busy = site.ask("GET", "/health/ready")
        assert (busy.status, busy.json) == (200, {"ready": True})
        patience, site.namespace["STUCK_AFTER"] = site.namespace["STUCK_AFTER"], 0.0
        try:
            stuck = site.ask("GET", "/health/ready")
        finally:
            site.namespace["STUCK_AFTER"] = patience
        assert (stuck.status, stuck.json) == (503, {"ready": False})
        site.model.gate.set()
        assert first.outcome().status == 200
        site.batcher.close(timeout=PATIENCE)
        assert site.ask("GET", "/health/ready").status == 503


def test_fastapi_is_live_whatever_the_model_does() -> None:
    with site_of("fastapi") as site:
        site.model.shut()
        first = site.occupy()
        assert site.ask("GET", "/health/live").json == {"live": True}
        site.model.gate.set()
        assert first.outcome().status == 200


@pytest.mark.parametrize("name", LIFESPANS)
def test_shutting_down_answers_what_is_under_way_and_closes_the_batcher(name: str) -> None:
    with site_of(name) as site:
        site.model.shut()
        first = site.occupy()
        others = [in_thread(lambda: site.post([1, 2, 3])) for _ in range(8)]
        until(lambda: site.batcher.statistics().queue_depth == 8)
        stopping = in_thread(site.stop)
        until(lambda: stopping.asleep)
        assert not site.batcher.closed  # requests come first
        site.model.gate.set()
        stopping.outcome()
        assert [answer_of(other.outcome()) for other in others] == [[4, 5]] * 8
        assert answer_of(first.outcome()) == [0, 0]
        assert site.batcher.closed


@pytest.mark.parametrize(
    ("name", "path"), [("fastapi", "/predict/slow"), ("django-async", "/predict")]
)
def test_the_row_of_a_client_that_hung_up_never_reaches_the_model(name: str, path: str) -> None:
    with site_of(name) as site:
        site.model.shut()
        first = site.occupy()
        other = in_thread(lambda: site.post([1, 2, 3], path))
        until(lambda: site.batcher.statistics().queue_depth == 1)
        with site.connect_and_ask(path, [7, 7, 7]):
            until(lambda: site.batcher.statistics().queue_depth == 2)
        until(lambda: site.batcher.statistics().cancelled == 1)
        site.model.gate.set()
        assert answer_of(other.outcome()) == [4, 5]
        assert answer_of(first.outcome()) == [0, 0]
        assert site.model.rows_seen == 2
        assert not any((batch == 7).any() for batch in site.model.batches)


def test_a_client_that_hangs_up_while_the_model_has_its_row_harms_nobody() -> None:
    with site_of("fastapi") as site:
        site.model.shut()
        with site.connect_and_ask("/predict/slow", [7, 7, 7]):
            site.model.await_entry()
        others = [in_thread(lambda: site.post([1, 2, 3], "/predict/slow")) for _ in range(3)]
        until(lambda: site.batcher.statistics().queue_depth == 3)
        site.model.gate.set()
        assert [answer_of(other.outcome()) for other in others] == [[4, 5]] * 3
