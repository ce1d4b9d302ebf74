"""Runs a script in an interpreter of its own, which must end by itself, in time and silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

# Who hangs says where, in every thread, and ends; a forked child does not inherit the alarm. To
# fork beside threads is what some of the scripts are about; since 3.12 Python warns of it.
_PRELUDE = """
import faulthandler, os, signal, warnings
warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm({seconds})
os.register_at_fork(after_in_child=lambda: signal.alarm({seconds}))
"""


def run(script: str, *, seconds: int = 30) -> str:
    """Runs `script`; it must end with status 0 within `seconds` and write nothing to stderr.

    Returns:
        What it printed.
    """
    source = _PRELUDE.format(seconds=seconds) + textwrap.dedent(script)
    command = [sys.executable, "-W", "error", "-c", source]
    # A session of its own, so that what it forked can be ended with it.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    ) as process:
        try:
            printed, complaints = process.communicate(timeout=seconds + 10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, complaints = process.communicate()
            raise AssertionError(
                f"it had not ended after {seconds} s:\n{printed}\n{complaints}"
            ) from None
    assert (process.returncode, complaints) == (0, ""), f"{process.returncode}\n{complaints}"
    return printed
