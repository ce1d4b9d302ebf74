"""Configuration: files, arguments and environment, and what is refused before anything runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tidegate import ConfigError
from tidegate.serving.configuration import Configuration, gather
from tidegate.serving.options import add_options, configuration_of

NOBODY: Mapping[str, str] = {}


def file_with(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tidegate.toml"
    path.write_text(text)
    return path


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(arguments)


# Where settings come from


def test_without_doors_there_are_both_on_loopback() -> None:
    made = gather({}, NOBODY)
    assert (made.http, made.grpc, made.uds) == ("127.0.0.1:8000", "127.0.0.1:8001", None)
    assert str(made.http_address) == "127.0.0.1:8000"


def test_with_a_door_there_are_only_those_that_are_named() -> None:
    made = gather({"grpc": "7000"}, NOBODY)
    assert (made.http, made.uds, str(made.grpc_address)) == (None, None, "127.0.0.1:7000")


def test_a_file_has_settings_by_the_names_of_the_options(tmp_path: Path) -> None:
    made = gather(
        {},
        NOBODY,
        file_with(
            tmp_path,
            """
            target = "offer:models"
            http = 7000
            grpc = "unix:/tmp/tidegate-grpc"
            uds = "here.sock"
            token = ["one", "two"]
            max_rows = 16
            drain_grace = 2
            access_log = true
            log_level = "warning"
            """,
        ),
    )
    assert (made.target, made.http, made.token) == ("offer:models", "7000", ("one", "two"))
    assert (made.grpc_path, made.grpc_address) == (Path("/tmp/tidegate-grpc"), None)
    assert (made.max_rows, made.drain_grace, made.access_log) == (16, 2.0, True)
    assert made.uds == tmp_path / "here.sock", "paths are relative to the file"
    assert made.limits.max_rows == 16


def test_arguments_win_over_the_file(tmp_path: Path) -> None:
    path = file_with(tmp_path, "max_rows = 16\naccess_log = true\nhttp = 7000\ntarget = 'a:b'")
    made = configuration_of(
        parsed("c:d", "--config", str(path), "--max-rows=32", "--no-access-log")
    )
    assert (made.target, made.max_rows, made.access_log, made.http) == ("c:d", 32, False, "7000")


@pytest.mark.parametrize("value", ["", "of-a-file\n", "two words"])
def test_a_variable_that_holds_no_token_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match="TIDEGATE_TOKEN is no token: a token is visible ASCII"):
        gather({}, {"TIDEGATE_TOKEN": value})


@pytest.mark.parametrize(
    ("given", "in_file", "in_environment", "expected"),
    [
        ({}, "", {}, ()),
        ({}, "", {"TIDEGATE_TOKEN": "environment"}, ("environment",)),
        ({}, "token = 'file'", {"TIDEGATE_TOKEN": "environment"}, ("file",)),
        ({"token": ("given",)}, "token = 'file'", {"TIDEGATE_TOKEN": "e"}, ("given",)),
        ({"token": ("given",)}, "token_file = 'nowhere'", {}, ("given",)),
    ],
)
def test_a_token_is_taken_from_the_nearest_source_only(
    tmp_path: Path,
    given: dict[str, Any],
    in_file: str,
    in_environment: dict[str, str],
    expected: tuple[str, ...],
) -> None:
    made = gather(given, in_environment, file_with(tmp_path, in_file))
    assert (made.token, made.token_file) == (expected, None)


def test_a_token_file_has_one_token_in_each_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("one\n\n  two \n")
    tokens = gather({"token_file": path, "token": ("three",)}, NOBODY).read_tokens()
    assert tokens is not None
    for token in ("one", "two", "three"):
        tokens.check(f"Bearer {token}")
    assert Configuration(http="0").read_tokens() is None


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff", b"two words\n"])
def test_a_token_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="token"):
        Configuration(http="0", token_file=path).read_tokens()


def test_a_token_is_never_shown() -> None:
    made = Configuration(http="0", token=("secret-of-mine",))
    assert "secret-of-mine" not in repr(made)
    with pytest.raises(ConfigError) as refused:
        Configuration(**settings_of("http", "0", token=("secret-of-mine", 5)))
    assert "secret-of-mine" not in str(refused.value)


# What is refused


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_row = 3", "unknown setting 'max_row'; did you mean 'max_rows'?"),
        ("tls-key = 'a'", "unknown setting 'tls-key'; did you mean 'tls_key'?"),
        ("zebra = 3", "unknown setting 'zebra'; there are target, http, grpc"),
        ("max_rows = '3'", "max_rows must be a whole number of at least 1, got '3'"),
        ("max_rows = true", "max_rows must be a whole number of at least 1, got True"),
        ("http = 80.5", "http must be HOST:PORT or PORT, got 80.5"),
        ("access_log = 1", "access_log must be true or false, got 1"),
        ("uds = ''", "uds must be a path, got ''"),
        ("token = 5", "token must be a string or a list of strings"),
        ("target = 5", "target must be a string, got 5"),
        ("drain_grace = -1", "drain_grace must be a number of seconds, at least 0, got -1"),
        ("drain_grace = nan", "drain_grace must be a number of seconds, at least 0, got nan"),
        ("uvloop = 'yes'", "uvloop must be one of auto, on, off, got 'yes'"),
        ("max_rows = ", "is no TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path: Path, text: str, complaint: str) -> None:
    path = file_with(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        gather({}, NOBODY, path)
    assert complaint in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: No such file"):
        gather({}, NOBODY, tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"http": "127.0.0.1:"}, "a port from 0 to 65535, got '127.0.0.1:'"),
        ({"http": "127.0.0.1:70000"}, "a port from 0 to 65535"),
        ({"http": ":80"}, "an address is HOST:PORT"),
        ({"http": "::1:80"}, "an IPv6 address needs brackets, [::1]:80"),
        ({"grpc": "no such host:80"}, "there is no host 'no such host'"),
        ({"tls_key": "k"}, "tls_certificate and tls_key belong together"),
        ({"tls_certificate": "c"}, "tls_certificate and tls_key belong together"),
        ({"tls_client_ca": "c"}, "tls_client_ca needs tls_certificate and tls_key"),
        ({"receive_timeout": 0}, "receive_timeout must be seconds > 0"),
        ({"max_message_bytes": 0}, "max_message_bytes must be a whole number of at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Configuration(**settings)
    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--max-rows=0"], "max_rows must be a whole number of at least 1, got 0"),
        (["--max-rows=many"], "max_rows must be a whole number of at least 1, got 'many'"),
        (["--drain-grace=soon"], "drain_grace must be a number of seconds, at least 0"),
        (["--drain-grace=inf"], "drain_grace must be a number of seconds, at least 0"),
        (["--log-level=loud"], "invalid choice: 'loud'"),
        (["--workers=4"], "unrecognized arguments: --workers=4"),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        parsed(*arguments)
    assert ending.value.code == 2
    assert complaint in capsys.readouterr().err


# Who may listen where


def settings_of(door: str, address: str, **others: Any) -> dict[str, Any]:
    return {door: address, **others}


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.8.8.8:0", "0"])
@pytest.mark.parametrize("door", ["http", "grpc"])
def test_loopback_may_be_open(door: str, address: str) -> None:
    Configuration(**settings_of(door, address))


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "[2001:db8::1]:80"])
@pytest.mark.parametrize("door", ["http", "grpc"])
def test_any_other_address_needs_protection_or_the_word(door: str, address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Configuration(**settings_of(door, address))
    message = str(refused.value)
    assert message.startswith(address)
    for remedy in ("--tls-certificate and --tls-key", "--token-file", "--insecure"):
        assert remedy in message
    Configuration(**settings_of(door, address, token="t"))
    Configuration(**settings_of(door, address, token_file="tokens"))
    Configuration(**settings_of(door, address, tls_certificate="c", tls_key="k"))
    Configuration(**settings_of(door, address, insecure=True))


def test_every_setting_but_the_target_has_an_option_that_sets_it() -> None:
    values = {
        "address": "127.0.0.1:0",
        "path": "somewhere",
        "tokens": "t",
        "count": "7",
        "seconds": "1.5",
    }
    for each in fields(Configuration):
        kind = each.metadata["kind"]
        option = f"--{each.name.replace('_', '-')}"
        if kind == "text":
            continue
        if kind == "flag":
            assert getattr(parsed(option), each.name) is True
            assert not hasattr(parsed(), each.name), "what is not given leaves it to the file"
            continue
        text = each.metadata["choices"][-1] if kind == "choice" else values[kind]
        given = getattr(parsed(option, text), each.name)
        assert str(given if kind != "tokens" else given[0]) == text
