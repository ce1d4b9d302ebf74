"""What models of ragged rows are called with, and how they mark answers of one row per token."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Packed", "Padded", "PerToken"]


class Padded(NamedTuple):
    """A batch of n ragged rows, made equally long: what ``collate="pad"`` calls the model with.

    Attributes:
        values: As one request, with a leading axis: ragged arrays of shape (n, length, ...), which
            are ``padding_value`` behind each row's tokens, and the others of shape (n, ...).
        mask: bool array of shape (n, length), true where there is a token.
        lengths: int32 array of shape (n,), the tokens of each row.
    """

    values: Any
    mask: Any
    lengths: Any


class Packed(NamedTuple):
    """A batch of n ragged rows, laid end to end: what ``collate="pack"`` calls the model with.

    Attributes:
        values: As one request: ragged arrays of shape (tokens, ...), the others of shape (n, ...).
        cu_seqlens: int32 array of n + 1 offsets, as flash-attention takes them: row i is
            ``values[cu_seqlens[i]:cu_seqlens[i + 1]]``.
        max_seqlen: Tokens of the longest row.
    """

    values: Any
    cu_seqlens: Any
    max_seqlen: int


class PerToken:
    """Marks an output that has something for each token, instead of for each row.

    A model of ragged rows returns it in place of an array, alone or in its tuple or mapping. Each
    caller then gets as many entries as its request had tokens.

    Args:
        array: After ``collate="pad"`` of shape (n, length, ...), after ``collate="pack"`` of shape
            (tokens, ...).
    """

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __repr__(self) -> str:
        return f"PerToken({self.array!r})"
