"""Discovering Services: names and environment variables, as a pod sees them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.config import Config
from agent.telemetry import (
    DNS_SAW,
    ENDPOINTS_SAW,
    PROXY_SAW,
    REQUEST_ACCEPTED,
    RULES_IN_KERNEL,
    SLICE_WRITTEN,
    STEPS,
    read_timeline,
)
from tests.harness.node import NODE_IP, Node, command, eventually
from tests.harness.objects import echo_replicaset, service
from tests.traffic.test_services_traffic import cluster_ip, pods, wait_endpoints


@pytest.fixture(scope="module")
def named(node: Node) -> Iterator[Node]:
    """The Service is there before the pods, as the document has it: environment variables are set at a pod's start."""
    headless = service("headless", {"name": "http", "port": 8080}, app="named", clusterIP="None")
    external = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "elsewhere"}}
    external["spec"] = {"type": "ExternalName", "externalName": "go-demo-2-db.default.svc.cluster.local"}
    database = service("go-demo-2-db", {"port": 27017, "targetPort": "http"}, app="named")
    node.apply(database, headless, external)
    node.apply(echo_replicaset("named", 2))
    wait_endpoints(node, "go-demo-2-db", 2)
    yield node
    node.kubectl("delete", "rs/named", "svc/headless", "svc/elsewhere", "svc/go-demo-2-db")


def in_pod(node: Node, *argv: str) -> str:
    return node.kubectl("exec", pods(node, "named")[0], "--", *argv)


def dig(node: Node, *argv: str) -> list[str]:
    """A real resolver in a pod's namespace, through the ClusterIP of kube-dns."""
    netns = node.pod_netns(pods(node, "named")[0])
    return command("ip", "netns", "exec", netns, "dig", "@10.96.0.10", "+short", *argv).split()


def test_getent_finds_a_service_by_its_short_name(named: Node) -> None:
    address = cluster_ip(named, "go-demo-2-db")
    for name in ("go-demo-2-db", "go-demo-2-db.default", "go-demo-2-db.default.svc.cluster.local"):
        assert in_pod(named, "getent", "hosts", name).split()[0] == address


def test_resolv_conf_is_the_clusters(named: Node) -> None:
    lines = in_pod(named, "cat", "/etc/resolv.conf").splitlines()
    assert "nameserver 10.96.0.10" in lines
    assert "options ndots:5" in lines
    (search,) = [line for line in lines if line.startswith("search ")]
    assert search.startswith("search default.svc.cluster.local svc.cluster.local cluster.local")


def test_headless_names_are_the_pods(named: Node) -> None:
    ips = {named.get("pod", pod)["status"]["podIP"] for pod in pods(named, "named")}
    assert set(dig(named, "headless.default.svc.cluster.local")) == ips
    assert set(dig(named, "+tcp", "headless.default.svc.cluster.local")) == ips


def test_srv_ptr_and_external_names(named: Node) -> None:
    address = cluster_ip(named, "go-demo-2-db")
    srv = dig(named, "SRV", "_http._tcp.headless.default.svc.cluster.local")
    assert srv.count("8080") == 2
    assert dig(named, "-x", address) == ["go-demo-2-db.default.svc.cluster.local."]
    assert dig(named, "elsewhere.default.svc.cluster.local")[-1] == address


def test_an_unknown_name_does_not_exist(named: Node) -> None:
    netns = named.pod_netns(pods(named, "named")[0])
    said = command("ip", "netns", "exec", netns, "dig", "@10.96.0.10", "no-such.default.svc.cluster.local")
    assert "status: NXDOMAIN" in said


def test_a_new_service_is_known_by_name_soon(named: Node) -> None:
    named.apply(service("brand-new", app="named"))
    address = cluster_ip(named, "brand-new")
    eventually(lambda: dig(named, "brand-new.default.svc.cluster.local") == [address])
    named.kubectl("delete", "svc/brand-new")
    eventually(lambda: dig(named, "brand-new.default.svc.cluster.local") == [])


def test_in_the_sequence_no_effect_comes_before_its_cause(named: Node) -> None:
    """Each process notes its own moments; the clock is the machine's, so they can be compared."""
    services = [f"sequence-{n}" for n in range(5)]
    named.apply(*(service(name, {"port": 80, "targetPort": 8080}, app="named") for name in services))
    try:
        for name in services:
            at = eventually(lambda name=name: marks_of(named, name))  # type: ignore[misc]
            first, *effects = (at[step] for step in (REQUEST_ACCEPTED, ENDPOINTS_SAW, SLICE_WRITTEN, PROXY_SAW))
            assert effects == sorted(effects)
            assert first <= min(effects[0], at[DNS_SAW])
            assert at[PROXY_SAW] <= at[RULES_IN_KERNEL]
    finally:
        named.kubectl("delete", "svc", *services)


def marks_of(node: Node, name: str) -> dict[str, float]:
    """When each step happened; {} while one is missing."""
    marks = read_timeline(Config(node_name="x", state_dir=node.state_dir).paths.timeline)
    at = {mark.step: mark.at for mark in marks if mark.name == name}
    return at if set(STEPS) <= at.keys() else {}


def test_the_node_asks_its_own_port_53(named: Node) -> None:
    said = command(
        "ip", "netns", "exec", named.netns, "dig", f"@{NODE_IP}", "+short", "go-demo-2-db.default.svc.cluster.local"
    )
    assert said.strip() == cluster_ip(named, "go-demo-2-db")


def test_environment_variables_in_both_formats(named: Node) -> None:
    address = cluster_ip(named, "go-demo-2-db")
    have = set(named.kubectl("exec", pods(named, "named")[0], "--", "env").splitlines())
    assert {
        f"GO_DEMO_2_DB_PORT=tcp://{address}:27017",
        f"GO_DEMO_2_DB_PORT_27017_TCP_ADDR={address}",
        "GO_DEMO_2_DB_PORT_27017_TCP_PROTO=tcp",
        "GO_DEMO_2_DB_PORT_27017_TCP_PORT=27017",
        f"GO_DEMO_2_DB_PORT_27017_TCP=tcp://{address}:27017",
        f"GO_DEMO_2_DB_SERVICE_HOST={address}",
        "GO_DEMO_2_DB_SERVICE_PORT=27017",
    } <= have
    assert "KUBERNETES_SERVICE_HOST=10.96.0.1" in have
