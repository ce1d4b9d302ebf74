"""The OpenAPI document of the HTTP door, made for the models that are on offer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import tidegate
from tidegate.serving.datatypes import DATATYPES
from tidegate.serving.models import Models
from tidegate.serving.served import Served
from tidegate.serving.tensors import Tensor

__all__ = ["describe"]

Document: TypeAlias = dict[str, Any]

_DESCRIPTION = (
    "The Open Inference Protocol v2 over REST, with the binary tensor data extension. Numbers may "
    "be NaN, Infinity and -Infinity, which are written as such."
)
_FAILURES = {
    400: "The request does not fit the model, or is none.",
    401: "A token is needed.",
    404: "There is no such model or version.",
    408: "The request's body did not come in time.",
    413: "The request is larger than the server takes.",
    415: "The content type or encoding is not one that is read.",
    429: "Too many requests wait; try again later.",
    500: "The model failed.",
    501: "The protocol has it, and this server does not.",
    503: "The model is not ready, or closed.",
    504: "The request's timeout passed while it waited.",
}
_RETRIED = (429, 503)


def describe(models: Models, *, root: str, authenticated: bool, metrics: bool) -> Document:
    """The document, OpenAPI 3.1.

    Args:
        models: Their names, versions and examples are in it.
        root: The path at which the app is mounted.
        authenticated: Whether tokens are asked for.
        metrics: Whether there is ``/metrics``.
    """
    served = list(models)
    paths: Document = {
        "/v2": _get("Server metadata", "ServerMetadata"),
        "/v2/health/live": _get("Is the server alive?", "Live", open_=True),
        "/v2/health/ready": _get("Is every model ready?", "Ready", 503, open_=True),
        "/v2/repository/index": {
            "post": _operation("All models on offer", _json_of("Index"), (), "repositoryIndex")
        },
        "/openapi.json": _get("This document", "Document"),
    }
    if metrics:
        paths["/metrics"] = _get("Metrics for Prometheus", None, 501)
    for prefix, parameters in _models_paths(served):
        of = {"parameters": parameters}
        paths[prefix] = of | _get("Model metadata", "ModelMetadata", 404)
        paths[f"{prefix}/ready"] = of | _get("Is the model ready?", "Ready", 404, 503)
        paths[f"{prefix}/infer"] = of | {"post": _infer(served, prefix)}
    document: Document = {
        "openapi": "3.1.0",
        "info": {
            "title": "tidegate",
            "version": tidegate.__version__,
            "description": _DESCRIPTION,
        },
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {"schemas": _schemas(), "responses": _responses(authenticated)},
    }
    if authenticated:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        for path in paths.values():
            for operation in (path.get("get"), path.get("post")):
                if operation is not None and operation.get("security") != []:
                    operation["responses"]["401"] = _reference("responses", "Failed401")
    return document


def _models_paths(served: list[Served]) -> list[tuple[str, list[Document]]]:
    """The two ways to name a model, each with its path parameters."""
    name = _parameter("name", "A model's name", [each.name for each in served])
    version = _parameter("version", "One of its versions", [each.version for each in served])
    prefix = "/v2/models/{name}"
    return [(prefix, [name]), (prefix + "/versions/{version}", [name, version])]


def _parameter(name: str, description: str, values: Iterable[str]) -> Document:
    schema: Document = {"type": "string"}
    known = list(dict.fromkeys(values))
    if known:
        schema["enum"] = known
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
    }


def _get(summary: str, schema: str | None, *failures: int, open_: bool = False) -> Document:
    answer = _json_of(schema) if schema else {"text/plain": {"schema": {"type": "string"}}}
    operation = _operation(summary, answer, failures)
    if open_:
        operation["security"] = []
    return {"get": operation}


def _operation(
    summary: str, answer: Document, failures: Iterable[int], name: str | None = None
) -> Document:
    responses: Document = {"200": {"description": "OK", "content": answer}}
    for status in failures:
        responses[str(status)] = _reference("responses", f"Failed{status}")
    operation: Document = {"summary": summary, "responses": responses}
    return operation | ({"operationId": name} if name else {})


def _infer(served: list[Served], prefix: str) -> Document:
    binary: Document = {"description": "JSON, and after it the tensors' bytes."}
    failures = [status for status in _FAILURES if status != 401]
    operation = _operation(
        "Inference",
        _json_of("InferResponse") | {"application/octet-stream": binary},
        failures,
        "inferVersion" if "version" in prefix else "infer",
    )
    operation["responses"]["200"]["headers"] = {
        "Inference-Header-Content-Length": {
            "description": "Bytes of JSON, where binary data follows them.",
            "schema": {"type": "integer", "minimum": 1},
        }
    }
    operation["parameters"] = [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "description": "Bytes of JSON, where binary data follows them; 0 for a body that is "
            "the binary data of a model's one input.",
            "schema": {"type": "integer", "minimum": 0},
        }
    ]
    examples = {
        f"{each.name}, version {each.version}": {"value": _example(each)} for each in served
    }
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {
                "schema": _reference("schemas", "InferRequest"),
                **({"examples": examples} if examples else {}),
            },
            "application/octet-stream": binary,
        },
    }
    return operation


def _example(served: Served) -> Document:
    """One row of zeros, which is what its inputs look like if not what they mean."""
    return {"inputs": [_zeros(tensor) for tensor in served.inputs]}


def _zeros(tensor: Tensor) -> Document:
    shape = [1, *(1 if length == -1 else length for length in tensor.shape)]
    zero: object = {"BYTES": "text", "BOOL": False}.get(tensor.datatype, 0)
    data: object = zero
    for length in reversed(shape):
        data = [data] * min(length, 16)
    if max(shape) > 16 or tensor.datatype == "BF16":  # a document is no place for an image
        data = []
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": data}


def _responses(authenticated: bool) -> Document:
    responses: Document = {}
    for status, description in _FAILURES.items():
        if status == 401 and not authenticated:
            continue
        response: Document = {"description": description, "content": _json_of("Error")}
        if status in _RETRIED:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds after which to try again.",
                    "schema": {"type": "integer", "minimum": 1},
                }
            }
        responses[f"Failed{status}"] = response
    return responses


def _schemas() -> Document:
    text, flag = {"type": "string"}, {"type": "boolean"}
    count = {"type": "integer", "minimum": 0}
    datatype = {"type": "string", "enum": list(DATATYPES)}
    described = _object(
        name=text, datatype=datatype, shape=_list({"type": "integer", "minimum": -1})
    )
    asked = _object(("name",), name=text, parameters=_object((), binary_data=flag))
    sent = _object(
        ("name", "datatype", "shape"),
        name=text,
        datatype=datatype,
        shape=_list(count),
        parameters=_object((), binary_data_size=count),
        data={"type": "array", "description": "Row by row, flat or nested; BYTES as strings."},
    )
    parameters = _object(
        (),
        timeout={**count, "description": "Microseconds that it may wait; 0 for any."},
        priority={**count, "maximum": 1},
        binary_data_output={**flag, "description": "Whether all outputs go back as binary data."},
    )
    return {
        "Error": _object(error=text),
        "Live": _object(live=flag),
        "Ready": _object(("ready",), ready=flag, name=text),
        "ServerMetadata": _object(name=text, version=text, extensions=_list(text)),
        "ModelMetadata": _object(
            name=text,
            versions=_list(text),
            platform=text,
            inputs=_list(described),
            outputs=_list(described),
        ),
        "Index": _list(_object(name=text, version=text, state=text, reason=text)),
        "Document": {"type": "object"},
        "InferRequest": _object(
            ("inputs",), id=text, parameters=parameters, inputs=_list(sent), outputs=_list(asked)
        ),
        "InferResponse": _object(
            ("model_name", "model_version", "outputs"),
            model_name=text,
            model_version=text,
            id=text,
            outputs=_list(sent),
        ),
    }


def _object(required: Iterable[str] | None = None, /, **properties: Document) -> Document:
    """A schema; what is in it besides is allowed."""
    needed = list(properties if required is None else required)
    return {
        "type": "object",
        "properties": properties,
        **({"required": needed} if needed else {}),
    }


def _list(items: Document) -> Document:
    return {"type": "array", "items": items}


def _json_of(schema: str) -> Document:
    return {"application/json": {"schema": _reference("schemas", schema)}}


def _reference(kind: str, name: str) -> Document:
    return {"$ref": f"#/components/{kind}/{name}"}
