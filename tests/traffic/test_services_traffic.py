"""What the document says of Services, one sentence after the other, with real packets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.harness.client import chi_square, count_hostnames, http_get, ping, udp_ask
from tests.harness.node import NODE_IP, OUTSIDE_IP, Node, eventually, inside
from tests.harness.objects import echo_replicaset, service

CHI_SQUARE_2_DF = 13.816  # p = 0.001


@pytest.fixture(scope="module")
def echo(node: Node) -> Iterator[Node]:
    """Three echo pods behind a ClusterIP and NodePort, TCP and UDP."""
    ports = [
        {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080},
        {"name": "udp", "port": 90, "targetPort": "udp", "protocol": "UDP", "nodePort": 30090},
    ]
    objects = [echo_replicaset("echo", 3), service("echo", *ports, type="NodePort")]
    node.apply(*objects)
    wait_endpoints(node, "echo", 3)
    yield node
    node.kubectl("delete", "rs/echo", "svc/echo")


def endpoints(node: Node, name: str) -> set[str]:
    slices = node.get("endpointslices", "-l", f"kubernetes.io/service-name={name}")["items"]
    found = [e for s in slices for e in s["endpoints"] or [] if e["conditions"]["ready"]]
    return {address for endpoint in found for address in endpoint["addresses"]}


def wait_endpoints(node: Node, name: str, count: int) -> set[str]:
    """The ready endpoints of a Service, once there are ``count``."""

    def found() -> set[str] | None:
        now = endpoints(node, name)
        return now if len(now) == count else None

    result = eventually(found)
    assert result is not None
    return result


def cluster_ip(node: Node, name: str) -> str:
    return str(node.get("svc", name)["spec"]["clusterIP"])


def pods(node: Node, app: str) -> list[str]:
    items = node.get("pods", "-l", f"app={app}")["items"]
    return [pod["metadata"]["name"] for pod in items if "deletionTimestamp" not in pod["metadata"]]


def answers(node: Node, address: str, port: int) -> bool:
    try:
        return bool(inside(node.netns, lambda: http_get(address, port, "/hostname", timeout=1)))
    except OSError:
        return False


def test_pods_speak_with_each_other_by_address(echo: Node) -> None:
    first, second = pods(echo, "echo")[:2]
    target = echo.get("pod", second)["status"]["podIP"]
    assert inside(echo.pod_netns(first), lambda: http_get(target, 8080, "/hostname")).strip() == second
    assert inside(echo.pod_netns(first), lambda: ping(target)) < 5


def test_cluster_ip_from_a_pod_keeps_the_pods_address(echo: Node) -> None:
    client = pods(echo, "echo")[0]
    netns, own = echo.pod_netns(client), echo.get("pod", client)["status"]["podIP"]
    address = cluster_ip(echo, "echo")
    seen, sources = set(), set()
    for _ in range(60):
        seen.add(inside(netns, lambda: http_get(address, 80, "/hostname")).strip())
        sources.add(inside(netns, lambda: http_get(address, 80, "/clientip")).split(":")[0])
    assert seen == set(pods(echo, "echo"))
    assert sources == {own, "10.244.0.1"}, "its own address, but for the hairpin to itself"


def test_a_pod_reaches_itself_through_its_service(node: Node) -> None:
    node.apply(echo_replicaset("alone", 1), service("alone"))
    wait_endpoints(node, "alone", 1)
    (pod,) = pods(node, "alone")
    address = cluster_ip(node, "alone")
    eventually(lambda: answers(node, address, 80))
    source = inside(node.pod_netns(pod), lambda: http_get(address, 80, "/clientip")).split(":")[0]
    assert source != node.get("pod", pod)["status"]["podIP"], "a hairpin must be masqueraded, or the pod answers itself"
    node.kubectl("delete", "rs/alone", "svc/alone")


def test_a_thousand_connections_are_spread_evenly(echo: Node) -> None:
    address = cluster_ip(echo, "echo")
    eventually(lambda: answers(echo, address, 80))
    counts = count_hostnames(echo.netns, address, 80, 1000)
    assert counts.total() == 1000
    assert {name.strip() for name in counts} == set(pods(echo, "echo"))
    assert chi_square(counts, 3) < CHI_SQUARE_2_DF, counts


def test_node_port_from_outside_and_from_the_node(echo: Node) -> None:
    counts = count_hostnames(echo.outside, NODE_IP, 30080, 300)
    assert {name.strip() for name in counts} == set(pods(echo, "echo"))
    source = inside(echo.outside, lambda: http_get(NODE_IP, 30080, "/clientip")).split(":")[0]
    assert source != OUTSIDE_IP, "externalTrafficPolicy Cluster masquerades"
    assert inside(echo.netns, lambda: http_get(NODE_IP, 30080, "/hostname")).strip() in pods(echo, "echo")


def test_udp_through_cluster_ip_and_node_port(echo: Node) -> None:
    address = cluster_ip(echo, "echo")
    names = {inside(echo.netns, lambda: udp_ask(address, 90, "hostname")) for _ in range(40)}
    assert names == set(pods(echo, "echo"))
    assert inside(echo.outside, lambda: udp_ask(NODE_IP, 30090, "hostname")) in names


def test_scaling_changes_the_endpoints_and_not_the_address(echo: Node) -> None:
    address = cluster_ip(echo, "echo")
    echo.kubectl("scale", "rs/echo", "--replicas=5")
    wait_endpoints(echo, "echo", 5)

    def reaches(count: int) -> bool:
        try:
            return len(count_hostnames(echo.netns, address, 80, 60)) == count
        except OSError:  # a connection that was on its way to a pod while it ended
            return False

    eventually(lambda: reaches(5))
    echo.kubectl("scale", "rs/echo", "--replicas=3")
    wait_endpoints(echo, "echo", 3)
    eventually(lambda: reaches(3))
    assert cluster_ip(echo, "echo") == address


def test_a_killed_pod_is_replaced_and_the_service_goes_on(echo: Node) -> None:
    address, before = cluster_ip(echo, "echo"), set(pods(echo, "echo"))
    victim = sorted(before)[0]
    echo.kubectl("delete", "pod", victim, "--wait=false")
    eventually(lambda: len(pods(echo, "echo")) == 3 and victim not in pods(echo, "echo"))
    wait_endpoints(echo, "echo", 3)
    assert cluster_ip(echo, "echo") == address
    eventually(lambda: {n.strip() for n in count_hostnames(echo.netns, address, 80, 60)} == set(pods(echo, "echo")))


def test_without_endpoints_a_client_is_refused_at_once(node: Node) -> None:
    node.apply(service("nobody", {"name": "a", "port": 80}, {"name": "b", "port": 90, "protocol": "UDP"}))
    address = cluster_ip(node, "nobody")

    def refused() -> bool:
        begin = time.monotonic()
        try:
            socket.create_connection((address, 80), timeout=3).close()
        except ConnectionRefusedError:
            return time.monotonic() - begin < 2
        except OSError:
            return False
        return False

    assert eventually(lambda: inside(node.netns, refused))
    with pytest.raises(ConnectionRefusedError):  # from elsewhere: the node's own sendto would fail with EPERM
        inside(node.outside, lambda: udp_ask(address, 90, "hostname", timeout=3))
    node.kubectl("delete", "svc/nobody")


def test_a_deleted_service_no_longer_answers(node: Node) -> None:
    node.apply(echo_replicaset("gone", 1), service("gone", type="NodePort"))
    wait_endpoints(node, "gone", 1)
    address, port = cluster_ip(node, "gone"), node.get("svc", "gone")["spec"]["ports"][0]["nodePort"]
    eventually(lambda: answers(node, address, 80) and answers(node, NODE_IP, port))
    node.kubectl("delete", "svc/gone")
    eventually(lambda: not answers(node, NODE_IP, port))
    assert not answers(node, address, 80)
    node.kubectl("delete", "rs/gone")


def test_pods_reach_the_outside_world_as_the_node(echo: Node) -> None:
    """The outside has no route to the pod network: a reply comes only if the node masquerades."""
    (pod, *_) = pods(echo, "echo")

    def listen() -> socket.socket:
        return socket.create_server((OUTSIDE_IP, 7777))

    with inside(echo.outside, listen) as server:
        server.settimeout(5)
        with inside(echo.pod_netns(pod), lambda: socket.create_connection((OUTSIDE_IP, 7777), timeout=5)):
            accepted, (source, _) = server.accept()
            accepted.close()
    assert source == NODE_IP
