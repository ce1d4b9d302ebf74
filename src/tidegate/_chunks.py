"""How the rows of a batch are spread over calls of the model."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from tidegate._settings import PaddingPolicy

__all__ = ["Chunk", "halves", "split"]


class Chunk(NamedTuple):
    """One call of the model: `rows` rows from `first` on, and so many more that it sees `size`."""

    first: int
    rows: int
    size: int
    last: bool = True
    """Whether no row of the batch follows: what is behind in the memory is nobody's then."""


def split(rows: int, sizes: Sequence[int] | None, policy: PaddingPolicy) -> list[Chunk]:
    """How a batch is run.

    Args:
        rows: Its rows, at least one.
        sizes: The allowed batch sizes, ascending; None for any.
        policy: ``"pad_up"`` adds rows up to the next allowed size; ``"batch_down"`` runs as much as
            the next smaller one and then the rest, so that rows are added only to what is left
            below the smallest; ``"none"`` runs batches as they are.
    """
    if sizes is None or policy == "none":
        return [Chunk(0, rows, rows)]
    chunks = []
    first = 0
    while first < rows:
        left = rows - first
        above = bisect_left(sizes, left)
        exact = above < len(sizes) and sizes[above] == left
        if above == len(sizes) or (policy == "batch_down" and above > 0 and not exact):
            size = sizes[above - 1]
            chunks.append(Chunk(first, size, size, size == left))
        else:
            chunks.append(Chunk(first, left, sizes[above]))
        first += chunks[-1].rows
    return chunks


def halves(chunk: Chunk, sizes: Sequence[int] | None, policy: PaddingPolicy) -> list[Chunk]:
    """A chunk of at least two rows, cut in the middle; each half is run as split() says."""
    half = chunk.rows // 2
    return [
        part._replace(
            first=chunk.first + begin + part.first, last=part.last and chunk.last and begin > 0
        )
        for begin, rows in ((0, half), (half, chunk.rows - half))
        for part in split(rows, sizes, policy)
    ]
