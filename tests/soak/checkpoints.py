"""What the process holds on to between rounds, when nothing is going on."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 1 << 20
# What may come on top between the first half of a soak and its end.
TRACED_SLACK = MEGABYTE // 2
RESIDENT_SLACK = 8 * MEGABYTE


_libc = ctypes.CDLL(None)


def use_one_arena() -> None:
    """Has malloc serve all threads from one arena; best called before there are any.

    With one for each, what many short-lived threads leave behind in them looks like a leak.
    """
    m_arena_max = -8
    _libc.mallopt(m_arena_max, 1)


@dataclass(frozen=True)
class Checkpoint:
    """What there is at the end of a round.

    Attributes:
        resident: Bytes of resident memory.
        traced: Bytes that tracemalloc knows of, NumPy's arrays among them.
        blocks: Python's allocated blocks.
        objects: Objects of tidegate's extension types.
        descriptors: Open file descriptors.
        threads: Native threads.
    """

    resident: int
    traced: int
    blocks: int
    objects: int
    descriptors: int
    threads: int


def take() -> Checkpoint:
    """A checkpoint of this process now, after collecting what is garbage."""
    gc.collect()
    _libc.malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return Checkpoint(
        resident=int(resident.split()[1]) * 1024,
        traced=tracemalloc.get_traced_memory()[0],
        blocks=sys.getallocatedblocks(),
        objects=sum(type(thing).__module__ == "tidegate._fast" for thing in gc.get_objects()),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        threads=len(list(Path("/proc/self/task").iterdir())),
    )


def growth(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """What grew from one half of a soak to the other, in words; empty if all is flat."""
    half = len(checkpoints) // 2
    # The first round fills caches and free lists.
    early, late = checkpoints[1 : half + 1], checkpoints[half + 1 :]
    slacks = {
        "resident": RESIDENT_SLACK,
        "traced": TRACED_SLACK,
        "objects": 2,
        "descriptors": 2,
        "threads": 1,
    }
    grown = []
    for name, slack in slacks.items():
        before = max(getattr(checkpoint, name) for checkpoint in early)
        after = max(getattr(checkpoint, name) for checkpoint in late)
        if after > before + slack:
            grown.append(f"{name} grew from {before:,} to {after:,}")
    return grown


def await_threads_end(most: int) -> None:
    """Gives threads that are about to end the time to do so."""
    for thread in threading.enumerate():
        if threading.active_count() <= most:
            return
        if thread.daemon and thread.name.startswith("tidegate-batcher"):
            thread.join(10.0)
