"""What a request says: its path, its query, its Accept header, its body."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.apiserver.body import check_kind, decode_body, decode_object, find_duplicates, media_type_of
from agent.apiserver.negotiate import negotiate
from agent.apiserver.paths import Target, parse_path
from agent.apiserver.protobuf import MAGIC, MEDIA_TYPE, ProtobufError, decode_protobuf
from agent.apiserver.query import (
    Continue,
    DeleteOptions,
    Query,
    parse_continue,
    parse_delete,
    parse_list,
    parse_selection,
    parse_watch,
    parse_write,
    render_continue,
)
from agent.apiserver.registry import JSON, Kind, find_kind
from agent.apiserver.rest import handler_of, verb_of
from agent.apiserver.status import StatusError


def kind(plural: str, group: str = "") -> Kind:
    found = find_kind(group, "v1", plural)
    assert found is not None
    return found


PODS, NAMESPACES, NODES, CONFIGMAPS = (kind(plural) for plural in ("pods", "namespaces", "nodes", "configmaps"))
REPLICASETS = kind("replicasets", "apps")


def query(**values: str) -> Query:
    return Query(values.items())


# Paths

PATHS: dict[str, tuple[str, str, str, str] | None] = {
    "/api/v1/pods": ("pods", "", "", ""),
    "/api/v1/namespaces/a/pods": ("pods", "a", "", ""),
    "/api/v1/namespaces/a/pods/": ("pods", "a", "", ""),
    "/api/v1/namespaces/a/pods/x": ("pods", "a", "x", ""),
    "/api/v1/namespaces/a/pods/x/log": ("pods", "a", "x", "log"),
    "/api/v1/namespaces": ("namespaces", "", "", ""),
    "/api/v1/namespaces/a": ("namespaces", "", "a", ""),
    "/api/v1/namespaces/a/status": ("namespaces", "", "a", "status"),
    "/api/v1/namespaces/a/finalize": ("namespaces", "", "a", "finalize"),
    "/api/v1/nodes/n": ("nodes", "", "n", ""),
    "/apis/apps/v1/namespaces/a/replicasets/r/scale": ("replicasets", "a", "r", "scale"),
    "/api/v1": None,
    "/api/v2/pods": None,
    "/apis/apps/v1": None,
    "/apis//v1/pods": None,
    "/api/v1/unicorns": None,
    "/api/v1/pods/x": None,
    "/api/v1/namespaces/a/nodes": None,
    "/api/v1/namespaces/a/pods/x/scale": None,
    "/api/v1/namespaces/a/pods/x/log/y": None,
    "/api/v1/namespaces//pods": None,
    "/apis/apps/v1/pods": None,
    "/": None,
}


@pytest.mark.parametrize("path", PATHS)
def test_paths(path: str) -> None:
    target = parse_path(path)
    found = target and (target.kind.plural, target.namespace, target.name, target.subresource)
    assert found == PATHS[path]


def test_keys_of_the_store() -> None:
    assert Target(PODS, "a", "x", "status").key == "pods/a/x"
    assert Target(PODS, "", "", "").prefix == "pods/"
    assert Target(NODES, "", "n", "").key == "nodes/n"
    assert Target(REPLICASETS, "a", "", "").prefix == "apps/replicasets/a/"
    assert Target(kind("events", "events.k8s.io"), "a", "e", "").key == Target(kind("events"), "a", "e", "").key


@pytest.mark.parametrize(
    ("method", "path", "watch", "verb"),
    [
        ("GET", "/api/v1/pods", "", "list"),
        ("GET", "/api/v1/pods", "1", "watch"),
        ("GET", "/api/v1/namespaces/a/pods/x", "true", "get"),
        ("POST", "/api/v1/namespaces/a/pods", "", "create"),
        ("PUT", "/api/v1/namespaces/a/pods/x", "", "update"),
        ("PATCH", "/api/v1/namespaces/a/pods/x", "", "patch"),
        ("DELETE", "/api/v1/namespaces/a/pods/x", "", "delete"),
        ("DELETE", "/api/v1/namespaces/a/pods", "", "deletecollection"),
        ("OPTIONS", "/api/v1/pods", "", None),
    ],
)
def test_verbs(method: str, path: str, watch: str, verb: str | None) -> None:
    target = parse_path(path)
    assert target is not None
    found = verb_of(method, target, query(watch=watch))
    if verb is None:
        with pytest.raises(StatusError):
            handler_of(found, target)
    else:
        assert found == verb
        assert callable(handler_of(found, target))


# Queries


def test_flags_and_numbers() -> None:
    assert [query(f=value).flag("f") for value in ("true", "1", "T", "false", "0", "")] == [True] * 3 + [False] * 3
    assert (query(n="12").number("n"), query(n="-1").number("n"), query().number("n")) == (12, -1, None)
    with pytest.raises(StatusError, match="expected true or false"):
        query(f="yes").flag("f")
    with pytest.raises(StatusError, match="expected a whole number"):
        query(n="1x").number("n")


@given(st.integers(1, 2**60), st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20))
def test_a_continue_token_comes_back_as_it_went(revision: int, name: str) -> None:
    place = Continue(revision, f"pods/ns/{name}")
    assert parse_continue(render_continue(place, "pods/ns/"), "pods/ns/") == place
    assert parse_continue(render_continue(place, "pods/"), "pods/") == place


def test_tokens_stay_in_their_collection() -> None:
    token = render_continue(Continue(5, "pods/a/x"), "pods/a/")
    assert parse_continue(token, "secrets/b/").after == "secrets/b/x"


@given(st.text(max_size=30))
def test_any_other_token_is_a_bad_request(text: str) -> None:
    with pytest.raises(StatusError) as refused:
        parse_continue(text, "pods/")
    assert refused.value.code == 400


def test_lists() -> None:
    plain = parse_list(PODS, "pods/", query())
    assert (plain.limit, plain.place, plain.exact, plain.at_least) == (0, None, None, None)
    assert parse_list(PODS, "pods/", query(limit="5", resourceVersion="7")).at_least == 7
    exact = parse_list(PODS, "pods/", query(resourceVersion="7", resourceVersionMatch="Exact"))
    assert (exact.exact, exact.at_least) == (7, None)
    token = render_continue(Continue(5, "pods/a"), "pods/")
    refused: list[dict[str, str]] = [
        {"resourceVersionMatch": "Exact"},
        {"resourceVersionMatch": "Exact", "resourceVersion": "0"},
        {"resourceVersionMatch": "Sometimes", "resourceVersion": "1"},
        {"resourceVersion": "-1"},
        {"continue": token, "resourceVersion": "7"},
        {"continue": token, "resourceVersion": "7", "resourceVersionMatch": "Exact"},
    ]
    for values in refused:
        with pytest.raises(StatusError) as error:
            parse_list(PODS, "pods/", query(**values))
        assert error.value.code == 400


def test_watches() -> None:
    options = parse_watch(PODS, query(resourceVersion="7", timeoutSeconds="30", allowWatchBookmarks="true"))
    assert (options.after, options.seconds, options.bookmarks, options.initial_events) == (7, 30.0, True, False)
    assert parse_watch(PODS, query(resourceVersion="0")).after is None
    initial = parse_watch(PODS, query(resourceVersion="7", sendInitialEvents="1", resourceVersionMatch="NotOlderThan"))
    assert (initial.after, initial.initial_events) == (None, True)
    with pytest.raises(StatusError):
        parse_watch(PODS, query(sendInitialEvents="1"))


def test_selections() -> None:
    pod = {"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}
    chosen = parse_selection(PODS, query(labelSelector="a=b", fieldSelector="spec.nodeName=n,status.phase!=Failed"))
    assert chosen.matches(pod)
    assert not chosen.matches({**pod, "spec": {}})
    assert not chosen.matches({**pod, "metadata": {"name": "p"}})
    assert parse_selection(PODS, query()).everything
    assert parse_selection(PODS, query(fieldSelector="metadata.name=p")).single_name() == "p"
    assert parse_selection(PODS, query(fieldSelector="metadata.name!=p")).single_name() is None


def test_writes() -> None:
    options = parse_write(query(dryRun="All", fieldValidation="Strict", fieldManager="me", force="true"))
    assert (options.dry_run, options.validation, options.manager, options.force) == (True, "Strict", "me", True)
    assert parse_write(query()).validation == "Warn"
    for values in ({"dryRun": "Some"}, {"fieldValidation": "Sometimes"}):
        with pytest.raises(StatusError) as refused:
            parse_write(query(**values))
        assert refused.value.code == 422


def test_deletions() -> None:
    body = {"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}, "propagationPolicy": "Orphan", "dryRun": ["All"]}
    assert parse_delete(query(), body) == DeleteOptions(0, "Orphan", "u", None, True)
    assert parse_delete(query(gracePeriodSeconds="3"), None) == DeleteOptions(grace=3)
    assert parse_delete(query(gracePeriodSeconds="3"), {"kind": "DeleteOptions"}) == DeleteOptions(), "the body wins"
    assert parse_delete(query(orphanDependents="true"), None).policy == "Orphan"
    assert parse_delete(query(), {"orphanDependents": False}).policy == "Background"
    for wrong, code in (({"gracePeriodSeconds": "soon"}, 400), ({"propagationPolicy": "Later"}, 422)):
        with pytest.raises(StatusError) as refused:
            parse_delete(query(), wrong)
        assert refused.value.code == code


# Forms of answers


@pytest.mark.parametrize(
    ("accept", "shape", "media_type"),
    [
        ("", "", "application/json"),
        ("*/*", "", "application/json"),
        ("application/json", "", "application/json"),
        ("application/yaml", "", "application/yaml"),
        ("application/vnd.kubernetes.protobuf,application/json", "", "application/json"),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "Table", "application/json"),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json", "", "application/json"),
        (
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            "PartialObjectMetadata",
            "application/json",
        ),
        ("application/json;stream=watch", "", "application/json"),
    ],
)
def test_accept(accept: str, shape: str, media_type: str) -> None:
    form = negotiate(accept, query())
    assert (form.shape, form.media_type) == (shape, media_type)


def test_what_cannot_be_served() -> None:
    for accept in ("text/html", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v9;g=meta.k8s.io"):
        with pytest.raises(StatusError) as refused:
            negotiate(accept, query())
        assert refused.value.code == 406
    with pytest.raises(StatusError, match="includeObject"):
        negotiate("application/json", query(includeObject="Some"))


# Bodies


def test_yaml_is_taken_as_kubernetes_takes_it() -> None:
    text = b"a: 2024-01-01\nb: 2001-12-14T21:59:43Z\n8080: x\ntrue: y\nc: [1, 2.5, null, off]\n"
    expected = {"a": "2024-01-01", "b": "2001-12-14T21:59:43Z", "8080": "x", "true": "y", "c": [1, 2.5, None, False]}
    assert decode_body(text, "application/yaml") == expected


def test_aliases_of_yaml_may_not_stand_for_everything() -> None:
    """The "billion laughs": each line stands for nine times the one before."""
    lines = ["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]
    with pytest.raises(StatusError, match="aliases stand for too much"):
        decode_body("\n".join(lines).encode(), "application/yaml")
    assert decode_body(b"a: &x {k: v}\nb: [*x, *x]", "application/yaml")["b"] == [{"k": "v"}, {"k": "v"}]


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"a": NaN}', b"[" * 50_000, b""])
def test_json_that_is_none(content: bytes) -> None:
    with pytest.raises(StatusError) as refused:
        decode_body(content, "application/json")
    assert refused.value.code == 400


def test_media_types() -> None:
    assert media_type_of("Application/JSON; charset=utf-8") == "application/json"
    with pytest.raises(StatusError) as refused:
        decode_object(Target(PODS, "a", "", ""), b"{}", "text/plain", "Warn")
    assert refused.value.code == 415


def test_kind_and_version_may_be_left_out_but_not_wrong() -> None:
    assert check_kind(PODS, {}) == {"apiVersion": "v1", "kind": "Pod", "metadata": {}}
    wrong: list[Any] = [{"kind": "Service"}, {"apiVersion": "v2"}, [], "x", None]
    for obj in wrong:
        with pytest.raises(StatusError):
            check_kind(PODS, obj)


def test_duplicates_are_named_by_their_path() -> None:
    content = b'{"a": 1, "b": [{"c": 1, "c": 2}], "a": {"d": 1, "d": 2}}'
    assert find_duplicates(content) == (
        'duplicate field "a"',
        'duplicate field "a.d"',
        'duplicate field "b[0].c"',
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_json_without_duplicates_has_none(value: Any) -> None:
    assert find_duplicates(json.dumps(value).encode()) == ()


# Protobuf


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    encoded = bytearray()
    while True:
        encoded.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(encoded)


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(api_version: str, name: str, raw: bytes) -> bytes:
    return MAGIC + field(1, field(1, api_version) + field(2, name)) + field(2, raw)


@given(
    st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=8), max_size=3),
    st.dictionaries(st.text(min_size=1, max_size=5), st.binary(max_size=8), max_size=3),
    st.booleans(),
)
def test_a_config_map_in_protobuf(data: dict[str, str], binary: dict[str, bytes], immutable: bool) -> None:
    metadata = field(1, "x") + field(3, "ns") + field(11, field(1, "k") + field(2, "v")) + field(14, "a/b")
    raw = field(1, metadata) + field(4, int(immutable)) + field(99, "from the future")
    raw += b"".join(field(2, field(1, key) + field(2, value)) for key, value in data.items())
    raw += b"".join(field(3, field(1, key) + field(2, value)) for key, value in binary.items())
    obj = decode_protobuf(envelope("v1", "ConfigMap", raw))
    assert obj["metadata"] == {"name": "x", "namespace": "ns", "labels": {"k": "v"}, "finalizers": ["a/b"]}
    assert obj.get("data", {}) == data
    assert {key: base64.b64decode(value) for key, value in obj.get("binaryData", {}).items()} == binary
    assert obj["immutable"] is immutable


def test_ports_in_protobuf() -> None:
    ports = (
        field(3, 80) + field(4, field(1, 0) + field(2, 8080)),
        field(3, 81) + field(4, field(1, 1) + field(3, "web")),
    )
    raw = field(2, b"".join(field(1, port) for port in ports) + field(4, "NodePort"))
    spec = decode_protobuf(envelope("v1", "Service", raw))["spec"]
    assert spec == {"ports": [{"port": 80, "targetPort": 8080}, {"port": 81, "targetPort": "web"}], "type": "NodePort"}
    options = decode_protobuf(envelope("v1", "DeleteOptions", field(1, -1) + field(3, 1)))
    assert (options["gracePeriodSeconds"], options["orphanDependents"]) == (-1, True)


def test_questions_in_protobuf() -> None:
    rules = decode_protobuf(envelope("authorization.k8s.io/v1", "SelfSubjectRulesReview", field(2, field(1, "shop"))))
    assert rules["spec"] == {"namespace": "shop"}
    assert (
        decode_protobuf(envelope("authentication.k8s.io/v1", "SelfSubjectReview", b""))["kind"] == "SelfSubjectReview"
    )


@given(st.binary(max_size=40))
def test_protobuf_that_is_none_is_refused_and_no_more(data: bytes) -> None:
    for content in (data, MAGIC + data, envelope("v1", "Service", data)):
        try:
            decoded: JSON = decode_protobuf(content)
        except ValueError:
            continue
        assert decoded["kind"]


def test_protobuf_refusals() -> None:
    with pytest.raises(ProtobufError, match="cut short"):
        decode_protobuf(envelope("v1", "ConfigMap", b"\x0a\xff"))
    with pytest.raises(StatusError) as refused:
        decode_body(envelope("apps/v1", "ReplicaSet", b""), MEDIA_TYPE)
    assert refused.value.code == 415
