"""One Service port -> its chains, and its lines in the shared chains. The layout is drawn in ``lower``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from rules.iptables import names
from rules.iptables.build import LOCAL_DESTINATION, LOCAL_SOURCE, make_rule, one_in
from rules.iptables.ruleset import Rule, Rules
from rules.policy import Action, Backend, Frontend, Kind, Masquerade, Pool, PortFrontends, Route, Source
from rules.snapshot import Family

_UNREACHABLE = {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"}
_FULL_MASK = {Family.IPV4: "255.255.255.255", Family.IPV6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}


@dataclass(frozen=True, slots=True)
class PortRules:
    """What one Service port contributes: chains of its own, and lines in the shared ones."""

    nat: dict[str, Rules] = field(default_factory=dict)
    services: Rules = ()
    node_ports: Rules = ()
    refused_inside: Rules = ()
    refused_outside: Rules = ()
    firewall: Rules = ()


def lower_port(port: PortFrontends, cidrs: tuple[str, ...]) -> PortRules:
    """One Service port, alone. ``cidrs``: the pod network in its family."""
    lowering = _Port(port, cidrs)
    return PortRules(
        nat=lowering.chains(),
        services=tuple(lowering.dispatch()),
        node_ports=tuple(lowering.dispatch_node_ports()),
        refused_inside=tuple(lowering.refusals(inside=True)),
        refused_outside=tuple(lowering.refusals(inside=False)),
        firewall=tuple(lowering.firewall()),
    )


@dataclass(frozen=True, slots=True)
class _Port:
    """The rules of one Service port."""

    port: PortFrontends
    cidrs: tuple[str, ...]

    def chains(self) -> dict[str, Rules]:
        found: dict[str, Rules] = {}
        for pool in Pool:
            if self._uses(pool):
                found[self._pool_chain(pool)] = tuple(self._spread(pool))
                found.update({self._endpoint_chain(b): tuple(self._rewrite(b)) for b in self.port.pool(pool)})
        external = self._external()
        if external and _forwards(external[0]):
            found[self._name(names.external_chain)] = tuple(self._enter(external[0].routes))
        for frontend in external:
            if frontend.allowed_sources is not None and _forwards(frontend):
                found[self._name(names.firewall_chain)] = tuple(self._admit(frontend.allowed_sources))
        return found

    def dispatch(self) -> Iterator[Rule]:
        """Lines of KUBE-SERVICES: by destination address and port."""
        for frontend in self.port.frontends:
            if frontend.address is not None and _forwards(frontend):
                yield self._rule(frontend, f"{self.port.name} {frontend.kind.value}", then=self._target(frontend))

    def dispatch_node_ports(self) -> Iterator[Rule]:
        """Lines of KUBE-NODEPORTS, where the destination is known to be this node."""
        for frontend in self.port.frontends:
            if frontend.kind is Kind.NODE_PORT and _forwards(frontend):
                yield self._rule(frontend, f"{self.port.name} NodePort", then=self._target(frontend))

    def refusals(self, *, inside: bool) -> Iterator[Rule]:
        """Lines of the filter table: connections that no route of the nat table took."""
        for frontend in self.port.frontends:
            last = frontend.routes[-1]
            if (frontend.kind is Kind.CLUSTER_IP) == inside and last.action is not Action.FORWARD:
                comment = f"{self.port.name} {frontend.kind.value} {last.why}"
                matches = LOCAL_DESTINATION if frontend.address is None else ()
                yield self._rule(frontend, comment, before=matches, then=self._refusal(last.action))

    def firewall(self) -> Iterator[Rule]:
        """Lines of KUBE-PROXY-FIREWALL: what KUBE-FW-x let pass has another destination by now."""
        for frontend in self.port.frontends:
            if frontend.allowed_sources is not None:
                yield self._rule(frontend, f"{self.port.name} sources not in loadBalancerSourceRanges", then=("DROP",))

    def _spread(self, pool: Pool) -> Iterator[Rule]:
        """Masquerade first, then an even choice: rule i of n takes 1/(n-i) of what is left."""
        own = next(frontend for frontend in self.port.frontends if frontend.kind is Kind.CLUSTER_IP)
        yield from self._masquerade_inside(own, pool)
        backends = self.port.pool(pool)
        if self.port.affinity is not None:
            yield from (self._stay(backend, self.port.affinity) for backend in backends)
        for index, backend in enumerate(backends):
            yield make_rule(
                f"{self.port.name} -> {backend}",
                matches=one_in(len(backends) - index),
                then=(self._endpoint_chain(backend),),
            )

    def _masquerade_inside(self, own: Frontend, pool: Pool) -> Iterator[Rule]:
        route = own.routes[-1]
        if route.action is not Action.FORWARD or route.pool is not pool or route.masquerade is Masquerade.NEVER:
            return
        if route.masquerade is Masquerade.ALWAYS:
            yield self._rule(own, f"{self.port.name} ClusterIP: masquerade", then=(names.MARK_MASQ,))
        elif len(self.cidrs) == 1:
            comment = f"{self.port.name} ClusterIP: masquerade sources outside the pod network"
            yield self._rule(own, comment, source=f"!{self.cidrs[0]}", then=(names.MARK_MASQ,))
        else:
            comment = f"{self.port.name} ClusterIP: masquerade sources outside the pod network"
            yield self._rule(own, comment, then=(names.OUTSIDERS,))

    def _stay(self, backend: Backend, seconds: int) -> Rule:
        recent = ("-m", "recent", "--rcheck", "--seconds", str(seconds), "--reap", *self._recent(backend))
        comment = f"{self.port.name} -> {backend}, as before"
        return make_rule(comment, matches=recent, then=(self._endpoint_chain(backend),))

    def _recent(self, backend: Backend) -> tuple[str, ...]:
        return ("--name", self._endpoint_chain(backend), "--mask", _FULL_MASK[self.port.family], "--rsource")

    def _rewrite(self, backend: Backend) -> Iterator[Rule]:
        comment = f"{self.port.name} hairpin: {backend.address} reaches itself"
        yield make_rule(comment, source=backend.address, then=(names.MARK_MASQ,))
        remember = ("-m", "recent", "--set", *self._recent(backend)) if self.port.affinity is not None else ()
        protocol = self.port.protocol.lower()
        yield make_rule(
            f"{self.port.name} -> {backend}",
            protocol=protocol,
            matches=(*remember, "-m", protocol),
            then=("DNAT", "--to-destination", str(backend)),
        )

    def _enter(self, routes: Iterable[Route]) -> Iterator[Rule]:
        """KUBE-EXT-x: the routes in order, each marked for masquerade first if it has to be."""
        for route in routes:
            if route.action is not Action.FORWARD:
                continue
            for source, matches in self._sources(route.source):
                if route.masquerade is Masquerade.ALWAYS:
                    comment = f"{self.port.name} from {route.source.value}: masquerade"
                    yield make_rule(comment, source=source, matches=matches, then=(names.MARK_MASQ,))
                comment = f"{self.port.name} from {route.source.value}: {route.pool.value}"
                yield make_rule(comment, source=source, matches=matches, then=(self._pool_chain(route.pool),))

    def _sources(self, source: Source) -> Iterator[tuple[str, tuple[str, ...]]]:
        if source is Source.POD:
            yield from ((cidr, ()) for cidr in self.cidrs)
        else:
            yield "", LOCAL_SOURCE if source is Source.NODE else ()

    def _admit(self, sources: Iterable[str]) -> Iterator[Rule]:
        for source in sources:
            comment = f"{self.port.name} load balancer IP: allowed source"
            yield make_rule(comment, source=source, then=(self._name(names.external_chain),))

    def _target(self, frontend: Frontend) -> tuple[str]:
        if frontend.kind is Kind.CLUSTER_IP:
            return (self._pool_chain(frontend.routes[-1].pool),)
        if frontend.allowed_sources is not None:
            return (self._name(names.firewall_chain),)
        return (self._name(names.external_chain),)

    def _refusal(self, action: Action) -> tuple[str, ...]:
        """TCP is refused with a reset: every client takes it as final, and unlike ICMP errors (one a second and
        client, net.ipv4.icmp_ratelimit) it is always sent."""
        if action is Action.DROP:
            return ("DROP",)
        return (
            "REJECT",
            "--reject-with",
            "tcp-reset" if self.port.protocol == "TCP" else _UNREACHABLE[self.port.family],
        )

    def _rule(
        self,
        frontend: Frontend,
        comment: str,
        *,
        then: tuple[str, ...],
        source: str = "",
        before: tuple[str, ...] = (),
    ) -> Rule:
        """A rule for packets to a frontend."""
        protocol = self.port.protocol.lower()
        matches = (*before, "-m", protocol, "--dport", str(frontend.port))
        return make_rule(
            comment, source=source, destination=frontend.address or "", protocol=protocol, matches=matches, then=then
        )

    def _external(self) -> list[Frontend]:
        return [frontend for frontend in self.port.frontends if frontend.kind is not Kind.CLUSTER_IP]

    def _uses(self, pool: Pool) -> bool:
        return any(
            route.action is Action.FORWARD and route.pool is pool
            for frontend in self.port.frontends
            for route in frontend.routes
        )

    def _pool_chain(self, pool: Pool) -> str:
        return self._name(names.service_chain if pool is Pool.CLUSTER else names.local_chain)

    def _endpoint_chain(self, backend: Backend) -> str:
        return names.endpoint_chain(str(self.port.name), self.port.protocol, str(backend))

    def _name(self, chain: Callable[[str, str], str]) -> str:
        return chain(str(self.port.name), self.port.protocol)


def _forwards(frontend: Frontend) -> bool:
    return any(route.action is Action.FORWARD for route in frontend.routes)
