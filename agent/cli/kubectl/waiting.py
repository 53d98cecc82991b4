"""Waiting until something holds of an object: parse the wish (pure), then watch one object until it is fulfilled."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.jsonpath import JsonPathError, find, parse_relaxed, to_text
from agent.cli.kubectl.objects import meta
from agent.cli.kubectl.targets import Target, fetch

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster, Params

Wish = Callable[[Mapping[str, Any] | None], bool]  # of the object; None: it does not exist


class TimedOut(Exception):
    """The wish did not come true in time."""


@dataclass(frozen=True, slots=True)
class For:
    """A parsed ``--for``. ``absent_is_error``: an object that is not there cannot fulfil it; ``gone``: its end does."""

    wish: Wish
    absent_is_error: bool = True
    gone: bool = False


def parse_for(flag: str) -> For:
    """``condition=Ready[=True]``, ``jsonpath='{.status.phase}'[=Running]``, ``delete``, ``create``."""
    kind, _, argument = flag.partition("=")
    if kind == "delete":
        return For(lambda obj: obj is None, absent_is_error=False, gone=True)
    if kind == "create":
        return For(lambda obj: obj is not None, absent_is_error=False)
    if kind == "condition" and argument:
        name, _, value = argument.partition("=")
        return For(_condition(name, value or "true"))
    if kind == "jsonpath" and argument:
        return For(_jsonpath(argument))
    raise client_error(f'unrecognized condition: "{flag}"; expected condition=, jsonpath=, create or delete')


def _condition(name: str, value: str) -> Wish:
    def holds(obj: Mapping[str, Any] | None) -> bool:
        conditions = ((obj or {}).get("status") or {}).get("conditions") or []
        found = next((each for each in conditions if each.get("type", "").lower() == name.lower()), None)
        return found is not None and str(found.get("status", "")).lower() == value.lower()

    return holds


def _jsonpath(argument: str) -> Wish:
    text, closed, wanted = argument.partition("}")
    expression = (text + closed).strip("'\"")
    wanted = wanted.strip("'\"").removeprefix("=").strip("'\"")
    if not closed:
        expression, _, wanted = argument.partition("=")
    try:
        path = parse_relaxed(expression)
    except JsonPathError as error:
        raise client_error(f"cannot use jsonpath {argument}: {error}") from error

    def holds(obj: Mapping[str, Any] | None) -> bool:
        found = find(path, obj) if obj is not None else []
        return any(to_text(value) == wanted for value in found) if wanted else bool(found)

    return holds


def parse_duration(text: str) -> float:
    """``30s``, ``5m``, ``1h30m``, ``500ms``, ``0``: seconds. Raises KubectlError."""
    import re

    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if text in ("0", "-1"):
        return float(text)
    sign = -1 if text.startswith("-") else 1
    if not parts or "".join(number + unit for number, unit in parts) != text.lstrip("-"):
        raise client_error(f'invalid duration "{text}": expected such as 30s, 5m or 1h30m')
    return sign * sum(float(number) * units[unit] for number, unit in parts)


def wait_for(cluster: Cluster, target: Target, wanted: For, *, timeout: float, uid: str = "") -> bool:
    """Watch one object until the wish holds; whether there was such an object on the way.

    ``uid``: this very object; another of its name counts as its absence.

    Raises TimedOut, and ApiError (NotFound) where the object's absence cannot be waited out.
    """
    deadline = time.monotonic() + timeout
    collection = target.resource.path(target.namespace)
    params: dict[str, str | int] = {"fieldSelector": f"metadata.name={target.name}"}
    seen = False
    while True:
        listed = cluster.get(collection, params=params)
        found = [item for item in listed.get("items") or [] if not uid or meta(item).get("uid") == uid]
        if not found and wanted.absent_is_error:
            fetch(cluster, target)  # says NotFound as the server words it
        seen = seen or bool(found)
        if wanted.wish(found[0] if found else None):
            return seen
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimedOut
        version = str(meta(listed).get("resourceVersion", ""))
        _until_changed(cluster, collection, {**params, "resourceVersion": version}, seconds=left)


def _until_changed(cluster: Cluster, collection: str, params: Params, *, seconds: float) -> None:
    """Return at the next event, or when the server ends the watch, which it is asked to do in time."""
    with contextlib.closing(cluster.watch(collection, params={**params, "timeoutSeconds": int(seconds) + 1})) as events:
        next(events, None)
