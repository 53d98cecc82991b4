"""Two answers of policy compared: changes, each with its subjects, then sentences. The package says more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rules.effects.listeners import CLIENTS, Claims, Fate, Listener, Place, find_claimants, find_fate, find_listeners
from rules.effects.values import Effect, Impact
from rules.effects.words import (
    agree,
    count_endpoints,
    difference,
    duration,
    join_and,
    moved_port,
    name_clients,
    name_ranges,
    name_some,
    parse_networks,
    still_open,
    subtract_networks,
    verb_s,
)
from rules.policy import (
    Action,
    Backend,
    Frontends,
    HealthCheck,
    Kind,
    Pool,
    ServiceFrontends,
    Source,
    node_port_destinations,
)
from rules.snapshot import Family, ServiceName

_REFUSED = {Action.REJECT: "refused", Action.DROP: "dropped"}
_BY_ENDPOINTS = "EndpointSlices"
_BY_SETTINGS = "settings of the proxy"


@dataclass(frozen=True, slots=True)
class Change:
    """A sentence that wants its subject. ``{are}`` and ``{s}`` become plural where it has several."""

    impact: Impact
    text: str
    field: str = ""


def diff_frontends(before: Frontends, after: Frontends) -> tuple[Effect, ...]:
    """All that is different for traffic: first for the node, then for one Service after the other, by name."""
    claims = Claims(find_claimants(before), find_claimants(after))
    effects = list(_diff_node(before, after))
    for name in sorted(before.services.keys() | after.services.keys()):
        old, new = before.services.get(name), after.services.get(name)
        if old != new:
            effects += _diff_service(name, old, new, claims)
    return tuple(effects)


def _diff_service(
    name: ServiceName, before: ServiceFrontends | None, after: ServiceFrontends | None, claims: Claims
) -> Iterator[Effect]:
    old, new = before or ServiceFrontends(name), after or ServiceFrontends(name)
    for text in _diff_whole(old, new, exists=after is not None):
        yield Effect(name, Impact.NOTE, text)
    olds, news = find_listeners(old), find_listeners(new)
    subjects: dict[Change, list[str]] = {}
    for place in dict.fromkeys([*olds, *news]):
        for whose, change in _diff_place(name, place, olds.get(place), news.get(place), claims):
            subjects.setdefault(change, []).append(f"{place} {whose}".rstrip())
    for change, found in subjects.items():
        yield Effect(name, change.impact, f"{join_and(found)}{agree(change.text, len(found))}", change.field)
    for change in _diff_health(old.health_check, new.health_check):
        yield Effect(name, change.impact, change.text, change.field)


def _diff_health(old: HealthCheck | None, new: HealthCheck | None) -> Iterator[Change]:
    """What load balancers that ask this node are told; 503 makes them send their clients to other nodes."""
    field = "spec.healthCheckNodePort"
    if old is not None and (new is None or new.port != old.port):
        yield Change(Impact.CHANGE, f"health checks on port {old.port}/TCP are no longer answered", field)
        old = None
    if new is None or new == old:
        return
    before = f", before: {_answer(old)}" if old else ""
    text = f"health checks on port {new.port}/TCP are answered with {_answer(new)}{before}"
    yield Change(Impact.CHANGE, text, field)


def _answer(check: HealthCheck) -> str:
    ready = f"{check.ready_here} ready endpoint{'' if check.ready_here == 1 else 's'} on this node"
    return f"{200 if check.ready_here else 503} ({ready})"


def _diff_whole(old: ServiceFrontends, new: ServiceFrontends, *, exists: bool) -> Iterator[str]:
    """What is not a matter of one place: whether the proxy serves the Service at all, and what it had to leave out."""
    if new.skipped and new.skipped != old.skipped:
        yield f"the proxy does not serve it: {new.skipped}"
    if old.skipped and not new.skipped and exists:
        yield f"the proxy serves it from now on; before, it did not: {old.skipped}"
    yield from (
        f"left out, because it cannot be served: {problem}" for problem in difference(new.problems, old.problems)
    )
    if exists:
        yield from (f"no longer left out: {problem}" for problem in difference(old.problems, new.problems))


_Said = Iterator[tuple[str, Change]]  # from whom ("" for everybody), and what


def _diff_place(name: ServiceName, place: Place, old: Listener | None, new: Listener | None, claims: Claims) -> _Said:
    if new is None:
        assert old is not None
        yield "", _gone(old, claims.left(place, name))
        return
    if old is None:
        yield "", _new(place, new, claims.taken(place, name))
        if others := claims.left(place, name):
            yield "", Change(Impact.NOTE, f" {{are}} claimed by Service {join_and(others)} too: only one can be served")
    else:
        yield from _diff_listeners(place, old, new)
    yield from (("", change) for change in _diff_affinity(old, new))
    yield from (("", change) for change in _diff_sources(place, old, new))


def _gone(old: Listener, others: Sequence[str]) -> Change:
    if others:
        return Change(Impact.CHANGE, f" {{are}} left to Service {join_and(others)}")
    if not old.serves:
        return Change(Impact.CHANGE, " no longer exist{s}: packets are not refused any more, nor translated")
    still = still_open(old.port.protocol, old.usable, frozenset())
    return Change(Impact.LOSS, f" no longer exist{{s}}: packets are not translated any more{still}")


def _new(place: Place, new: Listener, others: Sequence[str]) -> Change:
    """What connections meet there and, where it may be hidden from the endpoints, whose address these see."""
    fates = {client: find_fate(new, client) for client in CLIENTS}
    # The node's own address is the node's either way: let it be said with the pods'.
    fates[Source.NODE] = replace(fates[Source.NODE], keeps=fates[Source.POD].keeps)
    clauses: dict[str, list[Source]] = {}
    for client, fate in fates.items():
        clauses.setdefault(fate.clause(address=place.kind is not Kind.CLUSTER_IP), []).append(client)
    said = "; ".join(f"connections {name_clients(who, CLIENTS)}{clause}" for clause, who in clauses.items())
    state = f"{{are}} taken over from Service {join_and(others)}" if others else "{are} new"
    return Change(Impact.GAIN if new.serves else Impact.CHANGE, f" {state}: {said}")


def _diff_listeners(place: Place, old: Listener, new: Listener) -> _Said:
    policy = _policy_change(place.kind, old, new)

    def served(client: Source) -> Iterator[Change]:
        yield from _diff_fates(find_fate(old, client), find_fate(new, client), new, policy)

    def seen(client: Source) -> Iterator[Change]:
        yield from _diff_addresses(find_fate(old, client), find_fate(new, client), place.kind, policy)

    yield from _by_client(CLIENTS, served)
    yield from _by_client(CLIENTS[:2], seen)  # the node's own address is the node's either way
    if old.port.name != new.port.name:
        was, now = old.port.name.port, new.port.name.port
        yield "", Change(Impact.NOTE, f": the port is named {now!r} instead of {was!r}", "spec.ports[].name")


def _by_client(clients: Sequence[Source], changes_of: Callable[[Source], Iterable[Change]]) -> _Said:
    """Each change with those of ``clients`` for whom it is the same."""
    found: dict[Change, list[Source]] = {}
    for client in clients:
        for change in changes_of(client):
            found.setdefault(change, []).append(client)
    for change, who in found.items():
        yield name_clients(who, clients).rstrip(), change


def _diff_fates(old: Fate, new: Fate, after: Listener, policy: str) -> Iterator[Change]:
    """Served or not, and by whom."""
    protocol, usable = after.port.protocol, after.usable
    if new.action is not Action.FORWARD:
        if old.action is not new.action:
            served = old.action is Action.FORWARD
            still = still_open(protocol, frozenset(old.backends), usable)
            instead = "" if served else f", no longer {_REFUSED[old.action]}"
            text = f": new connections {new.clause()}{instead}{still}"
            field = policy if new.action is Action.DROP else _BY_ENDPOINTS
            yield Change(Impact.LOSS if served else Impact.CHANGE, text, field)
    elif old.action is not Action.FORWARD:
        field = policy if "->" in policy else _BY_ENDPOINTS
        yield Change(Impact.GAIN, f": connections are no longer {_REFUSED[old.action]}, they {new.clause()}", field)
    elif old.pool is not new.pool:
        yield _diff_pools(old, new, after, policy)
    else:
        yield from _diff_endpoints(old, new, protocol, usable)


def _diff_pools(old: Fate, new: Fate, after: Listener, policy: str) -> Change:
    """Cluster became Local, or the other way round."""
    who = "only this node's endpoints" if new.pool is Pool.LOCAL else "endpoints of every node"
    lost = frozenset(old.backends) - frozenset(new.backends)
    same = set(old.backends) == set(new.backends)
    number = f"the same {count_endpoints(new.backends)} as before" if same else _numbers(old, new)
    text = f": {who} get connections from now on: {number}{still_open(after.port.protocol, lost, after.usable)}"
    return Change(Impact.NOTE if same else Impact.CHANGE, text, policy)


def _diff_endpoints(old: Fate, new: Fate, protocol: str, usable: Collection[Backend]) -> Iterator[Change]:
    gone, come = difference(old.backends, new.backends), difference(new.backends, old.backends)
    if moved := moved_port(old.backends, new.backends):
        text = f": connections go to port {moved[1]} of the endpoints instead of {moved[0]}"
        yield Change(Impact.CHANGE, f"{text}{still_open(protocol, gone, usable)}", "spec.ports[].targetPort")
        return
    if come:
        text = f": {name_some(come)} get{verb_s(come)} connections from now on: {_numbers(old, new)}"
        yield Change(Impact.GAIN, text, _BY_ENDPOINTS)
    if gone:
        number = "" if come else f": {_numbers(old, new)}"
        text = f": {name_some(gone)} get{verb_s(gone)} no new connections{number}{still_open(protocol, gone, usable)}"
        yield Change(Impact.CHANGE, text, _BY_ENDPOINTS)


def _diff_addresses(old: Fate, new: Fate, kind: Kind, policy: str) -> Iterator[Change]:
    """Whose address do endpoints see?"""
    if old.action is not Action.FORWARD or new.action is not Action.FORWARD or old.keeps == new.keeps:
        return
    field = _BY_SETTINGS if kind is Kind.CLUSTER_IP else policy
    if new.keeps:
        yield Change(Impact.CHANGE, ": endpoints see the client's address from now on", field)
    else:
        yield Change(Impact.CHANGE, ": endpoints no longer see the client's address, but this node's", field)


def _diff_affinity(old: Listener | None, new: Listener) -> Iterator[Change]:
    was, now = old.port.affinity if old else None, new.port.affinity
    if was == now or not new.serves:
        return
    field = "spec.sessionAffinity"
    if now is None:
        yield Change(Impact.CHANGE, ": clients no longer stay with their endpoint", field)
    else:
        before = f", before it was {duration(was)}" if was else ""
        text = f": a client stays with its endpoint for {duration(now)} after its last new connection{before}"
        yield Change(Impact.CHANGE, text, field)


def _diff_sources(place: Place, old: Listener | None, new: Listener) -> Iterator[Change]:
    """Who may connect. Ranges that are written in another way but hold the same addresses are the same."""
    was, now = old.guard if old else None, new.guard
    if was == now or not new.serves:
        return
    field = "spec.loadBalancerSourceRanges"
    if now is None:
        yield Change(Impact.GAIN, ": connections from everywhere are let in from now on", field)
    elif was is None:
        only = f"only those from {name_ranges(parse_networks(now), place.address)} are let in, " if now else ""
        who = "all others" if now else "connections"
        impact = Impact.LOSS if old and old.serves else Impact.NOTE
        yield Change(impact, f": {only}{who} are dropped, whoever they are from", field)
    else:
        lost, gained = subtract_networks(parse_networks(was), now), subtract_networks(parse_networks(now), was)
        if gained:
            who = name_ranges(gained, place.address)
            yield Change(Impact.GAIN, f": connections from {who} are let in from now on", field)
        if lost:
            who = name_ranges(lost, place.address)
            yield Change(Impact.LOSS, f": new connections from {who} are dropped from now on", field)


def _policy_change(kind: Kind, old: Listener, new: Listener) -> str:
    """``spec.externalTrafficPolicy: Local -> Cluster``, or its one value."""
    field = "spec.internalTrafficPolicy" if kind is Kind.CLUSTER_IP else "spec.externalTrafficPolicy"
    return f"{field}: {' -> '.join(dict.fromkeys(filter(None, (old.policy, new.policy))))}"


# The node.


def _diff_node(before: Frontends, after: Frontends) -> Iterator[Effect]:
    old, new = before.settings, after.settings
    for what, was, now in (
        ("the pod network is", old.cluster_cidrs, new.cluster_cidrs),
        ("pods that leave the pod network with this node's address are those in", old.egress_cidrs, new.egress_cidrs),
        ("the link to this node's pods is", (old.pod_bridge,), (new.pod_bridge,)),
        ("NodePorts listen on", _destinations(before), _destinations(after)),
    ):
        if was != now:
            sentence = f"{what} {join_and(now) or 'unknown'} from now on, before: {join_and(was) or 'unknown'}"
            yield Effect(None, Impact.CHANGE, sentence, _BY_SETTINGS)
    for problem in difference(after.problems, before.problems):
        yield Effect(None, Impact.NOTE, f"left out, because it cannot be used: {problem}", _BY_SETTINGS)


def _destinations(frontends: Frontends) -> tuple[str, ...]:
    found: list[str] = []
    for family in Family:
        allowed = frontends.settings.localhost_node_ports and family is Family.IPV4
        everywhere = f"all local IPv{family.value} addresses{'' if allowed else ' but the loopback ones'}"
        found += node_port_destinations(frontends, family) or (everywhere,)
    return tuple(found)


def _numbers(old: Fate, new: Fate) -> str:
    was, now = len(old.backends), len(new.backends)
    return f"{count_endpoints(new.backends)} {'as before' if was == now else f'instead of {was}'}"
