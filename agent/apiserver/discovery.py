"""Discovery: what a client is told about the kinds there are."""

from __future__ import annotations

from agent.apiserver.registry import JSON


def discovery(path: str, accept: str) -> JSON | None:
    """The document at ``/api``, ``/apis``, ``/api/v1``, ``/apis/GROUP`` or ``/apis/GROUP/VERSION``; None: no such path.

    ``accept`` is the request's Accept header: with ``as=APIGroupDiscoveryList``, ``/api`` and ``/apis`` answer with
    aggregated discovery.
    """
    return None


def content_type(path: str, accept: str) -> str:
    """The Content-Type of the answer of ``discovery``: aggregated discovery names its kind there."""
    return "application/json"


def version() -> JSON:
    """The document at ``/version``."""
    return {"major": "1", "minor": "33", "gitVersion": "v1.33.0+podwire"}
