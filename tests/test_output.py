"""What becomes of commands whose output cannot be written: a closed pipe, a full disk, nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.gated import PATIENCE
from tidegate import cli


def command(*arguments: str, stdout: int) -> subprocess.CompletedProcess[str]:
    """A command of ours, with standard output as a caller wants it."""
    return subprocess.run(
        [sys.executable, "-m", "tidegate", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_reader_that_has_gone_ends_a_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = command("doctor", stdout=writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (cli.UNREAD, "")
    assert cli.UNREAD == 141


def test_a_full_disk_is_an_error_in_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = command("doctor", stdout=full.fileno())
    assert ended.returncode == cli.WRONG
    assert ended.stderr == "tidegate doctor: error: cannot write: No space left on device\n"


def test_without_standard_output_nothing_is_written() -> None:
    closing = (
        "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", closing, "-m", "tidegate", "doctor"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.returncode in (0, cli.WRONG), "what doctor found on this machine"
