"""The options that all comparisons share."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def parser_of(
    name: str, about: str | None, rounds: int, what: str, names: Collection[str]
) -> argparse.ArgumentParser:
    """A parser with the shared options.

    Args:
        name: Of the module that is run.
        about: Its docstring.
        rounds: How many there are unless told otherwise.
        what: What --only chooses from, in the plural.
        names: Those.
    """
    parser = argparse.ArgumentParser(name, description=about)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"interleaved rounds (default {rounds})"
    )
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    parser.add_argument("--only", default="", help=f"{what}: " + ",".join(names))
    parser.add_argument(
        "--variants", default="", help="only those whose names contain one of these, by comma"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the results"
    )
    parser.set_defaults(what=what, names=list(names))
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with lists as lists; what is out of range ends the program."""
    options = parser.parse_args(arguments)
    options.only = [name for name in options.only.split(",") if name] or options.names
    unknown = sorted(set(options.only) - set(options.names))
    if unknown:
        parser.error(f"unknown {options.what} {unknown}; there are {options.names}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    options.variants = [part for part in options.variants.split(",") if part]
    return options
