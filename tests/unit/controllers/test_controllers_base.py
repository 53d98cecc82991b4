"""Base objects, namespaces, node lifecycle, decoding, expectations: the small decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config import Config
from agent.controllers.consistency import Expectations
from agent.controllers.discovery import Resource, _ResourceList, resolve_resources
from agent.controllers.lifecycle import Verdict, resolve_verdict
from agent.controllers.namespaces import deletion_phases, describe_remaining, render_root_ca
from agent.controllers.objects import Condition, Meta, Node, NodeStatus, Pod, ReplicaSet, decoder
from agent.controllers.services import Repair, includes, render_base, resolve_repair, without_absent
from agent.kube.client import KubeError
from agent.kube.informer import Key
from tests.harness.controller_objects import pod

CONFIG = Config(state_dir=Path("/nowhere"), node_name="n1", node_ip="192.0.2.2")
BASE = {base.path: base.body for base in render_base(CONFIG)}
DNS = "/api/v1/namespaces/kube-system/services/kube-dns"


def test_base_objects() -> None:
    assert list(BASE) == [
        "/api/v1/namespaces/default",
        "/api/v1/namespaces/kube-system",
        "/api/v1/namespaces/kube-public",
        "/api/v1/namespaces/kube-node-lease",
        "/api/v1/namespaces/default/services/kubernetes",
        "/api/v1/namespaces/default/endpoints/kubernetes",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        DNS,
        "/api/v1/namespaces/kube-system/endpoints/kube-dns",
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns",
    ]
    assert BASE["/api/v1/namespaces/default/services/kubernetes"]["spec"]["clusterIP"] == "10.96.0.1"
    dns = BASE["/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns"]
    assert dns["endpoints"] == [{"addresses": ["192.0.2.2"], "conditions": {"ready": True}}]
    assert [(port["name"], port["port"], port["protocol"]) for port in dns["ports"]] == [
        ("dns", 53, "UDP"),
        ("dns-tcp", 53, "TCP"),
    ]
    assert dns["metadata"]["labels"] == {
        "kubernetes.io/service-name": "kube-dns",
        "endpointslice.kubernetes.io/managed-by": "podwire",
    }


def test_a_node_without_an_address_cannot_serve() -> None:
    with pytest.raises(KubeError, match="no node_ip"):
        render_base(Config(node_name="n1"))


def stored(path: str = DNS, **changes: Any) -> dict[str, Any]:
    body = without_absent(BASE[path])
    return {**body, "metadata": {**body["metadata"], "uid": "u1", "resourceVersion": "5"}, **changes}


def test_repairs() -> None:
    wanted = BASE[DNS]
    assert resolve_repair(None, wanted) == Repair("create")
    assert resolve_repair(stored(status={"loadBalancer": {}}), wanted) == Repair("keep")
    assert resolve_repair(stored(spec={**stored()["spec"], "clusterIP": "10.96.0.99"}), wanted) == Repair("recreate")
    selecting = stored(spec={**stored()["spec"], "selector": {"k8s-app": "kube-dns"}})
    repair = resolve_repair(selecting, wanted)
    assert repair.verb == "patch"
    assert repair.patch is not None
    assert repair.patch["spec"]["selector"] is None
    assert repair.patch["metadata"]["uid"] == "u1"
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
    assert resolve_repair(stored(path, endpoints=[]), BASE[path]).verb == "patch"
    assert resolve_repair(stored(path, addressType="IPv6"), BASE[path]).verb == "recreate"


@pytest.mark.parametrize(
    ("found", "wanted", "answer"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": 1}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"x": 1}]}, True),
        ({}, {"a": None}, True),
        ({"a": {}}, {"a": None}, True),
        ({"a": {"b": 1}}, {"a": None}, False),
        (None, {"a": 1}, False),
        ({"a": "x"}, {"a": [1]}, False),
    ],
)
def test_includes(found: Any, wanted: Any, answer: bool) -> None:
    assert includes(found, wanted) is answer


def resource(plural: str, prefix: str = "/api/v1") -> Resource:
    return Resource(prefix, plural, plural.title(), True, frozenset())


def test_pods_go_first() -> None:
    secrets, pods, odd = resource("secrets"), resource("pods"), resource("pods", "/apis/metrics/v1")
    assert deletion_phases([secrets, pods, odd]) == [[pods], [secrets, odd]]


def test_what_remains_is_told() -> None:
    assert describe_remaining({"pods": 2, "events": 1}) == (
        "Some resources are remaining: events has 1 resource instances, pods has 2 resource instances"
    )


def test_the_root_certificate() -> None:
    assert render_root_ca("shop", "PEM")["data"] == {"ca.crt": "PEM"}


def test_discovery_leaves_out_subresources_and_what_cannot_be_listed() -> None:
    answer = {
        "resources": [
            {"name": "pods", "kind": "Pod", "namespaced": True, "verbs": ["list", "watch"]},
            {"name": "pods/log", "kind": "Pod", "namespaced": True, "verbs": ["get"]},
            {"name": "bindings", "kind": "Binding", "namespaced": True, "verbs": ["create"]},
            {"name": "nodes", "kind": "Node", "namespaced": False, "verbs": ["list"]},
        ]
    }
    found = resolve_resources("/api/v1", msgspec.convert(answer, _ResourceList))
    assert [(each.collection, each.namespaced) for each in found] == [("/api/v1/pods", True), ("/api/v1/nodes", False)]


def reporting(**conditions: str) -> Node:
    listed = [Condition(type=kind, status=status) for kind, status in conditions.items()]
    return Node(metadata=Meta(name="n1"), status=NodeStatus(conditions=listed))


def test_a_node_that_is_heard_of_is_left_alone() -> None:
    assert resolve_verdict(reporting(Ready="True"), [pod("a")], silent=15, grace=40) == Verdict(again=25)


def test_a_silent_node_is_unknown_and_its_pods_out_of_service() -> None:
    ready, waiting, done = pod("a"), pod("b", ready=False), pod("c", phase="Succeeded")
    verdict = resolve_verdict(
        reporting(Ready="True", MemoryPressure="False", NetworkUnavailable="False"),
        [ready, waiting, done],
        silent=41,
        grace=40,
    )
    assert verdict == Verdict(unknown=("Ready", "MemoryPressure"), not_ready=(ready,))
    assert resolve_verdict(reporting(), [], silent=41, grace=40).unknown == ("Ready",)
    assert resolve_verdict(reporting(Ready="Unknown"), [], silent=41, grace=40) == Verdict()


# Decoding.


def test_null_means_absent() -> None:
    read = decoder(Pod)
    found = read(
        b'{"metadata":{"name":"a","labels":null,"creationTimestamp":null},"spec":{"containers":[{"ports":null}]}}'
    )
    assert (found.metadata.labels, found.spec.containers[0].ports) == ({}, [])


def test_templates_survive_the_slow_way_too() -> None:
    read = decoder(ReplicaSet)
    found = read(b'{"metadata":{"labels":null},"spec":{"replicas":2,"template":{"spec":{"new":{"field":1}}}}}')
    assert msgspec.json.decode(found.spec.template) == {"spec": {"new": {"field": 1}}}


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="spec"):
        decoder(Pod)(b'{"spec": 7}')


def test_addresses_of_a_pod() -> None:
    assert pod("a", "10.0.0.1").addresses == ["10.0.0.1"]
    assert pod("a", ips=("10.0.0.1", "fd00::1")).addresses == ["10.0.0.1", "fd00::1"]
    only = decoder(Pod)(b'{"status": {"podIP": "10.0.0.1"}}')
    assert only.addresses == ["10.0.0.1"]


# Expectations.


class Cache:
    """As much of an informer as expectations read."""

    def __init__(self) -> None:
        self.version = 5
        self.cache: dict[Key, Pod] = {}


def made(version: str) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": version}}


@pytest.fixture
def expecting() -> tuple[Cache, Expectations[str]]:
    cache = Cache()
    return cache, Expectations(cache)  # type: ignore[arg-type]


def test_waits_until_the_cache_knows_what_was_written(expecting: tuple[Cache, Expectations[str]]) -> None:
    cache, expectations = expecting
    assert expectations.fulfilled("web")
    expectations.wrote("web", made("9"))
    expectations.wrote("web", made("7"))
    assert not expectations.fulfilled("web")
    assert expectations.fulfilled("db"), "each key waits for itself"
    cache.version = 8
    assert not expectations.fulfilled("web")
    cache.version = 9
    assert expectations.fulfilled("web")
    cache.version = 0
    assert expectations.fulfilled("web"), "once is enough"


def test_waits_until_what_was_deleted_goes(expecting: tuple[Cache, Expectations[str]]) -> None:
    cache, expectations = expecting
    first, second, third = pod("a"), pod("b"), pod("c")
    cache.cache = {each.metadata.key: each for each in (first, second, third)}
    for each in (first, second, third):
        expectations.deleted("web", each)
    assert not expectations.fulfilled("web")
    del cache.cache[first.metadata.key]
    cache.cache[second.metadata.key] = pod("b", terminating=True)
    assert not expectations.fulfilled("web")
    cache.cache[third.metadata.key] = msgspec.structs.replace(third, metadata=Meta(name="c", uid="another"))
    assert expectations.fulfilled("web"), "gone, going, or another one by now"


def test_patience_ends(expecting: tuple[Cache, Expectations[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    _, expectations = expecting
    monkeypatch.setattr("agent.controllers.consistency.PATIENCE", -1.0)
    expectations.wrote("web", made("999"))
    assert expectations.fulfilled("web")
