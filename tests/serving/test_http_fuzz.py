"""A first part of the damaged requests of fuzz_http.py, which has a command for many more."""

from __future__ import annotations

import random

from tests.serving import fuzz_http
from tests.serving.http import ask
from tidegate.serving import Models
from tidegate.serving.asgi import create_app

COUNT = 1500


def test_damaged_requests_end_in_a_status_of_the_protocol() -> None:
    found = fuzz_http.fuzz(COUNT)
    assert sum(found["app"].values()) + sum(found["sockets"].values()) == COUNT
    assert found["app"][200] > COUNT // 20, "what is fuzzed hardly reaches a model"
    assert found["sockets"][200] > 0
    assert {400, 404, 405, 413, 415} <= set(found["app"])
    assert found["growth_kib"] < 16 * 1024


def test_what_the_fuzzer_damages_was_valid_before(models: Models) -> None:
    app = create_app(models, limits=fuzz_http.LIMITS)
    for number in range(100):
        case = fuzz_http.valid(random.Random(number))
        answer = ask(app, case.method, case.path, case.body, case.headers)
        assert answer.status == 200, (case, answer)


def test_a_request_has_its_number_for_a_name() -> None:
    assert fuzz_http.damaged(0, 7) == fuzz_http.damaged(0, 7)
    assert fuzz_http.damaged(0, 7) != fuzz_http.damaged(1, 7)
