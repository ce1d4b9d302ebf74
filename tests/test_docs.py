"""The README and docs/: every example runs, every link leads somewhere, every name is described."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import io
import json
import re
import sys
import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tidegate
from tidegate import errors, metrics, recorder, statistics, tracing

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks/README.md", *ROOT.glob("docs/**/*.md")])
IMAGES = sorted(ROOT.glob("docs/**/*.svg"))
# Plots and screens of runs have a ground of their own.
DRAWINGS = [image for image in IMAGES if image.parent.name not in ("benchmarks", "runs")]
# An example says what it prints on lines that start like this.
PRINTS = "#> "
# What a page needs beyond the extra `test`. CI has `test-models`; PyTorch is too large for it.
NEEDS = {
    "docs/how-to/onnxruntime.md": ("onnx", "onnxruntime"),
    "docs/how-to/xgboost.md": ("xgboost",),
    "docs/how-to/pytorch.md": ("torch",),
    "docs/how-to/native-server.md": ("tidegate._frontend",),
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def examples(page: Path) -> Iterator[tuple[int, str]]:
    """The Python blocks of a page, each with the number of lines before it."""
    text = page.read_text()
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, block.start(1)), block[1]


def run(page: Path) -> dict[str, Any]:
    """Run a page's examples in order, in one namespace, and compare what they print."""
    for package in NEEDS.get(name_of(page), ()):
        pytest.importorskip(package, reason=f"{name_of(page)} needs {package}")
    # As a module: frameworks look up the annotations and the routes of a function by its module.
    module = sys.modules[name_of(page)] = types.ModuleType(name_of(page))
    namespace = vars(module)
    for lines_before, source in examples(page):
        # The empty lines make tracebacks name the line of the page.
        code = compile("\n" * lines_before + source, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        promised = [line for line in source.splitlines() if line.startswith(PRINTS.rstrip())]
        assert printed.getvalue().splitlines() == [line[len(PRINTS) :] for line in promised], (
            f"{name_of(page)}, the example after line {lines_before}"
        )
    return namespace


# Examples


@pytest.mark.parametrize("page", [page for page in PAGES if any(examples(page))], ids=name_of)
def test_every_example_runs_and_prints_what_it_says(page: Path) -> None:
    run(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_python_is_shown_that_is_not_run(page: Path) -> None:
    fences = re.findall(r"^[ \t]*(?:```|~~~)[ \t]*(\w*)", page.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0, "a fence is not closed"
    openings = fences[::2]
    assert set(openings) <= {"python", "sh", "text", "c", ""}, "a spelling that run() overlooks"
    assert openings.count("python") == len(list(examples(page)))


def test_the_fastapi_example_answers_a_request() -> None:
    app = run(ROOT / "README.md")["api"]
    assert asyncio.run(post(app, "/predict", [1, 2, 3])) == (200, [4, 5])


def test_the_flask_example_answers_a_request() -> None:
    app = run(ROOT / "README.md")["web"]
    response = app.test_client().post("/predict", json=[1, 2, 3])
    assert (response.status_code, response.json) == (200, [4, 5])


async def post(app: Any, path: str, body: object) -> tuple[int, Any]:
    """What an ASGI application answers to JSON."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(part.get("body", b"") for part in sent[1:]))


# Links and images


def anchors(page: Path) -> set[str]:
    """The ids of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    text = without_code(page)
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    for target in (first or second for first, second in targets):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} does not exist"
        assert linked.is_relative_to(ROOT), f"{target} is outside the repository"
        if anchor:
            assert anchor in anchors(linked), f"{target}: no such heading"


@pytest.mark.parametrize("image", IMAGES, ids=name_of)
def test_an_image_is_used(image: Path) -> None:
    assert any(image.name in page.read_text() for page in PAGES)


@pytest.mark.parametrize("image", DRAWINGS, ids=name_of)
def test_a_drawing_says_what_it_shows_and_fits_dark_pages(image: Path) -> None:
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(image).iter()}
    assert {"title", "desc"} <= tags
    assert "prefers-color-scheme: dark" in image.read_text()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_page_can_be_reached_from_the_readme(page: Path) -> None:
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        current = ahead.pop()
        if current in reached:
            continue
        reached.add(current)
        targets = re.findall(r"\]\(([^)#\s]+\.md)", without_code(current))
        ahead.extend((current.parent / target).resolve() for target in targets)
    assert page in reached


# The reference is complete


def members(kind: type) -> set[str]:
    """What a class offers to its users, inherited from other classes of tidegate or its own."""
    classes = [base for base in kind.__mro__ if base.__module__.startswith("tidegate")]
    names = {name for base in classes for name in vars(base) if not name.startswith("_")}
    return names - {"mro"}


def described(page: str) -> str:
    return (ROOT / "docs/reference" / page).read_text()


@pytest.mark.parametrize("name", sorted(set(tidegate.__all__) - set(errors.__all__)))
def test_every_public_name_has_a_section_with_all_its_members(name: str) -> None:
    page = described("statistics.md" if name == "Statistics" else "api.md")
    assert re.search(rf"^## .*`@?{name}", page, re.MULTILINE)
    public = getattr(tidegate, name)
    if inspect.isclass(public):
        for member in members(public):
            assert re.search(rf"`(?:await )?(?:\w+\.)?{member}\b", page), f"{name}.{member}"


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_described(name: str) -> None:
    assert f"`{name}`" in described("errors.md")


@pytest.mark.parametrize("kind", [tidegate.Batcher, tidegate.ModelPool, tidegate.NativeModel])
def test_the_reference_lists_every_setting_with_its_default(kind: type) -> None:
    page = described("api.md")
    for setting in settings_of(kind):
        default = "" if setting.default is setting.empty else rf"[^\n]*`{default_of(setting)}`"
        assert re.search(rf"^\| `{setting.name}` \|{default}", page, re.MULTILINE), setting


def test_the_readme_lists_every_setting_of_a_batcher_with_its_default() -> None:
    page = (ROOT / "README.md").read_text()
    for setting in settings_of(tidegate.Batcher)[1:]:
        assert f"| `{setting.name}` | `{default_of(setting)}` |" in page


def settings_of(kind: type) -> list[inspect.Parameter]:
    return list(inspect.signature(kind).parameters.values())


def default_of(setting: inspect.Parameter) -> str:
    return repr(setting.default).replace("'", '"')


@pytest.mark.parametrize(
    "kind",
    [statistics.Statistics, statistics.HistogramStatistics, statistics.ExecutorStatistics],
)
def test_every_statistic_is_described(kind: Any) -> None:
    page = described("statistics.md")
    for field in dataclasses.fields(kind):
        assert f"| `{field.name}` |" in page, field.name


def test_every_field_of_the_flight_recorder_is_described() -> None:
    page = described("tracing.md")
    for field in dataclasses.fields(recorder.BatchRecord):
        assert f"| `{field.name}` |" in page, field.name
    for name in [*tracing.__all__, *members(recorder.BatchRecord)]:
        assert re.search(rf"[`.]{name}\b", page), name


def test_every_metric_is_described_with_its_kind_and_labels() -> None:
    page = described("metrics.md")
    with tidegate.Batcher(abs) as batcher:
        families = list(metrics.Collector(batcher).collect())
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {key: None for sample in family.samples for key in sample.labels if key != "le"}
        listed = ", ".join(f"`{label}`" for label in labels)
        assert f"| `{name}` | {family.type} | {listed} |" in page, name
    for value in (*metrics.OUTCOMES, *metrics.STATES):
        assert f"`{value}`" in page
    for setting in settings_of(metrics.Collector):
        assert f"| `{setting.name}` |" in page
