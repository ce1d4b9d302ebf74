"""The hook for models that record themselves into CUDA graphs, which their frameworks do best.

A model with a method ``capture(size, argument)`` has it called at warm-up, once for each slot of
the ring and each size (and each length of `pad_to`), on the stream that it will run on. The
argument is what the model would be called with; its arrays keep their addresses, and batches of
that size are written there. It returns a function without arguments that replays the graph on the
current stream and returns the outputs, or None.

Addresses differ from slot to slot, so there are as many graphs as slots for each size; copying
batches to common addresses instead would cost each of them a copy. What a replay returns is copied
at once, so all graphs of a lane may share one memory pool.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

__all__ = ["capture", "explain", "hook_of", "regret"]

_logger = logging.getLogger("tidegate")


def hook_of(model: object) -> Callable[[int, Any], Any] | None:
    """The model's method `capture`, if it has one."""
    hook = getattr(model, "capture", None)
    return hook if callable(hook) else None


def capture(hook: Callable[[int, Any], Any], size: int, argument: Any) -> Callable[[], Any] | None:
    """Calls the hook; what goes wrong in it is logged."""
    try:
        replay = hook(size, argument)
    except Exception as error:
        said = f"it raised {type(error).__name__}: {error}"
    else:
        if callable(replay):
            return replay  # type: ignore[no-any-return]
        said = "it returned None" if replay is None else f"it returned {replay!r}, no function"
    _logger.warning(
        "the model's capture(%d, ...) gave no graph: %s; batches of that shape run without one",
        size,
        said,
    )
    return None


def explain(collate: str) -> None:
    """Says why there will be no graphs."""
    remedy = "give pad_to" if collate == "pad" else 'use collate="pad" with pad_to'
    _logger.warning(
        "the model's capture() is not called: with collate=%r the argument's shape is another for "
        "each batch; %s to run captured graphs",
        collate,
        remedy,
    )


def regret(lost: int) -> None:
    """Says that memory was moved under graphs."""
    _logger.warning(
        "a batch has a larger layout than warm_up() was told: %d captured graphs were dropped, and "
        "the model runs without them from now on; give warm_up() the largest layout",
        lost,
    )
