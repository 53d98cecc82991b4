"""What ``podwire trace`` predicts is what packets do: by the kernel's own trace, and by what the endpoints see."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from agent.cli.tracing import kernel
from agent.cli.tracing.kernel import Flow, listening
from agent.cli.tracing.live import Sighting, witness
from agent.cli.tracing.node import (
    Installed,
    Place,
    TraceFailure,
    read_addresses,
    read_installed,
    read_memory,
    read_route,
)
from agent.cli.tracing.probe import Sender, alone, outside_address, outsider, pod_namespace
from agent.shell import run
from netns import namespaces
from rules.explain import explain
from rules.iptables.diff import diff_rulesets
from rules.iptables.engines import Variant
from rules.iptables.engines.restore import RestoreEngine
from rules.iptables.lower import lower_frontends
from rules.policy import Frontends, resolve_frontends
from rules.snapshot import Family, LoadBalancerIngress, Node, Settings, Snapshot
from rules.trace import Outcome, Packet, trace_packet
from tests.harness.netfilter import GATEWAY, NODE_IP, OUTSIDE_IP, PODS, MiniNode, mini_node
from tests.harness.services import HERE, SETTINGS, Made, endpoint, make_service, make_snapshot
from tests.leaks import assert_no_leaks

VIP, EXTERNAL, BALANCER = "10.96.0.10", "198.51.100.9", "203.0.113.5"
A, B = PODS["a"], PODS["b"]
C = endpoint(PODS["c"], here=False)
THIS = Node(HERE, (NODE_IP, GATEWAY), zone="east")


@pytest.fixture(scope="module")
def node() -> Iterator[MiniNode]:
    with assert_no_leaks(), mini_node() as made:
        yield made


@dataclass
class Lab:
    """A node whose rules can be set, and packets that can be sent through it."""

    node: MiniNode
    variant: Variant
    snapshot: Snapshot = Snapshot(THIS)  # noqa: RUF009 - a frozen value

    @property
    def place(self) -> Place:
        return Place(self.node.name("node"))

    @property
    def frontends(self) -> Frontends:
        return resolve_frontends(self.snapshot)

    def serve(self, *made: Made, settings: Settings = SETTINGS) -> Installed:
        self.snapshot = make_snapshot(*made, node=THIS, settings=settings)
        wanted = lower_frontends(self.frontends, Family.IPV4)

        def apply() -> None:
            engine = RestoreEngine(run, variant=self.variant)
            engine.apply(diff_rulesets(engine.read(), wanted))
            engine.close()

        self.node.inside("node", apply)
        return read_installed(self.place, Family.IPV4)

    def clean(self) -> None:
        self.node.inside("node", RestoreEngine(run, variant=self.variant).cleanup)

    def sender(self, who: str) -> Sender:
        address = {"node": NODE_IP, "outside": OUTSIDE_IP, **PODS}[who]
        return Sender(Place(self.node.name(who)), address)

    def packet(self, sender: Sender, address: str, port: int, protocol: str = "tcp") -> Packet:
        source = sender.address
        from_node = sender.place == self.place
        if from_node:
            route = read_route(self.place, address)
            source = route.source if route is not None else source
        return Packet(
            source,
            address,
            port,
            protocol,
            local=frozenset(read_addresses(self.place)),
            from_node=from_node,
            member_of=read_memory(self.place, source),
        )

    def watch(self, sender: Sender, address: str, port: int, protocol: str = "tcp") -> Sighting:
        installed = read_installed(self.place, Family.IPV4)
        packet = self.packet(sender, address, port, protocol)
        found = Sender(sender.place, packet.source)
        with witness(self.place, installed, lambda: trace_packet(installed.ruleset, packet)) as observer:
            return observer.watch(found, packet)


@pytest.fixture(params=["nft", "legacy"])
def lab(node: MiniNode, request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(node, request.param)
    yield made
    made.clean()


def services() -> tuple[Made, ...]:
    return (
        make_service("web", A, B, C, node_port=30080),
        make_service("local", A, C, vip="10.96.0.11", node_port=30081, external_traffic_policy="Local"),
        make_service("far", C, vip="10.96.0.12", node_port=30082, external_traffic_policy="Local"),
        make_service("gone", vip="10.96.0.13", node_port=30083),
        make_service("dns", B, vip="10.96.0.14", protocol="UDP"),
        make_service("sticky", A, B, vip="10.96.0.15", affinity_seconds=60),
        make_service(
            "balanced",
            A,
            vip="10.96.0.16",
            load_balancer=(LoadBalancerIngress(BALANCER),),
            source_ranges=("10.0.0.0/8",),
        ),
        make_service("host", NODE_IP, vip="10.96.0.17", target=9),
    )


@pytest.mark.parametrize(
    ("who", "address", "port", "protocol", "answer", "verdict"),
    [
        ("a", VIP, 80, "tcp", "connected", "ACCEPT"),
        ("outside", VIP, 80, "tcp", "connected", "ACCEPT"),
        ("node", VIP, 80, "tcp", "connected", "ACCEPT"),
        ("outside", NODE_IP, 30080, "tcp", "connected", "ACCEPT"),
        ("node", NODE_IP, 30080, "tcp", "connected", "ACCEPT"),
        ("outside", NODE_IP, 30081, "tcp", "connected", "ACCEPT"),
        ("outside", NODE_IP, 30082, "tcp", "no answer", "DROP"),
        ("a", NODE_IP, 30082, "tcp", "connected", "ACCEPT"),
        ("a", "10.96.0.13", 80, "tcp", "refused", "REJECT"),
        ("outside", NODE_IP, 30083, "tcp", "refused", "REJECT"),
        ("a", "10.96.0.14", 80, "udp", "answered", "ACCEPT"),
        ("a", "10.96.0.15", 80, "tcp", "connected", "ACCEPT"),
        ("a", BALANCER, 80, "tcp", "connected", "ACCEPT"),
        ("outside", BALANCER, 80, "tcp", "no answer", "DROP"),
        ("a", "10.96.0.17", 80, "tcp", "refused", "ACCEPT"),  # nobody listens there: the rules are not to blame
        ("node", "10.96.0.17", 80, "tcp", "refused", "ACCEPT"),
        ("outside", NODE_IP, 99, "tcp", "refused", "ACCEPT"),
        ("a", B, 8080, "tcp", "connected", "ACCEPT"),
    ],
)  # fmt: skip
def test_the_kernel_goes_as_predicted(
    lab: Lab, who: str, address: str, port: int, protocol: str, answer: str, verdict: str
) -> None:
    lab.serve(*services())
    sighting = lab.watch(lab.sender(who), address, port, protocol)
    assert sighting.difference == ""
    assert sighting.matched is not None
    assert (sighting.answer, sighting.matched.verdict) == (answer, verdict)


def test_a_remembered_client_goes_there_again(lab: Lab) -> None:
    lab.serve(*services())
    found = [lab.watch(lab.sender("b"), "10.96.0.15", 80) for _ in range(4)]
    assert [sighting.difference for sighting in found] == [""] * 4
    assert len({sighting.matched.endpoint for sighting in found if sighting.matched}) == 1


def test_without_nft_counters_have_to_do(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.serve(*services())
    monkeypatch.setattr("agent.cli.tracing.live.has_nft", lambda: False)
    for who, address, verdict in (("a", VIP, "ACCEPT"), ("a", "10.96.0.13", "REJECT"), ("outside", BALANCER, "DROP")):
        sighting = lab.watch(lab.sender(who), address, 80)
        assert sighting.matched is not None
        assert (sighting.matched.verdict, sighting.by) == (verdict, "counters")


def test_one_live_trace_at_a_time(lab: Lab) -> None:
    with alone(lab.place):
        with pytest.raises(TraceFailure, match="is busy on this node"), alone(lab.place):
            pass
    with alone(lab.place):
        pass


def test_somebody_elses_rule(lab: Lab) -> None:
    lab.serve(make_service("web", B))
    lab.node.run(f"iptables-{lab.variant}", "-I", "FORWARD", "-d", B, "-j", "DROP")
    try:
        sighting = lab.watch(lab.sender("a"), VIP, 80)
    finally:
        lab.node.run(f"iptables-{lab.variant}", "-D", "FORWARD", "-d", B, "-j", "DROP")
    assert (sighting.answer, sighting.matched) == ("no answer", None)
    assert sighting.difference == f"a rule that is not podwire's put an end to it: filter FORWARD: -d {B}/32 -j DROP"


def test_a_policy_that_is_not_ours(lab: Lab) -> None:
    lab.serve(
        make_service("web", A), settings=Settings()
    )  # the pod network is not known: nothing is let through for it
    lab.node.run(f"iptables-{lab.variant}", "-P", "FORWARD", "DROP")
    try:
        sighting = lab.watch(lab.sender("b"), VIP, 80)
    finally:
        lab.node.run(f"iptables-{lab.variant}", "-P", "FORWARD", "ACCEPT")
    assert sighting.difference == "a rule that is not podwire's put an end to it: filter FORWARD: policy drop"


def test_rules_that_changed_since(lab: Lab) -> None:
    """A prediction made of rules that are no longer there is told apart from what the kernel does."""
    before = lab.serve(make_service("web", A))
    lab.serve(make_service("web", B))
    packet = lab.packet(lab.sender("c"), VIP, 80)
    now = read_installed(lab.place, Family.IPV4)
    with witness(lab.place, now, lambda: trace_packet(before.ruleset, packet)) as observer:
        sighting = observer.watch(lab.sender("c"), packet)
    assert (sighting.answer, sighting.matched) == ("connected", None)
    assert "then it met nat KUBE-SVC-" in sighting.difference


def test_tracing_leaves_nothing(lab: Lab) -> None:
    lab.serve(*services())
    loggers = lab.node.run("cat", "/proc/sys/net/netfilter/nf_log/2")
    before = lab.node.saved(), sorted(lab.node.inside("node", socket.if_nameindex))
    with outsider(lab.place, outside_address(Family.IPV4)) as somebody:
        sighting = lab.watch(somebody, NODE_IP, 30080)
        assert (sighting.answer, sighting.difference) == ("connected", "")
    lab.watch(lab.sender("a"), VIP, 80)
    assert (lab.node.saved(), sorted(lab.node.inside("node", socket.if_nameindex))) == before
    assert lab.node.run("cat", "/proc/sys/net/netfilter/nf_log/2") == loggers


def test_an_outsider_keeps_its_address_where_the_policy_says_so(lab: Lab) -> None:
    lab.serve(*services())
    address = outside_address(Family.IPV4)
    with outsider(lab.place, address) as somebody:
        seen = somebody.place.inside(lambda: ask((NODE_IP, 30081)))
    assert seen == ("ACCEPT", f"a {address}")


def test_what_a_crash_left_is_replaced(lab: Lab) -> None:
    lab.serve(*services())
    name = f"podwire-trace-{lab.node.name('node')}"
    flow = Flow(Family.IPV4, "tcp", A, 1)
    lab.node.run("nft", "-f", "-", stdin=kernel.render_table(flow))
    namespaces.ensure(name)
    lab.node.run("ip", "link", "add", "podwire-trace", "type", "veth", "peer", "name", "eth0", "netns", name)
    with outsider(lab.place, outside_address(Family.IPV4)) as somebody:
        assert lab.watch(somebody, VIP, 80).difference == ""
    assert not namespaces.exists(name)
    assert "podwire-trace" not in lab.node.saved()


INTERRUPTED = """
import sys, time
from agent.cli.trace import _terminated
from agent.cli.tracing.kernel import Flow, listening, traced
from agent.cli.tracing.node import Place
from agent.cli.tracing.probe import outsider
from rules.snapshot import Family
place = Place(sys.argv[1])
with _terminated(), outsider(place, "198.18.0.9") as sender, listening(place, variant="legacy", family=Family.IPV4):
    with traced(place, Flow(Family.IPV4, "tcp", sender.address, 4)):
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_trace_leaves_nothing(node: MiniNode, number: int) -> None:
    before = node.saved(), node.run("cat", "/proc/sys/net/netfilter/nf_log/2")
    argv = [sys.executable, "-c", INTERRUPTED, node.name("node")]
    where = Path(__file__).parents[2]
    with subprocess.Popen(argv, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert (node.saved(), node.run("cat", "/proc/sys/net/netfilter/nf_log/2")) == before
    assert not namespaces.exists(f"podwire-trace-{node.name('node')}")
    assert "podwire-trace" not in {name for _, name in node.inside("node", socket.if_nameindex)}


def test_nobody_else_may_have_the_log(node: MiniNode) -> None:
    place = Place(node.name("node"))
    with listening(place, variant="legacy", family=Family.IPV4):
        with pytest.raises(TraceFailure, match="another program"):
            with listening(place, variant="legacy", family=Family.IPV4):
                pass


def test_without_services_there_is_nothing_to_trace(node: MiniNode) -> None:
    with pytest.raises(TraceFailure, match=r"no Services are programmed in network namespace .*is the proxy running"):
        read_installed(Place(node.name("node")), Family.IPV4)


def test_the_namespace_of_a_pod_is_found_by_its_address(node: MiniNode) -> None:
    address = outside_address(Family.IPV4)  # nobody else on this machine has it
    node.run("ip", "address", "add", f"{address}/32", "dev", "lo", who="a")
    assert pod_namespace("no-such-uid", address) == Place(node.name("a"))
    node.run("ip", "address", "add", f"{address}/32", "dev", "lo", who="b")
    with pytest.raises(TraceFailure, match="several have its address"):
        pod_namespace("no-such-uid", address)
    for who in ("a", "b"):
        node.run("ip", "address", "delete", f"{address}/32", "dev", "lo", who=who)
    with pytest.raises(TraceFailure, match="none of `ip netns list` has its address"):
        pod_namespace("no-such-uid", address)


def test_ipv6(node: MiniNode) -> None:
    """The same in IPv6: an outsider, a pod, and the kernel's word."""
    place, pod, vip = Place(node.name("node")), "fd00:244::1", "fd00:96::10"
    node.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    node.run("ip", "address", "add", "fd00:244::fe/128", "dev", "to-a", "nodad")
    node.run("ip", "-6", "route", "add", f"{pod}/128", "dev", "to-a")
    node.run("ip", "address", "add", f"{pod}/128", "dev", "eth0", "nodad", who="a")
    node.run("ip", "-6", "route", "add", "default", "via", "fd00:244::fe", "dev", "eth0", "onlink", who="a")
    made = make_service("six", pod, vip=vip)
    frontends = resolve_frontends(make_snapshot(made, settings=Settings(cluster_cidrs=("fd00:244::/32",))))
    engine = RestoreEngine(run, variant="nft", family=Family.IPV6)
    wanted = lower_frontends(frontends, Family.IPV6)
    node.inside("node", lambda: engine.apply(diff_rulesets(engine.read(), wanted)))
    try:
        installed = read_installed(place, Family.IPV6)
        with outsider(place, outside_address(Family.IPV6)) as somebody:
            for sender in (somebody, Sender(Place(node.name("a")), pod)):
                packet = Packet(sender.address, vip, 80, local=frozenset(read_addresses(place)))
                predict = partial(trace_packet, installed.ruleset, packet)
                with witness(place, installed, predict) as observer:
                    sighting = observer.watch(sender, packet)
                assert (sighting.difference, sighting.answer) == ("", "refused")  # by the pod: it serves IPv4 only
                assert sighting.matched is not None
                assert (sighting.matched.endpoint, sighting.matched.masqueraded) == (f"[{pod}]:8080", True)
    finally:
        node.inside("node", engine.cleanup)


# --- at random ---


def ask(place: tuple[str, int]) -> tuple[str, str]:
    """Verdict, and what the server says: its name and the client's address."""
    try:
        with socket.create_connection(place, timeout=0.5) as sock:
            return "ACCEPT", sock.recv(100).decode()
    except ConnectionRefusedError:
        return "REJECT", ""
    except TimeoutError:
        return "DROP", ""


def invent(dice: random.Random, number: int) -> Made:
    """Any Service."""
    ends = [
        endpoint(address, here=who != "c", ready=dice.random() < 0.8, serving=True, terminating=dice.random() < 0.5)
        for who, address in PODS.items()
        if dice.random() < 0.6
    ]
    return make_service(
        f"svc-{number}",
        *ends,
        vip=f"10.96.1.{number}",
        node_port=dice.choice([0, 31000 + number]),
        external_ips=dice.choice([(), (f"198.51.100.{number}",)]),
        load_balancer=dice.choice([(), (LoadBalancerIngress(f"203.0.113.{number}"),)]),
        source_ranges=dice.choice([(), ("192.0.2.0/24",), ("10.244.0.1/32", "198.51.100.0/24")]),
        internal_traffic_policy=dice.choice(["Cluster", "Local"]),
        external_traffic_policy=dice.choice(["Cluster", "Local"]),
        affinity_seconds=dice.choice([None, None, 60]),
    )


def places_of(made: Made) -> list[tuple[str, int]]:
    """Where it listens."""
    service, _ = made
    addresses = [*service.cluster_ips, *service.external_ips, *(entry.ip for entry in service.load_balancer)]
    found = [(address, 80) for address in addresses]
    return found + [(NODE_IP, port.node_port) for port in service.ports if port.node_port]


def settings_at_random(dice: random.Random) -> Settings:
    return Settings(
        cluster_cidrs=dice.choice([("10.244.0.0/16",), ("10.244.0.0/16", "10.245.0.0/16"), ()]),
        masquerade_all=dice.random() < 0.2,
        node_port_addresses=dice.choice([(), (), ("192.0.2.0/24",), ("primary",)]),
    )


def experiences(outcome: Outcome, packet: Packet) -> tuple[str, str, bool]:
    """What can be seen of an outcome from outside: verdict, who answers, and whether it sees the client's address."""
    names = {f"{address}:8080": who for who, address in PODS.items()}
    kept = outcome.verdict == "ACCEPT" and not outcome.masqueraded
    return outcome.verdict, names[outcome.endpoint] if outcome.verdict == "ACCEPT" else "", kept


@pytest.mark.parametrize("seed", range(4))
def test_what_is_predicted_happens(lab: Lab, seed: int) -> None:
    """Random Services and settings: every connection ends in a predicted way, is explained, and says so."""
    dice = random.Random(seed)
    for _ in range(3):
        made = [invent(dice, number) for number in range(1, 7)]
        installed = lab.serve(*made, settings=settings_at_random(dice))
        for _ in range(25):
            sender = lab.sender(dice.choice(["node", "outside", *PODS]))
            place = dice.choice(places_of(dice.choice(made)))
            packet = lab.packet(sender, *place)
            outcomes = trace_packet(installed.ruleset, packet)
            for branch in explain(packet, outcomes, frontends=lab.frontends, snapshot=lab.snapshot):
                said = any("masqueraded: " in s.text for s in (*branch.sentences, *branch.after))
                assert said == branch.outcomes[0].masqueraded
                assert "objects do not" not in str(branch)
            verdict, answer = sender.place.inside(partial(ask, place))
            who, _, client = answer.partition(" ")
            seen = verdict, who, client == packet.source if verdict == "ACCEPT" else False
            context = f"seed {seed}, {lab.variant}: {sender.address} -> {place}"
            if any(not o.endpoint and o.verdict == "ACCEPT" for o in outcomes):
                assert verdict != "ACCEPT", context  # nobody has that address, and no rule translates it
                continue
            possible = {experiences(outcome, packet) for outcome in outcomes}
            if packet.from_node:  # its own address is the node's, masqueraded or not
                possible, seen = {(*p[:2], True) for p in possible}, (*seen[:2], True)
            assert seen in possible, f"{context}: {seen} is none of {possible}"


def test_shares_are_what_is_predicted(lab: Lab) -> None:
    """Chances too: 300 connections over three endpoints, within five standard deviations."""
    lab.serve(make_service("web", A, B, C))
    place = lab.sender("outside").place
    counts = dict.fromkeys(PODS, 0)
    for _ in range(300):
        counts[place.inside(lambda: ask((VIP, 80)))[1].split()[0]] += 1
    packet = lab.packet(lab.sender("outside"), VIP, 80)
    installed = read_installed(lab.place, Family.IPV4)
    expected = {o.endpoint: o.probability for o in trace_packet(installed.ruleset, packet)}
    for who, address in PODS.items():
        share = expected[f"{address}:8080"]
        assert abs(counts[who] - 300 * share) < 5 * (300 * share * (1 - share)) ** 0.5
