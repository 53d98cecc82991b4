"""What ``describe`` shows besides the object itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Related:
    """Objects read along: a ReplicaSet's or a node's pods, a Service's EndpointSlices, a node's Lease."""

    pods: tuple[Mapping[str, Any], ...] = ()
    slices: tuple[Mapping[str, Any], ...] = ()
    lease: Mapping[str, Any] | None = None
