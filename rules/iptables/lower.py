"""Frontends -> Ruleset, in kube-proxy's layout.

```
nat  PREROUTING, OUTPUT -> KUBE-SERVICES --ClusterIP------------------------> KUBE-SVC-x --1 of n--> KUBE-SEP-y: DNAT
                              |---external IP, load balancer IP--> KUBE-EXT-x --^ |
                              |     (with source ranges through KUBE-FW-x)        +- masquerade: KUBE-MARK-MASQ
                              `---any local address--> KUBE-NODEPORTS --> KUBE-EXT-x
nat  POSTROUTING -> KUBE-POSTROUTING: masquerade what was marked;  PODWIRE-EGRESS: pods that leave the pod network
filter  INPUT, FORWARD, OUTPUT -> KUBE-PROXY-FIREWALL, KUBE-SERVICES, KUBE-EXTERNAL-SERVICES: refuse new connections
filter  FORWARD -> KUBE-FORWARD: let through what was sent on, and pods
```
KUBE-SVL-x is KUBE-SVC-x over this node's endpoints. The nat table sees the first packet of a connection only; conntrack
does to the others what was done to that one, and the opposite to the replies.

In FORWARD the refusing chains stand before KUBE-FORWARD, which accepts pods: a pod is refused like anybody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rules.iptables import names
from rules.iptables.build import LOCAL_DESTINATION, MARK, NEW, our_rule
from rules.iptables.port import PortRules, lower_port
from rules.iptables.ruleset import Rule, Rules, Ruleset, Table
from rules.policy import Frontends, PortFrontends, node_port_destinations
from rules.policy.addresses import LOOPBACK, family_of, parse_network
from rules.snapshot import Family


class Memo:
    """The contributions of last time, by identity of what they were made from. Belongs to one caller."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[PortFrontends, PortRules]] = {}
        self._cidrs: tuple[str, ...] | None = None

    def lower(self, ports: Iterable[PortFrontends], cidrs: tuple[str, ...]) -> list[PortRules]:
        known = self._known if cidrs == self._cidrs else {}
        self._cidrs, self._known = cidrs, {}
        for port in ports:
            found = known.get(id(port))
            self._known[id(port)] = found if found is not None else (port, lower_port(port, cidrs))
        return [rules for _, rules in self._known.values()]


def lower_frontends(frontends: Frontends, family: Family, memo: Memo | None = None) -> Ruleset:
    """The whole ruleset of one family."""
    cidrs = _of_family(frontends.settings.cluster_cidrs, family)
    parts = (memo or Memo()).lower(frontends.ports(family), cidrs)
    return Ruleset(filter=_lower_filter(parts, cidrs), nat=_lower_nat(parts, frontends, family, cidrs))


def _lower_nat(parts: list[PortRules], frontends: Frontends, family: Family, cidrs: tuple[str, ...]) -> Table:
    chains: dict[str, Rules] = {}
    for part in parts:
        chains.update(part.nat)
    chains[names.SERVICES] = tuple(rule for part in parts for rule in part.services) + tuple(
        _to_node_ports(frontends, family)
    )
    chains[names.NODE_PORTS] = tuple(rule for part in parts for rule in part.node_ports)
    chains[names.MARK_MASQ] = (our_rule("mark for masquerade", then=("MARK", "--set-xmark", f"{MARK}/{MARK}")),)
    chains[names.POSTROUTING] = tuple(_masquerade())
    jumps: dict[str, Rules] = {
        "PREROUTING": (our_rule("Services", then=(names.SERVICES,)),),
        "OUTPUT": (our_rule("Services", then=(names.SERVICES,)),),
        "POSTROUTING": (our_rule("masquerade of Services", then=(names.POSTROUTING,)),),
    }
    if len(cidrs) > 1:
        chains[names.OUTSIDERS] = tuple(_mark_outsiders(cidrs))
    egress = _of_family(frontends.settings.egress_cidrs, family)
    if egress:
        chains[names.EGRESS] = tuple(_leave(egress, inside=cidrs or egress, bridge=frontends.settings.pod_bridge))
        jumps["POSTROUTING"] += (our_rule("pods that leave the pod network", then=(names.EGRESS,)),)
    return Table(chains, jumps)


def _lower_filter(parts: list[PortRules], cidrs: tuple[str, ...]) -> Table:
    firewall = our_rule("load balancer source ranges", matches=NEW, then=(names.FIREWALL,))
    inside = our_rule("refused Services", matches=NEW, then=(names.SERVICES,))
    outside = our_rule("Services refused from outside", matches=NEW, then=(names.EXTERNAL_SERVICES,))
    return Table(
        chains={
            names.SERVICES: tuple(rule for part in parts for rule in part.refused_inside),
            names.EXTERNAL_SERVICES: tuple(rule for part in parts for rule in part.refused_outside),
            names.FIREWALL: tuple(rule for part in parts for rule in part.firewall),
            names.FORWARD: tuple(_let_through(cidrs)),
        },
        jumps={
            "INPUT": (firewall, outside),
            "FORWARD": (firewall, inside, outside, our_rule("what is sent on", then=(names.FORWARD,))),
            "OUTPUT": (firewall, inside, outside),
        },
    )


def _to_node_ports(frontends: Frontends, family: Family) -> Iterator[Rule]:
    """Last in KUBE-SERVICES. 127/8 is left out: such packets would leave the loopback as martians (CVE-2020-8558)."""
    comment = "NodePorts, on every local address; must be the last rule"
    destinations = node_port_destinations(frontends, family)
    for destination in destinations:
        yield our_rule(comment, destination=destination, matches=LOCAL_DESTINATION, then=(names.NODE_PORTS,))
    if not destinations:
        allowed = frontends.settings.localhost_node_ports and family is Family.IPV4
        loopback = "" if allowed else f"!{LOOPBACK[family]}"
        yield our_rule(comment, destination=loopback, matches=LOCAL_DESTINATION, then=(names.NODE_PORTS,))


def _masquerade() -> Iterator[Rule]:
    """The mark is taken off again: a packet may pass here twice (a tunnel, another stack on this node)."""
    yield our_rule("not marked", matches=("-m", "mark", "!", "--mark", f"{MARK}/{MARK}"), then=("RETURN",))
    yield our_rule("take the mark off", then=("MARK", "--set-xmark", f"{MARK}/0x0"))
    yield our_rule("masquerade what was marked", then=("MASQUERADE", "--random-fully"))


def _mark_outsiders(cidrs: Iterable[str]) -> Iterator[Rule]:
    yield from (our_rule("a pod", source=cidr, then=("RETURN",)) for cidr in cidrs)
    yield our_rule("a source outside the pod network", then=(names.MARK_MASQ,))


def _leave(egress: Iterable[str], *, inside: Iterable[str], bridge: str) -> Iterator[Rule]:
    yield from (our_rule("stays in the pod network", destination=cidr, then=("RETURN",)) for cidr in inside)
    if bridge:
        yield our_rule("stays on the bridge", interface=bridge, then=("RETURN",))
    for cidr in egress:
        yield our_rule("leaves with the node's address", source=cidr, then=("MASQUERADE", "--random-fully"))


def _let_through(cidrs: Iterable[str]) -> Iterator[Rule]:
    """INVALID: a packet that conntrack cannot place would reach the client with the pod's address and reset it."""
    yield our_rule("no connection known", matches=("-m", "conntrack", "--ctstate", "INVALID"), then=("DROP",))
    yield our_rule("sent on to an endpoint", matches=("-m", "mark", "--mark", f"{MARK}/{MARK}"), then=("ACCEPT",))
    established = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED")
    yield our_rule("replies, and the rest of a connection", matches=established, then=("ACCEPT",))
    for cidr in cidrs:
        yield our_rule("from a pod", source=cidr, then=("ACCEPT",))
        yield our_rule("to a pod", destination=cidr, then=("ACCEPT",))


def _of_family(cidrs: Iterable[str], family: Family) -> tuple[str, ...]:
    return tuple(cidr for cidr in cidrs if family_of(parse_network(cidr)) is family)
