"""Rows of groups, a model that never sees two groups at once, and a key that takes its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.gated import PATIENCE


def key_of(row: Any) -> Any:
    """The first number of a row."""
    return int(row[0])


def row_of(key: int, number: int = 0) -> Any:
    return np.array([key, number, 0])


def checked(rows: Any) -> Any:
    """A model that sees one key at a time, or fails."""
    assert len(set(rows[:, 0].tolist())) == 1, "rows of two groups in one batch"
    return rows * 2


def answers(futures: list[Any]) -> list[list[int]]:
    return [(future.result(PATIENCE) // 2)[:2].tolist() for future in futures]


class Busy:
    """A key whose hash takes long enough for others to submit; here they do it `during` that."""

    def __init__(self, value: int, during: Callable[[int], None]) -> None:
        self.value = value
        self._during = during

    def __hash__(self) -> int:
        """By its value, and not at once."""
        self._during(self.value)
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        """By its value."""
        return isinstance(other, Busy) and other.value == self.value
