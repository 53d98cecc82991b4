"""API objects as servers send them, down to the dataplane's values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.kube.informer import Change, Key
from agent.proxy.decode import OwnedSlice, OwnNode, decode_node, decode_service, decode_slice
from agent.proxy.options import Options
from agent.proxy.world import World
from rules.snapshot import (
    Endpoint,
    EndpointSlice,
    LoadBalancerIngress,
    Node,
    Service,
    ServiceName,
    ServicePort,
    Settings,
    SlicePort,
    Snapshot,
)

WEB = ServiceName("default", "web")


def encode(**fields: Any) -> bytes:
    return json.dumps({"metadata": {"name": "web", "namespace": "default"}, **fields}).encode()


def test_a_full_service() -> None:
    data = encode(
        metadata={"name": "web", "namespace": "default", "uid": "u1", "labels": {"a": "b"}, "managedFields": [{}]},
        spec={
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10", "fd00::a"],
            "externalIPs": ["198.51.100.1"],
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30001, "protocol": "TCP"}],
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "healthCheckNodePort": 32000,
        },
        status={"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "Proxy"}, {"hostname": "lb"}]}},
    )
    assert decode_service(data) == Service(
        name=WEB,
        type="LoadBalancer",
        cluster_ips=("10.96.0.10", "fd00::a"),
        ports=(ServicePort(80, "http", "TCP", 30001),),
        external_ips=("198.51.100.1",),
        load_balancer=(LoadBalancerIngress("203.0.113.1", "Proxy"), LoadBalancerIngress("")),
        source_ranges=("10.0.0.0/8",),
        internal_traffic_policy="Local",
        external_traffic_policy="Local",
        affinity_seconds=60,
        health_check_node_port=32000,
        labels={"a": "b"},
        uid="u1",
    )


def test_an_old_or_sparse_service() -> None:
    data = encode(spec={"clusterIP": "10.96.0.10", "ports": [{"port": 80}], "externalIPs": None}, status={})
    assert decode_service(data) == Service(name=WEB, cluster_ips=("10.96.0.10",), ports=(ServicePort(80),))
    assert decode_service(encode(spec=None, status={"loadBalancer": {"ingress": None}})) == Service(name=WEB)


@pytest.mark.parametrize("config", [None, {}, {"clientIP": None}, {"clientIP": {"timeoutSeconds": None}}])
def test_affinity_has_a_default(config: object) -> None:
    data = encode(spec={"sessionAffinity": "ClientIP", "sessionAffinityConfig": config})
    assert decode_service(data).affinity_seconds == 10800


@pytest.mark.parametrize("data", [b"", b"[]", encode(spec={"ports": "none"}), encode(spec={"ports": [{}]})])
def test_what_is_no_service(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expected|required|truncated"):
        decode_service(data)


LABELS = {"kubernetes.io/service-name": "web"}


def test_a_full_slice() -> None:
    data = encode(
        metadata={
            "name": "web-1",
            "namespace": "default",
            "labels": LABELS,
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "1970-01-01T00:01:00.5Z"},
        },
        addressType="IPv4",
        ports=[{"name": "", "port": 8080, "protocol": "TCP"}, {"name": "any", "port": None}],
        endpoints=[
            {
                "addresses": ["10.244.0.1", "10.244.0.99"],
                "conditions": {"ready": False, "serving": True, "terminating": True},
                "nodeName": "here",
                "zone": "east",
                "hints": {"forZones": [{"name": "east"}], "forNodes": [{"name": "here"}]},
                "targetRef": {"kind": "Pod"},
            },
            {"addresses": ["10.244.0.2"], "hints": None},
            {"addresses": []},
        ],
    )
    assert decode_slice(data) == OwnedSlice(
        WEB,
        EndpointSlice(
            "web-1",
            "IPv4",
            (SlicePort(8080), SlicePort(None, "any")),
            (
                Endpoint(
                    "10.244.0.1",
                    ready=False,
                    serving=True,
                    terminating=True,
                    node="here",
                    zone="east",
                    zone_hints=("east",),
                    node_hints=("here",),
                ),
                Endpoint("10.244.0.2"),
            ),
        ),
        triggered=60.5,
    )


def test_a_slice_of_nobody() -> None:
    data = encode(addressType="IPv4", endpoints=None, ports=None)
    assert decode_slice(data) == OwnedSlice(None, EndpointSlice("web"))


@pytest.mark.parametrize("text", ["", "yesterday", "2020-13-01T00:00:00Z"])
def test_a_time_that_is_none(text: str) -> None:
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": text}
    assert decode_slice(encode(metadata={"name": "x", "annotations": annotations})).triggered is None


def test_a_node() -> None:
    data = encode(
        metadata={"name": "here", "labels": {"topology.kubernetes.io/zone": "east"}},
        status={
            "addresses": [
                {"type": "Hostname", "address": "here"},
                {"type": "ExternalIP", "address": "203.0.113.9"},
                {"type": "InternalIP", "address": "192.0.2.2"},
                {"type": "InternalIP", "address": "2001:db8::2"},
            ]
        },
    )
    assert decode_node(data) == OwnNode(Node("here", ("192.0.2.2", "2001:db8::2", "203.0.113.9"), "east"))
    assert decode_node(encode(status=None)) == OwnNode(Node("web"))


TAINT = {"key": "ToBeDeletedByClusterAutoscaler", "value": "1700000000", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("fields", "eligible"),
    [
        ({"spec": None}, True),
        ({"spec": {"taints": None}}, True),
        ({"spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]}}, True),
        ({"spec": {"taints": [{"key": "other", "effect": "NoSchedule"}, TAINT]}}, False),
        ({"metadata": {"name": "here", "deletionTimestamp": "2026-01-01T00:00:00Z"}}, False),
        ({"metadata": {"name": "here", "deletionTimestamp": None}}, True),
    ],
)
def test_a_node_that_is_about_to_go_is_not_eligible(fields: dict[str, Any], eligible: bool) -> None:
    assert decode_node(encode(**fields)).eligible is eligible


# The world: what informers know.


def owned(name: str, service: ServiceName | None, address: str = "10.244.0.1") -> OwnedSlice:
    return OwnedSlice(service, EndpointSlice(name, endpoints=(Endpoint(address),)))


def test_slices_are_grouped_by_service() -> None:
    world = World("here", Settings())
    other = ServiceName("default", "other")
    one, two, stray = owned("s1", WEB), owned("s2", WEB), owned("s3", None)
    assert world.take_slice(Change(Key("default", "s2"), None, two)) == {WEB}
    assert world.take_slice(Change(Key("default", "s1"), None, one)) == {WEB}
    assert world.take_slice(Change(Key("default", "s3"), None, stray)) == set()
    assert world.snapshot().slices == {WEB: (one.value, two.value)}
    moved = owned("s1", other)
    assert world.take_slice(Change(Key("default", "s1"), one, moved)) == {WEB, other}
    assert world.snapshot().slices == {WEB: (two.value,), other: (moved.value,)}
    world.take_slice(Change(Key("default", "s2"), two, None))
    world.take_slice(Change(Key("default", "s1"), moved, None))
    assert world.snapshot() == Snapshot(Node("here"))


def test_a_service_is_known_with_its_endpoints() -> None:
    world = World("here", Settings())
    service = Service(WEB, uid="u1")
    assert world.take_service(Change(Key("default", "web"), None, service)) == WEB
    assert not world.knows(WEB)
    world.take_slice(Change(Key("default", "s1"), None, owned("s1", WEB)))
    assert world.knows(WEB)
    assert world.uid(WEB) == "u1"
    before = world.snapshot()
    world.take_service(Change(Key("default", "web"), service, None))
    assert not world.knows(WEB)
    assert world.uid(WEB) == ""
    assert before.services == {WEB: service}  # a snapshot does not change


def test_only_this_node_matters() -> None:
    world = World("here", Settings())
    here = OwnNode(Node("here", ("192.0.2.2",)))
    other = OwnNode(Node("other"), eligible=False)
    assert not world.take_node(Change(Key("", "other"), None, other))
    assert world.node_eligible
    assert world.take_node(Change(Key("", "here"), None, here))
    assert not world.take_node(Change(Key("", "here"), here, OwnNode(Node("here", ("192.0.2.2",)))))
    assert not world.take_node(Change(Key("", "here"), here, None))
    assert world.snapshot().node == here.node


def test_a_node_that_is_leaving_changes_no_rule() -> None:
    world = World("here", Settings())
    here = OwnNode(Node("here", ("192.0.2.2",)))
    leaving = OwnNode(here.node, eligible=False)
    world.take_node(Change(Key("", "here"), None, here))
    assert world.node_eligible
    assert not world.take_node(Change(Key("", "here"), here, leaving))
    assert not world.node_eligible
    assert not world.take_node(Change(Key("", "here"), leaving, here))  # the autoscaler thought better of it
    assert world.node_eligible
    world.take_node(Change(Key("", "here"), here, None))
    assert not world.node_eligible
    assert world.snapshot().node == here.node


def test_egress_is_masqueraded_only_if_asked_for() -> None:
    options = Options("here", cluster_cidrs=("10.244.0.0/16",), egress_cidrs=("10.244.0.0/24",))
    assert options.settings.egress_cidrs == ()
    asked = Options("here", egress_cidrs=("10.244.0.0/24",), masquerade_egress=True)
    assert asked.settings.egress_cidrs == ("10.244.0.0/24",)
