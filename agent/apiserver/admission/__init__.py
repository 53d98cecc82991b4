"""Admission: what happens to an object between the request and the store.

Defaults are filled in, the rules are checked, Services get their addresses and ports. Each kind has a strategy
(``strategies``), after upstream's registry strategies; nothing here does I/O, and arguments are never changed: what
comes back is a new object.

``errors`` what is wrong, in upstream's words · ``names`` and ``metadata`` rules all kinds share · ``allocation`` who
holds which address and port · ``context`` one request's view of that · ``strategies`` one module per kind or family.
"""

from __future__ import annotations

from agent.apiserver.admission.context import Context
from agent.apiserver.admission.errors import Cause, Forbidden, Invalid
from agent.apiserver.admission.strategies import strategy_of
from agent.apiserver.registry import JSON, Kind

__all__ = ["Cause", "Context", "Forbidden", "Invalid", "admit_create", "admit_update", "release"]


def admit_create(kind: Kind, obj: JSON, context: Context) -> JSON:
    """The object as it will be stored. ``metadata`` has its final name and namespace. Raises Invalid or Forbidden."""
    with context.settling():
        return strategy_of(kind).create(kind, obj, context)


def admit_update(kind: Kind, subresource: str | None, new: JSON, old: JSON, context: Context) -> JSON:
    """The object as it will replace ``old``. ``subresource`` (``status``, ``finalize``) limits what may change.

    Raises Invalid or Forbidden.
    """
    with context.settling():
        return strategy_of(kind).update(kind, subresource, new, old, context)


def release(kind: Kind, obj: JSON, context: Context) -> None:
    """The object is gone from the store: free what it held."""
    with context.settling():
        strategy_of(kind).release(obj, context)
