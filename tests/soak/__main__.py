"""The soak as a command: `python -m tests.soak`, from the root of the repository."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from tests.soak import checkpoints, ledger
from tests.soak.checkpoints import MEGABYTE
from tests.soak.workload import Round, soak

HEADINGS = (
    "round",
    "requests",
    "req/s",
    "batchers",
    "batches",
    "mean",
    "answered",
    "failed",
    "expired",
    "closed",
    "cancelled",
    "other",
    "RSS MB",
    "traced MB",
    "blocks",
    "fds",
    "threads",
)


def line(cells: Any) -> str:
    """One line of the table."""
    return " ".join(f"{cell:>9}" for cell in cells)


def cells(number: int, shown: Round) -> list[Any]:
    """What the table says of a round."""
    counts = shown.outcomes
    rows, batches = (
        sum(getattr(entry, name) for entry in shown.statistics) for name in ("rows", "batches")
    )
    return [
        number,
        f"{counts.sum():,}",
        f"{counts.sum() / shown.seconds:,.0f}",
        len(shown.statistics),
        f"{batches:,}",
        f"{rows / max(1, batches):.1f}",
        f"{counts[ledger.ANSWERED]:,}",
        f"{counts[ledger.ITEM_FAILED] + counts[ledger.BATCH_FAILED]:,}",
        f"{counts[ledger.EXPIRED]:,}",
        f"{counts[ledger.CLOSED]:,}",
        f"{counts[ledger.WITHDRAWN] + counts[ledger.GIVEN_UP]:,}",
        f"{counts[ledger.SPLIT] + counts[ledger.UNKNOWN]:,}",
        f"{shown.checkpoint.resident / MEGABYTE:.1f}",
        f"{shown.checkpoint.traced / MEGABYTE:.2f}",
        f"{shown.checkpoint.blocks:,}",
        shown.checkpoint.descriptors,
        shown.checkpoint.threads,
    ]


def main() -> int:
    """Runs the soak; returns 1 if memory, threads or descriptors grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    checkpoints.use_one_arena()
    print(line(HEADINGS), flush=True)
    started = time.monotonic()
    taken = []
    total = 0
    for number, shown in enumerate(soak(options.requests, options.rounds, options.seed), 1):
        print(line(cells(number, shown)), flush=True)
        taken.append(shown.checkpoint)
        total += int(shown.outcomes.sum())
    print(f"{total:,} requests ended once each in {time.monotonic() - started:.0f} s")
    grown = checkpoints.growth(taken)
    print("\n".join(grown) or "memory, descriptors and threads are flat")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
