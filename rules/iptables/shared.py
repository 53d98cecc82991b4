"""What is there for no Service in particular: masquerade, forwarding, egress, and our jumps from built-in chains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rules.iptables import names
from rules.iptables.build import LOCAL_DESTINATION, LOCAL_SOURCE, MARK, NEW, our_rule
from rules.iptables.ruleset import Rule, Rules, Ruleset, Table
from rules.policy import Frontends, node_port_destinations
from rules.policy.addresses import LOOPBACK, family_of, parse_network
from rules.snapshot import Family

OPTIONAL = frozenset({names.OUTSIDERS, names.EGRESS, names.MARTIANS})  # chains that some settings call for


def lower_shared(frontends: Frontends, family: Family, cidrs: tuple[str, ...]) -> Ruleset:
    """The fixed chains and all jumps. ``cidrs``: the pod network in this family."""
    return Ruleset(filter=_lower_filter(frontends, family, cidrs), nat=_lower_nat(frontends, family, cidrs))


def to_node_ports(frontends: Frontends, family: Family) -> Iterator[Rule]:
    """Last in a directory of addresses: packets for this node. On 127/8 NodePorts are served only if asked for, and to
    this node alone: nobody else may reach what listens there (CVE-2020-8558)."""
    comment = "NodePorts, on every local address; must be the last rule"
    loopback = parse_network(LOOPBACK[family])
    everywhere = (f"!{loopback}", *((str(loopback),) if _serves_loopback(frontends, family) else ()))
    for destination in node_port_destinations(frontends, family) or everywhere:
        inside = not destination.startswith("!") and parse_network(destination).overlaps(loopback)
        matches = LOCAL_SOURCE if inside else LOCAL_DESTINATION
        yield our_rule(comment, destination=destination, matches=matches, then=names.NODE_PORTS)


def of_family(cidrs: Iterable[str], family: Family) -> tuple[str, ...]:
    return tuple(cidr for cidr in cidrs if family_of(parse_network(cidr)) is family)


def _serves_loopback(frontends: Frontends, family: Family) -> bool:
    """IPv4 only: the kernel routes nothing from ::1 to another interface, whatever its settings."""
    return frontends.settings.localhost_node_ports and family is Family.IPV4


def _lower_nat(frontends: Frontends, family: Family, cidrs: tuple[str, ...]) -> Table:
    chains: dict[str, Rules] = {
        names.MARK_MASQ: (our_rule("mark for masquerade", then=f"MARK --set-xmark {MARK}/{MARK}"),),
        names.POSTROUTING: tuple(_masquerade()),
    }
    jumps: dict[str, Rules] = {
        "PREROUTING": (our_rule("Services", then=names.SERVICES),),
        "OUTPUT": (our_rule("Services", then=names.SERVICES),),
        "POSTROUTING": (our_rule("masquerade of Services", then=names.POSTROUTING),),
    }
    if len(cidrs) > 1:
        chains[names.OUTSIDERS] = tuple(_mark_outsiders(cidrs))
    egress = of_family(frontends.settings.egress_cidrs, family)
    if egress:
        chains[names.EGRESS] = tuple(_leave(egress, inside=cidrs or egress, bridge=frontends.settings.pod_bridge))
        jumps["POSTROUTING"] += (our_rule("pods that leave the pod network", then=names.EGRESS),)
    return Table(chains, jumps)


def _lower_filter(frontends: Frontends, family: Family, cidrs: tuple[str, ...]) -> Table:
    firewall = our_rule("load balancer source ranges", matches=NEW, then=names.FIREWALL)
    inside = our_rule("refused Services", matches=NEW, then=names.SERVICES)
    outside = our_rule("Services refused from outside", matches=NEW, then=names.EXTERNAL_SERVICES)
    chains: dict[str, Rules] = {names.FORWARD: tuple(_let_through(cidrs))}
    guards: Rules = ()
    if _serves_loopback(frontends, family):
        chains[names.MARTIANS] = tuple(_drop_martians(LOOPBACK[family]))
        guards = (our_rule("what only this node may send", then=names.MARTIANS),)
    return Table(
        chains,
        jumps={
            "INPUT": (*guards, firewall, outside),
            "FORWARD": (firewall, inside, outside, our_rule("what is sent on", then=names.FORWARD)),
            "OUTPUT": (firewall, inside, outside),
        },
    )


def _masquerade() -> Iterator[Rule]:
    """The mark is taken off again: a packet may pass here twice (a tunnel, another stack on this node)."""
    yield our_rule("not marked", matches=f"-m mark ! --mark {MARK}/{MARK}", then="RETURN")
    yield our_rule("take the mark off", then=f"MARK --set-xmark {MARK}/0x0")
    yield our_rule("masquerade what was marked", then="MASQUERADE --random-fully")


def _mark_outsiders(cidrs: Iterable[str]) -> Iterator[Rule]:
    yield from (our_rule("a pod", source=cidr, then="RETURN") for cidr in cidrs)
    yield our_rule("a source outside the pod network", then=names.MARK_MASQ)


def _leave(egress: Iterable[str], *, inside: Iterable[str], bridge: str) -> Iterator[Rule]:
    yield from (our_rule("stays in the pod network", destination=cidr, then="RETURN") for cidr in inside)
    if bridge:
        yield our_rule("stays on the bridge", interface=bridge, then="RETURN")
    for cidr in egress:
        yield our_rule("leaves with the node's address", source=cidr, then="MASQUERADE --random-fully")


def _drop_martians(loopback: str) -> Iterator[Rule]:
    """With route_localnet the kernel itself no longer drops what comes from outside for 127/8 (CVE-2020-8558)."""
    known = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"
    yield our_rule(
        "from outside to the loopback", source=f"!{loopback}", destination=loopback, matches=known, then="DROP"
    )


def _let_through(cidrs: Iterable[str]) -> Iterator[Rule]:
    """INVALID: a packet that conntrack cannot place would reach the client with the pod's address and reset it."""
    yield our_rule("no connection known", matches="-m conntrack --ctstate INVALID", then="DROP")
    yield our_rule("sent on to an endpoint", matches=f"-m mark --mark {MARK}/{MARK}", then="ACCEPT")
    established = "-m conntrack --ctstate RELATED,ESTABLISHED"
    yield our_rule("replies, and the rest of a connection", matches=established, then="ACCEPT")
    for cidr in cidrs:
        yield our_rule("from a pod", source=cidr, then="ACCEPT")
        yield our_rule("to a pod", destination=cidr, then="ACCEPT")
