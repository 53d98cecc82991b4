"""The path of one packet through a lowered ruleset: what the kernel would do with it, worked out from the rules alone.

A new connection's first packet passes, in this order (netfilter's hooks; only tables that we write):

    from the network: nat PREROUTING, then filter FORWARD and nat POSTROUTING, or filter INPUT if it is for this node
    from this node:   nat OUTPUT, filter OUTPUT, nat POSTROUTING, then filter INPUT if it is for this node (by ``lo``)

Where rules choose at random, every choice is followed, with its probability. Where they ask whether a client is
remembered (session affinity) and nobody told us, both answers are followed, and each outcome says what it assumes. Only
what ``lower`` writes is understood; anything else raises TraceError rather than being guessed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from rules.iptables.ruleset import Rule, Rules, Ruleset

_REFUSALS = ("DROP", "REJECT")
_VERDICTS = ("ACCEPT", *_REFUSALS)


class TraceError(ValueError):
    """A rule that this module does not understand; the message cites it."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. ``local``: the node's own addresses; ``from_node``: it was sent by the node.

    ``came``: the interface by which it arrived; ``out``: the one by which it leaves, unless ``leaves`` has another for
    its final destination. ``member_of``: the sets (of ipset) that hold its source; None: not known.
    """

    source: str
    destination: str
    port: int
    protocol: str = "tcp"
    local: frozenset[str] = frozenset()
    from_node: bool = False
    came: str = ""
    out: str = ""
    leaves: Mapping[str, str] = field(default_factory=dict)
    member_of: frozenset[str] | None = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that matched, in one chain of one table, on the way through the built-in chain ``hook``."""

    table: str
    chain: str
    rule: Rule
    hook: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way it may go. ``endpoint``: the rewritten destination, ``address:port``, empty if it was not rewritten.

    ``assumed``: the set that the source is taken to be in, where ``Packet.member_of`` was not known; probabilities of
    outcomes with the same assumption add up to 1. ``delivered``: it ends at this node.
    """

    probability: float
    verdict: str
    endpoint: str
    masqueraded: bool
    steps: tuple[Step, ...]
    assumed: str = ""
    delivered: bool = False


@dataclass(frozen=True, slots=True)
class _State:
    """A packet on its way. ``done``: what ended its walk through the current hook. ``denied``: sets that it is taken
    not to be in."""

    packet: Packet
    probability: float = 1.0
    mark: int = 0
    endpoint: str = ""
    masqueraded: bool = False
    done: str = ""
    assumed: str = ""
    denied: frozenset[str] = frozenset()
    steps: tuple[Step, ...] = ()


_States = list[_State]


@dataclass(frozen=True, slots=True)
class _Hook:
    """One built-in chain of one table, and our chains that can be reached from it."""

    table: str
    name: str
    chains: Mapping[str, Rules]


def trace_packet(ruleset: Ruleset, packet: Packet) -> tuple[Outcome, ...]:
    """Everything that may happen to it, the likely first. Raises TraceError."""
    states = [_State(packet)]
    if packet.from_node:
        for table, hook in (("nat", "OUTPUT"), ("filter", "OUTPUT"), ("nat", "POSTROUTING")):
            states = _through(ruleset, table, hook, states)
    else:
        states = _through(ruleset, "nat", "PREROUTING", states)
    here = [state for state in states if is_local(state.packet, state.packet.destination)]
    beyond = [state for state in states if not is_local(state.packet, state.packet.destination)]
    if not packet.from_node:
        beyond = _through(ruleset, "nat", "POSTROUTING", _through(ruleset, "filter", "FORWARD", beyond))
    if packet.from_node:
        here = [replace(state, packet=replace(state.packet, came="lo")) for state in here]
    found = _through(ruleset, "filter", "INPUT", here) + beyond
    return tuple(sorted((_outcome(state) for state in found), key=lambda o: (o.assumed, -o.probability, o.endpoint)))


def is_local(packet: Packet, address: str) -> bool:
    """Is it an address of the node that the packet passes? (fib: RTN_LOCAL; all of 127/8 is.)"""
    return address in packet.local or ipaddress.ip_address(address).is_loopback


def _through(ruleset: Ruleset, table: str, hook: str, states: _States) -> _States:
    """Through one built-in chain, as far as it is ours."""
    content = ruleset.table(table)
    place = _Hook(table, hook, content.chains)
    found = [state for state in states if state.done in _REFUSALS]
    for state in states:
        if state.done not in _REFUSALS:
            found += _walk(place, hook, content.jumps.get(hook, ()), replace(state, done=""))
    return found


def _walk(hook: _Hook, chain: str, rules: Rules, state: _State) -> _States:
    """All ways through a chain; a state whose ``done`` is set has ended, another goes on in the calling chain."""
    ended: _States = []
    going = [state]
    for rule in rules:
        following: _States = []
        for here in going:
            matching, passing = _split(rule, here)
            following += passing
            for taken in matching:
                step = Step(hook.table, chain, rule, hook.name)
                for after in _take(hook, rule, replace(taken, steps=(*taken.steps, step))):
                    if after.done == "RETURN":
                        ended.append(replace(after, done=""))
                    elif after.done or _goes(rule):
                        ended.append(after)
                    else:
                        following.append(after)
        going = following
    return ended + going


def _take(hook: _Hook, rule: Rule, state: _State) -> _States:
    """What the target of a matching rule does."""
    target = rule.target
    if target in hook.chains:
        return _walk(hook, target, hook.chains[target], state)
    if target in _VERDICTS or target == "RETURN":
        return [replace(state, done=target)]
    if not target or target == "SET":
        return [state]  # it only counts, or remembers the client for the next time
    if target == "MARK":
        value, mask = (int(part, 16) for part in _value(rule, "--set-xmark").split("/"))
        return [replace(state, mark=(state.mark & ~mask) ^ value)]
    if target == "MASQUERADE":
        return [replace(state, masqueraded=True, done="ACCEPT")]
    if target == "DNAT":
        return [_rewrite(state, _value(rule, "--to-destination"))]
    raise TraceError(f"cannot follow the target of: {rule}")


def _goes(rule: Rule) -> bool:
    """``-g``: what the chain leaves undecided does not come back here (iptables(8), --goto)."""
    return "-g" in rule.words


def _rewrite(state: _State, endpoint: str) -> _State:
    address, _, port = endpoint.rpartition(":")
    packet = replace(state.packet, destination=address.strip("[]"), port=int(port))
    return replace(state, packet=packet, endpoint=endpoint, done="ACCEPT")


def _split(rule: Rule, state: _State) -> tuple[_States, _States]:
    """The ways in which the rule matches, and those in which it does not."""
    matching, passing = [state], list[_State]()
    for negated, option, value in _options(rule):
        answers = [_ask(option, value, here) for here in matching]
        matching = [here for answer in answers for here in answer[negated]]
        passing += [here for answer in answers for here in answer[not negated]]
        if not matching:
            break
    return matching, passing


def _ask(option: str, value: str, state: _State) -> tuple[_States, _States]:
    """One match: the states for which it holds, and those for which it does not."""
    if option == "--probability":
        return _throw(float(value), state)
    if option == "--match-set":
        return _remembered(value, state)
    return ([state], []) if _matches(option, value, state) else ([], [state])


def _throw(chance: float, state: _State) -> tuple[_States, _States]:
    hit = replace(state, probability=state.probability * chance)
    return [hit], [replace(state, probability=state.probability * (1 - chance))]


def _remembered(name: str, state: _State) -> tuple[_States, _States]:
    """Is the source in a set? Where nobody knows: both, and the answer holds for the rest of the way."""
    known = state.packet.member_of
    if known is not None:
        return ([state], []) if name in known else ([], [state])
    if name in state.denied:
        return [], [state]
    member = replace(state, packet=replace(state.packet, member_of=frozenset({name})), assumed=name)
    return [member], [replace(state, denied=state.denied | {name})]


def _matches(option: str, value: str, state: _State) -> bool:
    packet = state.packet
    match option:
        case "-s":
            return ipaddress.ip_address(packet.source) in ipaddress.ip_network(value)
        case "-d":
            return ipaddress.ip_address(packet.destination) in ipaddress.ip_network(value)
        case "-p":
            return packet.protocol == value
        case "-i":
            return packet.came == value
        case "-o":
            return packet.leaves.get(packet.destination, packet.out) == value
        case "--dport":
            low, _, high = value.partition(":")
            return int(low) <= packet.port <= int(high or low)
        case "--dst-type":
            return is_local(packet, packet.destination)
        case "--src-type":
            return packet.from_node
        case "--ctstate":
            return "NEW" in (states := value.split(",")) or ("DNAT" in states and bool(state.endpoint))
        case "--mark":
            bits, mask = (int(part, 16) for part in value.split("/"))
            return state.mark & mask == bits
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
        if word in ("-m", "--mode", "--comment"):
            next(words)
        elif word == "--match-set":
            yield negated, word, next(words)
            next(words)  # src: ours are sets of clients
        else:
            yield negated, word, next(words)
        negated = False


def _value(rule: Rule, option: str) -> str:
    return rule.words[rule.words.index(option) + 1]


def _outcome(state: _State) -> Outcome:
    verdict = state.done if state.done in _REFUSALS else "ACCEPT"
    return Outcome(
        state.probability,
        verdict,
        state.endpoint,
        state.masqueraded,
        state.steps,
        assumed=state.assumed,
        delivered=is_local(state.packet, state.packet.destination),
    )
