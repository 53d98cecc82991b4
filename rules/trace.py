"""The path of one packet through a lowered ruleset: what the kernel would do with it, worked out from the rules alone.

A new connection's first packet passes, in this order (netfilter's hooks; only tables that we write):

    from the network: nat PREROUTING, then filter FORWARD and nat POSTROUTING, or filter INPUT if it is for this node
    from this node:   nat OUTPUT, filter OUTPUT, nat POSTROUTING

Where rules choose at random, every choice is followed, with its probability. Only what ``lower`` writes is understood;
anything else raises TraceError rather than being guessed.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from rules.iptables.ruleset import Rule, Rules, Ruleset

_REFUSALS = ("DROP", "REJECT")
_VERDICTS = ("ACCEPT", *_REFUSALS)


class TraceError(ValueError):
    """A rule that this module does not understand; the message cites it."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. ``local``: the node's own addresses; ``from_node``: it was sent by the node."""

    source: str
    destination: str
    port: int
    protocol: str = "tcp"
    local: frozenset[str] = frozenset()
    from_node: bool = False
    out: str = ""  # the interface by which it leaves, where that matters


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that matched, in one chain of one table."""

    table: str
    chain: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way it may go. ``endpoint``: the rewritten destination, ``address:port``, empty if it was not rewritten."""

    probability: float
    verdict: str
    endpoint: str
    masqueraded: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class _State:
    """A packet on its way. ``done``: what ended its walk through the current hook."""

    packet: Packet
    probability: float = 1.0
    mark: int = 0
    endpoint: str = ""
    masqueraded: bool = False
    done: str = ""
    steps: tuple[Step, ...] = ()


def trace_packet(ruleset: Ruleset, packet: Packet) -> tuple[Outcome, ...]:
    """Everything that may happen to it, the likely first. Raises TraceError."""
    start = [_State(packet)]
    states = _hook(ruleset, "nat", "OUTPUT" if packet.from_node else "PREROUTING", start)
    states = [found for state in states for found in _hook(ruleset, "filter", _filter_hook(state), [state])]
    leaving = [found for state in states for found in _leave(ruleset, state)]
    return tuple(sorted((_outcome(state) for state in leaving), key=lambda o: (-o.probability, o.endpoint)))


def _filter_hook(state: _State) -> str:
    if state.packet.from_node:
        return "OUTPUT"
    return "INPUT" if state.packet.destination in state.packet.local else "FORWARD"


def _leave(ruleset: Ruleset, state: _State) -> list[_State]:
    if not state.packet.from_node and state.packet.destination in state.packet.local:
        return [state]
    return _hook(ruleset, "nat", "POSTROUTING", [state])


def _hook(ruleset: Ruleset, table: str, hook: str, states: list[_State]) -> list[_State]:
    """Through one built-in chain, as far as it is ours."""
    content = ruleset.table(table)
    rules = content.jumps.get(hook, ())
    found = [state for state in states if state.done in _REFUSALS]
    for state in states:
        if state.done not in _REFUSALS:
            found += _walk(table, content.chains, hook, rules, replace(state, done=""))
    return found


def _walk(table: str, chains: Mapping[str, Rules], chain: str, rules: Rules, state: _State) -> list[_State]:
    """All ways through a chain; a state whose ``done`` is set has ended, another goes on in the calling chain."""
    found: list[_State] = []
    for index, rule in enumerate(rules):
        chance = _chance(rule, state)
        if chance == 0:
            continue
        taken = replace(state, probability=state.probability * chance, steps=(*state.steps, Step(table, chain, rule)))
        for after in _take(table, chains, rule, taken):
            if after.done == "RETURN":
                found.append(replace(after, done=""))
            else:
                found += [after] if after.done else _walk(table, chains, chain, rules[index + 1 :], after)
        if chance == 1:
            return found
        state = replace(state, probability=state.probability * (1 - chance))
    return [*found, state]


def _take(table: str, chains: Mapping[str, Rules], rule: Rule, state: _State) -> list[_State]:
    """What the target of a matching rule does."""
    target = rule.target
    if target in chains:
        return _walk(table, chains, target, chains[target], state)
    if target in _VERDICTS or target == "RETURN":
        return [replace(state, done=target)]
    if not target:
        return [state]  # it only counts
    if target == "MARK":
        value, mask = (int(part, 16) for part in _value(rule, "--set-xmark").split("/"))
        return [replace(state, mark=(state.mark & ~mask) ^ value)]
    if target == "MASQUERADE":
        return [replace(state, masqueraded=True, done="ACCEPT")]
    if target == "DNAT":
        return [_rewrite(state, _value(rule, "--to-destination"))]
    raise TraceError(f"cannot follow the target of: {rule}")


def _rewrite(state: _State, endpoint: str) -> _State:
    address, _, port = endpoint.rpartition(":")
    packet = replace(state.packet, destination=address.strip("[]"), port=int(port))
    return replace(state, packet=packet, endpoint=endpoint, done="ACCEPT")


def _chance(rule: Rule, state: _State) -> float:
    """With which probability the rule matches: 0 or 1, unless it throws dice."""
    chance = 1.0
    for negated, option, value in _options(rule):
        if option == "--probability":
            chance *= float(value)
        elif _matches(option, value, state) == negated:
            return 0.0
    return chance


def _matches(option: str, value: str, state: _State) -> bool:
    packet = state.packet
    match option:
        case "-s":
            return ipaddress.ip_address(packet.source) in ipaddress.ip_network(value)
        case "-d":
            return ipaddress.ip_address(packet.destination) in ipaddress.ip_network(value)
        case "-p":
            return packet.protocol == value
        case "-o":
            return packet.out == value
        case "--dport":
            return packet.port == int(value)
        case "--dst-type":
            return packet.destination in packet.local
        case "--src-type":
            return packet.from_node
        case "--ctstate":
            return "NEW" in value.split(",")
        case "--mark":
            bits, mask = (int(part, 16) for part in value.split("/"))
            return state.mark & mask == bits
        case "--rcheck":
            return False  # a first connection: nothing is remembered of this client
    raise TraceError(f"cannot follow the option {option}")


def _options(rule: Rule) -> Iterator[tuple[bool, str, str]]:
    """What a rule asks of a packet: (negated, option, value)."""
    words = iter(rule.words)
    negated = False
    for word in words:
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            return
        if word == "-m":
            if next(words) == "recent":
                yield from _recent(words)
        elif word in ("--mode", "--comment"):
            next(words)
        else:
            yield negated, word, next(words)
        negated = False


def _recent(words: Iterator[str]) -> Iterator[tuple[bool, str, str]]:
    """``recent`` has options without values; its last is always --rsource."""
    options = list(itertools.takewhile(lambda word: word != "--rsource", words))
    if "--rcheck" in options:
        yield False, "--rcheck", ""


def _value(rule: Rule, option: str) -> str:
    return rule.words[rule.words.index(option) + 1]


def _outcome(state: _State) -> Outcome:
    verdict = state.done if state.done in _REFUSALS else "ACCEPT"
    return Outcome(state.probability, verdict, state.endpoint, state.masqueraded, state.steps)
