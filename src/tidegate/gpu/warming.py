"""The batches of zeros that models are warmed up with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate._layout import LONGEST, ROWS, TOKENS, Layout
from tidegate.errors import ConfigError
from tidegate.gpu.arrays import check_count
from tidegate.gpu.collation import Collation

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """What to warm up with.

    Attributes:
        layout: Of all batches.
        batches: Size and length of each; the length is 0 without ragged rows.
    """

    layout: Layout
    batches: tuple[tuple[int, int], ...]

    def fill(self, memory: npt.NDArray[np.uint8], size: int, length: int) -> int:
        """Makes `memory` a batch of `size` rows of zeros, with `length` tokens if there is room.

        Returns:
            The tokens in all.
        """
        memory[...] = 0
        each = min(length, self.layout.tokens // size)
        header = self.layout.header_of(memory)
        header[ROWS], header[TOKENS], header[LONGEST] = size, size * each, each
        if self.layout.ragged:
            offsets = self.layout.offsets_of(memory)
            offsets[: size + 1] = np.arange(size + 1, dtype=np.int32) * each
        return size * each


def plan(collation: Collation, sizes: Iterable[int], layout: Layout | None) -> Plan:
    """Batches of each size, with rows of each length of `pad_to`, or of one token.

    Args:
        collation: How requests become an argument.
        sizes: Rows that the model will see.
        layout: Of the batches that will come; None takes one for the largest of these.

    Raises:
        ConfigError: There are no sizes, or they have no room in the layout.
    """
    wanted = sorted({check_count("a size", size, least=1) for size in sizes})
    if not wanted:
        raise ConfigError("warm_up() needs sizes, since there are no allowed_batch_sizes")
    lengths = (collation.pad_to or (1,)) if collation.ragged else (0,)
    if layout is None:
        layout = Layout(collation.specs, wanted[-1], wanted[-1] * lengths[-1])
    if wanted[-1] > layout.capacity:
        raise ConfigError(f"the layout has room for {layout.capacity} rows, got {wanted[-1]}")
    return Plan(layout, tuple(_pairs(wanted, lengths)))


def _pairs(sizes: Iterable[int], lengths: Iterable[int]) -> Iterator[tuple[int, int]]:
    # The largest first, so that memory grows once.
    for size in sorted(sizes, reverse=True):
        for length in sorted(lengths, reverse=True):
            yield size, length
