"""Any kind that has no page of its own: its fields, as they are, under readable names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent.cli.kubectl.describe.page import Page, write_head, write_labels
from agent.cli.kubectl.describe.related import Related
from agent.cli.kubectl.objects import go_value

SHOWN_ABOVE = {
    ".metadata.managedFields",
    ".metadata.name",
    ".metadata.namespace",
    ".metadata.labels",
    ".metadata.annotations",
}
ACRONYMS = {"API", "URL", "UID", "GUID"}


def write_generic(page: Page, obj: Mapping[str, Any], related: Related) -> None:
    write_head(page, obj)
    write_labels(page, obj)
    _write_fields(page, obj, path="", level=0)


def _write_fields(page: Page, fields: Mapping[str, Any], *, path: str, level: int) -> None:
    for name in sorted(fields):
        value, below = fields[name], f"{path}.{name}"
        if below in SHOWN_ABOVE:
            continue
        if isinstance(value, Mapping):
            page.line(f"{title_of(name)}:", level=level)
            _write_fields(page, value, path=below, level=level + 1)
        elif isinstance(value, list):
            page.line(f"{title_of(name)}:", level=level)
            for item in value:
                if isinstance(item, Mapping):
                    _write_fields(page, item, path=below, level=level + 1)
                else:
                    page.line(go_value(item), level=level + 1)
        else:
            page.field(title_of(name), go_value(value), level=level)


def title_of(name: str) -> str:
    """``creationTimestamp`` as ``Creation Timestamp``, ``apiVersion`` as ``API Version``; odd names as they are."""
    if not re.fullmatch(r"[A-Za-z-]+", name):
        return name
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|-", name)
    return " ".join(word.upper() if word.upper() in ACRONYMS else word[:1].upper() + word[1:] for word in words)
