"""Directories: the shared chains in which a packet's destination is looked up, split into trees once they are long.

```
KUBE-SERVICES   -d 10.96.0.0/12 -> PODWIRE-V-10.96.0.0/12   -d 10.96.3.0/24 -> PODWIRE-V-10.96.3.0/24   -d 10.96.3.7 ...
KUBE-NODEPORTS  --dport 30208:30223 -> PODWIRE-P-tcp-30208-30223   --dport 30210 ...
```
While it is short, a directory is one list, and reads like kube-proxy's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator

from rules.iptables import names
from rules.iptables.build import our_rule
from rules.iptables.ruleset import Rule, Rules
from rules.iptables.tree import Fork, Leaf, Place, Tree
from rules.snapshot import Family

PROTOCOLS = ("TCP", "UDP", "SCTP")

Jump = Callable[[str], Rule]  # to the child of a prefix


def render_node(content: Leaf[Rule] | Fork, jump: Jump) -> Rules:
    """A node of a tree as rules: its lines, or a jump per child."""
    if isinstance(content, Leaf):
        return content.lines
    return tuple(jump(prefix) for prefix, _ in content.children)


def address_key(address: str) -> str:
    """An address as hexadecimal digits: ``10.96.0.10`` -> ``0a60000a``."""
    if ":" in address:
        return ipaddress.IPv6Address(address).packed.hex()
    return bytes(map(int, address.split("."))).hex()


class AddressDirectory:
    """Lines by destination address. ``tail``: rules that stand after all of them."""

    def __init__(self, chain: str, letter: str, family: Family) -> None:
        self._chain, self._letter, self._family = chain, letter, family
        self._tree: Tree[Rule] = Tree()
        self._top: Rules = ()
        self._tail: Rules = ()

    def put(self, address: str, order: tuple[str | int, ...], rules: Rules) -> None:
        """What is known of one address on behalf of one owner; no rules: nothing any more."""
        self._tree.put(Place(address_key(address), order), rules)

    def set_tail(self, rules: Iterable[Rule]) -> None:
        self._tail = tuple(rules)

    def changed(self) -> Iterator[tuple[str, Rules | None]]:
        """Chains that may be others than at the last call; None: gone."""
        for prefix, content in self._tree.changed():
            rules = None if content is None else render_node(content, self._jump)
            if prefix:
                yield names.address_chain(self._letter, self._network(prefix)), rules
            else:
                self._top = rules or ()
        yield self._chain, self._top + self._tail

    def _jump(self, prefix: str) -> Rule:
        network = self._network(prefix)
        chain = names.address_chain(self._letter, network)
        return our_rule(f"addresses in {network}", destination=network, then=chain)

    def _network(self, prefix: str) -> str:
        digits = 8 if self._family is Family.IPV4 else 32
        kind = ipaddress.IPv4Address if self._family is Family.IPV4 else ipaddress.IPv6Address
        return f"{kind(int(prefix.ljust(digits, '0'), 16))}/{4 * len(prefix)}"


class PortDirectory:
    """Lines by protocol and destination port, for packets that are known to be for this node."""

    def __init__(self, chain: str, letter: str) -> None:
        self._chain, self._letter = chain, letter
        self._trees: dict[str, Tree[Rule]] = {protocol: Tree() for protocol in PROTOCOLS}
        self._tops: dict[str, Rules] = dict.fromkeys(PROTOCOLS, ())

    def put(self, protocol: str, port: int, order: tuple[str | int, ...], rules: Rules) -> None:
        self._trees[protocol].put(Place(f"{port:04x}", order), rules)

    def changed(self) -> Iterator[tuple[str, Rules | None]]:
        """Chains that may be others than at the last call; None: gone."""
        for protocol, tree in self._trees.items():
            yield from self._changed(protocol, tree)
        yield self._chain, tuple(rule for top in self._tops.values() for rule in top)

    def _changed(self, protocol: str, tree: Tree[Rule]) -> Iterator[tuple[str, Rules | None]]:
        def jump(prefix: str) -> Rule:
            low, high = _ports(prefix)
            ports = f"-m {protocol.lower()} --dport {low if low == high else f'{low}:{high}'}"
            chain = self._name(protocol, prefix)
            return our_rule(f"ports {low} to {high}", protocol=protocol.lower(), matches=ports, then=chain)

        for prefix, content in tree.changed():
            rules = None if content is None else render_node(content, jump)
            if prefix:
                yield self._name(protocol, prefix), rules
            else:
                self._tops[protocol] = rules or ()

    def _name(self, protocol: str, prefix: str) -> str:
        low, high = _ports(prefix)
        return names.ports_chain(self._letter, protocol.lower(), f"{low}-{high}")


def _ports(prefix: str) -> tuple[int, int]:
    return int(prefix.ljust(4, "0"), 16), int(prefix.ljust(4, "f"), 16)
