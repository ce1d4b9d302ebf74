"""What the table needs beside Python: Go, its libraries, h2load, a C++ compiler; and the builds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
GOCODE = Path("/usr/share/gocode")
"""Where Debian's packages put the sources of Go libraries."""

PATIENCE = 600.0
"""Seconds that a build may take: the first one compiles grpc-go."""

_PROGRAMS = {
    "go": "golang-go",
    "h2load": "nghttp2-client",
    "g++": "g++",
    "taskset": "util-linux",
}
_LIBRARIES = {
    "google.golang.org/grpc": "golang-google-grpc-dev",
    "github.com/prometheus/client_golang": "golang-github-prometheus-client-golang-dev",
}


class MissingError(Exception):
    """Something that the table needs is not installed; says what to install."""


def missing() -> list[str]:
    """Debian packages that are not there."""
    packages = [package for program, package in _PROGRAMS.items() if not shutil.which(program)]
    return packages + [
        package for path, package in _LIBRARIES.items() if not (GOCODE / "src" / path).is_dir()
    ]


def require() -> None:
    """Raise MissingError unless everything is there."""
    packages = missing()
    if packages:
        raise MissingError(
            f"the table needs what is not installed: apt install {' '.join(packages)}\n"
            "(other systems: Go with grpc-go and client_golang under /usr/share/gocode, "
            "h2load of nghttp2, a C++20 compiler, taskset)"
        )


def _build(
    command: Sequence[str],
    target: Path,
    sources: Sequence[Path],
    headers: Sequence[Path] = (),
    **more: str,
) -> Path:
    """Run a compiler, unless its target is newer than all that it is made of."""
    newest = max(source.stat().st_mtime for source in [*sources, *headers])
    if not target.exists() or target.stat().st_mtime < newest:
        target.parent.mkdir(parents=True, exist_ok=True)
        ended = subprocess.run(
            [*command, *map(str, sources)],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{ended.stdout}{ended.stderr}")
    return target


def build_go(folder: Path) -> Path:
    """The Go server, from Debian's library sources and without a network."""
    target = folder / "origin-go"
    return _build(
        ["go", "build", "-o", str(target)],
        target,
        sorted((HERE / "go").glob("*.go")),
        GO111MODULE="off",
        GOPATH=str(GOCODE),
        GOFLAGS="",
    )


def build_cpp(folder: Path, name: str) -> Path:
    """The load generator, or the server that does nothing but frames."""
    target = folder / name
    command = ["g++", "-O2", "-std=c++20", "-o", str(target)]
    return _build(command, target, [HERE / f"{name}.cpp"], headers=[HERE / "frames.hpp"])


def versions() -> dict[str, str]:
    """Of the tools, as they name themselves or as Debian does."""
    found = {}
    for name, command in {
        "go": ["go", "version"],
        "h2load": ["h2load", "--version"],
    }.items():
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        found[name] = ended.stdout.strip()
    if shutil.which("dpkg-query"):
        for package in ("golang-google-grpc-dev", "libnghttp2-14"):
            command = ["dpkg-query", "-W", "-f", "${Version}", package]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            found[package] = ended.stdout.strip()
    return {name: version for name, version in found.items() if version}


def go_model_seconds(server: Path, weights: Path) -> float:
    """What one row costs the Go server's model, without any request."""
    command = [str(server), "-weights", str(weights), "-time"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return float(json.loads(ended.stdout)["row_us"]) / 1e6
