"""SOURCE and TARGET of ``podwire trace``: what words mean, and what is said of those that mean nothing."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from agent.cli.tracing.node import TraceFailure
from agent.cli.tracing.places import (
    Pod,
    Source,
    Target,
    Words,
    parse_pod,
    parse_words,
    resolve_source,
    resolve_target,
)
from rules.policy import resolve_frontends
from rules.snapshot import Family, Node, Service, ServiceName, ServicePort, Snapshot

PORTS = (ServicePort(80, "http", "TCP", 30080), ServicePort(53, "dns", "UDP"), ServicePort(53, "dns-tcp", "TCP"))
WEB = Service(ServiceName("default", "web"), "NodePort", ("10.96.0.10", "fd00:96::10"), PORTS)
ONE = Service(ServiceName("shop", "one"), cluster_ips=("10.96.0.11",), ports=(ServicePort(90, protocol="UDP"),))
DB = Service(ServiceName("default", "db"), cluster_ips=("None",), ports=(ServicePort(27017),))
SNAPSHOT = Snapshot(Node("here", ("192.0.2.2",)), services={service.name: service for service in (WEB, ONE, DB)})
POD = Pod("default", "web-1", "u1", "here", ("10.244.0.2", "fd00:244::2"), ports=(("http", 8080, "TCP"),))
PODS = (
    POD,
    Pod("default", "web", "u2", "here", ("10.244.0.3",), ports=(("a", 1, "TCP"), ("b", 2, "UDP"))),
    Pod("default", "young", "u3", "here"),
    Pod("default", "net.tools", "u4", "here", ("10.244.0.5",)),
    Pod("default", "hosted", "u5", "here", ("192.0.2.2",), host_network=True),
)


class Fake:
    def find_pod(self, namespace: str, name: str) -> Pod | None:
        return next((pod for pod in PODS if (pod.namespace, pod.name) == (namespace, name)), None)

    def pods_here(self) -> Iterable[Pod]:
        return PODS


def target(text: str) -> Target:
    frontends = resolve_frontends(SNAPSHOT)
    return resolve_target(
        parse_words(text), snapshot=SNAPSHOT, frontends=frontends, objects=Fake(), namespace="default"
    )


def source(text: str, family: Family = Family.IPV4) -> Source:
    return resolve_source(parse_words(text), family=family, objects=Fake(), local={"192.0.2.2"}, namespace="default")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("svc/web", Words("service", "", "web")),
        ("service/shop/one:90/UDP", Words("service", "shop", "one", "90", "udp")),
        ("po/web-1:http", Words("pod", "", "web-1", "http")),
        ("shop/one", Words("", "shop", "one")),
        ("shop/one:53/tcp", Words("", "shop", "one", "53", "tcp")),
        ("svc/udp:53", Words("service", "", "udp", "53")),
        ("pod/tcp", Words("pod", "", "tcp")),
        ("node:30080/sctp", Words("node", "", "node", "30080", "sctp")),
        ("outside", Words("outside", "", "outside")),
        ("10.96.0.10:80", Words("address", "", "10.96.0.10", "80")),
        ("fd00::0a", Words("address", "", "fd00::a")),
        ("[fd00::a]:80/udp", Words("address", "", "fd00::a", "80", "udp")),
        ("[fd00::a]", Words("address", "", "fd00::a")),
        ("web.default.svc.cluster.local:80", Words("", "", "web.default.svc.cluster.local", "80")),
    ],
)
def test_words(text: str, words: Words) -> None:
    assert parse_words(text) == words


@pytest.mark.parametrize("text", ["", ":80", "web:", "a:b:c", "[fd00::a]80"])
def test_no_words(text: str) -> None:
    with pytest.raises(TraceFailure, match="cannot read"):
        parse_words(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("svc/web:80", Target("Service default/web", "10.96.0.10", 80, "tcp")),
        ("web:http", Target("Service default/web", "10.96.0.10", 80, "tcp")),
        ("web:dns", Target("Service default/web", "10.96.0.10", 53, "udp")),
        ("web:53", Target("Service default/web", "10.96.0.10", 53, "tcp")),
        ("web:53/udp", Target("Service default/web", "10.96.0.10", 53, "udp")),
        ("web/udp", Target("Service default/web", "10.96.0.10", 53, "udp")),
        ("shop/one", Target("Service shop/one", "10.96.0.11", 90, "udp")),
        ("one.shop", Target("Service shop/one", "10.96.0.11", 90, "udp")),
        ("svc/one.shop.svc", Target("Service shop/one", "10.96.0.11", 90, "udp")),
        ("one.shop.svc.cluster.local.", Target("Service shop/one", "10.96.0.11", 90, "udp")),
        ("pod/web-1", Target("pod default/web-1", "10.244.0.2", 8080, "tcp")),
        ("web-1:http", Target("pod default/web-1", "10.244.0.2", 8080, "tcp")),
        ("web-1:99/udp", Target("pod default/web-1", "10.244.0.2", 99, "udp")),
        ("pod/web:b", Target("pod default/web", "10.244.0.3", 2, "udp")),
        ("net.tools:7", Target("pod default/net.tools", "10.244.0.5", 7, "tcp")),
        ("node:30080", Target("node here", "192.0.2.2", 30080, "tcp")),
        ("203.0.113.5:443/udp", Target("", "203.0.113.5", 443, "udp")),
    ],
)
def test_targets(text: str, found: Target) -> None:
    assert target(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web", "Service default/web has several ports: it has 80/TCP .http., 53/UDP .dns., 53/TCP"),
        ("web:81", "has no port 81: it has 80/TCP"),
        ("web:80/udp", "has no port 80/udp: it has"),
        ("web:30080", "30080 is the NodePort of default/web: trace to node:30080"),
        ("svc/db", "Service default/db has no rules: headless.*trace to one of its pods"),
        ("svc/wep:80", "there is no Service default/wep; did you mean web?"),
        ("pod/web-2:80", "there is no pod default/web-2; did you mean web-1"),
        ("nothing-like-it:80", "there is no Service or pod default/nothing-like-it$"),
        ("young:80", "pod default/young has no address yet"),
        ("pod/web", "it has no port; give :PORT"),
        ("node", "cannot trace to node: it has no port"),
        ("10.0.0.1:http", "'http' is no port"),
        ("10.0.0.1:65536", "'65536' is no port"),
        ("outside:80", "give the address of somebody there"),
    ],
)
def test_what_is_no_target(text: str, message: str) -> None:
    with pytest.raises(TraceFailure, match=message):
        target(text)


def test_a_node_without_addresses() -> None:
    nameless = Snapshot(Node("here"))
    with pytest.raises(TraceFailure, match="knows no address of node here"):
        resolve_target(
            parse_words("node:80"),
            snapshot=nameless,
            frontends=resolve_frontends(nameless),
            objects=Fake(),
            namespace="default",
        )


def test_sources() -> None:
    assert source("web-1") == source("pod/web-1") == source("default/web-1") == source("10.244.0.2")
    assert source("web-1") == Source("pod", "pod default/web-1", "10.244.0.2", POD)
    assert source("web-1", Family.IPV6).address == "fd00:244::2"
    assert source("node") == Source("node", "this node itself")
    assert source("192.0.2.2") == Source("node", "this node itself", "192.0.2.2")
    assert source("hosted").kind == "node"
    assert source("outside") == Source("outside", "somebody outside")
    assert source("203.0.113.7") == Source("address", "somebody", "203.0.113.7")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web-1:80", "a source has no port"),
        ("svc/web", "a Service sends nothing"),
        ("web-2", "there is no pod default/web-2; did you mean web-1.*; a source is a pod"),
        ("young", "pod default/young has no IPv4 address yet"),
        ("fd00::1", "of the other IP family"),
    ],
)
def test_what_is_no_source(text: str, message: str) -> None:
    with pytest.raises(TraceFailure, match=message):
        source(text)


def test_a_pod_from_its_object() -> None:
    ports = [{"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]
    obj = {
        "metadata": {"namespace": "default", "name": "web-1", "uid": "u1"},
        "spec": {"nodeName": "here", "containers": [{"ports": ports}, {}]},
        "status": {"podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}, {"ip": "fd00::2"}]},
    }
    found = Pod(
        "default", "web-1", "u1", "here", ("10.244.0.2", "fd00::2"), ports=(("http", 8080, "TCP"), ("", 53, "UDP"))
    )
    assert parse_pod(obj) == found
    assert parse_pod({"metadata": {"name": "x"}, "spec": {"hostNetwork": True}}) == Pod("", "x", host_network=True)
    assert parse_pod({"metadata": {"name": "x"}, "status": {"podIP": "10.0.0.1"}}).addresses == ("10.0.0.1",)
