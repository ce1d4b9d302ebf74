"""Finds the rows that make a batch fail, by running halves of it again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tidegate._chunks import Chunk
from tidegate.errors import OutputError

__all__ = ["Part", "isolate", "patience"]


class Part(NamedTuple):
    """Rows that were answered, or a single one that was not."""

    chunk: Chunk
    answer: Any
    error: Exception | None = None


def patience(rows: int) -> int:
    """How many calls may fail before any succeeds, that for all of the `rows` rows included.

    The way down to a single row and once more as far: enough to get past two rows that the model
    cannot take, if they come first. A model that takes nothing at all is found out after so many
    calls, instead of after two for each row.
    """
    return 2 * math.ceil(math.log2(rows)) + 2


def isolate(
    call: Callable[[Chunk], Any],
    chunks: Sequence[Chunk],
    halves: Callable[[Chunk], Sequence[Chunk]],
    failure: Exception,
) -> list[Part]:
    """Runs the chunks of a batch, and halves of those that fail, down to single rows.

    With one row among n that the model cannot take, that is 2 * log2(n) calls.

    Args:
        call: Runs a chunk.
        chunks: All of the batch, in order.
        halves: Cuts a chunk of at least two rows.
        failure: What the model raised when it was called with the batch.

    Returns:
        What became of the rows, in order.

    Raises:
        OutputError: The model's answer to a chunk does not fit, which is no row's fault.
        Exception: `failure`, if the model takes nothing at all; see patience().
    """
    parts: list[Part] = []
    left = list(reversed(chunks))
    attempts = patience(sum(chunk.rows for chunk in chunks)) - 1
    succeeded = False
    while left:
        chunk = left.pop()
        try:
            parts.append(Part(chunk, call(chunk)))
            succeeded = True
            continue
        except OutputError:
            raise
        except Exception as error:
            attempts -= 1
            if chunk.rows == 1:
                parts.append(Part(chunk, None, error))
        if attempts == 0 and not succeeded:
            raise failure
        if chunk.rows > 1:
            left += reversed(halves(chunk))
    return parts
