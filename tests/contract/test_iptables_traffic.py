"""Real connections through lowered rules: each sentence of the policy, for every engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from agent.proxy.dataplane import Dataplane
from agent.shell import run
from rules.iptables.engines import Engine
from rules.iptables.engines.libiptc import LibiptcEngine
from rules.iptables.engines.restore import RestoreEngine
from rules.policy import resolve_frontends
from rules.snapshot import Family, Node
from tests.harness.netfilter import GATEWAY, NODE_IP, OUTSIDE_IP, PODS, MiniNode, mini_node
from tests.harness.services import HERE, SETTINGS, Made, endpoint, make_service, make_snapshot
from tests.leaks import assert_no_leaks

VIP = "10.96.0.10"
A, B = PODS["a"], PODS["b"]
C = endpoint(PODS["c"], here=False)


@pytest.fixture(scope="module")
def node() -> Iterator[MiniNode]:
    with assert_no_leaks(), mini_node() as made:
        yield made


@dataclass
class Serving:
    """``serving(service, ...)`` makes the node serve these Services, and no others."""

    node: MiniNode
    engine: Engine

    def __post_init__(self) -> None:
        self.dataplane = Dataplane({Family.IPV4: self.engine})

    def __call__(self, *made: Made) -> None:
        snapshot = make_snapshot(*made, node=Node(HERE, (NODE_IP, GATEWAY)), settings=SETTINGS)
        outcome = self.node.inside("node", lambda: self.dataplane.sync(resolve_frontends(snapshot)))
        assert not outcome.refused


ENGINES: dict[str, Callable[[], Engine]] = {
    "restore-nft": lambda: RestoreEngine(run, variant="nft"),
    "restore-legacy": lambda: RestoreEngine(run, variant="legacy"),
    "libiptc": lambda: LibiptcEngine(run),
}


@pytest.fixture(params=list(ENGINES))
def serve(node: MiniNode, request: pytest.FixtureRequest) -> Iterator[Serving]:
    made = Serving(node, ENGINES[request.param]())
    yield made
    node.inside("node", made.engine.cleanup)
    made.dataplane.close()


def test_cluster_ip(node: MiniNode, serve: Serving) -> None:
    serve(make_service("web", A, B))
    counts = Counter(node.ask("c", VIP, 80) for _ in range(40))
    assert set(counts) == {f"a {PODS['c']}", f"b {PODS['c']}"}  # both answer; the pod's address is preserved
    assert node.ask("node", VIP, 80).split()[0] in ("a", "b")
    assert node.ask("outside", VIP, 80).split()[1] == GATEWAY  # an outsider is masqueraded


def test_hairpin(node: MiniNode, serve: Serving) -> None:
    serve(make_service("web", A))
    assert node.ask("a", VIP, 80) == f"a {GATEWAY}"


def test_node_port(node: MiniNode, serve: Serving) -> None:
    serve(make_service("web", A, node_port=30001))
    assert node.ask("outside", NODE_IP, 30001) == f"a {GATEWAY}"
    assert node.ask("node", NODE_IP, 30001).startswith("a ")
    assert node.ask("b", NODE_IP, 30001).startswith("a ")
    assert node.ask("a", NODE_IP, 30001).startswith("a ")


def test_external_policy_local_keeps_the_clients_address(node: MiniNode, serve: Serving) -> None:
    serve(make_service("web", A, C, node_port=30001, external_traffic_policy="Local"))
    assert {node.ask("outside", NODE_IP, 30001) for _ in range(10)} == {f"a {OUTSIDE_IP}"}


@pytest.mark.parametrize("who", ["a", "node", "outside"])
def test_no_endpoints_is_refused_at_once(node: MiniNode, serve: Serving, who: str) -> None:
    serve(make_service("web", node_port=30001))
    for address, port in ((VIP, 80), (NODE_IP, 30001)):
        with pytest.raises(ConnectionRefusedError):
            node.ask(who, address, port)


def test_endpoints_come_and_go(node: MiniNode, serve: Serving) -> None:
    serve(make_service("web", A))
    assert node.ask("b", VIP, 80).startswith("a ")
    serve(make_service("web", C))
    assert node.ask("b", VIP, 80).startswith("c ")
    serve(make_service("web"))
    with pytest.raises(ConnectionRefusedError):
        node.ask("b", VIP, 80)
    serve(make_service("web", B))
    assert node.ask("a", VIP, 80).startswith("b ")


def test_affinity(node: MiniNode, serve: Serving) -> None:
    serve(make_service("web", A, B, C, affinity_seconds=60))
    for who in ("outside", "a"):
        assert len({node.ask(who, VIP, 80).split()[0] for _ in range(12)}) == 1


def test_pods_pass_where_forwarding_is_forbidden(node: MiniNode, serve: Serving) -> None:
    serve(make_service("web", A))
    tool = f"iptables-{serve.engine.variant}"
    node.run(tool, "-P", "FORWARD", "DROP")
    try:
        assert node.ask("b", VIP, 80) == f"a {B}"
        assert node.ask("b", A, 8080) == f"a {B}"
        assert node.ask("outside", VIP, 80) == f"a {GATEWAY}"
    finally:
        node.run(tool, "-P", "FORWARD", "ACCEPT")


def udp(*endpoints: object) -> Made:
    return make_service("udp", *endpoints, protocol="UDP", node_port=30053)  # type: ignore[arg-type]


def test_udp(node: MiniNode, serve: Serving) -> None:
    serve(udp(A))
    with node.udp_client("b") as client:
        client.connect((VIP, 80))
        client.send(b"hello")
        assert client.recv(100) == f"a {B}".encode()


def test_udp_without_endpoints_is_refused(node: MiniNode, serve: Serving) -> None:
    serve(udp())
    with node.udp_client("b") as client:
        client.connect((VIP, 80))
        client.send(b"hello")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


@pytest.mark.parametrize(("who", "place"), [("b", (VIP, 80)), ("outside", (NODE_IP, 30053))])
def test_a_talkative_udp_client_moves_to_a_living_endpoint(
    node: MiniNode, serve: Serving, who: str, place: tuple[str, int]
) -> None:
    serve(udp(A))
    with node.udp_client(who) as client, node.udp_client(who) as other:
        client.connect(place)
        client.send(b"hello")
        assert client.recv(100).startswith(b"a ")
        other.connect((A, 8080))  # straight to the pod: none of our business
        other.send(b"hello")
        assert other.recv(100).startswith(b"a ")
        direct = node.run("conntrack", "-L", "-p", "udp", "--orig-dst", A)
        serve(udp(C))
        client.send(b"hello")  # the same socket: without help, conntrack would send this to a
        assert client.recv(100).startswith(b"c ")
        assert len(node.run("conntrack", "-L", "-p", "udp", "--orig-dst", A).splitlines()) == len(direct.splitlines())


def test_healthy_udp_flows_stay(node: MiniNode, serve: Serving) -> None:
    serve(udp(A))
    with node.udp_client("b") as client:
        client.connect((VIP, 80))
        for made in (udp(A), udp(A, C), udp(A, B, C)):
            serve(made)
            client.send(b"hello")
            assert client.recv(100) == f"a {B}".encode()
