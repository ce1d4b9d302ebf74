"""The inputs that native fuzzing starts from are those that their program makes."""

from __future__ import annotations

from tests.serving.fuzz_seeds import SEEDS, inputs


def test_the_seeds_are_current() -> None:
    made = inputs()
    assert {path for path in SEEDS.rglob("*") if path.is_file()} == set(made)
    for path, data in made.items():
        if "gzip" not in path.name:  # what compresses differs with its version
            assert path.read_bytes() == data, f"{path.name}: run python -m tests.serving.fuzz_seeds"
