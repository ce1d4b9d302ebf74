"""The pictures of the documentation can be drawn again, from a run."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_pictures_of_a_run_are_drawn(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "benchmarks.pictures", "--seconds=0.2", f"--into={tmp_path}"],
        cwd=ROOT,
        timeout=90,
        check=True,
    )
    for name, words in (("top", ["translate", "classify"]), ("trace", ["executor"])):
        text = (tmp_path / f"{name}.svg").read_text()
        tags = [element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()]
        assert {"title", "desc"} <= set(tags)
        assert "url(" not in text.replace("url(#", ""), "it fetches something from elsewhere"
        assert all(word in text for word in words)
