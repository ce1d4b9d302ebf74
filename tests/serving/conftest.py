"""Fixtures of the doors' tests: models on offer, and a server for all tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import identity
from tests.serving.models import offered
from tests.serving.offered import GATE
from tests.serving.running import Running
from tidegate import Batcher, TensorSpec
from tidegate.serving import Models, Served


@pytest.fixture(scope="session")
def models() -> Iterator[Models]:
    """The models of tests.serving.models, for all doors."""
    with offered() as made:
        yield made


@pytest.fixture
def echo() -> Iterator[Models]:
    """A model that answers with what it was given."""
    with Batcher(identity, inputs=TensorSpec((3,), "float32", name="x")) as batcher:
        yield Models(Served("echo", batcher))


@pytest.fixture(scope="session")
def served_gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that lets the model `held` of `served_models` answer."""
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="session")
def served_models(served_gate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the models of tests.serving.offered, on both doors and a Unix socket."""
    folder = tmp_path_factory.mktemp("server")
    running = Running(
        folder,
        "tests.serving.offered:models",
        *("--http=0", "--grpc=0", f"--uds={folder / 'http'}"),
        environment={GATE: str(served_gate)},
    )
    yield running
    running.end()
