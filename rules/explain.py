"""A packet's outcomes, told as sentences: what each rule did with it, and which field of which object wanted that.

``trace`` works out from the rules where a packet may go; this module says why. It decides nothing: what a Service means
is read from the policy's values (``Frontend``, ``Route``, pools) of the Service port that the packet meets, and field
names from the Service itself. A path is told hook by hook, in the order in which the packet lives it; each sentence
holds the rules it speaks of, so that they can be shown with their counters.

Outcomes that are told in the same words, but for the endpoint, are one Branch: "one of 3, 33.3 % each".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rules.iptables import names
from rules.meeting import Meeting, candidates_of, find_meeting, health_check_of, same_address
from rules.policy import Action, Frontends, Kind, Masquerade, Pool, PortFrontends, Route, Source
from rules.snapshot import Snapshot
from rules.trace import Outcome, Packet, Step, is_local

_EQUAL = 1e-6  # probabilities are kept by the kernel in units of 2**-31
_SERVICE_CHAINS = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-")


@dataclass(frozen=True, slots=True)
class Sentence:
    """Something that happens to the packet, and the rules that do it (none: it is what no rule does)."""

    text: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """One endpoint of a branch, with the rules that lead to it alone. ``probability``: within its assumption."""

    endpoint: str
    who: str
    probability: float
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """One way that is told in one way. ``sentences`` before the choice of an endpoint, ``after`` behind it.

    ``choice``: how one of ``endings`` is chosen; both are empty where the destination is not rewritten. ``remembered``:
    true only of clients that session affinity knows. ``result``: how it ends, as a clause.
    """

    verdict: str
    probability: float
    remembered: bool
    sentences: tuple[Sentence, ...]
    choice: str
    endings: tuple[Ending, ...]
    after: tuple[Sentence, ...]
    result: str
    outcomes: tuple[Outcome, ...]


def explain(
    packet: Packet,
    outcomes: Sequence[Outcome],
    *,
    frontends: Frontends,
    snapshot: Snapshot,
    known: Mapping[str, str] | None = None,
) -> tuple[Branch, ...]:
    """The branches of a packet's path, the likely first. ``known``: who has which address: "pod default/web-1"."""
    telling = _Telling(packet, frontends, snapshot, find_meeting(frontends, snapshot, packet), known or {})
    told = [(outcome, telling.tell(outcome)) for outcome in outcomes]
    groups: dict[tuple[object, ...], list[tuple[Outcome, _Told]]] = {}
    for outcome, words in told:
        groups.setdefault((bool(outcome.assumed), outcome.verdict, *words.texts()), []).append((outcome, words))
    branches = [_branch(members, telling) for members in groups.values()]
    return tuple(sorted(branches, key=lambda branch: (branch.remembered, -branch.probability)))


@dataclass(slots=True)
class _Told:
    """One outcome's sentences: before the choice of an endpoint, the choice, and after it."""

    before: list[Sentence] = field(default_factory=list)
    choice: tuple[Step, ...] = ()
    how: str = ""
    after: list[Sentence] = field(default_factory=list)

    def texts(self) -> tuple[object, ...]:
        before, after = ([sentence.text for sentence in part] for part in (self.before, self.after))
        return (*before, self.how, *after)


@dataclass(frozen=True, slots=True)
class _Telling:
    """What is told about one packet."""

    packet: Packet
    frontends: Frontends
    snapshot: Snapshot
    meeting: Meeting | None
    known: Mapping[str, str]

    def tell(self, outcome: Outcome) -> _Told:
        told, unsaid = _Told(), tuple[Step, ...]()
        for (table, hook), steps in groupby(outcome.steps, key=lambda step: (step.table, step.hook)):
            found = tuple(steps)
            if table == "filter":
                told.after += self._filtered(found)
            elif hook == "POSTROUTING":
                told.after += self._left(found, outcome)
            else:
                unsaid = self._translated(found, outcome, told)
        if not outcome.endpoint and not told.before:
            text = self._untouched() if self.meeting is None or outcome.verdict == "ACCEPT" else self._is()
            told.before.append(Sentence(text, unsaid))
        if outcome.delivered and outcome.endpoint and outcome.verdict == "ACCEPT" and not self.packet.from_node:
            told.after.append(Sentence(f"ends at this node, so its source stays as it is: {self.packet.source}"))
        return told

    def who(self, address: str) -> str:
        if address == self.packet.source and not self.packet.from_node:
            return "the client itself"
        return self.known.get(address) or ("this node itself" if is_local(self.packet, address) else "")

    def result(self, outcome: Outcome) -> str:
        """How it ends: who sees whom."""
        if outcome.verdict == "REJECT":
            how = "connection refused" if self.packet.protocol == "tcp" else "port unreachable"
            return f"the client is told at once: {how}"
        if outcome.verdict == "DROP":
            return "the client hears nothing and gives up after its own timeout"
        if not outcome.endpoint:
            where = "is for this node itself" if outcome.delivered else "goes where it was sent"
            return f"it {where}{', under the address of the node' if outcome.masqueraded else ''}"
        if outcome.masqueraded:
            return "the endpoint sees the node's address as the client"
        return f"the endpoint sees {self.packet.source} as the client"

    # --- nat PREROUTING and OUTPUT: which Service, which endpoint ---

    def _translated(self, steps: tuple[Step, ...], outcome: Outcome, told: _Told) -> tuple[Step, ...]:
        """Tells of a Service and an endpoint; returns the steps of which there was nothing to tell."""
        waiting: list[Step] = []
        why = steps[0]
        for step in steps:
            waiting.append(step)
            target, text = step.rule.target, ""
            if target == names.MARK_MASQ:
                why = step
            elif target.startswith("KUBE-SEP-"):
                told.how = self._remembered(waiting)
                told.choice, waiting = tuple(waiting), []
            elif target in ("DNAT", "SET"):
                told.choice, waiting = (*told.choice, *waiting), []
            else:
                text = self._marked(why, outcome) if target == "MARK" else self._entered(step)
            if text:
                (told.after if told.choice else told.before).append(Sentence(text, tuple(waiting)))
                waiting = []
            elif step.chain.startswith("KUBE-EXT-") and target.startswith(_SERVICE_CHAINS) and told.before:
                last = told.before[-1]  # it only leads on from there
                told.before[-1], waiting = Sentence(last.text, (*last.steps, *waiting)), []
        return tuple(waiting)

    def _entered(self, step: Step) -> str:
        """What it means that the packet enters a chain of a Service (empty: nothing worth saying)."""
        target, chain = step.rule.target, step.chain
        if chain.startswith("KUBE-FW-"):
            return self._admitted(step)
        if chain.startswith("KUBE-EXT-"):
            return self._policy_outside()
        return self._recognised(step) if target.startswith(_SERVICE_CHAINS) else ""

    def _recognised(self, step: Step) -> str:
        if self.meeting is None or step.rule.target not in _chains_of(self.meeting.port):
            return f"a rule takes it for a Service that the API does not have there ({step.rule.comment})"
        local = self.meeting.frontend.kind is Kind.CLUSTER_IP and self.meeting.frontend.routes[-1].pool is Pool.LOCAL
        return self._is() + ("; internalTrafficPolicy is Local: only endpoints on this node count" if local else "")

    def _is(self) -> str:
        """Whose address and port it is."""
        return f"{_place(self.packet)} is {self.meeting.describe()}" if self.meeting is not None else ""

    def _admitted(self, step: Step) -> str:
        words = step.rule.words
        allowed = words[words.index("-s") + 1] if "-s" in words else "everywhere"
        return f"{self.packet.source} may connect: spec.loadBalancerSourceRanges has {allowed}"

    def _policy_outside(self) -> str:
        """externalTrafficPolicy Local; with Cluster, all there is to say is that it is masqueraded."""
        route = self._route()
        if route is None or self._policy() != "Local":
            return ""
        if route.source is Source.ANYONE:
            return "externalTrafficPolicy is Local: only endpoints on this node count, and the client's address is kept"
        masquerade = "" if route.masquerade is Masquerade.ALWAYS else ", and its address is kept"
        return (
            f"externalTrafficPolicy is Local, but {route.source.value} is no outsider: all endpoints count{masquerade}"
        )

    def _marked(self, step: Step, outcome: Outcome) -> str:
        """Why it is marked for masquerade. (What ends at this node never gets as far as being masqueraded.)"""
        done = "masqueraded" if outcome.masqueraded else "marked for masquerade"
        if step.chain.startswith("KUBE-SEP-"):
            return f"{done}: the endpoint is the client itself (hairpin), and its answer must pass this node"
        route = self._route()
        if self.meeting is None or route is None:
            return f"{done}: {step.rule.comment}"
        if self.meeting.frontend.kind is not Kind.CLUSTER_IP:
            if self._policy() == "Local":
                return f"{done}: it comes from this node itself, with the address that it was sent to"
            return (
                f"{done}: externalTrafficPolicy is Cluster, so the endpoint sees the node's address and answers"
                " through it"
            )
        if route.masquerade is Masquerade.ALWAYS:
            return f"{done}: the proxy was told to hide every client (masqueradeAll)"
        inside = ", ".join(self.frontends.settings.cluster_cidrs)
        return f"{done}: {self.packet.source} is outside the pod network ({inside}), and the answer must pass here"

    def _remembered(self, steps: Iterable[Step]) -> str:
        """Where session affinity has a say in the choice of an endpoint."""
        seconds = self.meeting.port.affinity if self.meeting is not None else None
        words = {word for step in steps for word in step.rule.words}
        if "--match-set" in words:
            lately = f"in the last {_span(seconds)}" if seconds else "before"
            return f"a client that was sent there {lately} goes there again (sessionAffinity ClientIP)"
        return f"remembered for {_span(seconds)} (sessionAffinity ClientIP)" if seconds else ""

    def narrowed(self) -> Iterator[Sentence]:
        """What the policy left out of a Service's endpoints, and why."""
        route = self._route()
        if self.meeting is None or route is None:
            return
        used = self.meeting.port.pool(route.pool)
        found = [c for c in candidates_of(self.meeting, self.snapshot) if c.backend.local or route.pool is Pool.CLUSTER]
        ready = [candidate for candidate in found if candidate.ready]
        if used and not ready:
            yield Sentence("no endpoint is ready: those that still serve while they terminate are used")
        elif len(used) < len(ready):
            yield Sentence(
                f"topology hints: {len(used)} of {len(ready)} ready endpoints are meant for this node or zone"
            )

    def _route(self) -> Route | None:
        """The route of the policy that fits this source."""
        if self.meeting is None:
            return None
        return next((route for route in self.meeting.frontend.routes if self._fits(route.source)), None)

    def _fits(self, source: Source) -> bool:
        if source is Source.POD:
            inside = map(ipaddress.ip_network, self.frontends.settings.cluster_cidrs)
            return any(ipaddress.ip_address(self.packet.source) in network for network in inside)
        return source is Source.ANYONE or self.packet.from_node

    def _policy(self) -> str:
        return self.meeting.service.external_traffic_policy if self.meeting is not None else ""

    # --- filter: let through or refused ---

    def _filtered(self, steps: tuple[Step, ...]) -> Iterator[Sentence]:
        last = steps[-1]
        if last.rule.target in ("DROP", "REJECT"):
            yield Sentence(self._refused(steps), steps)
        elif last.rule.target == "ACCEPT":
            yield Sentence(f"{last.hook} lets it through: {_comment(last)}", steps)

    def _refused(self, steps: tuple[Step, ...]) -> str:
        """Why, if the objects call for it."""
        rule, entry = steps[-1].rule, [step.rule.target for step in steps if step.chain == step.hook][-1]
        verb = "dropped" if rule.target == "DROP" else "refused"
        if self.meeting is None:
            return f"{verb} by a rule for a Service that the API does not have there ({rule.comment})"
        frontend = self.meeting.frontend
        if entry == names.FIREWALL and frontend.allowed_sources is not None:
            ranges = ", ".join(self.meeting.service.source_ranges)
            return f"dropped: {self.packet.source} is in none of spec.loadBalancerSourceRanges ({ranges})"
        action = frontend.routes[-1].action
        if action is Action.DROP and rule.target == "DROP":
            name = "internal" if frontend.kind is Kind.CLUSTER_IP else "external"
            elsewhere = f"{_count(len(self.meeting.port.cluster), 'usable endpoint')} elsewhere"
            return f"dropped: {name}TrafficPolicy is Local and this node has no endpoint; {elsewhere}"
        if action is Action.REJECT and rule.target == "REJECT":
            return f"refused: {self.meeting.service.name} has no ready endpoint ({self._unready()})"
        return f"{verb} by a rule that the objects do not call for ({rule.comment})"

    def _unready(self) -> str:
        """What there is instead of ready endpoints."""
        assert self.meeting is not None
        if self.meeting.service.name not in self.snapshot.slices:
            return "it has no EndpointSlice"
        found = candidates_of(self.meeting, self.snapshot)
        return f"{len(found)} not ready" if found else "its EndpointSlices have none for this port"

    # --- nat POSTROUTING: under whose address it leaves ---

    def _left(self, steps: tuple[Step, ...], outcome: Outcome) -> Iterator[Sentence]:
        last = steps[-1]
        if last.rule.target == "MASQUERADE" and last.chain == names.EGRESS:
            inside = ", ".join(self.frontends.settings.cluster_cidrs or self.frontends.settings.egress_cidrs)
            text = f"leaves the pod network ({inside}), where nobody knows a way back to a pod: masqueraded"
            yield Sentence(text, steps)
        elif outcome.masqueraded:
            yield Sentence("leaves with the node's address as its source, because it was marked", steps)
        else:
            yield Sentence(f"leaves with its own source address, {self.packet.source}", steps)

    # --- what is no Service ---

    def _untouched(self) -> str:
        """Nothing was rewritten: what the destination is instead."""
        place, address = _place(self.packet), self.packet.destination
        if self.meeting is not None:
            return f"no rule translates it, though it is {self.meeting.describe()}"
        if near := same_address(self.frontends, self.snapshot, self.packet):
            return near
        if checked := health_check_of(self.snapshot, self.packet):
            return f"{place} is the health check port of {checked} (spec.healthCheckNodePort): the proxy itself answers"
        if is_local(self.packet, address):
            return f"{place} is no NodePort: it is for this node itself, and whoever listens there gets it"
        if address in self.known:
            return f"not a Service: {address} is {self.known[address]}, and no rule of ours translates that"
        return "not a Service: no rule of ours translates this address"


def _branch(members: list[tuple[Outcome, _Told]], telling: _Telling) -> Branch:
    first, told = members[0]
    remembered = bool(first.assumed)
    total = max(o.probability for o, _ in members) if remembered else sum(o.probability for o, _ in members)
    endings = tuple(
        Ending(outcome.endpoint, telling.who(_address(outcome.endpoint)), outcome.probability, words.choice)
        for outcome, words in members
        if outcome.endpoint
    )
    return Branch(
        verdict=first.verdict,
        probability=total,
        remembered=remembered,
        sentences=(*told.before, *(telling.narrowed() if endings else ())),
        choice=_choice(endings, told.how, remembered=remembered),
        endings=endings,
        after=tuple(told.after),
        result=telling.result(first),
        outcomes=tuple(outcome for outcome, _ in members),
    )


def _choice(endings: Sequence[Ending], memory: str, *, remembered: bool) -> str:
    """``one of 3 endpoints, 33.3 % each``."""
    if not endings:
        return ""
    if remembered or memory.startswith("a client"):
        return memory
    low, high = (find(ending.probability for ending in endings) for find in (min, max))
    if low > 1 - _EQUAL:
        how = "the only endpoint"
    elif len(endings) == 1:
        how = f"one endpoint, {percent(high)}"
    elif high - low < _EQUAL:
        how = f"one of {len(endings)} endpoints, {percent(low)} each"
    else:
        how = f"one of {len(endings)} endpoints, {percent(low)} to {percent(high)}"
    return f"{how}; {memory}" if memory else how


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _chains_of(port: PortFrontends) -> set[str]:
    makers = (names.service_chain, names.local_chain, names.external_chain, names.firewall_chain)
    return {make(str(port.name), port.protocol) for make in makers}


def _address(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]")


def _place(packet: Packet) -> str:
    address = packet.destination
    return f"{f'[{address}]' if ':' in address else address}:{packet.port}/{packet.protocol.upper()}"


def _comment(step: Step) -> str:
    return step.rule.comment.partition(": ")[2] or step.rule.comment


def _span(seconds: int) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
