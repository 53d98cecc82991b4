"""From the bytes of a request's body to an object of the kind that the URL names.

JSON, YAML and some protobuf are read. What the kind does not know is refused, warned of or let pass
(``fieldValidation``, KEP-2885); what has the wrong type is always refused. Messages are upstream's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from agent.apiserver import protobuf
from agent.apiserver.paths import Target
from agent.apiserver.query import Validation
from agent.apiserver.registry import JSON, Kind
from agent.apiserver.schema import check_fields
from agent.apiserver.status import StatusError, bad_request, unsupported_media_type

LIMIT = 3 << 20  # bytes, as upstream
ALIASED = 10_000  # values that the aliases of a YAML document may add (what is written out takes a byte a value)
MEDIA_TYPES = ("application/json", "application/yaml", protobuf.MEDIA_TYPE)
JSON_TYPE = MEDIA_TYPES[0]
YAML_TYPES = ("application/yaml", "application/apply-patch+yaml")


UNREADABLE = (msgspec.DecodeError, yaml.YAMLError, UnicodeDecodeError, RecursionError, protobuf.ProtobufError)


class _Loader(yaml.CSafeLoader):
    """YAML without dates: ``2024-01-01`` in a manifest is text, as it is for Kubernetes."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def media_type_of(content_type: str) -> str:
    return content_type.split(";", 1)[0].strip().lower()


def decode_body(content: bytes, media_type: str) -> Any:
    """Raises StatusError 400."""
    try:
        if media_type in YAML_TYPES:
            return _plain(yaml.load(content, _Loader), most=len(content) + ALIASED)
        if media_type == protobuf.MEDIA_TYPE:
            return protobuf.decode_protobuf(content)
        return msgspec.json.decode(content)
    except protobuf.UnknownMessage as error:
        raise unsupported_media_type(MEDIA_TYPES[:2]) from error
    except UNREADABLE as error:
        raise bad_request(f"couldn't get version/kind; the body cannot be read: {error}") from error


def decode_options(content: bytes, content_type: str) -> JSON | None:
    """A body that may be missing. Raises StatusError (400, 415)."""
    if not content.strip():
        return None
    decoded = decode_body(content, _readable(content_type))
    if not isinstance(decoded, dict):
        raise bad_request("the body must be an object")
    return decoded


def decode_object(
    target: Target, content: bytes, content_type: str, validation: Validation
) -> tuple[JSON, tuple[str, ...]]:
    """The object that was sent, of the target's kind and namespace, and warnings. Raises StatusError (400, 415)."""
    media_type = _readable(content_type)
    obj = check_kind(target.kind, decode_body(content, media_type))
    repeated = find_duplicates(content) if media_type == JSON_TYPE and validation != "Ignore" else ()
    warnings = check_object(target.kind, obj, validation, extra=repeated)
    return place(target, obj), warnings


def _readable(content_type: str) -> str:
    media_type = media_type_of(content_type) or "application/json"
    if media_type not in MEDIA_TYPES:
        raise unsupported_media_type(MEDIA_TYPES)
    return media_type


def check_kind(kind: Kind, obj: Any) -> JSON:
    """``obj`` with ``apiVersion`` and ``kind`` filled in. Raises StatusError 400 if it is something else."""
    if not isinstance(obj, dict):
        raise bad_request(f"the body must be an object of kind {kind.kind}")
    version, name = obj.get("apiVersion") or kind.api_version, obj.get("kind") or kind.kind
    if version != kind.api_version:
        expected = f"the expected API version ({kind.api_version})"
        raise bad_request(f"the API version in the data ({version}) does not match {expected}")
    if name != kind.kind:
        raise _cannot_be(kind, f"the data is of kind {name}")
    return {**obj, "apiVersion": version, "kind": name, "metadata": obj.get("metadata") or {}}


def check_object(
    kind: Kind, obj: JSON, validation: Validation, *, extra: tuple[str, ...] = (), known: JSON | None = None
) -> tuple[str, ...]:
    """Returns warnings. ``known``: unknown fields of this object are no news. Raises StatusError 400."""
    report = check_fields(kind, obj)
    if report.errors:
        raise _cannot_be(kind, ", ".join(report.errors))
    if validation == "Ignore":
        return ()
    before = check_fields(kind, known).unknown if known is not None and report.unknown else ()
    complaints = (*(complaint for complaint in report.unknown if complaint not in before), *extra)
    if complaints and validation == "Strict":
        raise _cannot_be(kind, f"strict decoding error: {', '.join(complaints)}")
    return complaints


def _cannot_be(kind: Kind, why: str) -> StatusError:
    return bad_request(f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}')


def place(target: Target, obj: JSON) -> JSON:
    """The object where the URL says it is. Raises StatusError 400 if the object says otherwise."""
    metadata = dict(obj["metadata"])
    if target.namespace and (metadata.get("namespace") or target.namespace) != target.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if target.name and (metadata.get("name") or target.name) != target.name:
        sent = metadata["name"]
        raise bad_request(f"the name of the object ({sent}) does not match the name on the URL ({target.name})")
    if target.namespace:
        metadata["namespace"] = target.namespace
    if target.name:
        metadata["name"] = target.name
    return {**obj, "metadata": metadata}


class _Object(dict[str, Any]):
    """A JSON object that remembers which keys came twice."""

    repeated: tuple[str, ...] = ()


def _remember(pairs: list[tuple[str, Any]]) -> _Object:
    obj = _Object(pairs)
    if len(obj) < len(pairs):
        seen: set[str] = set()
        obj.repeated = tuple(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    return obj


def find_duplicates(content: bytes) -> tuple[str, ...]:
    """``duplicate field "spec.replicas"`` for every key that an object has twice."""
    return tuple(
        f'duplicate field "{path}"'
        for path in dict.fromkeys(_walk(json.loads(content, object_pairs_hook=_remember), ""))
    )


def _walk(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Object):
        for name in value.repeated:
            yield f"{path}.{name}".lstrip(".")
        for name, item in value.items():
            yield from _walk(item, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}[{index}]")


def _plain(document: Any, *, most: int) -> Any:
    """YAML allows any key; in JSON all are text. And it has aliases, by which a few lines can stand for gigabytes: more
    than ``most`` values are refused.
    """
    left = most

    def plain(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise yaml.YAMLError("its aliases stand for too much")
        if isinstance(value, dict):
            return {_key(name): plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    return plain(document)


def _key(name: Any) -> str:
    return str(name).lower() if isinstance(name, bool) else str(name)
