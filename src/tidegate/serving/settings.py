"""Kinds of settings: how a value is checked, whether it comes from a file or from an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tidegate.errors import ConfigError

__all__ = ["Kind", "check", "setting"]

Kind: TypeAlias = Literal["text", "address", "path", "tokens", "flag", "count", "seconds", "choice"]

# What it should be in words, whether a value is that, and the type that it gets.
_KINDS: dict[str, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    "text": ("a string", lambda value: isinstance(value, str) and value != "", str),
    "address": (
        "HOST:PORT or PORT",
        lambda value: type(value) is int or (isinstance(value, str) and value != ""),
        str,
    ),
    "path": ("a path", lambda value: isinstance(value, str | Path) and str(value) != "", Path),
    "tokens": (
        "a string or a list of strings",
        lambda value: all(isinstance(each, str) for each in _several(value)),
        lambda value: _several(value),
    ),
    "flag": ("true or false", lambda value: type(value) is bool, bool),
    "count": (
        "a whole number of at least 1",
        lambda value: type(value) is int and value >= 1,
        int,
    ),
    "seconds": (
        "a number of seconds, at least 0",
        lambda value: type(value) in (int, float) and 0 <= value < math.inf,
        float,
    ),
}


def setting(
    kind: Kind, default: Any, meaning: str, *, choices: tuple[str, ...] = (), secret: bool = False
) -> Any:
    """A dataclass field that knows what options and messages need.

    Args:
        kind: What its values are.
        default: Its default; with None, the setting may be None.
        meaning: What it does, for ``--help``.
        choices: All values of a ``"choice"``.
        secret: Whether its value must not be shown.
    """
    metadata = {"kind": kind, "meaning": meaning, "choices": choices, "secret": secret}
    return field(default=default, repr=not secret, metadata=metadata)


def check(name: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    """A value in the type of its setting.

    Args:
        name: The setting's.
        value: From a file, an argument, or Python.
        metadata: The field's, made by setting().

    Raises:
        ConfigError: It is of another kind or out of range.
    """
    choices = metadata["choices"]
    if choices:
        wanted, fits = f"one of {', '.join(choices)}", value in choices
    else:
        wanted, is_one, _ = _KINDS[metadata["kind"]]
        fits = is_one(value)
    if not fits:
        given = "" if metadata["secret"] else f", got {value!r}"
        raise ConfigError(f"{name} must be {wanted}{given}")
    return value if choices else _KINDS[metadata["kind"]][2](value)


def _several(value: Any) -> tuple[Any, ...]:
    if isinstance(value, list | tuple):
        return tuple(value)
    return (value,)
