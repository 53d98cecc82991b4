"""What an installed ruleset says of itself: where it sends connections on, read off its rules alone.

After a restart this is all that is known of Services that were deleted meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from rules.iptables.names import SERVICE_PREFIXES
from rules.iptables.ruleset import Rule, Ruleset


class Destination(NamedTuple):
    """Where a Service listens: protocol in capitals; ``address`` None: the node's own addresses (a NodePort)."""

    protocol: str
    address: str | None
    port: int


def find_destinations(ruleset: Ruleset, *protocols: str) -> frozenset[Destination]:
    """Every destination of these protocols that the nat table sends to a Service's chain."""
    wanted = tuple(f"-p {protocol.lower()} " for protocol in protocols)
    return frozenset(
        found
        for rules in ruleset.nat.chains.values()
        for rule in rules
        if any(text in rule.text for text in wanted) and rule.target.startswith(SERVICE_PREFIXES)
        for found in _destinations(rule)
    )


def _destinations(rule: Rule) -> Iterator[Destination]:
    words = rule.words
    values = dict(pairwise(words))
    if "--dport" in values and values["--dport"].isdecimal():
        address = values["-d"].split("/")[0] if "-d" in values else None
        yield Destination(values["-p"].upper(), address, int(values["--dport"]))
