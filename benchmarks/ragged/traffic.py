"""Requests whose lengths are those of short texts, and a model that takes its time for each token.

The model looks every token up, padding included: embeddings, a hidden layer, scores, and the mean
of each row's scores, in which the padding does not count. It works through its tokens in blocks
that fit in a core's cache, so that its time is proportional to their number, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.models import WrongAnswerError
from tidegate import Packed, Padded

LONGEST = 128
"""Tokens of a request at most."""

VOCABULARY = 512
EMBEDDING = 64
HIDDEN = 512
SCORES = 16
BLOCK = 256
"""Tokens of which the hidden layer is worked out at once: half a MiB of float32."""

TOLERANCE = 1e-5
"""Answers are some tenths; the order of a sum, which a batch may change, shows in the seventh
digit."""


class Encoder:
    """The model: 16 scores for each row, the means of those of its tokens."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._embedding = _weights(random, VOCABULARY, EMBEDDING)
        self._hidden = _weights(random, EMBEDDING, HIDDEN)
        self._scores = _weights(random, HIDDEN, SCORES)
        # Kept: malloc gives arrays of this size back to the system, and each page would be a fault.
        # One thread at a time calls a batcher's model.
        self._memory = np.empty((BLOCK, HIDDEN), np.float32)

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        """The scores of each of `ids`, an int32 array of one axis: float32 of shape (n, SCORES)."""
        scores = np.empty((len(ids), SCORES), np.float32)
        for begin in range(0, len(ids), BLOCK):
            block = ids[begin : begin + BLOCK]
            hidden = self._memory[: len(block)]
            np.matmul(self._embedding[block], self._hidden, out=hidden)
            np.maximum(hidden, 0, out=hidden)
            np.matmul(hidden, self._scores, out=scores[begin : begin + BLOCK])
        return scores

    def padded(self, batch: Padded) -> np.ndarray:
        """The answers to rows of one length, all of whose tokens are looked up."""
        rows, length = batch.values.shape
        scores = self.tokens(batch.values.reshape(-1)).reshape(rows, length, SCORES)
        sums = np.einsum("rts,rt->rs", scores, batch.mask.astype(np.float32))
        means: np.ndarray = sums / batch.lengths[:, np.newaxis].astype(np.float32)
        return means

    def packed(self, batch: Packed) -> np.ndarray:
        """The answers to rows that lie end to end, none of them empty."""
        sums = np.add.reduceat(self.tokens(batch.values), batch.cu_seqlens[:-1])
        means: np.ndarray = sums / np.diff(batch.cu_seqlens)[:, np.newaxis].astype(np.float32)
        return means

    def alone(self, ids: np.ndarray) -> np.ndarray:
        """The answer to one request, without a batch and without padding."""
        answer: np.ndarray = self.tokens(ids).mean(axis=0)
        return answer


def _weights(random: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    drawn = random.standard_normal((inputs, outputs), dtype=np.float32)
    return drawn / np.float32(np.sqrt(inputs))


def lengths(count: int, seed: int = 1) -> np.ndarray:
    """Tokens of `count` requests: log-normal (3.3, 0.7), from 1 to LONGEST, some 33 on average."""
    drawn = np.random.default_rng(seed).lognormal(3.3, 0.7, count)
    return np.clip(np.rint(drawn), 1, LONGEST).astype(np.int64)


class Traffic:
    """Requests, and what the model answers to each alone.

    Args:
        count: How many different ones there are.

    Attributes:
        rows: int32 arrays of token ids.
    """

    def __init__(self, count: int = 4096) -> None:
        random = np.random.default_rng(2)
        self.rows = [
            random.integers(0, VOCABULARY, length, dtype=np.int32) for length in lengths(count)
        ]
        encoder = Encoder()
        self._expected = np.stack([encoder.alone(row) for row in self.rows])

    def check(self, numbers: Sequence[int], answers: Iterable[np.ndarray]) -> None:
        """Raise unless each answer is, within TOLERANCE, the model's to the request of its number.

        All that was answered is compared at once, after the clock has stopped: a comparison of its
        own would cost a request as much as its batch does.
        """
        if not numbers:
            raise WrongAnswerError("nothing was answered")
        found = np.stack([np.asarray(answer) for answer in answers])
        expected = self._expected[list(numbers)]
        if found.shape != expected.shape:
            raise WrongAnswerError(f"answers of shape {found.shape[1:]}, not {expected.shape[1:]}")
        wrong = ~(np.abs(found - expected) <= TOLERANCE).all(axis=1)  # so that NaN is wrong, too
        if wrong.any():
            first = int(wrong.argmax())
            raise WrongAnswerError(
                f"{wrong.sum()} of {len(numbers)} answers are wrong; request {numbers[first]} was "
                f"answered with {found[first]}, not {expected[first]}"
            )
