"""The table of kinds: names, lookups, field selectors, and the two spellings of an Event."""

from typing import Any

import pytest

from agent.apiserver.registry import (
    KINDS,
    REVIEWS,
    SUBRESOURCES,
    event_from_core,
    event_to_core,
    find_by_storage,
    find_kind,
    value_at,
)

CORE_EVENT = {
    "apiVersion": "v1",
    "kind": "Event",
    "metadata": {"name": "web.1", "namespace": "default"},
    "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "uid": "u1"},
    "reason": "Pulled",
    "message": "image is there",
    "source": {"component": "kubelet", "host": "n1"},
    "firstTimestamp": "2024-01-01T00:00:00Z",
    "lastTimestamp": "2024-01-01T00:01:00Z",
    "count": 2,
    "reportingComponent": "kubelet",
    "reportingInstance": "n1",
    "type": "Normal",
}


def test_kinds_are_found_by_group_version_and_plural() -> None:
    for kind in KINDS:
        assert find_kind(kind.group, kind.version, kind.plural) is kind
    assert find_kind("", "v1", "deployments") is None
    assert find_kind("apps", "v1", "pods") is None


def test_every_subresource_is_described() -> None:
    for kind in KINDS + REVIEWS:
        assert kind.subresources <= SUBRESOURCES.keys()


@pytest.mark.parametrize(
    ("group", "plural", "api_version", "resource", "root", "list_kind"),
    [
        ("", "services", "v1", "services", "/api/v1", "ServiceList"),
        ("apps", "replicasets", "apps/v1", "replicasets.apps", "/apis/apps/v1", "ReplicaSetList"),
    ],
)
def test_names_derived_from_a_row(
    group: str, plural: str, api_version: str, resource: str, root: str, list_kind: str
) -> None:
    kind = find_kind(group, "v1", plural)
    assert kind is not None
    assert (kind.api_version, kind.resource, kind.root, kind.list_kind) == (api_version, resource, root, list_kind)


def test_both_events_share_one_storage_in_the_core_spelling() -> None:
    core, new = find_kind("", "v1", "events"), find_kind("events.k8s.io", "v1", "events")
    assert core is not None
    assert new is not None
    assert core.storage == new.storage
    assert find_by_storage("events") is core
    assert find_by_storage("nothing") is None
    storages = [kind.storage for kind in KINDS]
    assert [name for name in storages if storages.count(name) > 1] == ["events", "events"]


def test_an_event_survives_the_round_trip_between_its_spellings() -> None:
    new = event_from_core(CORE_EVENT)
    assert new["apiVersion"] == "events.k8s.io/v1"
    assert new["regarding"]["name"] == "web"
    assert new["note"] == "image is there"
    assert new["deprecatedCount"] == 2
    assert new["reportingController"] == "kubelet"
    assert "message" not in new
    assert "involvedObject" not in new
    assert event_to_core(new) == CORE_EVENT


def test_other_kinds_are_stored_as_they_are() -> None:
    pods = find_kind("", "v1", "pods")
    assert pods is not None
    pod = {"kind": "Pod"}
    assert pods.to_storage(pod) is pod
    assert pods.from_storage(pod) is pod


@pytest.mark.parametrize(
    ("group", "plural", "obj", "field", "value"),
    [
        ("", "pods", {"metadata": {"name": "a", "namespace": "b"}}, "metadata.name", "a"),
        ("", "pods", {"metadata": {"name": "a", "namespace": "b"}}, "metadata.namespace", "b"),
        ("", "pods", {"spec": {"nodeName": "n1"}}, "spec.nodeName", "n1"),
        ("", "pods", {"spec": {}}, "spec.nodeName", ""),
        ("", "pods", {"spec": {"restartPolicy": "Never"}}, "spec.restartPolicy", "Never"),
        ("", "pods", {"status": {"phase": "Running"}}, "status.phase", "Running"),
        ("", "pods", {"status": {"podIP": "10.244.0.2"}}, "status.podIP", "10.244.0.2"),
        ("", "pods", {"spec": {"hostNetwork": True}}, "spec.hostNetwork", "true"),
        ("", "pods", {}, "spec.hostNetwork", "false"),
        ("", "services", {"spec": {"clusterIP": "None"}}, "spec.clusterIP", "None"),
        ("", "services", {"spec": {"type": "NodePort"}}, "spec.type", "NodePort"),
        ("", "secrets", {"type": "Opaque"}, "type", "Opaque"),
        ("", "nodes", {"spec": {"unschedulable": True}}, "spec.unschedulable", "true"),
        ("", "nodes", {"spec": {}}, "spec.unschedulable", "false"),
        ("", "namespaces", {"status": {"phase": "Active"}}, "status.phase", "Active"),
        ("apps", "replicasets", {"status": {"replicas": 3}}, "status.replicas", "3"),
        ("apps", "replicasets", {}, "status.replicas", "0"),
        ("", "events", CORE_EVENT, "involvedObject.kind", "Pod"),
        ("", "events", CORE_EVENT, "involvedObject.uid", "u1"),
        ("", "events", CORE_EVENT, "source", "kubelet"),
        ("", "events", {"reportingComponent": "scheduler"}, "source", "scheduler"),
        ("", "events", CORE_EVENT, "reason", "Pulled"),
        ("events.k8s.io", "events", event_from_core(CORE_EVENT), "regarding.name", "web"),
        ("events.k8s.io", "events", event_from_core(CORE_EVENT), "reportingController", "kubelet"),
    ],
)
def test_field_selectors(group: str, plural: str, obj: dict[str, Any], field: str, value: str) -> None:
    kind = find_kind(group, "v1", plural)
    assert kind is not None
    assert kind.field_selectors[field](obj) == value


def test_cluster_scoped_kinds_have_no_namespace_to_select_by() -> None:
    nodes = find_kind("", "v1", "nodes")
    assert nodes is not None
    assert "metadata.namespace" not in nodes.field_selectors


def test_value_at_stops_where_there_is_no_object() -> None:
    assert value_at({"a": {"b": 1}}, "a.b") == 1
    assert value_at({"a": None}, "a.b") is None
    assert value_at({"a": [1]}, "a.b") is None
