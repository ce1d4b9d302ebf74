"""The HTTP door: an ASGI app that speaks the Open Inference Protocol v2 over REST.

``app = create_app(models)`` runs under any ASGI server, and can be mounted into FastAPI, Starlette
or any other ASGI app. Needs Starlette: ``pip install 'tidegate[serve]'``.
"""

try:
    import starlette as _starlette  # noqa: F401  (only to say what is missing)
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tidegate.serving.asgi needs Starlette: pip install 'tidegate[serve]'", name=error.name
    ) from error

from tidegate.serving.asgi.app import create_app

__all__ = ["create_app"]
