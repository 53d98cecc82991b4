"""What verbs decide before they write: how an object goes, who owns what, what is forgotten."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.apiserver import objects
from agent.apiserver.api import load
from agent.apiserver.apply import Owned, fields_of, merge, read_managed, remove, render_managed, show, value_of
from agent.apiserver.deletion import mark
from agent.apiserver.paths import Target
from agent.apiserver.query import DeleteOptions
from agent.apiserver.registry import JSON, Kind, find_kind
from agent.apiserver.retention import remove_events
from agent.apiserver.shapes import shape_of
from agent.apiserver.status import StatusError
from agent.apiserver.streams import choose_container, kubelet_address
from agent.apiserver.subresources import render_selector
from agent.apiserver.watchcache import WatchCache
from agent.apiserver.write import may_vanish
from agent.config import Config
from agent.store.sqlite import open_sqlite
from agent.telemetry import Timeline


def kind(plural: str, group: str = "") -> Kind:
    found = find_kind(group, "v1", plural)
    assert found is not None
    return found


PODS, CONFIGMAPS, NAMESPACES, REPLICASETS = (
    kind("pods"),
    kind("configmaps"),
    kind("namespaces"),
    kind("replicasets", "apps"),
)


# Going


def pod(*, node: str = "n", phase: str = "Running", grace: int | None = 30, **metadata: object) -> JSON:
    spec: JSON = {"nodeName": node} if node else {}
    if grace is not None:
        spec["terminationGracePeriodSeconds"] = grace
    return {
        "metadata": {"name": "p", "uid": "u", "generation": 1, **metadata},
        "spec": spec,
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    ("obj", "asked", "seconds"),
    [
        (pod(), None, 30),
        (pod(grace=7), None, 7),
        (pod(grace=None), None, 30),
        (pod(), 3, 3),
        (pod(), 0, 0),
        (pod(), -5, 1),
        (pod(node=""), None, 0),
        (pod(node=""), 60, 0),
        (pod(phase="Failed"), None, 0),
        (pod(phase="Succeeded"), 60, 0),
        (pod(grace=0), None, 0),
    ],
)
def test_the_grace_of_a_pod(obj: JSON, asked: int | None, seconds: int) -> None:
    before = deepcopy(obj)
    marked = mark(PODS, obj, DeleteOptions(grace=asked))
    assert marked["metadata"]["deletionGracePeriodSeconds"] == seconds
    assert marked["metadata"]["generation"] == 2
    assert may_vanish(PODS, marked) is (seconds == 0)
    left = datetime.fromisoformat(marked["metadata"]["deletionTimestamp"]) - datetime.now(UTC)
    assert seconds - 2 <= left.total_seconds() <= seconds
    assert obj == before


GOING = pod(deletionTimestamp="2024-01-01T00:01:00Z", deletionGracePeriodSeconds=30)


@pytest.mark.parametrize(
    ("asked", "grace", "moment"),
    [
        (None, 30, "2024-01-01T00:01:00Z"),
        (30, 30, "2024-01-01T00:01:00Z"),
        (99, 30, "2024-01-01T00:01:00Z"),
        (10, 10, "2024-01-01T00:00:40Z"),
        (0, 0, "2024-01-01T00:00:30Z"),
    ],
)
def test_a_second_deletion_only_shortens(asked: int | None, grace: int, moment: str) -> None:
    metadata = mark(PODS, GOING, DeleteOptions(grace=asked))["metadata"]
    assert (metadata["deletionGracePeriodSeconds"], metadata["deletionTimestamp"]) == (grace, moment)
    assert metadata["generation"] == 1


@pytest.mark.parametrize(
    ("before", "policy", "after"),
    [
        ([], None, []),
        (["a/b"], None, ["a/b"]),
        ([], "Background", []),
        ([], "Orphan", ["orphan"]),
        (["a/b"], "Foreground", ["a/b", "foregroundDeletion"]),
        (["foregroundDeletion", "a/b"], "Orphan", ["a/b", "orphan"]),
        (["orphan", "a/b"], "Background", ["a/b"]),
        (["orphan"], None, ["orphan"]),
    ],
)
def test_policies(before: list[str], policy: str | None, after: list[str]) -> None:
    obj: JSON = {"metadata": {"name": "x", "finalizers": before}}
    marked = mark(CONFIGMAPS, obj, DeleteOptions(policy=policy))
    assert marked["metadata"].get("finalizers", []) == after
    assert may_vanish(CONFIGMAPS, marked) is (not after)


def test_a_namespace_waits_for_its_own_finalizer() -> None:
    namespace: JSON = {"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
    marked = mark(NAMESPACES, namespace, DeleteOptions())
    assert marked["status"]["phase"] == "Terminating"
    assert not may_vanish(NAMESPACES, marked)
    assert mark(NAMESPACES, marked, DeleteOptions()) == marked
    assert may_vanish(NAMESPACES, {**marked, "spec": {}})
    assert not may_vanish(NAMESPACES, {**namespace, "spec": {}})


# The stored form


@given(st.dictionaries(st.sampled_from(["status", "spec", "data", "kind2", "metadata2"]), st.text(max_size=5)))
def test_the_version_is_cut_in_without_reading(rest: JSON) -> None:
    obj: JSON = {
        **rest,
        "metadata": {"name": "x", "annotations": {"m": '"metadata":{'}},
        "kind": "Pod",
        "apiVersion": "v1",
    }
    stored = objects.encode(PODS, objects.with_version(obj, 3))
    assert b"resourceVersion" not in stored
    assert msgspec.json.decode(objects.render(PODS, stored, 7)) == objects.decode(PODS, stored, 7)
    assert objects.decode(PODS, stored, 7) == objects.with_version(obj, 7)
    assert objects.labels_of(stored) == {}


# Server-side apply

SHAPE = shape_of(PODS)
names = st.sampled_from(["a", "b", "c"])
containers = st.lists(
    st.fixed_dictionaries(
        {"name": names}, optional={"image": st.text(max_size=3), "args": st.lists(st.text(max_size=2), max_size=2)}
    ),
    max_size=3,
    unique_by=lambda item: item["name"],
)
configs = st.builds(
    lambda labels, items: {"metadata": {"labels": labels}, "spec": {"containers": items}},
    st.dictionaries(names, st.text(max_size=3), max_size=3),
    containers,
)


@given(configs, configs)
def test_what_is_applied_is_so(live: JSON, config: JSON) -> None:
    merged = merge(live, config, SHAPE)
    for path in fields_of(config, SHAPE):
        wanted, found = value_of(config, path), value_of(merged, path)
        assert found == wanted or (wanted == {} and isinstance(found, dict))
    for path in fields_of(live, SHAPE) - fields_of(config, SHAPE):
        if value_of(live, path) not in ({}, []):
            assert value_of(merged, path) == value_of(live, path)
    assert merge(merged, config, SHAPE) == merged


@given(configs, configs)
def test_taking_back_leaves_the_rest(first: JSON, second: JSON) -> None:
    before = deepcopy(first)
    merged = merge(first, second, SHAPE)
    items = [path for path in fields_of(second, SHAPE) - fields_of(first, SHAPE) if path[-1] == "."]
    for path in items:
        remove(merged, path)
        assert value_of(merged, path) is None
    for path in fields_of(first, SHAPE):
        assert (value_of(merged, path) is None) is (value_of(merge(first, second, SHAPE), path) is None)
    assert first == before


@given(configs)
def test_owners_are_written_and_read(config: JSON) -> None:
    owned = Owned("me", fields_of(config, SHAPE), "2024-01-01T00:00:00Z")
    entry = render_managed(Target(PODS, "a", "x", ""), owned)
    assert (entry["operation"], entry["fieldsType"]) == ("Apply", "FieldsV1")
    if owned.fields - {()}:
        assert read_managed({"metadata": {"managedFields": [entry]}}) == [owned]


def test_paths_are_shown_as_people_write_them() -> None:
    config = {
        "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 53}]}]},
        "metadata": {"finalizers": ["x"]},
    }
    assert {show(path) for path in fields_of(config, SHAPE)} == {
        '.spec.containers[name="a"]',
        '.spec.containers[name="a"].name',
        '.spec.containers[name="a"].ports[containerPort=53,protocol="TCP"]',
        '.spec.containers[name="a"].ports[containerPort=53,protocol="TCP"].containerPort',
        '.metadata.finalizers[="x"]',
    }


# Small things


def test_selectors_as_text() -> None:
    selector = {
        "matchLabels": {"b": "2", "a": "1"},
        "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["y", "x"]},
            {"key": "d", "operator": "NotIn", "values": ["z"]},
            {"key": "e", "operator": "Exists"},
            {"key": "f", "operator": "DoesNotExist"},
        ],
    }
    assert render_selector(selector) == "!f,a=1,b=2,c in (x,y),d notin (z),e"
    assert render_selector({}) == ""


def test_containers() -> None:
    one: JSON = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}
    two: JSON = {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
    }
    assert choose_container(one, "") == "a"
    assert choose_container(two, "i") == "i"
    with pytest.raises(StatusError, match=r"choose one of: \[a b\] or one of the init containers: \[i\]"):
        choose_container(two, "")
    with pytest.raises(StatusError, match="container z is not valid for pod p"):
        choose_container(one, "z")


def test_where_a_kubelet_is() -> None:
    def node(*addresses: tuple[str, str], **status: object) -> JSON:
        entries = [{"type": name, "address": address} for name, address in addresses]
        return {"metadata": {"name": "n"}, "status": {"addresses": entries, **status}}

    port = {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1234}}}
    assert kubelet_address(node(("Hostname", "n"), ("InternalIP", "192.0.2.1"), **port)) == "192.0.2.1:1234"
    assert kubelet_address(node(("InternalIP", "2001:db8::1"))) == "[2001:db8::1]:10250"
    with pytest.raises(StatusError, match="node n has not told its address"):
        kubelet_address(node(("Hostname", "n")))


def test_the_watch_cache_makes_a_thing_once_and_forgets_the_oldest() -> None:
    cache, made = WatchCache(limit=2), []

    def make(key: int) -> int:
        return cache.get(key, lambda: made.append(key) or key)  # type: ignore[func-returns-value]

    assert [make(1), make(1), make(2), make(3), make(2), make(1)] == [1, 1, 2, 3, 2, 1]
    assert made == [1, 2, 3, 1]


async def test_old_events_go(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "store.db")
    api = await load(store, Config(state_dir=tmp_path), Timeline(None))
    events = kind("events")
    written: dict[str, JSON] = {
        "old": {"lastTimestamp": "2024-01-01T00:00:00Z"},
        "counted": {"lastTimestamp": "2024-01-01T02:00:00Z"},
        "new": {"eventTime": "2024-01-01T02:00:00.123456Z", "lastTimestamp": None},
        "bare": {},
    }
    for name, moments in written.items():
        metadata = {"name": name, "creationTimestamp": "2024-01-01T00:00:00Z"}
        event = {"apiVersion": "v1", "kind": "Event", "metadata": metadata, **moments}
        await store.create(Target(events, "a", name, "").key, objects.encode(events, event))
    assert await remove_events(api, before=datetime(2024, 1, 1, 1, tzinfo=UTC)) == 2
    assert [item.key for item in (await store.list("events/")).items] == ["events/a/counted", "events/a/new"]
    await store.close()
