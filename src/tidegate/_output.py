"""Standard output: text for whoever still reads it."""

from __future__ import annotations

import contextlib
import os
import sys

__all__ = ["write"]


def write(text: str) -> None:
    """Writes to standard output at once; where there is none, as after ``>&-``, nothing.

    Raises:
        OSError: It cannot be written. Nothing that is written later will fail: not the rest of a
            program that can do without, nor the interpreter's end, which would make the exit code
            another.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        _lead_nowhere()
        raise


def _lead_nowhere() -> None:
    """Lets standard output take all, also what is still in its buffer, and drop it."""
    with contextlib.suppress(OSError):  # what stands in for it may have no descriptor
        descriptor = sys.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, descriptor)
        finally:
            os.close(nowhere)
