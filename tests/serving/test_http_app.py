"""The HTTP app besides inference: metadata, health, tokens, metrics, mounting, refusals."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from starlette.applications import Starlette
from starlette.routing import Mount

import tidegate
from tests.gated import PATIENCE, Gated
from tests.helpers import entered
from tests.serving.http import App, ask, ask_async, infer, request, rows, scope_of
from tidegate import Batcher, ConfigError, TensorSpec
from tidegate.serving import Limits, Models, Served, Tokens
from tidegate.serving.asgi import create_app


@pytest.fixture(scope="module")
def app(models: Models) -> App:
    """The app under test."""
    return create_app(models)


# Metadata and health


def test_the_server_says_what_it_is(app: App) -> None:
    assert ask(app, "GET", "/v2").json == {
        "name": "tidegate",
        "version": tidegate.__version__,
        "extensions": ["binary_tensor_data"],
    }


def test_a_model_says_what_it_takes_and_gives(app: App) -> None:
    infer(app, "pair", {"a": rows(), "b": rows()})
    floats = {"datatype": "FP32", "shape": [-1, 3]}
    assert ask(app, "GET", "/v2/models/pair").json == {
        "name": "pair",
        "versions": ["1"],
        "platform": "tidegate",
        "inputs": [{"name": "a", **floats}, {"name": "b", **floats}],
        "outputs": [{"name": "sum", **floats}, {"name": "difference", **floats}],
    }
    assert ask(app, "GET", "/v2/models/versioned/versions/2").json["versions"] == ["2", "10"]


def test_all_is_live_and_ready(app: App) -> None:
    assert ask(app, "GET", "/v2/health/live").json == {"live": True}
    assert ask(app, "GET", "/v2/health/ready").json == {"ready": True}
    answer = ask(app, "GET", "/v2/models/versioned/versions/10/ready")
    assert (answer.status, answer.json) == (200, {"name": "versioned", "ready": True})


def test_what_is_not_ready_is_503_and_to_be_tried_again() -> None:
    batcher = Batcher(lambda batch: batch, inputs=TensorSpec((3,), "float32"))
    models = Models(Served("m", batcher))
    app = create_app(models)
    models.drain()
    answer = ask(app, "GET", "/v2/health/ready")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json == {"ready": False, "error": "the server is draining"}
    assert ask(app, "GET", "/v2/models/m/ready").status == 200
    assert infer(app, "m", {"input": rows()}).status == 200
    models.close()
    assert ask(app, "GET", "/v2/models/m/ready").status == 503
    assert ask(app, "GET", "/v2/health/live").status == 200
    answer = infer(app, "m", {"input": rows()})
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    index = ask(app, "POST", "/v2/repository/index").json
    assert index == [{"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "closed"}]


def test_the_index_lists_every_version(app: App) -> None:
    index = ask(app, "POST", "/v2/repository/index").json
    assert {"name": "versioned", "version": "2", "state": "READY", "reason": ""} in index
    assert sum(entry["name"] == "versioned" for entry in index) == 2


def test_models_may_come_and_go_while_the_app_runs() -> None:
    models = Models()
    app = create_app(models)
    assert infer(app, "m", {"input": rows()}).status == 404
    with Batcher(lambda batch: batch, inputs=TensorSpec((3,), "float32")) as batcher:
        models.add(Served("m", batcher))
        assert infer(app, "m", {"input": rows()}).status == 200
        models.remove("m", "1")
        assert infer(app, "m", {"input": rows()}).status == 404


# Refusals


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("GET", "/v2/models/pair/versions/9", 404),
        ("GET", "/v2/models/pair/versions/9/ready", 404),
        ("GET", "/v2/models/pair/infer", 405),
        ("POST", "/v2", 405),
        ("DELETE", "/v2/models/pair", 405),
        ("GET", "/v2/models/pair/stats", 501),
        ("GET", "/v2/models/pair/config", 501),
    ],
)
def test_refusals_are_errors_in_json(app: App, method: str, path: str, status: int) -> None:
    answer = ask(app, method, path)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.error
    assert ("allow" in answer.headers) == (status == 405)


def test_websockets_are_refused(app: App) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {**scope_of("GET", "/v2", {}), "type": "websocket", "subprotocols": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["type"] == "websocket.close"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limits": 3}, "limits must be Limits, got int"),
        ({"tokens": "secret"}, "tokens must be Tokens, got str"),
        ({"metrics": "yes"}, "metrics must be a CollectorRegistry, True or False, got str"),
        ({"access_log": 1}, "access_log must be Logger, got int"),
    ],
)
def test_settings_are_checked_at_once(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_app(Models(), **settings)
    with pytest.raises(ConfigError, match="models must be Models, got list"):
        create_app([])  # type: ignore[arg-type]


def test_a_timeout_is_504_and_a_full_queue_429(model: Gated) -> None:
    with Batcher(
        model, inputs=TensorSpec((3,), "float32"), max_batch_size=1, max_queue_size=1
    ) as batcher:
        app = create_app(Models(Served("m", batcher)))

        async def crowd() -> None:
            path = "/v2/models/m/infer"
            first = asyncio.create_task(ask_async(app, "POST", path, *request({"input": rows()})))
            await entered(model)
            body = request({"input": rows()}, parameters={"timeout": 1})
            late = asyncio.create_task(ask_async(app, "POST", path, *body))
            while batcher.statistics().submitted < 2:
                await asyncio.sleep(0.001)
            model.gate.set()
            assert [(await first).status, (await late).status] == [200, 504]
            # The late one's place is free only once its batch was taken.
            while (await ask_async(app, "POST", path, *request({"input": rows()}))).status == 429:
                await asyncio.sleep(0.001)
            await entered(model)
            model.gate.clear()
            first = asyncio.create_task(ask_async(app, "POST", path, *request({"input": rows()})))
            await entered(model)
            second = asyncio.create_task(ask_async(app, "POST", path, *request({"input": rows()})))
            while batcher.statistics().queue_depth == 0:
                await asyncio.sleep(0.001)
            refused = await ask_async(app, "POST", path, *request({"input": rows()}))
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            model.gate.set()
            assert [(await first).status, (await second).status] == [200, 200]

        asyncio.run(asyncio.wait_for(crowd(), PATIENCE))


def test_an_unexpected_error_is_500_and_logged(
    models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr("tidegate.serving.rest.decode", broken)
    answer = infer(create_app(models), "pair", {"a": rows(), "b": rows()})
    assert (answer.status, answer.error) == (500, "the request failed with ZeroDivisionError")
    assert "the secret of the house" in caplog.text


# Tokens


def test_without_a_token_only_health_is_told(models: Models) -> None:
    app = create_app(models, tokens=Tokens(["one", "two"]))
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert ask(app, "GET", path).status == 200
    for path in ("/v2", "/v2/models/pair/ready", "/metrics", "/openapi.json", "/nowhere"):
        for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}):
            answer = ask(app, "GET", path, b"", headers)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "token" in answer.error
    assert infer(app, "pair", {"a": rows(), "b": rows()}).status == 401
    for token in ("one", "two"):
        assert ask(app, "GET", "/v2", b"", {"Authorization": f"Bearer {token}"}).status == 200


def test_a_refused_body_is_not_read(models: Models) -> None:
    app = create_app(models, tokens=Tokens("secret"))
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("it was read")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope_of("POST", "/v2/models/pair/infer", {}), receive, send))
    assert sent[0]["status"] == 401


# Metrics and the access log


def test_metrics_count_what_was_asked(models: Models) -> None:
    app = create_app(models)
    infer(app, "wide", {"input": rows(2, 64)})
    page = ask(app, "GET", "/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    name = models.get("wide").batcher.name
    assert f'tidegate_requests_total{{batcher="{name}",outcome="completed"}} 2.0' in str(page.body)
    openmetrics = ask(app, "GET", "/metrics", b"", {"Accept": "application/openmetrics-text"})
    assert openmetrics.body.endswith(b"# EOF\n")


def test_a_registry_of_ones_own_is_shown_instead(models: Models) -> None:
    registry = CollectorRegistry()
    Counter("mine", "Of the house.", registry=registry).inc(3)
    page = ask(create_app(models, metrics=registry), "GET", "/metrics").body.decode()
    assert "mine_total 3.0" in page
    assert "tidegate" not in page


def test_metrics_can_be_switched_off(models: Models) -> None:
    assert ask(create_app(models, metrics=False), "GET", "/metrics").status == 404


def test_without_prometheus_client_metrics_say_what_to_install(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = ask(create_app(models), "GET", "/metrics")
    assert answer.status == 501
    assert "pip install 'tidegate[metrics]'" in answer.error


def test_the_access_log_has_a_line_for_each_answer(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidegate.access")
    app = create_app(models, access_log=True, tokens=Tokens("secret"))
    ask(app, "GET", "/v2/health/live")
    ask(app, "GET", "/v2\n")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("127.0.0.1 GET '/v2/health/live' 200 13 B ")
    assert lines[1].startswith("127.0.0.1 GET '/v2\\n' 401 ")
    assert lines[1].endswith(" ms")


# Mounting


@pytest.mark.parametrize("prefix", ["", "/inference/here"])
def test_the_app_can_be_mounted_into_fastapi(models: Models, prefix: str) -> None:
    api = FastAPI()

    @api.get("/mine")
    def mine() -> str:
        return "mine"

    api.mount(prefix or "/", create_app(models, tokens=Tokens("secret")))
    secret = {"Authorization": "Bearer secret"}
    assert ask(api, "GET", "/mine").json == "mine"
    assert ask(api, "GET", f"{prefix}/v2/health/live").json == {"live": True}
    assert ask(api, "GET", f"{prefix}/v2").status == 401
    body, headers = request({"input": rows()}, binary=["input"])
    path = f"{prefix}/v2/models/echo-FP32/infer"
    answer = ask(api, "POST", path, body, headers | secret)
    assert answer.json["outputs"][0]["data"] == [0.0, 1.0, 2.0]
    assert ask(api, "GET", f"{prefix}/v2/models/nobody", b"", secret).error
    if prefix:
        document = ask(api, "GET", f"{prefix}/openapi.json", b"", secret).json
        assert document["servers"] == [{"url": prefix}]


def test_the_app_can_be_mounted_into_starlette(models: Models) -> None:
    app = Starlette(routes=[Mount("/a", create_app(models)), Mount("/b", create_app(models))])
    for prefix in ("/a", "/b"):
        body, headers = request({"input": rows()})
        path = f"{prefix}/v2/models/echo-FP32/infer"
        assert ask(app, "POST", path, body, headers).status == 200


def test_the_app_works_with_and_without_lifespan_events(app: App) -> None:
    received = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Any:
        return received.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert ask(app, "GET", "/v2/health/live").status == 200


def test_limits_are_the_apps_own(models: Models) -> None:
    small = create_app(models, limits=Limits(max_rows=1))
    assert infer(small, "echo-FP32", {"input": rows(2)}).status == 413
    assert infer(create_app(models), "echo-FP32", {"input": rows(2)}).status == 200


def test_the_document_describes_every_route(app: App) -> None:
    document = json.loads(ask(app, "GET", "/openapi.json").body)
    served = {route.path for route in app.routes} - {
        f"/v2/models/{{name}}{version}/{kind}"
        for version in ("", "/versions/{version}")
        for kind in ("stats", "config")
    }
    assert set(document["paths"]) == served
    assert document["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["required"]
