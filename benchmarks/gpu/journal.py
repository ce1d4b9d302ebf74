"""What one section has found so far, on disk after every finding: a cut run has a report."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Entry", "Journal", "Metrics"]

Metrics = dict[str, float]

_LONGEST_TRACEBACK = 4000
_NO_TIME = "no time was left"


@dataclass(frozen=True)
class Entry:
    """One finding.

    Attributes:
        group: The table that it belongs to.
        name: Its line there.
        metrics: What was measured; empty if nothing was.
        note: What is to be known besides, such as why nothing was.
        error: The traceback, if it failed.
        reason: What went wrong, in one line.
    """

    group: str
    name: str
    metrics: Metrics = field(default_factory=dict)
    note: str = ""
    error: str = ""
    reason: str = ""


class Journal:
    """The findings of one section, and the time that it has left.

    Args:
        path: Of the file, or None for none.
        seconds: How long the section may take.
        clock: Tells the time in seconds.
        progress: Told what is being done.
    """

    def __init__(
        self,
        path: Path | None,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.entries: list[Entry] = []
        self.facts: dict[str, Any] = {}
        self._path = path
        self._clock = clock
        self._end = clock() + seconds
        self._progress = progress or _to_stderr

    @property
    def left(self) -> float:
        """Seconds until the end, not below 0."""
        return max(0.0, self._end - self._clock())

    def attempt(
        self, group: str, name: str, measure: Callable[[], Metrics], note: str = ""
    ) -> Metrics | None:
        """Measures, unless there is no time left; what fails is noted, and harms nothing else.

        Args:
            group: See Entry.
            name: See Entry.
            measure: Returns the metrics.
            note: See Entry.

        Returns:
            The metrics, or None where there are none.
        """
        if not self.left:
            self.skip(group, name, _NO_TIME)
            return None
        self._progress(f"{group}: {name}")
        try:
            metrics = measure()
        except Exception as error:
            self.fail(group, name, error, note)
            return None
        self._add(Entry(group, name, metrics, note))
        return metrics

    def fail(self, group: str, name: str, error: Exception, note: str = "") -> None:
        """Notes that something raised, which is being handled."""
        text = traceback.format_exc()[-_LONGEST_TRACEBACK:]
        self._add(Entry(group, name, note=note, error=text, reason=_in_one_line(error)))
        self._progress(f"{group}: {name} FAILED\n{text}")

    def skip(self, group: str, name: str, why: str) -> None:
        """Notes that something was not measured."""
        self._add(Entry(group, name, note=why))

    def state(self, **facts: Any) -> None:
        """Notes facts of the section as a whole."""
        self.facts.update(facts)
        self._write()

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        record = {"facts": self.facts, "entries": [asdict(entry) for entry in self.entries]}
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(record, indent=1))
        unfinished.replace(self._path)


def _in_one_line(error: Exception) -> str:
    # NumPy's assertions begin with an empty line.
    said = (line.strip() for line in str(error).splitlines())
    first = next((line for line in said if line), "")
    return f"{type(error).__name__}: {first}".rstrip(": ")


def _to_stderr(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
