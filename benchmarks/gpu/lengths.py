"""How long requests in words are: log-normal, most of them short and a few as long as may be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LONGEST", "lengths_of"]

LONGEST = 128
_MEAN, _SIGMA = 3.3, 0.7  # of the logarithm; the lengths' own mean is then 33


def lengths_of(count: int, seed: int = 4) -> npt.NDArray[np.int64]:
    """Lengths from 1 to LONGEST, the same for the same seed."""
    random = np.random.default_rng(seed)
    drawn = np.rint(random.lognormal(_MEAN, _SIGMA, count))
    return np.clip(drawn, 1, LONGEST).astype(np.int64)
