"""What the part of a URL after the question mark means: selectors, paging, versions, options.

Pure. Errors are ``StatusError`` with code 400 (or 422 where upstream says so), worded so that the reader sees which
parameter is wrong.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from agent.apiserver.admission.errors import Cause, not_supported
from agent.apiserver.registry import JSON, Kind
from agent.apiserver.selectors import FieldTerm, LabelTerm, SelectorError, match_labels, parse_fields, parse_labels
from agent.apiserver.status import StatusError, bad_request, invalid

TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False", ""})
VALIDATIONS = ("Ignore", "Warn", "Strict")
POLICIES = ("Background", "Foreground", "Orphan")

Validation = Literal["Ignore", "Warn", "Strict"]


class Query:
    """The parameters of one request: the first value of each name, or all of them."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def text(self, name: str) -> str:
        return self._values.get(name, [""])[0]

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def flag(self, name: str) -> bool:
        value = self.text(name)
        if value not in TRUE | FALSE:
            raise bad_request(f'{name}: Invalid value: "{value}": expected true or false')
        return value in TRUE

    def number(self, name: str) -> int | None:
        value = self.text(name)
        if not value:
            return None
        if not value.lstrip("-").isdecimal():
            raise bad_request(f'{name}: Invalid value: "{value}": expected a whole number')
        return int(value)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a collection are asked for."""

    labels: tuple[LabelTerm, ...]
    fields: tuple[FieldTerm, ...]
    getters: Mapping[str, Callable[[JSON], str]]

    @property
    def everything(self) -> bool:
        return not self.labels and not self.fields

    @property
    def by_labels_only(self) -> bool:
        return not self.fields

    def matches_labels(self, labels: Mapping[str, Any]) -> bool:
        return match_labels(self.labels, labels)

    def matches(self, obj: JSON) -> bool:
        """``obj`` in its kind's own spelling."""
        return self.matches_labels(obj["metadata"].get("labels") or {}) and all(
            (self.getters[term.field](obj) == term.value) is term.equal for term in self.fields
        )

    def single_name(self) -> str | None:
        """The one name that can match, if the selection says so: then there is no need to look at the rest."""
        for term in self.fields:
            if term.field == "metadata.name" and term.equal:
                return term.value
        return None


def parse_selection(kind: Kind, query: Query) -> Selection:
    try:
        labels, fields = parse_labels(query.text("labelSelector")), parse_fields(query.text("fieldSelector"))
        selection = Selection(labels, fields, kind.field_selectors)
        for term in selection.fields:
            if term.field not in kind.field_selectors:
                raise SelectorError(f"field label not supported: {term.field}")
    except SelectorError as error:
        raise bad_request(str(error)) from error
    return selection


@dataclass(frozen=True, slots=True)
class Continue:
    """Where a paged list goes on: at which revision it began, and after which key it stopped."""

    revision: int
    after: str


class _Token(msgspec.Struct, forbid_unknown_fields=True):
    v: str
    rv: int
    start: str


def render_continue(place: Continue, prefix: str) -> str:
    """An opaque token, in the manner of storage/continue.go: relative to the collection, so it fits no other one."""
    token = _Token("meta.k8s.io/v1", place.revision, place.after.removeprefix(prefix))
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def parse_continue(token: str, prefix: str) -> Continue:
    try:
        decoded = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        place = msgspec.json.decode(decoded, type=_Token)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
    if place.v != "meta.k8s.io/v1" or place.rv <= 0 or not place.start:
        raise bad_request("continue key is not valid: incorrect encoded start resourceVersion or key")
    return Continue(place.rv, prefix + place.start)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """``exact``: the revision to list at. ``at_least``: the client has seen this one. Both None: what is now."""

    selection: Selection
    limit: int
    place: Continue | None
    exact: int | None
    at_least: int | None


def parse_list(kind: Kind, prefix: str, query: Query) -> ListOptions:
    version, match = parse_version(query.text("resourceVersion")), query.text("resourceVersionMatch")
    token = query.text("continue")
    _check_match(match, version, token)
    if token and version:
        raise bad_request("specifying resource version is not allowed when using continue")
    if match == "Exact" and not version:
        raise bad_request('resourceVersionMatch "Exact" is forbidden for resourceVersion "0"')
    return ListOptions(
        selection=parse_selection(kind, query),
        limit=max(query.number("limit") or 0, 0),
        place=parse_continue(token, prefix) if token else None,
        exact=version if match == "Exact" else None,
        at_least=version if match != "Exact" else None,
    )


def _check_match(match: str, version: int | None, token: str) -> None:
    if not match:
        return
    if match not in ("Exact", "NotOlderThan"):
        raise bad_request(f'resourceVersionMatch: Unsupported value: "{match}": supported: "Exact", "NotOlderThan"')
    if token:
        raise bad_request("resourceVersionMatch is forbidden when continue is provided")
    if version is None:
        raise bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided")


def parse_version(text: str) -> int | None:
    """A resourceVersion as clients send it: None if they do not care for one."""
    if not text:
        return None
    if not text.isdecimal():
        raise bad_request(f"Invalid value: {msgspec.json.encode(text).decode()}: strconv.ParseUint: invalid syntax")
    return int(text)


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """``after`` None: begin with what is there now. ``seconds``: how long, None: the server's choice."""

    selection: Selection
    after: int | None
    initial_events: bool
    bookmarks: bool
    seconds: float | None


def parse_watch(kind: Kind, query: Query) -> WatchOptions:
    version = parse_version(query.text("resourceVersion"))
    initial, bookmarks = query.flag("sendInitialEvents"), query.flag("allowWatchBookmarks")
    if initial and query.text("resourceVersionMatch") != "NotOlderThan":
        raise bad_request("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    seconds = query.number("timeoutSeconds")
    return WatchOptions(
        selection=parse_selection(kind, query),
        after=None if initial else version or None,
        initial_events=initial,
        bookmarks=bookmarks,
        seconds=float(seconds) if seconds and seconds > 0 else None,
    )


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """``manager`` is who writes, for server-side apply; ``managed``: what it owns is part of what is written."""

    dry_run: bool = False
    validation: Validation = "Warn"
    manager: str = ""
    force: bool = False
    managed: bool = False


def parse_write(query: Query) -> WriteOptions:
    validation = query.text("fieldValidation") or "Warn"
    if validation not in VALIDATIONS:
        raise _invalid_options("CreateOptions", not_supported("fieldValidation", validation, VALIDATIONS))
    return WriteOptions(
        dry_run=parse_dry_run(query.all("dryRun")),
        validation=validation,  # type: ignore[arg-type]
        manager=query.text("fieldManager"),
        force=query.flag("force"),
    )


def parse_dry_run(values: Iterable[str]) -> bool:
    given = [value for value in values if value]
    if any(value != "All" for value in given):
        raise _invalid_options("CreateOptions", not_supported("dryRun", given, ("All",)))
    return bool(given)


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """``grace`` in seconds, None: the kind's own. ``policy`` None: the kind's own (Background)."""

    grace: int | None = None
    policy: str | None = None
    uid: str | None = None
    version: str | None = None
    dry_run: bool = False


class _Preconditions(msgspec.Struct):
    uid: str | None = None
    resourceVersion: str | None = None


class _DeleteBody(msgspec.Struct):
    gracePeriodSeconds: int | None = None
    propagationPolicy: str | None = None
    orphanDependents: bool | None = None
    preconditions: _Preconditions | None = None
    dryRun: list[str] | None = None


def parse_delete(query: Query, body: JSON | None) -> DeleteOptions:
    """Options come in the body or, if there is none, in the URL (endpoints/handlers/delete.go)."""
    try:
        given = msgspec.convert(body or _delete_parameters(query), _DeleteBody)
    except msgspec.ValidationError as error:
        raise bad_request(f"the DeleteOptions cannot be read: {error}") from error
    policy = given.propagationPolicy
    if policy is not None and policy not in POLICIES:
        raise _invalid_options("DeleteOptions", not_supported("propagationPolicy", policy, POLICIES))
    if policy is None and given.orphanDependents is not None:
        policy = "Orphan" if given.orphanDependents else "Background"
    required = given.preconditions or _Preconditions()
    return DeleteOptions(
        grace=given.gracePeriodSeconds,
        policy=policy,
        uid=required.uid,
        version=required.resourceVersion,
        dry_run=parse_dry_run([*(given.dryRun or []), *query.all("dryRun")]),
    )


def _delete_parameters(query: Query) -> JSON:
    return {
        "gracePeriodSeconds": query.number("gracePeriodSeconds"),
        "propagationPolicy": query.text("propagationPolicy") or None,
        "orphanDependents": query.flag("orphanDependents") if query.text("orphanDependents") else None,
    }


def _invalid_options(kind: str, cause: Cause) -> StatusError:
    return invalid(kind, "", [cause], group="meta.k8s.io")
