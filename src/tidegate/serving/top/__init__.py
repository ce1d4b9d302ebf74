"""``tidegate top``: what the batchers of running servers are at, from their metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from tidegate.errors import ConfigError
from tidegate.serving.top.rates import Row, compare
from tidegate.serving.top.scrape import ScrapeError, Target
from tidegate.serving.top.snapshot import Snapshot
from tidegate.serving.top.table import draw

__all__ = ["Options", "ScrapeError", "run"]

# Where nobody says how wide the output is, there is room for the whole table.
_WIDTH = 150


@dataclass(frozen=True)
class Options:
    """What to watch.

    Attributes:
        urls: Addresses of metrics; ``/metrics`` is added to one without a path.
        interval: Seconds between two looks; rates are over that time.
        once: Whether to print one table and end.
        token: Sent as a bearer token to each, or None.
        ca: File of certificates to trust, PEM, or None for the system's.
        timeout: Seconds to wait for one answer.

    Raises:
        ConfigError: An address is none, or the interval is not above 0.
    """

    urls: Sequence[str] = ("http://127.0.0.1:8000/metrics",)
    interval: float = 2.0
    once: bool = False
    token: str | None = None
    ca: Path | None = None
    timeout: float = 5.0

    def __post_init__(self) -> None:
        """Checks the settings."""
        if not self.interval > 0:
            raise ConfigError(f"interval must be more than 0 seconds, got {self.interval!r}")
        if not self.urls:
            raise ConfigError("top needs at least one address")


class _Watch:
    """The servers, and what they said when they were last asked."""

    def __init__(self, options: Options) -> None:
        self._targets = [
            Target(url, token=options.token, ca=options.ca, timeout=options.timeout)
            for url in dict.fromkeys(options.urls)
        ]
        self._before: dict[Target, Snapshot] = {}
        self.failures: dict[str, str] = {}

    @property
    def names(self) -> str:
        """The servers, for a headline."""
        return ", ".join(target.url for target in self._targets)

    def look(self) -> list[Row]:
        """Asks each server; the rows are empty of rates where it was not asked before."""
        rows: list[Row] = []
        self.failures = {}
        for target in self._targets:
            try:
                now = target.scrape()
            except ScrapeError as error:
                self.failures[target.url] = str(error)
                self._before.pop(target, None)
                continue
            server = target.name if len(self._targets) > 1 else ""
            rows += compare(self._before.get(target), now, server=server)
            self._before[target] = now
        return rows

    @property
    def all_failed(self) -> bool:
        """True if no server answered."""
        return len(self.failures) == len(self._targets)


def run(options: Options, console: Console | None = None) -> bool:
    """Shows the table until Ctrl-C, or once.

    Args:
        options: What to watch.
        console: Where to; None for the standard output, whether a terminal or not.

    Returns:
        True if every server answered when last asked.

    Raises:
        ConfigError: An address is none.
        ScrapeError: No server answers when first asked.
    """
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH)
    watch = _Watch(options)
    rows = watch.look()
    if watch.all_failed:
        raise ScrapeError("\n".join(watch.failures.values()))
    title = f"{watch.names}, every {options.interval:g} s"
    try:
        if options.once:
            time.sleep(options.interval)
            console.print(draw(watch.look(), watch.failures))
        elif console.is_terminal:
            with Live(
                draw(rows, watch.failures, title), console=console, auto_refresh=False
            ) as live:
                while True:
                    time.sleep(options.interval)
                    live.update(draw(watch.look(), watch.failures, title), refresh=True)
        else:
            while True:
                time.sleep(options.interval)
                console.print(draw(watch.look(), watch.failures))
    except KeyboardInterrupt:
        pass  # the way out
    return not watch.failures
