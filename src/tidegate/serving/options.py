"""Options: the arguments of ``tidegate serve``, made from the fields of its configuration."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from tidegate.errors import ConfigError
from tidegate.serving.configuration import Configuration, gather
from tidegate.serving.settings import check

__all__ = ["DESCRIPTION", "METAVARS", "add_options", "configuration_of"]

DESCRIPTION = """\
Offer models with the Open Inference Protocol, over HTTP at 127.0.0.1:8000 and gRPC
at 127.0.0.1:8001 unless told otherwise. MODULE:ATTRIBUTE is a Models, a Served or
a list of them, a Batcher or a mapping of names to batchers, or a function that
returns one of these. SIGTERM and Ctrl-C drain: readiness turns false, what was
taken is answered, and the exit code is 0; a second one ends at once.

There is no --workers: a process is one set of models, and several would be several
copies of each. To run several, start this command several times with --reuse-port.
"""

METAVARS = {
    "http": "[HOST:]PORT",
    "grpc": "[HOST:]PORT",
    "address": "ADDRESS",
    "path": "PATH",
    "tokens": "TOKEN",
    "count": "N",
    "seconds": "SECONDS",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each setting; those that are not given do not appear in the result."""
    parser.add_argument(
        "--config", type=Path, metavar="PATH", help="a TOML file with settings by these names"
    )
    for each in fields(Configuration):
        if each.name == "target":
            parser.add_argument(
                "target",
                nargs="?",
                default=argparse.SUPPRESS,
                metavar="MODULE:ATTRIBUTE",
                help=each.metadata["meaning"],
            )
        else:
            _add(parser, each)


def _add(parser: argparse.ArgumentParser, each: Field[Any]) -> None:
    kind = each.metadata["kind"]
    help_text = each.metadata["meaning"]
    if each.default not in (None, ()) and kind != "flag":
        help_text += f" (default: {each.default})"
    rest: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help_text}
    if kind == "flag":
        rest["action"] = argparse.BooleanOptionalAction
    elif kind == "choice":
        rest["choices"] = each.metadata["choices"]
    else:
        rest["type"] = _reader(each)
        rest["metavar"] = METAVARS.get(each.name) or METAVARS[kind]
        if kind == "tokens":
            rest["action"] = "append"
    parser.add_argument(f"--{each.name.replace('_', '-')}", **rest)


def _reader(each: Field[Any]) -> Callable[[str], Any]:
    """Reads a setting from an argument."""

    def read(text: str) -> Any:
        value: Any = text
        try:
            if each.metadata["kind"] == "count":
                value = int(text)
            elif each.metadata["kind"] == "seconds":
                value = float(text)
        except ValueError:
            pass  # check() says what is wanted
        try:
            checked = check(each.name, value, each.metadata)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text if each.metadata["kind"] == "tokens" else checked

    return read


def configuration_of(arguments: argparse.Namespace) -> Configuration:
    """The configuration from arguments, from the file that they name, and from the environment.

    Raises:
        ConfigError: What gather() raises.
    """
    names = {each.name for each in fields(Configuration)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return gather(given, os.environ, arguments.config)
