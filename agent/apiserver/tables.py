"""Server-side printing: objects as a meta.k8s.io/v1 Table, which is what ``kubectl get`` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from agent.apiserver.registry import JSON, Kind

Include = Literal["None", "Metadata", "Object"]


def render_table(
    kind: Kind, objects: Sequence[JSON], *, list_meta: JSON, include_object: Include, now: datetime
) -> JSON:
    """A Table of ``objects``. ``now`` must be aware; ages are relative to it."""
    rows = [{"cells": [obj["metadata"]["name"], ""], "object": None} for obj in objects]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": [],
        "rows": rows,
    }
