"""Models, Limits, Tokens and the table of statuses: what all doors share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import tidegate
from tidegate import Batcher, ConfigError, InputError, TensorSpec
from tidegate.serving import (
    AuthenticationError,
    Limits,
    Models,
    Served,
    Tokens,
    TooLargeError,
    UnknownModelError,
)
from tidegate.serving.errors import log_failure, message_of, status_of


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    """A batcher that knows its inputs."""
    with Batcher(lambda batch: batch, inputs=TensorSpec((), "int64")) as made:
        yield made


# Models


def test_the_newest_version_answers_when_none_is_named(batcher: Batcher) -> None:
    models = Models(*[Served("m", batcher, version=version) for version in ("9", "10", "beta")])
    assert models.get("m").version == "10"
    assert models.get("m", "beta").version == "beta"
    assert models.versions("m") == ["beta", "9", "10"]
    assert len(models) == 3


def test_unknown_names_and_versions_say_what_there_is(batcher: Batcher) -> None:
    models = Models(Served("m", batcher))
    with pytest.raises(UnknownModelError, match=r"no model 'n'; there are \['m'\]"):
        models.get("n")
    with pytest.raises(UnknownModelError, match=r"no version '2'; it has \['1'\]"):
        models.get("m", "2")
    with pytest.raises(UnknownModelError):
        models.versions("n")
    with pytest.raises(UnknownModelError):
        models.remove("m", "2")


def test_models_can_be_put_on_offer_and_taken_off(batcher: Batcher) -> None:
    models = Models()
    assert models.ready
    models.add(Served("m", batcher))
    with pytest.raises(ConfigError, match="on offer already"):
        models.add(Served("m", batcher))
    with pytest.raises(ConfigError, match="got Batcher"):
        models.add(batcher)  # type: ignore[arg-type]
    assert [each.name for each in models] == ["m"]
    assert models.remove("m", "1").name == "m"
    assert list(models) == []


def test_without_a_version_the_newest_is_taken_off(batcher: Batcher) -> None:
    models = Models(Served("m", batcher), Served("m", batcher, version="2"))
    assert models.remove("m", "").version == "2"
    assert models.versions("m") == ["1"]


def test_draining_turns_readiness_false_and_still_answers(batcher: Batcher) -> None:
    models = Models(Served("m", batcher))
    assert models.ready
    models.drain()
    assert models.draining
    assert not models.ready
    assert batcher(1) == 1
    models.close()
    assert batcher.closed


def test_models_are_not_ready_when_one_is_not(batcher: Batcher) -> None:
    with Batcher(lambda batch: batch, inputs=TensorSpec((), "int64")) as other:
        models = Models(Served("m", batcher), Served("n", other))
        assert models.ready
    assert not models.ready


# Limits


@pytest.mark.parametrize("setting", ["max_message_bytes", "max_rows"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_limits_are_whole_numbers_of_at_least_one(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting):
        Limits(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1.0, True, "3", float("nan")])
def test_the_time_limit_is_a_positive_number_or_none(value: object) -> None:
    with pytest.raises(ConfigError, match="receive_timeout must be seconds > 0 or None"):
        Limits(receive_timeout=value)  # type: ignore[arg-type]
    assert Limits(receive_timeout=None).receive_timeout is None


def test_what_is_over_a_limit_is_an_input_error_of_its_own_status() -> None:
    limits = Limits(max_message_bytes=10, max_rows=2)
    limits.check_message(10)
    limits.check_rows(2)
    for check, value in ((limits.check_message, 11), (limits.check_rows, 3)):
        with pytest.raises(TooLargeError) as caught:
            check(value)
        assert isinstance(caught.value, InputError)
        assert status_of(caught.value).http == 413


# Tokens


def test_any_of_the_tokens_is_accepted() -> None:
    tokens = Tokens(["old", "new"])
    for header in ("Bearer old", "bearer new", "BEARER  new"):
        tokens.check(header)


@pytest.mark.parametrize("header", [None, "", "new", "Basic new", "Bearer", "Bearer ", "Bearer no"])
def test_everything_else_is_refused(header: str | None) -> None:
    with pytest.raises(AuthenticationError) as caught:
        Tokens(["new"]).check(header)
    assert "new" not in str(caught.value)


@pytest.mark.parametrize("tokens", [[], [""], ["a b"], ["ä"], ["a\n"], ""])
def test_tokens_that_no_header_can_carry_are_refused(tokens: list[str]) -> None:
    with pytest.raises(ConfigError):
        Tokens(tokens)


# Statuses


def test_every_error_of_tidegate_has_a_status() -> None:
    expected = {
        "InputError": (400, "INVALID_ARGUMENT"),
        "QueueFullError": (429, "RESOURCE_EXHAUSTED"),
        "DeadlineError": (504, "DEADLINE_EXCEEDED"),
        "ClosedError": (503, "UNAVAILABLE"),
        "ForkedProcessError": (503, "UNAVAILABLE"),
        "ModelError": (500, "INTERNAL"),
        "OutputError": (500, "INTERNAL"),
    }
    for name, (http, grpc) in expected.items():
        status = status_of(getattr(tidegate, name)("text"))
        assert (status.http, status.grpc) == (http, grpc), name
    assert status_of(tidegate.QueueFullError("full")).retry_after == 1
    assert status_of(asyncio.CancelledError()).grpc == "CANCELLED"
    assert status_of(KeyError("x")).http == 500


def test_the_text_of_foreign_errors_is_not_told() -> None:
    secret = "the password is 1234"
    failed = tidegate.ModelError(f"the model raised: {secret}")
    failed.__cause__ = ValueError(secret)
    for error in (failed, ValueError(secret)):
        assert "1234" not in message_of(error)
        assert "ValueError" in message_of(error)
    assert message_of(InputError("expected 3")) == "expected 3"


def test_a_failure_that_a_batch_shares_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    cause = RuntimeError("out of memory")
    for _ in range(3):
        error = tidegate.ModelError("the model failed")
        error.__cause__ = cause
        log_failure(error, "a request")
    log_failure(InputError("wrong"), "a request")
    assert caplog.text.count("out of memory") == 1
    log_failure(ZeroDivisionError("a bug"), "a request")
    assert [record.message for record in caplog.records] == [
        "a request failed: the model failed",
        "a request failed",
    ]
