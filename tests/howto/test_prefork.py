"""The how-tos of Flask and Django behind gunicorn, which forks after it has loaded the page."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import test_docs
from tests.gated import PATIENCE, in_thread, until

# What the pages leave to gunicorn.conf.py, with a line for each call, and a quick end.
CONFIGURATION = """
import functools
from pathlib import Path

import main

preload_app = True
worker_class = "gthread"
workers = 2
threads = 8
bind = "unix:served.sock"
control_socket_disable = True

{hooks}

def noting(hook):
    @functools.wraps(hook)
    def noted(*arguments):
        hook(*arguments)
        with Path("hooks.txt").open("a") as notes:
            notes.write(hook.__name__ + "\\n")
    return noted

post_worker_init = noting(post_worker_init)
worker_exit = noting(worker_exit)
"""


def blocks(page: str) -> list[str]:
    """The examples of a page."""
    return [source for _, source in test_docs.examples(test_docs.ROOT / "docs/how-to" / page)]


def block(page: str, text: str) -> str:
    """The example of a page that holds `text`."""
    (found,) = [source for source in blocks(page) if text in source]
    return found


class OverSocket(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Connects."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


class Gunicorn:
    """A running gunicorn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "main:served"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def serves(self) -> bool:
        """True once both workers do; one that is still booting would not hear a signal."""
        assert self.process.poll() is None, self.end()
        return self.called.count("post_worker_init") == 2

    @property
    def called(self) -> list[str]:
        """The hooks that were called."""
        notes = self._folder / "hooks.txt"
        return notes.read_text().split() if notes.exists() else []

    def post(self, row: Any) -> tuple[int, Any]:
        """Asks for a prediction."""
        with contextlib.closing(OverSocket(self._folder / "served.sock")) as connection:
            body, headers = json.dumps(row), {"Content-Type": "application/json"}
            connection.request("POST", "/predict", body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def end(self) -> str:
        """Ends it as a supervisor does; what it said."""
        self.process.send_signal(signal.SIGTERM)
        try:
            said, _ = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            said, _ = self.process.communicate()
            raise AssertionError(f"gunicorn did not end:\n{said}") from None
        return said


@contextlib.contextmanager
def gunicorn(folder: Path, program: str, hooks: str) -> Iterator[Gunicorn]:
    """Serves `program`, whose application is called `served`, with two workers, preloaded."""
    (folder / "main.py").write_text(program)
    (folder / "gunicorn.conf.py").write_text(CONFIGURATION.format(hooks=hooks))
    server = Gunicorn(folder)
    try:
        until(lambda: server.serves)
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


HOOKS = block("flask.md", "def post_worker_init").replace("model_loaded_late", "main.model")
HOOKS = HOOKS.replace("np.zeros(3)", "[0, 0, 0]")
FLASK = block("flask.md", "app = Flask") + "served = app\n"
DJANGO = "\n".join([*blocks("django.md")[:4], "served = wsgi_application\n"])


@pytest.mark.parametrize("program", [FLASK, DJANGO], ids=["flask", "django"])
def test_each_worker_makes_its_own_batcher_after_the_fork(program: str, tmp_path: Path) -> None:
    with gunicorn(tmp_path, program, HOOKS) as server:
        rows = [[number, 1, 0] for number in range(48)]
        clients = [in_thread(lambda row=row: server.post(row)) for row in rows]
        for (number, _, _), client in zip(rows, clients, strict=True):
            status, answer = client.outcome()
            assert (status, answer) in [
                (200, [float(number), 1.0]),
                (200, {"answer": [float(number), 1.0]}),
            ]
        said = server.end()
        assert server.process.returncode == 0, said
        assert "Traceback" not in said, said
        assert sorted(server.called) == ["post_worker_init"] * 2 + ["worker_exit"] * 2, said


def test_a_batcher_that_was_used_before_the_fork_is_unavailable_in_the_workers(
    tmp_path: Path,
) -> None:
    hooks = "def post_worker_init(worker): pass\ndef worker_exit(server, worker): pass"
    with gunicorn(tmp_path, FLASK + "model([0, 0, 0])\n", hooks) as server:
        status, answer = server.post([1, 2, 3])
        assert status == 503
        assert "fork" in answer["error"]
        said = server.end()
        assert server.process.returncode == 0, said
