"""The kernel's word: a real packet is sent and traced, and its way compared with what was predicted.

What the kernel tells is made into the same steps as a prediction has: a rule's number (legacy) or handle (nft) is
looked up among the installed rules, and those that are not ours are kept aside. The packet went as predicted exactly
if our rules matched in the same order as in one predicted outcome, and nobody else's rule put an end to it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal

from agent.cli.tracing import kernel
from agent.cli.tracing.kernel import Event, Flow, Listener, listening, traced
from agent.cli.tracing.node import Installed, Place, TraceFailure, read_installed
from agent.cli.tracing.probe import Sender, make_socket, send
from agent.shell import CommandError
from rules.iptables.listing import Counted, Listing
from rules.iptables.names import is_ours
from rules.iptables.ruleset import Rule
from rules.snapshot import Family
from rules.trace import Outcome, Packet, Step

_REFUSALS = ("DROP", "REJECT")
_NFT_FAMILY = {Family.IPV4: "ip", Family.IPV6: "ip6"}


@dataclass(frozen=True, slots=True)
class Hop:
    """One rule (or policy) that the kernel says the packet met; ``rule`` is None where it is not iptables' own."""

    event: Event
    rule: Rule | None

    @property
    def ours(self) -> bool:
        """Does podwire's proxy answer for it: a rule in a chain of ours, or our jump to one?"""
        if self.rule is None or self.event.table not in ("nat", "filter"):
            return False
        return is_ours(self.event.chain) or (is_ours(self.rule.target) and self.rule.is_jump_of_ours)

    @property
    def ends(self) -> bool:
        target = self.rule.target if self.rule is not None else ""
        return self.event.drop or (self.event.kind == "rule" and target in _REFUSALS)

    def __str__(self) -> str:
        event = self.event
        place = (
            f"{event.table} {event.chain}"
            if event.family in ("ip", "ip6")
            else f"{event.family} {event.table} {event.chain}"
        )
        if event.kind != "rule":
            return f"{place}: {event.kind}{' drop' if event.drop else ''}"
        return f"{place}: {self.rule}" if self.rule is not None else f"{place}: rule with handle {event.rule}"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One real packet: what its sender experienced, what the kernel says of its way, and which outcome that is.

    ``matched``: the predicted outcome; None: it is none of them, and ``difference`` says why. ``by``: what tells so.
    """

    answer: str
    hops: tuple[Hop, ...]
    matched: Outcome | None
    difference: str = ""
    by: Literal["trace", "counters"] = "trace"


@dataclass(slots=True)
class Witness:
    """Sends packets and is told by the kernel where they go. ``predict``: what is expected of a packet sent just now
    (session affinity may have changed since the last one)."""

    node: Place
    installed: Installed
    listener: Listener
    predict: Callable[[], Sequence[Outcome]]
    _positions: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def watch(self, sender: Sender, packet: Packet) -> Sighting:
        """One packet. Raises TraceFailure."""
        expected = self.predict()
        sock = make_socket(sender, packet.protocol)
        with sock:
            flow = Flow(self.installed.family, packet.protocol, sender.address, sock.getsockname()[1])
            with traced(self.node, flow):
                self.listener.events(quiet=0.01)  # what is still told of the packet before
                answer = send(sender, sock, packet.destination, packet.port)
                events = self.listener.events()
        hops = tuple(self._hop(event) for event in first_packet(events, self.installed.variant))
        return compare(answer, hops, expected)

    def _hop(self, event: Event) -> Hop:
        number = event.rule
        if event.engine == "nft":
            if event.family != _NFT_FAMILY[self.installed.family]:
                return Hop(event, None)
            number = self._position(event)
        found: Counted | None = None
        if event.kind == "rule":
            found = self.installed.listing.rule_at(event.table, event.chain, number)
        elif event.engine == "legacy" and event.kind == "policy":
            event = self._with_policy(event)
        return Hop(event, found.rule if found is not None else None)

    def _with_policy(self, event: Event) -> Event:
        """A logged trace does not say what a policy is; iptables-save does."""
        policy = next(
            (p for name, p in self.installed.listing.policies.items() if name == (event.table, event.chain)), ""
        )
        return Event(event.engine, event.table, event.chain, "policy", event.rule, policy == "DROP", event.family)

    def _position(self, event: Event) -> int:
        """nft's handle of a rule -> its place in the chain; 0: it is not known."""
        if not self._positions:
            self._positions = read_positions(self.node, self.installed.family)
        return self._positions.get((event.table, event.chain, event.rule), 0)


@dataclass(slots=True)
class Counting:
    """Sends packets and looks at which rules' counters rise: all that can be done without nft. Others' packets are
    counted too, so this is less than a proof."""

    node: Place
    installed: Installed
    predict: Callable[[], Sequence[Outcome]]

    def watch(self, sender: Sender, packet: Packet) -> Sighting:
        """One packet. Raises TraceFailure."""
        expected = self.predict()
        with make_socket(sender, packet.protocol) as sock:
            before = self._listing()
            answer = send(sender, sock, packet.destination, packet.port)
            return compare_counters(answer, before, self._listing(), expected)

    def _listing(self) -> Listing:
        return read_installed(self.node, self.installed.family, self.installed.variant).listing


@contextmanager
def witness(
    node: Place, installed: Installed, predict: Callable[[], Sequence[Outcome]]
) -> Iterator[Witness | Counting]:
    """Somebody to watch packets, listening. Raises TraceFailure where the kernel cannot be asked."""
    if not has_nft():
        yield Counting(node, installed, predict)
        return
    try:
        with listening(node, variant=installed.variant, family=installed.family) as listener:
            yield Witness(node, installed, listener, predict)
    except CommandError as error:
        raise TraceFailure(
            f"cannot trace a real packet: {error} (this needs the program nft, and nf_tables)"
        ) from error


def has_nft() -> bool:
    return shutil.which("nft") is not None


def first_packet(events: Iterable[Event], variant: str) -> tuple[Event, ...]:
    """The events of the first packet that was told of: those before its first step comes again. Our own table, which
    marks it, is left out, and so is what the other rule engine tells."""
    relevant = [event for event in events if event.engine == variant and event.table != kernel.TABLE]
    return (*relevant[:1], *takewhile(lambda event: event != relevant[0], relevant[1:]))


def compare(answer: str, hops: tuple[Hop, ...], expected: Sequence[Outcome]) -> Sighting:
    """Which of the expected outcomes is it? Pure."""
    if not hops:
        return Sighting(answer, hops, None, "the kernel told nothing of it: it did not reach the node's netfilter")
    way = [(hop.event.table, hop.event.chain, hop.rule) for hop in hops if hop.ours]
    matched = next((o for o in expected if [(s.table, s.chain, s.rule) for s in o.steps] == way), None)
    end = next((hop for hop in hops if hop.ends), None)
    if end is not None and not end.ours:
        return Sighting(answer, hops, None, f"a rule that is not podwire's put an end to it: {end}")
    if matched is None:
        return Sighting(answer, hops, None, _difference(way, expected))
    return Sighting(answer, hops, matched)


def compare_counters(answer: str, before: Listing, after: Listing, expected: Sequence[Outcome]) -> Sighting:
    """The longest of the expected outcomes all of whose rules have counted something meanwhile. Pure."""

    def rose(step: Step) -> bool:
        counts = [listing.find(step.table, step.chain, step.rule) for listing in (before, after)]
        return counts[0] is not None and counts[1] is not None and counts[1].packets > counts[0].packets

    fitting = [outcome for outcome in expected if all(rose(step) for step in outcome.steps)]
    matched = max(fitting, key=lambda outcome: len(outcome.steps), default=None)
    why = "" if matched is not None else "no predicted way has counted a packet in all its rules"
    return Sighting(answer, (), matched, why, by="counters")


def _difference(way: Sequence[tuple[str, str, Rule | None]], expected: Sequence[Outcome]) -> str:
    """Where the way leaves the prediction that it follows longest."""
    best = max((_common(way, outcome) for outcome in expected), default=0)
    if best < len(way):
        table, chain, rule = way[best]
        return f"as predicted for {best} of its steps, then it met {table} {chain}: {rule}"
    return f"as predicted for {best} of its steps, and then no further"


def _common(way: Sequence[tuple[str, str, Rule | None]], outcome: Outcome) -> int:
    steps = [(step.table, step.chain, step.rule) for step in outcome.steps]
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(way, steps, strict=False)))


def read_positions(node: Place, family: Family) -> dict[tuple[str, str, int], int]:
    """(table, chain, handle) -> place in the chain, counted from 1, of every rule of a family."""
    found: dict[tuple[str, str, int], int] = {}
    count: dict[tuple[str, str], int] = {}
    for item in json.loads(node.run("nft", "-j", "-a", "list", "ruleset", _NFT_FAMILY[family]))["nftables"]:
        if (rule := item.get("rule")) is not None:
            chain = (rule["table"], rule["chain"])
            count[chain] = count.get(chain, 0) + 1
            found[(*chain, rule["handle"])] = count[chain]
    return found
