"""Frontends -> Ruleset, in kube-proxy's layout.

```
nat  PREROUTING, OUTPUT -> KUBE-SERVICES --ClusterIP------------------------> KUBE-SVC-x --1 of n--> KUBE-SEP-y: DNAT
                              |---external IP, load balancer IP--> KUBE-EXT-x --^ |
                              |     (with source ranges through KUBE-FW-x)        +- masquerade: KUBE-MARK-MASQ
                              `---any local address--> KUBE-NODEPORTS --> KUBE-EXT-x
nat  POSTROUTING -> KUBE-POSTROUTING: masquerade what was marked;  PODWIRE-EGRESS: pods that leave the pod network
filter  INPUT, FORWARD, OUTPUT -> KUBE-PROXY-FIREWALL, KUBE-SERVICES, KUBE-EXTERNAL-SERVICES: refuse new connections
                                                          `--any local address--> KUBE-NODEPORTS
filter  FORWARD -> KUBE-FORWARD: let through what was sent on, and pods
```
KUBE-SVL-x is KUBE-SVC-x over this node's endpoints. The nat table sees the first packet of a connection only; conntrack
does to the others what was done to that one, and the opposite to the replies.

In FORWARD the refusing chains stand before KUBE-FORWARD, which accepts pods: a pod is refused like anybody else.

``Lowering`` keeps the ruleset of one family up to date Service by Service, at the cost of what changed; whatever came
before, it holds what ``lower_frontends`` would make anew. The chains of a Service are its own (``port``); in the shared
ones each Service has lines (``directory``), and where these are many they are trees (``tree``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from rules.iptables import names, shared
from rules.iptables.diff import ChainChange, JumpChange, Plan, TablePlan, make_plan
from rules.iptables.directory import AddressDirectory, PortDirectory
from rules.iptables.port import Directory, Line, PortRules, lower_health_check, lower_port
from rules.iptables.ruleset import TABLES, Rules, Ruleset, Table
from rules.policy import Frontends, PortFrontends, ServiceFrontends
from rules.snapshot import Family, ServiceName

_NAT = (Directory.SERVICES, Directory.NODE_PORTS)


def lower_frontends(frontends: Frontends, family: Family) -> Ruleset:
    """The whole ruleset of one family."""
    lowering = Lowering(family)
    lowering.update(frontends)
    return lowering.ruleset


class Lowering:
    """The ruleset that one family should have. ``ruleset`` is a live view."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._chains: dict[str, dict[str, Rules]] = {table: {} for table in TABLES}
        self._jumps: dict[str, dict[str, Rules]] = {table: {} for table in TABLES}
        self._sets: set[str] = set()
        self._known: dict[ServiceName, _Known] = {}
        self._addresses = {
            Directory.SERVICES: AddressDirectory(names.SERVICES, "V", family),
            Directory.REFUSED_INSIDE: AddressDirectory(names.SERVICES, "R", family),
            Directory.REFUSED_OUTSIDE: AddressDirectory(names.EXTERNAL_SERVICES, "E", family),
            Directory.FIREWALL: AddressDirectory(names.FIREWALL, "F", family),
        }
        self._node_ports = {
            Directory.NODE_PORTS: PortDirectory(names.NODE_PORTS, "P"),
            Directory.FILTER_NODE_PORTS: PortDirectory(names.NODE_PORTS, "N"),
        }
        self._cidrs: tuple[str, ...] = ()
        self._draft = _Draft()
        self.rules = dict.fromkeys(TABLES, 0)  # how many, by table

    @property
    def ruleset(self) -> Ruleset:
        views = {table: Table(MappingProxyType(self._chains[table]), self._jumps[table]) for table in TABLES}
        return Ruleset(filter=views["filter"], nat=views["nat"], sets=frozenset(self._sets))

    def update(self, frontends: Frontends, *, changed: Iterable[ServiceName] | None = None) -> Plan:
        """Follow ``frontends``; the plan leads from what was wanted before to what is wanted now.

        ``changed``: only these Services are looked at (those that ``frontends`` does not have are gone); its settings
        are then those of before. None: everything is.
        """
        self._draft = _Draft()
        if changed is None:
            changed = dict.fromkeys((*frontends.services, *self._known))
            self._follow_settings(frontends)
        for name in changed:
            self._follow(name, frontends.services.get(name))
        for directory, addresses in self._addresses.items():
            self._put_all(_table_of(directory), addresses.changed())
        for directory, ports in self._node_ports.items():
            self._put_all(_table_of(directory), ports.changed())
        return self._draft.plan(self._chains, self._jumps, self._sets)

    def _follow_settings(self, frontends: Frontends) -> None:
        self._cidrs = shared.of_family(frontends.settings.cluster_cidrs, self._family)
        fixed = shared.lower_shared(frontends, self._family, self._cidrs)
        for table in TABLES:
            content = fixed.table(table)
            for chain in shared.OPTIONAL - content.chains.keys():
                self._put(table, chain, None)
            self._put_all(table, content.chains.items())
            self._draft.remember_jumps(table, self._jumps[table])
            self._jumps[table] = dict(content.jumps)
        gates = {t: tuple(shared.to_node_ports(frontends, self._family)) for t in TABLES}
        self._addresses[Directory.SERVICES].set_tail(gates["nat"])
        self._addresses[Directory.REFUSED_OUTSIDE].set_tail(gates["filter"])

    def _follow(self, name: ServiceName, service: ServiceFrontends | None) -> None:
        """One Service as it is now (None: gone). What it contributed before is worked out again rather than kept."""
        known, now = self._known.get(name), self._know(service)
        if known == now:
            return
        before, after = _contribution(known), _contribution(now)
        if now is not None:
            self._known[name] = now
        else:
            del self._known[name]
        self._put_all("nat", ((chain, None) for chain in before.chains.keys() - after.chains.keys()))
        self._put_all("nat", after.chains.items())
        for line in before.lines.keys() - after.lines.keys():
            self._put_line(line, ())
        for line, rules in after.lines.items():
            self._put_line(line, rules)
        self._draft.remember_sets(before.sets ^ after.sets, self._sets)
        self._sets -= before.sets - after.sets
        self._sets |= after.sets

    def _know(self, service: ServiceFrontends | None) -> _Known | None:
        """What its rules are made from; None: nothing, it has no rules."""
        if service is None:
            return None
        ports = tuple(port for port in service.ports if port.family is self._family)
        check = service.health_check.port if service.health_check is not None else 0
        return _Known(service.name, ports, check, self._cidrs) if ports else None

    def _put_line(self, line: Line, rules: Rules) -> None:
        if line.address is None:
            self._node_ports[line.directory].put(line.protocol, line.port, line.order, rules)
        else:
            self._addresses[line.directory].put(line.address, line.order, rules)

    def _put_all(self, table: str, chains: Iterable[tuple[str, Rules | None]]) -> None:
        for chain, rules in chains:
            self._put(table, chain, rules)

    def _put(self, table: str, chain: str, rules: Rules | None) -> None:
        """Note what a chain should be; the plan is made of the notes."""
        content = self._chains[table]
        before = content.get(chain)
        if before == rules:
            return
        self._draft.remember(table, chain, before)
        self.rules[table] += len(rules or ()) - len(before or ())
        if rules is None:
            del content[chain]
        else:
            content[chain] = rules


class _Known(NamedTuple):
    """What a Service's rules were made from."""

    name: ServiceName
    ports: tuple[PortFrontends, ...]
    health_check: int  # a TCP port of the node; 0: none
    cidrs: tuple[str, ...]


def _contribution(known: _Known | None) -> PortRules:
    """All that a Service contributes."""
    found = PortRules()
    if known is None:
        return found
    if known.health_check:
        found.lines.update(lower_health_check(known.name, known.health_check))
    for port in known.ports:
        part = lower_port(port, known.cidrs)
        found.chains.update(part.chains)
        found.lines.update(part.lines)
        found = replace(found, sets=found.sets | part.sets)
    return found


def _table_of(directory: Directory) -> str:
    return "nat" if directory in _NAT else "filter"


class _Draft:
    """What was before an update, as far as the update changed it."""

    def __init__(self) -> None:
        self._chains: dict[str, dict[str, Rules | None]] = {table: {} for table in TABLES}
        self._jumps: dict[str, Mapping[str, Rules]] = {}
        self._sets: dict[str, bool] = {}

    def remember(self, table: str, chain: str, rules: Rules | None) -> None:
        self._chains[table].setdefault(chain, rules)

    def remember_jumps(self, table: str, jumps: Mapping[str, Rules]) -> None:
        self._jumps.setdefault(table, dict(jumps))

    def remember_sets(self, touched: Iterable[str], sets: set[str]) -> None:
        for name in touched:
            self._sets.setdefault(name, name in sets)

    def plan(
        self, chains: Mapping[str, Mapping[str, Rules]], jumps: Mapping[str, Mapping[str, Rules]], sets: set[str]
    ) -> Plan:
        tables = (
            TablePlan(
                table,
                tuple(ChainChange(chain, was, chains[table].get(chain)) for chain, was in self._chains[table].items()),
                tuple(_jump_changes(self._jumps.get(table, jumps[table]), jumps[table])),
            )
            for table in TABLES
        )
        return make_plan(
            tables,
            new_sets=(name for name, was in self._sets.items() if not was and name in sets),
            old_sets=(name for name, was in self._sets.items() if was and name not in sets),
        )


def _jump_changes(before: Mapping[str, Rules], now: Mapping[str, Rules]) -> Iterator[JumpChange]:
    for chain in sorted(before.keys() | now.keys()):
        if (old := before.get(chain, ())) != (new := now.get(chain, ())):
            yield JumpChange(chain, old, new)
