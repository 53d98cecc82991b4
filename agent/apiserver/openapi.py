"""OpenAPI v3, made from the models: what ``kubectl explain`` shows and ``kubectl apply`` checks against."""

from __future__ import annotations

from agent.apiserver.registry import JSON


def openapi_v3(path: str) -> JSON | None:
    """The document at ``/openapi/v3`` (the index) or ``/openapi/v3/api/v1`` and the like; None: no such path."""
    return None
