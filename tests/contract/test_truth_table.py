"""What a connection to a Service experiences: who answers it, and which source address the endpoint sees.

```
    outside  192.0.2.1
       |
       |     192.0.2.2              Service number N
      node --------- other            ClusterIP      10.96.0.N:80
      |  |             |              NodePort       192.0.2.2:30000+N
      a  b             c              load balancer  203.0.113.N:80
10.244.0.11, .12  10.244.1.11         external IP    198.18.0.N:80, if it has one
```
(and the same in IPv6: ``tests/harness/two_nodes.py`` draws all addresses). The rules are on ``node``. Pods **a** and
**c** are endpoints, one on this node and one elsewhere; **b** only asks.

The expected values are Kubernetes' own semantics, written down cell by cell; nothing here is computed by podwire. (They
agree with what kube-proxy's tests of internal and external masquerading expect.) Each cell is *who answers* and *what
it sees*:

| word | meaning |
|---|---|
| `any`, `local`, `remote` | both endpoints in turn; only the one on this node; only the one elsewhere |
| `own` | the endpoint sees the client's own address |
| `node` | the endpoint sees an address of the node: the connection was masqueraded, or the node is the client |
| `refused` | REJECT: the client learns at once |
| `dropped` | DROP: the client hears nothing |

All Services of a table are installed at once, each in IPv4 and IPv6, and all cells asked on real sockets.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from agent.proxy.dataplane import Dataplane
from agent.shell import run
from rules.iptables.engines import Engine
from rules.iptables.engines.libiptc import LibiptcEngine
from rules.iptables.engines.restore import RestoreEngine
from rules.policy import resolve_frontends
from rules.snapshot import (
    Endpoint,
    EndpointSlice,
    Family,
    LoadBalancerIngress,
    Node,
    Service,
    ServiceName,
    ServicePort,
    Settings,
    SlicePort,
    Snapshot,
)
from tests.harness.two_nodes import (
    BALANCER,
    CROSSLINK,
    HELD,
    LOCALHOST,
    OUTSIDE,
    POD_NETWORK,
    PODS,
    PORT,
    UPLINK,
    V4,
    V6,
    Question,
    TwoNodes,
    answering,
    ask_all,
    two_nodes,
)

Made = tuple[Service, tuple[EndpointSlice, ...]]

HERE = Node("here", (UPLINK[V4], UPLINK[V6]), zone="east")
AS_IS = Settings(cluster_cidrs=POD_NETWORK, localhost_node_ports=True)


class Rules:
    """All that these tests know of how rules get into a kernel."""

    def __init__(self, made: TwoNodes, engines: Mapping[Family, Engine]) -> None:
        self.made, self.families, self._engines = made, tuple(engines), engines
        self._dataplane = Dataplane(engines)

    def serve(self, *services: Made, settings: Settings = AS_IS) -> None:
        """Make the node serve these Services, and no others."""
        snapshot = Snapshot(
            HERE,
            settings,
            services={service.name: service for service, _ in services},
            slices={service.name: slices for service, slices in services},
        )
        frontends = resolve_frontends(snapshot)
        assert not frontends.problems
        assert not [found.problems for found in frontends.services.values() if found.problems]
        outcome = self.made.inside("node", lambda: self._dataplane.sync(frontends))
        assert not outcome.refused

    def remove(self) -> None:
        for engine in self._engines.values():
            self.made.inside("node", engine.cleanup)
        self.made.inside("node", self._dataplane.close)


ENGINES: dict[str, Callable[[], Mapping[Family, Engine]]] = {
    "restore-nft": lambda: {family: RestoreEngine(run, variant="nft", family=family) for family in Family},
    "restore-legacy": lambda: {family: RestoreEngine(run, variant="legacy", family=family) for family in Family},
    "libiptc": lambda: {V4: LibiptcEngine(run)},
}


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with two_nodes() as made:
        yield made


@pytest.fixture(scope="module", params=ENGINES)
def rules(nodes: TwoNodes, request: pytest.FixtureRequest) -> Iterator[Rules]:
    made = Rules(nodes, ENGINES[request.param]())
    yield made
    made.remove()


CLUSTER_IP = {V4: "10.96.0.", V6: "fd00:96::"}
EXTERNAL_IP = {V4: "198.18.0.", V6: "fd00:18::"}
VIP = {V4: "203.0.113.", V6: "fd00:203::"}
OTHER_VIPS = {108: HELD, 109: {V4: "198.18.0.109", V6: "fd00:18::109"}, 111: BALANCER}


def vip_of(number: int, family: Family) -> str:
    return OTHER_VIPS[number][family] if number in OTHER_VIPS else f"{VIP[family]}{number}"


def make_service(number: int, *endpoints: Endpoint | str, protocol: str = "TCP", **fields: Any) -> Made:
    """A dual-stack Service with these endpoints: pods by name, or Endpoints whose address is a pod's name."""
    pods = [Endpoint(each) if isinstance(each, str) else each for each in endpoints]
    service = Service(
        name=ServiceName("default", f"number-{number}"),
        type="LoadBalancer",
        cluster_ips=(f"{CLUSTER_IP[V4]}{number}", f"{CLUSTER_IP[V6]}{number}"),
        ports=(ServicePort(80, "it", protocol, 30000 + number),),
        load_balancer=tuple(LoadBalancerIngress(vip_of(number, family)) for family in Family),
    )
    service = replace(service, **fields)
    ports = tuple(SlicePort(PORT, port.name, port.protocol) for port in service.ports)
    return service, tuple(
        EndpointSlice(
            f"{service.name.name}-{family}", f"IPv{family}", ports, tuple(_placed(pod, family) for pod in pods)
        )
        for family in Family
    )


def _placed(pod: Endpoint, family: Family) -> Endpoint:
    return replace(pod, address=PODS[pod.address][family], node=HERE.name if pod.address in "ab" else "elsewhere")


WHO = {"pod": "b", "node": "node", "localhost": "node", "outside": "outside", "itself": "a"}


def place_of(to: str, number: int, family: Family, *, source: str = "") -> tuple[str, int]:
    """Where to connect to."""
    if to == "NodePort":
        return (LOCALHOST if source == "localhost" else UPLINK)[family], 30000 + number
    address = {
        "ClusterIP": f"{CLUSTER_IP[family]}{number}",
        "load-balancer": vip_of(number, family),
        "external-IP": f"{EXTERNAL_IP[family]}{number}",
    }[to]
    return address, 80


def check(made: TwoNodes, questions: Iterable[Question]) -> None:
    """Ask everything, and show what came out otherwise."""
    found = ask_all(made, questions)
    wrong = [f"{q}: {answer}, expected {q.expected}" for q, answer in found.items() if answer != q.expected]
    assert not wrong, "\n".join(["", *sorted(wrong)])
    assert found


# The table. Three Services differ in their traffic policies only.

POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"external_traffic_policy": "Local"},
    {"internal_traffic_policy": "Local"},
)

# One endpoint on this node, one elsewhere.
BOTH = """
from       to            | plain      | external Local | internal Local
pod        ClusterIP     | any own    | any own        | local own
node       ClusterIP     | any node   | any node       | local node
outside    ClusterIP     | any node   | any node       | local node
pod        NodePort      | any node   | any own        | any node
node       NodePort      | any node   | any node       | any node
localhost  NodePort      | any node   | any node       | any node
outside    NodePort      | any node   | local own      | any node
pod        load-balancer | any node   | any own        | any node
node       load-balancer | any node   | any node       | any node
outside    load-balancer | any node   | local own      | any node
"""

# Who is a pod is not known: at a ClusterIP everybody may be one, so nobody is masqueraded (the node's own connections
# have its address anyway); and no pod is let past externalTrafficPolicy Local.
BOTH_NO_DETECTOR = """
from       to            | plain      | external Local | internal Local
pod        ClusterIP     | any own    | any own        | local own
node       ClusterIP     | any node   | any node       | local node
outside    ClusterIP     | any own    | any own        | local own
pod        NodePort      | any node   | local own      | any node
node       NodePort      | any node   | any node       | any node
localhost  NodePort      | any node   | any node       | any node
outside    NodePort      | any node   | local own      | any node
pod        load-balancer | any node   | local own      | any node
node       load-balancer | any node   | any node       | any node
outside    load-balancer | any node   | local own      | any node
"""

# masqueradeAll is about ClusterIPs: whoever asks there is masqueraded. All else is as it was.
BOTH_MASQUERADE_ALL = """
from       to            | plain      | external Local | internal Local
pod        ClusterIP     | any node   | any node       | local node
node       ClusterIP     | any node   | any node       | local node
outside    ClusterIP     | any node   | any node       | local node
pod        NodePort      | any node   | any own        | any node
node       NodePort      | any node   | any node       | any node
localhost  NodePort      | any node   | any node       | any node
outside    NodePort      | any node   | local own      | any node
pod        load-balancer | any node   | any own        | any node
node       load-balancer | any node   | any node       | any node
outside    load-balancer | any node   | local own      | any node
"""

BOTH_MASQUERADE_ALL_NO_DETECTOR = """
from       to            | plain      | external Local | internal Local
pod        ClusterIP     | any node   | any node       | local node
node       ClusterIP     | any node   | any node       | local node
outside    ClusterIP     | any node   | any node       | local node
pod        NodePort      | any node   | local own      | any node
node       NodePort      | any node   | any node       | any node
localhost  NodePort      | any node   | any node       | any node
outside    NodePort      | any node   | local own      | any node
pod        load-balancer | any node   | local own      | any node
node       load-balancer | any node   | any node       | any node
outside    load-balancer | any node   | local own      | any node
"""

# No endpoint on this node: Local drops outsiders (a load balancer's health check steers them elsewhere), while pods and
# the node itself are led to the endpoints elsewhere.
ELSEWHERE = """
from       to            | plain       | external Local | internal Local
pod        ClusterIP     | remote own  | remote own     | dropped
node       ClusterIP     | remote node | remote node    | dropped
outside    ClusterIP     | remote node | remote node    | dropped
pod        NodePort      | remote node | remote own     | remote node
node       NodePort      | remote node | remote node    | remote node
localhost  NodePort      | remote node | remote node    | remote node
outside    NodePort      | remote node | dropped        | remote node
pod        load-balancer | remote node | remote own     | remote node
node       load-balancer | remote node | remote node    | remote node
outside    load-balancer | remote node | dropped        | remote node
"""

ELSEWHERE_NO_DETECTOR = """
from       to            | plain       | external Local | internal Local
pod        ClusterIP     | remote own  | remote own     | dropped
node       ClusterIP     | remote node | remote node    | dropped
outside    ClusterIP     | remote own  | remote own     | dropped
pod        NodePort      | remote node | dropped        | remote node
node       NodePort      | remote node | remote node    | remote node
localhost  NodePort      | remote node | remote node    | remote node
outside    NodePort      | remote node | dropped        | remote node
pod        load-balancer | remote node | dropped        | remote node
node       load-balancer | remote node | remote node    | remote node
outside    load-balancer | remote node | dropped        | remote node
"""

ELSEWHERE_MASQUERADE_ALL = """
from       to            | plain       | external Local | internal Local
pod        ClusterIP     | remote node | remote node    | dropped
node       ClusterIP     | remote node | remote node    | dropped
outside    ClusterIP     | remote node | remote node    | dropped
pod        NodePort      | remote node | remote own     | remote node
node       NodePort      | remote node | remote node    | remote node
localhost  NodePort      | remote node | remote node    | remote node
outside    NodePort      | remote node | dropped        | remote node
pod        load-balancer | remote node | remote own     | remote node
node       load-balancer | remote node | remote node    | remote node
outside    load-balancer | remote node | dropped        | remote node
"""

ELSEWHERE_MASQUERADE_ALL_NO_DETECTOR = """
from       to            | plain       | external Local | internal Local
pod        ClusterIP     | remote node | remote node    | dropped
node       ClusterIP     | remote node | remote node    | dropped
outside    ClusterIP     | remote node | remote node    | dropped
pod        NodePort      | remote node | dropped        | remote node
node       NodePort      | remote node | remote node    | remote node
localhost  NodePort      | remote node | remote node    | remote node
outside    NodePort      | remote node | dropped        | remote node
pod        load-balancer | remote node | dropped        | remote node
node       load-balancer | remote node | remote node    | remote node
outside    load-balancer | remote node | dropped        | remote node
"""

# No endpoint anywhere: whatever the settings and policies say, everybody is refused at once.
NOWHERE = """
from       to            | plain   | external Local | internal Local
pod        ClusterIP     | refused | refused        | refused
node       ClusterIP     | refused | refused        | refused
outside    ClusterIP     | refused | refused        | refused
pod        NodePort      | refused | refused        | refused
node       NodePort      | refused | refused        | refused
localhost  NodePort      | refused | refused        | refused
outside    NodePort      | refused | refused        | refused
pod        load-balancer | refused | refused        | refused
node       load-balancer | refused | refused        | refused
outside    load-balancer | refused | refused        | refused
"""

# Hairpin: a pod asks a Service whose only endpoint it is itself. Always masqueraded, or the pod would answer itself
# without ever leaving its namespace.
HAIRPIN = """
from       to            | plain      | external Local | internal Local
itself     ClusterIP     | local node | local node     | local node
itself     NodePort      | local node | local node     | local node
itself     load-balancer | local node | local node     | local node
"""

SITUATIONS: tuple[tuple[str, ...], ...] = (("a", "c"), ("c",), (), ("a",))  # the endpoints, in the order below
TABLES: dict[str, tuple[dict[str, Any], tuple[str, str, str, str]]] = {
    "as-is": ({}, (BOTH, ELSEWHERE, NOWHERE, HAIRPIN)),
    "no-detector": ({"cluster_cidrs": ()}, (BOTH_NO_DETECTOR, ELSEWHERE_NO_DETECTOR, NOWHERE, HAIRPIN)),
    "masquerade-all": ({"masquerade_all": True}, (BOTH_MASQUERADE_ALL, ELSEWHERE_MASQUERADE_ALL, NOWHERE, HAIRPIN)),
    "masquerade-all-no-detector": (
        {"cluster_cidrs": (), "masquerade_all": True},
        (BOTH_MASQUERADE_ALL_NO_DETECTOR, ELSEWHERE_MASQUERADE_ALL_NO_DETECTOR, NOWHERE, HAIRPIN),
    ),
}


def number_of(situation: int, policy: int) -> int:
    return 1 + situation * len(POLICIES) + policy


def read_table(text: str, situation: int, family: Family) -> Iterator[Question]:
    """One question per cell. NodePorts on the loopback address exist in IPv4 only."""
    _, *rows = text.strip().splitlines()
    for row in rows:
        start, *cells = (cell.strip() for cell in row.split("|"))
        source, to = start.split()
        if source == "localhost" and family is V6:
            continue
        for policy, expected in enumerate(cells):
            address, port = place_of(to, number_of(situation, policy), family, source=source)
            fields = ", ".join(f"{name}={value}" for name, value in POLICIES[policy].items()) or "plain"
            title = f"endpoints {'+'.join(SITUATIONS[situation]) or 'none'}, {fields}: {source} to {to}"
            yield Question(WHO[source], family, address, port, expected, title=title)


@pytest.mark.parametrize("name", TABLES)
def test_truth_table(rules: Rules, name: str) -> None:
    changed, tables = TABLES[name]
    services = [
        make_service(number_of(situation, policy), *endpoints, **fields)
        for situation, endpoints in enumerate(SITUATIONS)
        for policy, fields in enumerate(POLICIES)
    ]
    rules.serve(*services, settings=replace(AS_IS, **changed))
    cells = [q for f in rules.families for number, text in enumerate(tables) for q in read_table(text, number, f)]
    assert len(cells) == sum(99 if family is V4 else 90 for family in rules.families)
    check(rules.made, cells)


# Everything else that a Service can say: one Service each, one line per thing that happens to it.

TERMINATING: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}
UNREADY: dict[str, Any] = {"ready": False, "serving": True, "terminating": False}
LOCAL = {"external_traffic_policy": "Local"}


def ingress(*addresses: str, mode: str = "VIP") -> tuple[LoadBalancerIngress, ...]:
    return tuple(LoadBalancerIngress(address, mode) for address in addresses)


def external_ips(number: int) -> tuple[str, ...]:
    return tuple(f"{EXTERNAL_IP[family]}{number}" for family in Family)


def hinted(nodes: dict[str, str] | None = None, zones: dict[str, str] | None = None) -> list[Endpoint]:
    """Endpoints a and c, with the hints of each."""
    return [
        Endpoint(
            pod,
            node_hints=tuple((nodes or {}).get(pod, "").split()),
            zone_hints=tuple((zones or {}).get(pod, "").split()),
        )
        for pod in "ac"
    ]


def spelled_oddly(number: int) -> Made:
    """Addresses and ranges as old objects may hold them; podwire has to see through that."""
    service, (four, six) = make_service(
        number,
        "a",
        cluster_ips=(f"010.096.000.{number}", f"FD00:0096:0:0:0::0{number}"),
        load_balancer=ingress(f"203.000.113.{number}", f"fd00:203:0::{number}"),
        source_ranges=(" 192.0.2.77/24", "fd00:192:0::77/64 "),
    )
    return service, (
        replace(four, endpoints=(replace(four.endpoints[0], address="010.244.000.011"),)),
        replace(six, endpoints=(replace(six.endpoints[0], address="fd00:0244::0011"),)),
    )


BOTH_PROTOCOLS = (ServicePort(80, "tcp", "TCP", 30141), ServicePort(80, "udp", "UDP", 30141))
ADMITS_OUTSIDE = ("192.0.2.1/32", "fd00:192::1/128")
ADMITS_NODE = ("192.0.2.2/32", "fd00:192::2/128")
ADMITS_STRANGERS = ("198.18.0.0/15", "fd00:18::/32")

OTHERS: dict[str, Made] = {
    "admits outside": make_service(101, "a", "c", source_ranges=ADMITS_OUTSIDE, external_ips=external_ips(101)),
    "admits outside, Local": make_service(102, "a", "c", source_ranges=ADMITS_OUTSIDE, **LOCAL),
    "admits strangers": make_service(103, "a", "c", source_ranges=ADMITS_STRANGERS),
    "admits IPv4 only": make_service(104, "a", "c", source_ranges=("192.0.2.0/24",)),
    "admits all": make_service(105, "a", "c", source_ranges=("0.0.0.0/0", "::/0")),
    "admits outside, no endpoint": make_service(106, source_ranges=ADMITS_OUTSIDE),
    "admits node": make_service(107, "a", "c", source_ranges=ADMITS_NODE),
    "admits node, which has it": make_service(108, "a", "c", source_ranges=ADMITS_NODE, **LOCAL),
    "admits strangers, same IP": make_service(
        109, "a", "c", source_ranges=ADMITS_STRANGERS, external_ips=external_ips(109)
    ),
    "ipMode Proxy": make_service(111, "a", "c", load_balancer=ingress(*BALANCER.values(), mode="Proxy")),
    "external IP": make_service(112, "a", "c", external_ips=external_ips(112)),
    "external IP, Local": make_service(113, "a", "c", external_ips=external_ips(113), **LOCAL),
    "external IP, no endpoint": make_service(114, external_ips=external_ips(114)),
    "terminating here": make_service(121, Endpoint("a", **TERMINATING), "c", **LOCAL),
    "terminating": make_service(122, Endpoint("a", **TERMINATING), Endpoint("c", **TERMINATING)),
    "one terminating": make_service(123, Endpoint("a", **UNREADY), Endpoint("c", **TERMINATING)),
    "unready": make_service(124, Endpoint("a", **UNREADY), Endpoint("c", **UNREADY)),
    "hinted: node": make_service(131, *hinted(nodes={"a": "here", "c": "elsewhere"}, zones={"a": "west", "c": "east"})),
    "hinted: zone": make_service(132, *hinted(zones={"a": "west", "c": "east"})),
    "hinted: zone, Local": make_service(133, *hinted(zones={"a": "west", "c": "east"}), **LOCAL),
    "hinted: half": make_service(134, *hinted(zones={"c": "east"})),
    "hinted: other zones": make_service(135, *hinted(zones={"a": "west", "c": "north south"})),
    "two protocols": make_service(141, "a", "c", ports=BOTH_PROTOCOLS),
    "UDP": make_service(142, "a", "c", protocol="UDP"),
    "UDP, Local": make_service(143, "a", "c", protocol="UDP", **LOCAL),
    "UDP, Local, elsewhere": make_service(144, "c", protocol="UDP", **LOCAL),
    "UDP, no endpoint": make_service(145, protocol="UDP"),
    "spelled oddly": spelled_oddly(151),
}

ROWS = """
Service                      | from    | to                 | what happens

# loadBalancerSourceRanges guard the load balancer address against everybody who is not in them: pods and the node, too.
admits outside               | outside | load-balancer      | any node
admits outside               | pod     | load-balancer      | dropped
admits outside               | node    | load-balancer      | dropped
admits outside, Local        | outside | load-balancer      | local own
admits outside, Local        | pod     | load-balancer      | dropped
admits strangers             | outside | load-balancer      | dropped
admits strangers             | pod     | load-balancer      | dropped
admits all                   | outside | load-balancer      | any node
admits all                   | pod     | load-balancer      | any node
# They guard nothing else.
admits strangers             | outside | NodePort           | any node
admits strangers             | outside | ClusterIP          | any node
admits strangers             | pod     | ClusterIP          | any own
admits outside               | pod     | external-IP        | any node
admits strangers, same IP    | outside | external-IP        | any node
# Ranges of one family leave nobody of the other.
admits IPv4 only             | outside | load-balancer IPv4 | any node
admits IPv4 only             | outside | load-balancer IPv6 | dropped
# Where there is nobody to be guarded, everybody is told.
admits outside, no endpoint  | outside | load-balancer      | refused
admits outside, no endpoint  | pod     | load-balancer      | refused
# The node itself is let in where the ranges contain it, also if the load balancer's address is one of its own: then
# that is the source address of its connections (and why they are masqueraded, externalTrafficPolicy Local or not).
admits node                  | node    | load-balancer      | any node
admits node                  | outside | load-balancer      | dropped
admits node, which has it    | node    | load-balancer      | any node
admits node, which has it    | outside | load-balancer      | dropped
admits node, which has it    | pod     | load-balancer      | dropped

# ipMode Proxy: connections go to the load balancer itself, wherever that is.
ipMode Proxy                 | pod     | load-balancer      | beyond own
ipMode Proxy                 | node    | load-balancer      | beyond node
ipMode Proxy                 | outside | NodePort           | any node

external IP                  | pod     | external-IP        | any node
external IP                  | node    | external-IP        | any node
external IP                  | outside | external-IP        | any node
external IP, Local           | pod     | external-IP        | any own
external IP, Local           | node    | external-IP        | any node
external IP, Local           | outside | external-IP        | local own
external IP, no endpoint     | pod     | external-IP        | refused
external IP, no endpoint     | node    | external-IP        | refused
external IP, no endpoint     | outside | external-IP        | refused

# Endpoints that terminate but still serve are used where there is no ready one: for all, and on this node, separately.
terminating here             | pod     | ClusterIP          | remote own
terminating here             | pod     | NodePort           | remote own
terminating here             | outside | NodePort           | local own
terminating                  | pod     | ClusterIP          | any own
terminating                  | outside | NodePort           | any node
one terminating              | pod     | ClusterIP          | remote own
unready                      | pod     | ClusterIP          | refused
unready                      | outside | NodePort           | refused

# Hints: this node before its zone (east), and only if every ready endpoint has one; externalTrafficPolicy Local knows
# none.
hinted: node                 | pod     | ClusterIP          | local own
hinted: node                 | outside | NodePort           | local node
hinted: zone                 | pod     | ClusterIP          | remote own
hinted: zone, Local          | outside | NodePort           | local own
hinted: zone, Local          | pod     | NodePort           | remote own
hinted: half                 | pod     | ClusterIP          | any own
hinted: other zones          | pod     | ClusterIP          | any own

two protocols                | pod     | ClusterIP          | any own
two protocols                | pod     | ClusterIP UDP      | any own
two protocols                | outside | NodePort           | any node
two protocols                | outside | NodePort UDP       | any node
UDP                          | pod     | ClusterIP UDP      | any own
UDP                          | node    | ClusterIP UDP      | any node
UDP                          | outside | load-balancer UDP  | any node
UDP                          | outside | NodePort           | refused
UDP, Local                   | pod     | NodePort UDP       | any own
UDP, Local                   | outside | NodePort UDP       | local own
UDP, Local, elsewhere        | outside | NodePort UDP       | dropped
UDP, Local, elsewhere        | node    | NodePort UDP       | remote node
UDP, no endpoint             | pod     | ClusterIP UDP      | refused
UDP, no endpoint             | node    | ClusterIP UDP      | refused
UDP, no endpoint             | outside | NodePort UDP       | refused
UDP, no endpoint             | outside | load-balancer UDP  | refused

spelled oddly                | pod     | ClusterIP          | local own
spelled oddly                | outside | load-balancer      | local node
spelled oddly                | pod     | load-balancer      | dropped
"""


def read_row(row: str, family: Family) -> Iterator[Question]:
    name, source, to, expected = (cell.strip() for cell in row.split("|"))
    where, *only = to.split()
    if only in (["IPv4"], ["IPv6"]) and only != [f"IPv{family}"]:
        return
    protocol = "UDP" if only == ["UDP"] else "TCP"
    address, port = place_of(where, OTHERS[name][0].ports[0].node_port - 30000, family, source=source)
    yield Question(WHO[source], family, address, port, expected, protocol, title=f"{name}: {source} to {where}")


def test_the_rest(rules: Rules) -> None:
    rules.serve(*OTHERS.values())
    _, *rows = (row for row in ROWS.splitlines() if row and not row.startswith("#"))
    check(rules.made, [q for family in rules.families for row in rows for q in read_row(row, family)])


# Session affinity: one client, one endpoint, whichever of the Service's addresses it asks.


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_affinity(rules: Rules, protocol: str) -> None:
    service = make_service(1, "a", "c", protocol=protocol, affinity_seconds=60)
    rules.serve(service)
    for family in rules.families:
        for who in ("outside", "pod"):
            places = [place_of(to, 1, family) for to in ("ClusterIP", "NodePort", "load-balancer")]
            asked = [Question(WHO[who], family, *place, "one of them", protocol) for place in places]
            answers = {answer.split()[0] for answer in ask_all(rules.made, asked).values()}
            assert answers in ({"local"}, {"remote"}), (who, family)


# nodePortAddresses: elsewhere the port number stays the node's own to use. A program of the node listens there.

NODES_OWN = "node"  # who answers, then
UPLINK_ONLY = ("192.0.2.0/24", "fd00:192::/64")


@pytest.mark.parametrize(
    ("ranges", "at_uplink", "at_crosslink"),
    [
        ((), "any node", "any node"),
        (("0.0.0.0/0", "::/0"), "any node", "any node"),
        (UPLINK_ONLY, "any node", "node own"),
        (("primary",), "any node", "node own"),
        (("198.51.100.0/24", "fd00:198::/64"), "node own", "any node"),
        (("203.0.113.0/24", "fd00:203::/32"), "node own", "node own"),
        (("192.0.0.0/2", "fd00::/16"), "any node", "any node"),
        (("127.0.0.0/8", "::1/128"), "node own", "node own"),
    ],
)
def test_node_port_addresses(rules: Rules, ranges: tuple[str, ...], at_uplink: str, at_crosslink: str) -> None:
    rules.serve(make_service(1, "a", "c"), settings=replace(AS_IS, node_port_addresses=ranges))
    with answering(rules.made, [("node", 30001)]):
        check(
            rules.made,
            [
                Question("outside", family, address[family], 30001, expected)
                for family in rules.families
                for address, expected in ((UPLINK, at_uplink), (CROSSLINK, at_crosslink))
            ],
        )


@pytest.mark.parametrize(("ranges", "at_crosslink"), [((), "refused"), (UPLINK_ONLY, "node own")])
def test_refusals_stay_within_node_port_addresses(rules: Rules, ranges: tuple[str, ...], at_crosslink: str) -> None:
    rules.serve(make_service(1), settings=replace(AS_IS, node_port_addresses=ranges))
    with answering(rules.made, [("node", 30001)]):
        check(
            rules.made,
            [
                Question("outside", family, address[family], 30001, expected)
                for family in rules.families
                for address, expected in ((UPLINK, "refused"), (CROSSLINK, at_crosslink))
            ],
        )


# NodePorts on the loopback address: only if asked for, and in IPv4 only; else the port is the node's own to use.

EVERYWHERE = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize(
    ("asked_for", "ranges", "v4"),
    [
        (True, (), "any node"),
        (True, EVERYWHERE, "any node"),
        (True, ("127.0.0.0/8", "::1/128"), "any node"),
        (True, UPLINK_ONLY, "node node"),
        (False, (), "node node"),
        (False, EVERYWHERE, "node node"),
        (False, ("127.0.0.0/8", "::1/128"), "node node"),
        (False, ("64.0.0.0/2",), "node node"),
    ],
)
def test_localhost(rules: Rules, asked_for: bool, ranges: tuple[str, ...], v4: str) -> None:
    settings = replace(AS_IS, localhost_node_ports=asked_for, node_port_addresses=ranges)
    rules.serve(make_service(1, "a", "c"), settings=settings)
    with answering(rules.made, [("node", 30001)]):
        check(
            rules.made,
            [
                Question("node", family, LOCALHOST[family], 30001, v4 if family is V4 else "node node")
                for family in rules.families
            ],
        )


# CVE-2020-8558: localhost NodePorts need route_localnet, which lets a neighbour on the link speak to 127.0.0.1. A
# program that listens there counts on being reached from this machine only.


def test_neighbours_do_not_reach_the_loopback_address(rules: Rules) -> None:
    rules.serve(make_service(1, "a"))
    assert heard_by_the_node(rules.made, ["127.0.0.1", "127.8.9.10", UPLINK[V4]]) == [UPLINK[V4], "from the node"]


def test_without_rules_neighbours_would_reach_it() -> None:
    """The test above can fail: this is what it looks for."""
    with two_nodes() as bare:
        assert heard_by_the_node(bare, ["127.0.0.1", UPLINK[V4]]) == ["127.0.0.1", UPLINK[V4], "from the node"]


def heard_by_the_node(made: TwoNodes, destinations: list[str]) -> list[str]:
    """Datagrams from outside to these addresses, written straight onto the link, and one that the node sends to itself:
    those that a program on the node receives."""
    hardware = bytes.fromhex(made.run("ip", "-br", "link", "show", "to-outside").split()[2].replace(":", ""))
    ear = made.inside("node", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    mouth = made.inside("outside", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    own = made.inside("node", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with ear, mouth, own:
        ear.bind(("0.0.0.0", 5300))
        ear.settimeout(5)
        mouth.bind(("to-node", 0))
        for destination in destinations:
            mouth.send(hardware + bytes(6) + b"\x08\x00" + datagram(OUTSIDE[V4], destination, destination.encode()))
        heard = [ear.recv(100).decode()]
        while heard[-1] != destinations[-1]:  # they come in the order in which they were sent
            heard.append(ear.recv(100).decode())
        own.sendto(b"from the node", ("127.0.0.1", 5300))
        return [*heard, ear.recv(100).decode()]


def datagram(source: str, destination: str, data: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram to port 5300 (RFC 791, RFC 768; without a UDP checksum)."""
    return packet(source, destination, socket.IPPROTO_UDP, struct.pack("!4H", 5300, 5300, 8 + len(data), 0) + data)


def packet(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + payload


# SCTP: not every kernel has it for programs, but netfilter translates it all the same. So the first packet of an
# association is written by hand, and the endpoint looks at what arrives.

SCTP = 132


@pytest.mark.parametrize("to", ["ClusterIP", "NodePort", "load-balancer"])
def test_sctp(rules: Rules, to: str) -> None:
    service = make_service(1, "a", protocol="SCTP")
    rules.serve(service)
    for family in rules.families:
        kind = socket.AF_INET if family is V4 else socket.AF_INET6
        make = partial(socket.socket, kind, socket.SOCK_RAW, SCTP)
        ear, mouth = rules.made.inside("a", make), rules.made.inside("b", make)
        with ear, mouth:
            ear.settimeout(5)
            address, port = place_of(to, 1, family)
            mouth.sendto(sctp_init(port), (address, 0))
            arrived = ear.recv(200)
            head = arrived[20:] if family is V4 else arrived  # raw IPv4 sockets show the IP header, too
            assert struct.unpack("!HH", head[:4])[1] == PORT


def sctp_init(port: int) -> bytes:
    """An INIT chunk (RFC 9260, 3.3.2) from port 5300."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x12345678, 65536, 1, 1, 1)
    blank = struct.pack("!HHII", 5300, port, 0, 0) + chunk
    return blank[:8] + struct.pack("<I", crc32c(blank)) + blank[12:]


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF
