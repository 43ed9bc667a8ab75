"""What the OpenAPI description says beyond the routes themselves."""

from typing import Any

from fastapi import FastAPI


def takes_keys(app: FastAPI) -> None:
    """Say that every route takes an API key, so that /docs asks for one. The keys are checked before any route."""
    described = app.openapi

    def with_keys() -> dict[str, Any]:
        document = described()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["key"] = {"type": "http", "scheme": "bearer", "description": "Only where API keys are configured."}
        document["security"] = [{}, {"key": []}]
        return document

    app.openapi = with_keys  # type: ignore[method-assign]  # as FastAPI documents it
