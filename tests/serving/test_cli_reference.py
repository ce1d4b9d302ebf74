"""The reference of the command line has every option with its default, and the how-to runs."""

from __future__ import annotations

import argparse
import re
import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from tests.serving.running import ROOT, Running
from tests.test_cli import python
from tidegate import cli
from tidegate.serving.configuration import Configuration, gather

PAGE = (ROOT / "docs/reference/cli.md").read_text()
HOW_TO = (ROOT / "docs/how-to/serve.md").read_text()


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = cli._parser()
    found = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def options() -> Iterator[tuple[str, argparse.Action]]:
    for name, parser in commands().items():
        for action in parser._actions:
            if action.option_strings and not isinstance(action, argparse._HelpAction):
                yield name, action


def default_of(command: str, action: argparse.Action) -> object:
    if command == "serve":
        found = {each.name: each.default for each in fields(Configuration)}
        return found.get(action.dest)
    return action.default


@pytest.mark.parametrize(
    ("command", "action"), list(options()), ids=lambda each: getattr(each, "dest", each)
)
def test_every_option_is_in_the_reference_with_its_default(
    command: str, action: argparse.Action
) -> None:
    section = re.search(rf"^## `tidegate {command}`$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert section is not None
    row = re.search(
        rf"^\| `{action.option_strings[0]}(?: [^`]+)?` \| ([^|]*?) ?\| ([^|]+) \|$",
        section[1],
        re.MULTILINE,
    )
    assert row is not None, f"{command} {action.option_strings[0]}"
    default = default_of(command, action)
    if isinstance(default, bool) or default in (None, (), [], argparse.SUPPRESS):
        default = ""
    if command != "top":  # whose token comes from the environment
        assert row[1].strip("`") == str(default)


def test_every_option_of_the_reference_exists() -> None:
    known = {option for _, action in options() for option in action.option_strings}
    assert set(re.findall(r"^\| `(--[\w-]+)", PAGE, re.MULTILINE)) <= known


def test_what_the_how_to_shows_runs(tmp_path: Path) -> None:
    module = re.search(r"^```python\n(.*?)^```$", HOW_TO, re.M | re.S)
    settings = re.search(r"^```text\n(target = .*?)^```$", HOW_TO, re.M | re.S)
    assert module is not None
    assert settings is not None
    (tmp_path / "offer.py").write_text(module[1])
    file = tmp_path / "tidegate.toml"
    file.write_text(settings[1])
    made = gather({}, {}, file)
    assert (made.max_rows, made.drain_grace, made.access_log) == (1024, 5.0, True)
    # A test has no certificates, and no time for grace.
    file.write_text(
        re.sub(r"^(?:http|grpc|t\w+_\w+|drain_grace) = .*\n", "", settings[1], flags=re.M)
    )
    running = Running(
        tmp_path,
        *("--config", str(file), "--http=0", "--grpc=0"),
        environment={"PYTHONPATH": str(tmp_path)},
    )
    try:
        asked = re.findall(r"^tidegate infer (\w+)://\S+ (\w+) --input '(.*)'$", HOW_TO, re.M)
        assert len(asked) == 2
        for scheme, model, given in asked:
            ended = python(
                *("-m", "tidegate", "infer", running.urls[scheme], model, "--input", given)
            )
            assert (ended.returncode, ended.stderr) == (0, "")
            assert ended.stdout.startswith("scores: FP32 ")
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
    finally:
        running.end()
