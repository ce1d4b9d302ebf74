"""Mutated messages, a few of them; `-m soak` for many."""

from __future__ import annotations

import random

import pytest

from tests.serving.fuzz_grpc import Report, fuzz, mutated, seeds


def test_mutated_messages_are_refused_in_order_and_right_ones_answered() -> None:
    report = fuzz(count=2000, seed=7)
    assert report.problems() == []
    assert report.statuses["OK"] > 100
    assert report.statuses["INVALID_ARGUMENT"] > 500
    assert report.statuses["NOT_FOUND"] > 20


def test_the_same_seed_makes_the_same_messages() -> None:
    def some(seed: int) -> list[tuple[str, bytes]]:
        chance = random.Random(seed)
        cases = seeds()
        return [mutated(chance.choice(cases), cases, chance) for _ in range(100)]

    assert some(1) == some(1) != some(2)


def test_the_report_notices_what_it_is_for() -> None:
    assert Report().problems() == []
    assert Report(growth=2**30).problems() == ["1073741824 bytes of memory were added"]
    assert Report(futures=3).problems() == ["3 futures are left"]
    assert Report(unexpected=[("/m", b"x", "UNKNOWN")]).problems() == ["/m b'x': UNKNOWN"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_mutated_messages() -> None:
    assert fuzz(count=100_000, seed=11).problems() == []
