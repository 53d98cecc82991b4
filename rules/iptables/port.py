"""One Service port -> its chains, and its lines in the shared directories. The layout is drawn in ``lower``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from rules.iptables import names
from rules.iptables.build import LOCAL_SOURCE, host, make_rule, share_of
from rules.iptables.ruleset import Rule, Rules
from rules.iptables.tree import LEAF, Fork, Leaf, Place, Tree
from rules.policy import Action, Backend, Frontend, Kind, Masquerade, Pool, PortFrontends, Route, Source
from rules.snapshot import Family, ServiceName

_UNREACHABLE = {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"}
_RANK = {kind: rank for rank, kind in enumerate(Kind)}  # whose ClusterIP it is comes before whose external IP


class Directory(Enum):
    """The shared chains in which destinations are looked up. The value is a letter in the names of their branches."""

    SERVICES = "V"  # nat: by address
    NODE_PORTS = "P"  # nat: by port
    REFUSED_INSIDE = "R"  # filter: ClusterIPs
    REFUSED_OUTSIDE = "E"  # filter: external and load balancer addresses
    FILTER_NODE_PORTS = "N"  # filter: by port; what is refused, and health checks, which are let in
    FIREWALL = "F"  # filter: load balancer addresses with source ranges


class Line(NamedTuple):
    """Where in a directory something stands. ``address`` None: a port of the node's own addresses."""

    directory: Directory
    protocol: str
    address: str | None
    port: int
    order: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class PortRules:
    """What one Service port contributes: chains of its own in nat, lines in directories, and sets."""

    chains: dict[str, Rules] = field(default_factory=dict)
    lines: dict[Line, Rules] = field(default_factory=dict)
    sets: frozenset[str] = frozenset()


def lower_port(port: PortFrontends, cidrs: tuple[str, ...]) -> PortRules:
    """One Service port, alone. ``cidrs``: the pod network in its family."""
    lowering = _Port(port, cidrs)
    return PortRules(lowering.chains(), dict(lowering.lines()), lowering.sets())


def lower_health_check(name: ServiceName, port: int) -> dict[Line, Rules]:
    """Load balancers may ask, even where the host's own rules let nobody in."""
    line = Line(Directory.FILTER_NODE_PORTS, "TCP", None, port, (len(_RANK), *name, "", "TCP", port))
    matches = f"-m tcp --dport {port}"
    return {line: (make_rule(f"{name} health check node port", protocol="tcp", matches=matches, then="ACCEPT"),)}


@dataclass(frozen=True, slots=True)
class _Port:
    """The rules of one Service port."""

    port: PortFrontends
    cidrs: tuple[str, ...]

    def chains(self) -> dict[str, Rules]:
        found: dict[str, Rules] = {}
        for pool in self._pools():
            found.update(self._spread(pool))
            found.update({self._endpoint_chain(b): tuple(self._rewrite(b)) for b in self.port.pool(pool)})
        external = self._external()
        if external and _forwards(external[0]):
            found[self._name(names.external_chain)] = tuple(self._enter(external[0].routes))
        for frontend in external:
            if frontend.allowed_sources is not None and _forwards(frontend):
                found[self._name(names.firewall_chain)] = tuple(self._admit(frontend.allowed_sources))
        return found

    def sets(self) -> frozenset[str]:
        """One set of clients per endpoint, if clients are to stay with theirs."""
        if self.port.affinity is None:
            return frozenset()
        return frozenset(self._clients(b) for pool in self._pools() for b in self.port.pool(pool))

    def lines(self) -> Iterator[tuple[Line, Rules]]:
        for frontend in self.port.frontends:
            if _forwards(frontend):
                yield self._dispatch(frontend)
            if frontend.routes[-1].action is not Action.FORWARD:
                yield self._refuse(frontend)
            if frontend.allowed_sources is not None and _forwards(frontend):  # KUBE-FW-x lets the others pass
                comment = f"{self.port.name} sources not in loadBalancerSourceRanges"
                yield self._line(Directory.FIREWALL, frontend), (self._rule(frontend, comment, then="DROP"),)

    def _dispatch(self, frontend: Frontend) -> tuple[Line, Rules]:
        directory = Directory.NODE_PORTS if frontend.address is None else Directory.SERVICES
        comment = f"{self.port.name} {frontend.kind.value}"
        return self._line(directory, frontend), (self._rule(frontend, comment, then=self._target(frontend)),)

    def _refuse(self, frontend: Frontend) -> tuple[Line, Rules]:
        """For the filter table: connections that no route of the nat table took."""
        last = frontend.routes[-1]
        comment = f"{self.port.name} {frontend.kind.value} {last.why}"
        rule = self._rule(frontend, comment, then=self._refusal(last.action))
        if frontend.kind is Kind.CLUSTER_IP:
            return self._line(Directory.REFUSED_INSIDE, frontend), (rule,)
        outside = Directory.FILTER_NODE_PORTS if frontend.address is None else Directory.REFUSED_OUTSIDE
        return self._line(outside, frontend), (rule,)

    def _spread(self, pool: Pool) -> dict[str, Rules]:
        """The chain of a pool: masquerade first, then whom the client knows, then an even choice. Where endpoints are
        many the choice is a tree of chains, so that no connection walks past all of them."""
        own = next(frontend for frontend in self.port.frontends if frontend.kind is Kind.CLUSTER_IP)
        head = tuple(self._masquerade_inside(own, pool))
        backends = self.port.pool(pool)
        if self.port.affinity is not None:
            head += tuple(self._stay(backend) for backend in backends)
        if len(backends) <= LEAF:
            return {self._pool_chain(pool): head + self._choose(backends)}
        return self._branches(pool, head)

    def _choose(self, backends: Sequence[Backend]) -> Rules:
        """Evenly: rule i of n takes 1/(n-i) of what is left."""
        return tuple(
            make_rule(
                f"{self.port.name} -> {backend}",
                matches=share_of(1, len(backends) - index),
                then=self._endpoint_chain(backend),
            )
            for index, backend in enumerate(backends)
        )

    def _branches(self, pool: Pool, head: Rules) -> dict[str, Rules]:
        tree: Tree[Backend] = Tree()
        for backend in self.port.pool(pool):
            key = names.endpoint_key(str(self.port.name), self.port.protocol, str(backend))
            tree.put(Place(key), (backend,))
        found: dict[str, Rules] = {}
        for prefix, node in tree.changed():
            if node is not None and not prefix:
                found[self._pool_chain(pool)] = head + self._branch(pool, node)
            elif node is not None:
                found[self._branch_chain(pool, prefix)] = self._branch(pool, node)
        return found

    def _branch(self, pool: Pool, node: Leaf[Backend] | Fork) -> Rules:
        if isinstance(node, Leaf):
            return self._choose(node.lines)
        rules, rest = [], sum(count for _, count in node.children)
        for prefix, count in node.children:
            comment = f"{self.port.name} -> {count} of its endpoints"
            rules.append(make_rule(comment, matches=share_of(count, rest), then=self._branch_chain(pool, prefix)))
            rest -= count
        return tuple(rules)

    def _masquerade_inside(self, own: Frontend, pool: Pool) -> Iterator[Rule]:
        route = own.routes[-1]
        if route.action is not Action.FORWARD or route.pool is not pool or route.masquerade is Masquerade.NEVER:
            return
        if route.masquerade is Masquerade.ALWAYS:
            yield self._rule(own, f"{self.port.name} ClusterIP: masquerade", then=names.MARK_MASQ)
            return
        comment = f"{self.port.name} ClusterIP: masquerade sources outside the pod network"
        if len(self.cidrs) == 1:
            yield self._rule(own, comment, source=f"!{self.cidrs[0]}", then=names.MARK_MASQ)
        else:
            yield self._rule(own, comment, then=names.OUTSIDERS)

    def _stay(self, backend: Backend) -> Rule:
        known = f"-m set --match-set {self._clients(backend)} src"
        return make_rule(f"{self.port.name} -> {backend}, as before", matches=known, then=self._endpoint_chain(backend))

    def _rewrite(self, backend: Backend) -> Iterator[Rule]:
        comment = f"{self.port.name} hairpin: {backend.address} reaches itself"
        yield make_rule(comment, source=host(backend.address), then=names.MARK_MASQ)
        if self.port.affinity is not None:
            remember = f"SET --add-set {self._clients(backend)} src --exist --timeout {self.port.affinity}"
            yield make_rule(f"{self.port.name} remember that the client was sent to {backend}", then=remember)
        protocol = self.port.protocol.lower()
        yield make_rule(
            f"{self.port.name} -> {backend}",
            protocol=protocol,
            matches=f"-m {protocol}",
            then=f"DNAT --to-destination {backend}",
        )

    def _enter(self, routes: Iterable[Route]) -> Iterator[Rule]:
        """KUBE-EXT-x: the routes in order, each marked for masquerade first if it has to be."""
        for route in routes:
            if route.action is not Action.FORWARD:
                continue
            for source, matches in self._sources(route.source):
                if route.masquerade is Masquerade.ALWAYS:
                    comment = f"{self.port.name} from {route.source.value}: masquerade"
                    yield make_rule(comment, source=source, matches=matches, then=names.MARK_MASQ)
                comment = f"{self.port.name} from {route.source.value}: {route.pool.value}"
                yield make_rule(comment, source=source, matches=matches, then=self._pool_chain(route.pool))

    def _sources(self, source: Source) -> Iterator[tuple[str, str]]:
        if source is Source.POD:
            yield from ((cidr, "") for cidr in self.cidrs)
        else:
            yield "", LOCAL_SOURCE if source is Source.NODE else ""

    def _admit(self, sources: Iterable[str]) -> Iterator[Rule]:
        for source in sources:
            comment = f"{self.port.name} load balancer IP: allowed source"
            yield make_rule(comment, source=source, then=self._name(names.external_chain))

    def _target(self, frontend: Frontend) -> str:
        if frontend.kind is Kind.CLUSTER_IP:
            return self._pool_chain(frontend.routes[-1].pool)
        if frontend.allowed_sources is not None:
            return self._name(names.firewall_chain)
        return self._name(names.external_chain)

    def _refusal(self, action: Action) -> str:
        """TCP is refused with a reset: every client takes it as final, and unlike ICMP errors (one a second and
        client, net.ipv4.icmp_ratelimit) it is always sent."""
        if action is Action.DROP:
            return "DROP"
        reason = "tcp-reset" if self.port.protocol == "TCP" else _UNREACHABLE[self.port.family]
        return f"REJECT --reject-with {reason}"

    def _rule(self, frontend: Frontend, comment: str, *, then: str, source: str = "") -> Rule:
        """A rule for packets to a frontend."""
        protocol = self.port.protocol.lower()
        matches = f"-m {protocol} --dport {frontend.port}"
        destination = host(frontend.address) if frontend.address is not None else ""
        return make_rule(comment, source=source, destination=destination, protocol=protocol, matches=matches, then=then)

    def _line(self, directory: Directory, frontend: Frontend) -> Line:
        order = (_RANK[frontend.kind], *self.port.name, self.port.protocol, frontend.port)
        return Line(directory, self.port.protocol, frontend.address, frontend.port, order)

    def _external(self) -> list[Frontend]:
        return [frontend for frontend in self.port.frontends if frontend.kind is not Kind.CLUSTER_IP]

    def _pools(self) -> list[Pool]:
        """The pools that some route leads to."""
        routes = [route for frontend in self.port.frontends for route in frontend.routes]
        return [p for p in Pool if any(route.action is Action.FORWARD and route.pool is p for route in routes)]

    def _pool_chain(self, pool: Pool) -> str:
        return self._name(names.service_chain if pool is Pool.CLUSTER else names.local_chain)

    def _branch_chain(self, pool: Pool, prefix: str) -> str:
        return names.branch_chain(str(self.port.name), self.port.protocol, f"{pool.name} {prefix}")

    def _endpoint_chain(self, backend: Backend) -> str:
        return names.endpoint_chain(str(self.port.name), self.port.protocol, str(backend))

    def _clients(self, backend: Backend) -> str:
        family = self.port.family
        return names.clients_set(str(self.port.name), self.port.protocol, str(backend), family=family)

    def _name(self, chain: Callable[[str, str], str]) -> str:
        return chain(str(self.port.name), self.port.protocol)


def _forwards(frontend: Frontend) -> bool:
    return any(route.action is Action.FORWARD for route in frontend.routes)
