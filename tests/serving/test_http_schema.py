"""Schemathesis against the app's own OpenAPI document: nothing ends in 5xx, all is as described."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.serving.http import ask
from tests.serving.models import offered
from tidegate.serving import Models
from tidegate.serving.asgi import create_app
from tidegate.serving.asgi.openapi import describe

EXAMPLES = int(os.environ.get("TIDEGATE_EXAMPLES", "20"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


OPERATIONS = [
    (path, method.upper())
    for path, operations in describe(Models(), root="", authenticated=False, metrics=True)[
        "paths"
    ].items()
    for method in ("get", "post")
    if method in operations
]


@pytest.fixture(scope="module")
def schema() -> Iterator[Any]:
    """The app's own document, for models of which none fails by itself."""
    with offered() as models:
        models.remove("failing", "1")
        yield schemathesis.openapi.from_asgi("/openapi.json", create_app(models))


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_as_the_document_says(
    schema: Any, path: str, method: str, mode: GenerationMode
) -> None:
    operation = schema[path][method]
    count = 0

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=EXAMPLES if path.endswith("/infer") else 10,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def ask_all(case: Any) -> None:
        nonlocal count
        count += 1
        case.call_and_validate(checks=CHECKS)

    try:
        ask_all()
    except Unsatisfiable:  # what takes no parameters cannot be asked wrongly
        assert mode is GenerationMode.NEGATIVE
        assert "{" not in path
    else:
        assert count > 0


def test_the_examples_of_the_document_are_answered(models: Models) -> None:
    app = create_app(models)
    path = "/v2/models/{name}/infer"
    document = ask(app, "GET", "/openapi.json").json
    content = document["paths"][path]["post"]["requestBody"]["content"]
    examples = content["application/json"]["examples"]
    assert len(examples) == len(models)
    for served in models:
        if served.name in ("failing", "wide", "echo-BF16"):
            continue
        body = json.dumps(examples[f"{served.name}, version {served.version}"]["value"])
        answer = ask(app, "POST", path.format(name=served.name), body.encode())
        assert answer.status == 200, answer.body


def test_a_document_can_be_made_of_no_models() -> None:
    document = describe(Models(), root="", authenticated=True, metrics=False)
    assert document["servers"] == [{"url": "/"}]
    assert document["security"] == [{"token": []}]
    assert document["paths"]["/v2/health/live"]["get"]["security"] == []
    assert "401" in document["paths"]["/v2"]["get"]["responses"]
    assert "/metrics" not in document["paths"]
