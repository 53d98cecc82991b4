"""In which form a client wants objects: as they are, as rows of a Table, or their metadata only.

kubectl asks for a Table with ``Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json``; the first
entry that can be served wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from agent.apiserver.query import Query
from agent.apiserver.registry import JSON, Kind
from agent.apiserver.status import bad_request, not_acceptable
from agent.apiserver.tables import Include, render_table

Shape = Literal["", "Table", "PartialObjectMetadata"]
LISTS = {"PartialObjectMetadataList": "PartialObjectMetadata"}
ACCEPTED = ("application/json", "application/yaml")
INCLUDES: tuple[Include, ...] = ("None", "Metadata", "Object")


@dataclass(frozen=True, slots=True)
class Form:
    """``shape`` empty: the object as it is. ``media_type``: JSON or YAML."""

    shape: Shape = ""
    include: Include = "Metadata"
    media_type: str = "application/json"

    def render(self, kind: Kind, obj: JSON) -> JSON:
        """One object in this form."""
        match self.shape:
            case "Table":
                return self.table(kind, [obj], {"resourceVersion": obj["metadata"].get("resourceVersion", "")})
            case "PartialObjectMetadata":
                return partial_metadata(obj)
        return obj

    def table(self, kind: Kind, objects: Sequence[JSON], list_meta: JSON) -> JSON:
        return render_table(kind, objects, list_meta=list_meta, include_object=self.include, now=datetime.now(UTC))


def partial_metadata(obj: JSON) -> JSON:
    head = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    return {**head, "metadata": obj["metadata"]}


def negotiate(accept: str, query: Query) -> Form:
    """Raises StatusError 406 if nothing that is asked for can be served."""
    for entry in (accept or "*/*").split(","):
        media_type, *parameters = (part.strip() for part in entry.split(";"))
        if media_type in ("*/*", "application/*"):
            return Form()
        if media_type in ACCEPTED:
            asked = dict(part.split("=", 1) for part in parameters if "=" in part)
            shape = _shape(asked)
            if shape is not None:
                return Form(shape, _include(query), media_type)
    raise not_acceptable(ACCEPTED)


def _shape(asked: dict[str, str]) -> Shape | None:
    if "as" not in asked:
        return ""
    name = LISTS.get(asked["as"], asked["as"])
    if asked.get("g") != "meta.k8s.io" or asked.get("v") != "v1":
        return None
    match name:
        case "Table" | "PartialObjectMetadata":
            return name
    return None


def _include(query: Query) -> Include:
    given = query.text("includeObject") or "Metadata"
    for choice in INCLUDES:
        if choice == given:
            return choice
    raise bad_request(f'includeObject: Invalid value: "{given}": must be one of None, Metadata, Object')
