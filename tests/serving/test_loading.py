"""Loading: what a target may name, and what is said of one that is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import identity
from tidegate import Batcher, ConfigError, ModelPool, TensorSpec, batch
from tidegate.serving import Models, Served
from tidegate.serving.loading import as_models, load

ROW = TensorSpec((3,), "float32")
PREAMBLE = """
from tidegate import Batcher, TensorSpec, batch
from tidegate.serving import Models, Served

def model(rows):
    return rows

def make(**settings):
    return Batcher(model, inputs=TensorSpec((3,), "float32"), **settings)
"""

Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module `offer` into the current directory, and forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    loaded = set(sys.modules)

    def writer(source: str) -> None:
        (tmp_path / "offer.py").write_text(PREAMBLE + source)

    yield writer
    for name in set(sys.modules) - loaded:
        del sys.modules[name]


def names(models: Models) -> list[str]:
    """The names on offer; their batchers are closed, since that is all a test wants to know."""
    models.close()
    return [served.name for served in models]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("models = Models(Served('a', make()))", ["a"]),
        ("models = Served('a', make())", ["a"]),
        ("models = [Served('a', make()), Served('b', make())]", ["a", "b"]),
        ("models = (Served('a', make()),)", ["a"]),
        ("models = make()", ["models"]),
        ("models = make(name='a')", ["a"]),
        ("models = [make(name='a'), Served('b', make())]", ["a", "b"]),
        ("models = {'a': make(), 'b': Served('b', make(name='c'))}", ["a", "b"]),
        ("models = batch(inputs=TensorSpec((3,), 'float32'))(model)", ["models"]),
        ("def models(): return [Served('a', make())]", ["a"]),
        ("models = lambda: {'a': make()}", ["a"]),
        (
            "class models(Models):\n    def __init__(self): super().__init__(Served('a', make()))",
            ["a"],
        ),
    ],
)
def test_a_target_may_name_models_in_many_forms(
    write: Write, source: str, expected: list[str]
) -> None:
    write(source)
    assert names(load("offer:models")) == expected


def test_a_target_may_have_dots_on_both_sides(write: Write, tmp_path: Path) -> None:
    write("")
    package = tmp_path / "package"
    package.mkdir()
    (package / "inner.py").write_text("import offer\nclass here:\n    deep = offer.make()\n")
    assert names(load("package.inner:here.deep")) == ["deep"]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("offer", "module:attribute, got 'offer'"),
        (":models", "module:attribute, got ':models'"),
        ("offer:", "module:attribute, got 'offer:'"),
        ("offer.py:models", "looks like a file; in its directory, say offer:models"),
        ("here/offer.py", "looks like a file; in its directory, say offer:models"),
        ("nothing:models", "there is no module 'nothing'"),
        ("nothing.inner:models", "there is no module 'nothing'"),
        ("offer.inner:models", "there is no module 'offer.inner'"),
        ("offer:model5", "'offer' has no attribute 'model5'; did you mean 'model'?"),
        ("offer:xyz", "'offer' has no attribute 'xyz'"),
        ("offer:offered.xyz", "'offer.offered' has no attribute 'xyz'"),
        ("offer:model", "cannot be called without arguments"),
        ("offer:number", "got int"),
        ("offer:empty", "'empty' holds no models"),
        ("offer:unknown", "the inputs of model 'unknown' are not known yet"),
        ("offer:mixed", "got str"),
        ("offer:keyed", "the keys of a mapping of models are their names, got 1"),
        ("offer:renamed", "model 'a' has another name in its mapping: 'b'"),
        ("offer:twice", "version '1' of model 'a' is on offer already"),
        ("offer:later", "is a coroutine function"),
        ("offer:returns_a_class", "got the class Batcher"),
    ],
)
def test_a_wrong_target_is_refused_with_what_is_wrong(
    write: Write, target: str, complaint: str
) -> None:
    write(
        """
class offered: pass
number = 5
empty = []
unknown = Batcher(model)
mixed = [Served('a', make()), 'b']
keyed = {1: make()}
renamed = {'b': Served('a', make())}
def twice(): return [Served('a', make()), Served('a', make())]
async def later(): return make()
def returns_a_class(): return Batcher
"""
    )
    with pytest.raises(ConfigError) as refused:
        load(target)
    assert complaint in str(refused.value)


def test_what_went_wrong_in_the_users_own_code_is_the_cause(write: Write) -> None:
    write("raise KeyError('of mine')")
    with pytest.raises(ConfigError, match="importing 'offer' failed with KeyError") as refused:
        load("offer:models")
    assert isinstance(refused.value.__cause__, KeyError)
    write("import missing_altogether")
    with pytest.raises(ConfigError, match="No module named 'missing_altogether'") as refused:
        load("offer:models")
    assert isinstance(refused.value.__cause__, ModuleNotFoundError)


def test_what_a_factory_raises_is_the_cause(write: Write) -> None:
    write("def models(): raise OSError('no weights')")
    with pytest.raises(ConfigError, match="calling offer:models failed with OSError") as refused:
        load("offer:models")
    assert "no weights" in str(refused.value.__cause__)


def test_a_pool_is_told_to_be_put_behind_a_batcher() -> None:
    with ModelPool([identity]) as pool, pytest.raises(ConfigError, match=r"Batcher\(pool"):
        as_models(pool, name="pool")


def test_models_are_taken_as_they_are() -> None:
    @batch(inputs=ROW)
    def double(rows: Any) -> Any:
        return rows * 2

    with Batcher(identity, inputs=ROW) as batcher:
        models = Models(Served("a", batcher))
        assert as_models(models, name="b") is models
        assert names(as_models(double, name="b")) == ["b"]
