"""A server in a process of its own, as the command line starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from tests.gated import PATIENCE

ROOT = Path(__file__).parents[2]


class Running:
    """``python -m tidegate COMMAND ...``, once it says that it is ready.

    Args:
        folder: Where its log goes.
        arguments: Of the command.
        command: The subcommand, and what comes before the doors.
        environment: On top of this process's.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        command: tuple[str, ...] = ("serve",),
        environment: dict[str, str] | None = None,
    ) -> None:
        self._log = folder / "stderr"
        self.urls: dict[str, str] = {}
        self.lines: list[str] = []
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tidegate", *command, *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
            )
        assert self.process.stdout is not None
        # Who never gets ready is ended, which ends the reading.
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            self._read(self.process.stdout)
        except BaseException:
            self.end()
            raise
        finally:
            watchdog.cancel()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.append(line.rstrip())
            if line.startswith("tidegate: listening on "):
                url = line.split()[-1]
                self.urls[url.partition("://")[0]] = url
            if line == "tidegate: ready\n":
                return
        raise AssertionError(f"the server did not get ready:\n{self.log}")

    @property
    def log(self) -> str:
        """What it has written to standard error."""
        return self._log.read_text()

    def host_of(self, scheme: str) -> str:
        """HOST:PORT of a door."""
        return self.urls[scheme].partition("://")[2]

    def wait(self) -> int:
        """The exit code, once it has ended by itself."""
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        """Ends it, however far it has come."""
        self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
