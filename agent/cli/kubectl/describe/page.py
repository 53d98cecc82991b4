"""A page of ``describe``: lines at indentation levels, columns aligned, and the parts every kind has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from agent.cli.kubectl.objects import LAST_APPLIED, age, controller_of, meta, name_of, namespace_of, parse_time
from agent.cli.kubectl.tabwriter import align

NONE = "<none>"
UNSET = "<unset>"
MAX_ANNOTATION = 140  # characters of one annotation that are shown on its line


class Page:
    """Collects lines; tabs align within a section, and ``section`` starts a new one."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self._done = ""
        self._lines: list[str] = []

    def line(self, text: str = "", *, level: int = 0) -> None:
        self._lines.append("  " * level + text)

    def field(self, name: str, value: object, *, level: int = 0) -> None:
        self.line(f"{name}:\t{value}", level=level)

    def optional(self, name: str, value: object, *, level: int = 0) -> None:
        """A field that is shown only where it is set."""
        if value not in (None, "", 0, [], {}):
            self.field(name, value, level=level)

    def listed(self, name: str, values: Sequence[str], *, indent: str = "") -> None:
        """One value a line, below each other."""
        for at, value in enumerate(values or [NONE]):
            self.line(f"{indent}{name}:\t{value}" if at == 0 else f"{indent}\t{value}")

    def section(self) -> None:
        """End the columns that are open."""
        self._done += align("".join(f"{line}\n" for line in self._lines))
        self._lines = []

    def text(self) -> str:
        self.section()
        return self._done


def write_head(page: Page, obj: Mapping[str, Any], *, namespaced: bool = True) -> None:
    page.field("Name", name_of(obj))
    if namespaced:
        page.field("Namespace", namespace_of(obj))


def write_labels(page: Page, obj: Mapping[str, Any]) -> None:
    """Labels and annotations."""
    page.listed("Labels", pairs(meta(obj).get("labels")))
    write_annotations(page, meta(obj).get("annotations"))


def pairs(labels: Mapping[str, Any] | None) -> list[str]:
    return [f"{key}={labels[key]}" for key in sorted(labels)] if labels else []


def joined(labels: Mapping[str, Any] | None) -> str:
    """``a=b,c=d``."""
    return ",".join(pairs(labels)) or NONE


def format_selector(selector: Mapping[str, Any] | None) -> str:
    """A LabelSelector: ``a=b,c in (d,e),!f``."""
    if selector is None:
        return NONE
    terms = pairs(selector.get("matchLabels"))
    for each in selector.get("matchExpressions") or []:
        key, values = each["key"], ",".join(sorted(each.get("values") or []))
        match each["operator"]:
            case "In":
                terms.append(f"{key} in ({values})")
            case "NotIn":
                terms.append(f"{key} notin ({values})")
            case "Exists":
                terms.append(key)
            case _:
                terms.append(f"!{key}")
    return ",".join(terms) or NONE


def write_annotations(page: Page, annotations: Mapping[str, str] | None, *, title: str = "Annotations") -> None:
    shown = {key: value for key, value in sorted((annotations or {}).items()) if key != LAST_APPLIED}
    lines: list[str] = []
    for key, value in shown.items():
        text = value.removesuffix("\n")
        if "\n" in text or len(text) + len(key) + 2 > MAX_ANNOTATION:
            lines.append(f"{key}:")
            lines += [f"  {_shorten(part)}" for part in text.split("\n")]
        else:
            lines.append(f"{key}: {text}")
    page.listed(title, lines)


def _shorten(text: str) -> str:
    limit = MAX_ANNOTATION - 2
    return text[:limit] + "..." if len(text) > limit else text


def write_controller(page: Page, obj: Mapping[str, Any]) -> None:
    if (owner := controller_of(obj)) is not None:
        page.field("Controlled By", f"{owner['kind']}/{owner['name']}")


def write_events(page: Page, events: Sequence[Mapping[str, Any]]) -> None:
    """The events about an object, oldest first; one that came again shows how often and since when."""
    if not events:
        page.field("Events", NONE)
        return
    page.section()
    page.line("Events:")
    page.line("Type\tReason\tAge\tFrom\tMessage", level=1)
    page.line("----\t------\t----\t----\t-------", level=1)
    for event in sorted(events, key=_last_seen):
        source = (event.get("source") or {}).get("component") or event.get("reportingComponent") or ""
        message = str(event.get("message") or "").strip()
        cells = [event.get("type", ""), event.get("reason", ""), _interval(event, page.now), source, message]
        page.line("\t".join(cells), level=1)


def _last_seen(event: Mapping[str, Any]) -> float:
    series = event.get("series") or {}
    stamp = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    moment = parse_time(stamp)
    return moment.timestamp() if moment else 0.0


def _interval(event: Mapping[str, Any], now: datetime) -> str:
    first = age(event.get("eventTime") or event.get("firstTimestamp"), now)
    if series := event.get("series"):
        return f"{age(series.get('lastObservedTime'), now)} (x{series.get('count')} over {first})"
    if (event.get("count") or 0) > 1:
        return f"{age(event.get('lastTimestamp'), now)} (x{event['count']} over {first})"
    return first


def or_none(text: str) -> str:
    return text or NONE
