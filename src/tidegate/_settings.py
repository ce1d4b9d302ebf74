"""Checks of a Batcher's settings: each value that cannot be is named, with what could."""

from __future__ import annotations

import contextlib
import itertools
import math
import numbers
import operator
import sys
from collections.abc import Iterable
from typing import Any, Literal

from tidegate import _engine
from tidegate.errors import ConfigError

__all__ = [
    "PaddingPolicy",
    "ascending",
    "choose",
    "cost",
    "count",
    "make_policy",
    "number",
    "refuse_green_threads",
    "time_left",
]

# What the core can count: rows of a batch, rows that wait.
MOST_ROWS = 2**20
MOST_WAITING = 2**62

PaddingPolicy = Literal["pad_up", "batch_down", "none"]


def refuse_green_threads() -> None:
    """Raises ConfigError if gevent or eventlet have replaced threads: ours would never run."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    ):
        raise ConfigError(
            "threads are monkey-patched by gevent or eventlet, and a batcher's executors wait in "
            "native code, which such threads cannot do; leave threads out: "
            "monkey.patch_all(thread=False)"
        )


def choose(setting: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises ConfigError unless `value` is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(
            f"{setting} must be one of {', '.join(map(repr, choices))}; got {value!r}"
        )


def number(setting: str, value: Any) -> float:
    """A number of seconds as a float; raises ConfigError."""
    seconds = _real(value)
    if seconds is not None and seconds >= 0:
        return seconds
    raise ConfigError(f"{setting} must be a number of seconds >= 0, got {value!r}")


def time_left(setting: str, value: Any) -> float:
    """number() for what is left of some time, which is 0 once that is over."""
    seconds = _real(value)
    return 0.0 if seconds is not None and seconds < 0 else number(setting, value)


def _real(value: Any) -> float | None:
    """A real number as a float; None for anything else, and for what no float can be."""
    try:
        return float(value) if isinstance(value, numbers.Real) else None
    except OverflowError:
        return None


def count(setting: str, value: Any, most: int) -> int:
    """A whole number from 1 to `most`; raises ConfigError."""
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except TypeError:  # also of arrays, which have an __index__
        whole = None
    if whole is None:
        raise ConfigError(f"{setting} must be a whole number of at least 1, got {value!r}")
    if whole < 1:
        raise ConfigError(f"{setting} must be at least 1, got {value!r}")
    if whole > most:
        raise ConfigError(f"{setting} must be at most {most}, got {value!r}")
    return whole


def cost(value: Any) -> float:
    """A positive cost as a float; raises ConfigError."""
    given = _real(value)
    if given is not None and 0 < given < math.inf:
        return given
    raise ConfigError(f"max_batch_cost must be a number above 0 or None, got {value!r}")


def ascending(setting: str, values: Any, most: int) -> tuple[int, ...] | None:
    """Whole numbers, each larger than the one before, or None; raises ConfigError."""
    if values is None:
        return None
    given: tuple[Any, ...] = ()
    if isinstance(values, Iterable) and not isinstance(values, str):
        with contextlib.suppress(TypeError):  # an array without axes
            given = tuple(values)
    checked = tuple(count(setting, value, most) for value in given)
    if not checked or any(low >= high for low, high in itertools.pairwise(checked)):
        raise ConfigError(f"{setting} must be ascending whole numbers, got {values!r}")
    return checked


def make_policy(
    *,
    max_batch_size: Any,
    max_queue_delay: Any,
    max_queue_size: Any,
    caller_runs: bool,
    max_batch_cost: Any = None,
) -> _engine.Policy:
    """The policy of these settings; raises ConfigError."""
    try:
        return _engine.Policy(
            max_batch_size=count("max_batch_size", max_batch_size, MOST_ROWS),
            max_queue_delay=number("max_queue_delay", max_queue_delay),
            max_queue_size=0
            if max_queue_size is None
            else count("max_queue_size", max_queue_size, MOST_WAITING),
            caller_runs=caller_runs,
            max_batch_cost=None if max_batch_cost is None else cost(max_batch_cost),
        )
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(str(error)) from error
