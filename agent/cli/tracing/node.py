"""What is to be known of a node for a trace, read from its kernel: rules with counters, addresses, remembered clients.

Everything is read, nothing changed. The caller says how to enter the node's network namespace.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.shell import CommandError, run
from netns import namespaces
from rules.iptables.engines import Variant
from rules.iptables.listing import ChainName, Listing, parse_listing
from rules.iptables.names import SERVICES
from rules.iptables.parse import parse_ruleset
from rules.iptables.ruleset import Ruleset
from rules.snapshot import Family

T = TypeVar("T")
VARIANTS: tuple[Variant, ...] = ("nft", "legacy")
TOOLS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


class TraceFailure(Exception):
    """The trace cannot be made; the message says what, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node's network namespace: a name (or path) as ``ip netns`` knows it, or None: the caller's own."""

    netns: str | None

    def inside(self, action: Callable[[], T]) -> T:
        return namespaces.inside(self.netns, action) if self.netns is not None else action()

    def run(self, *argv: str, stdin: str = "") -> str:
        return self.inside(lambda: run(argv, stdin=stdin.encode())).decode()

    def __str__(self) -> str:
        return f"network namespace {self.netns}" if self.netns is not None else "this network namespace"


@dataclass(frozen=True, slots=True)
class Installed:
    """One family's rules as they are. ``warnings``: what is odd about them, a sentence each."""

    family: Family
    variant: Variant
    ruleset: Ruleset
    listing: Listing
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """How this node reaches an address: through which link, and with which source address of its own."""

    link: str
    source: str


def read_installed(place: Place, family: Family, variant: Variant | None = None) -> Installed:
    """The rules of the variant that holds the Services (or of the one asked for). Raises TraceFailure."""
    tool = TOOLS[family]
    texts = {v: _save(place, f"{tool}-{v}-save") for v in VARIANTS if variant in (None, v)}
    listings = {v: parse_listing(text) for v, text in texts.items() if text is not None}
    holding = [v for v, listing in listings.items() if ChainName("nat", SERVICES) in listing.chains]
    if not holding:
        raise TraceFailure(
            f"no Services are programmed in {place} ({tool} has no chain {SERVICES});"
            " is the proxy running? 'podwire status' shows a node, --node-netns names its namespace"
        )
    chosen = holding[0]
    both = "the nft and the legacy variant both hold Services, and packets pass both; nft's are shown"
    return Installed(
        family,
        chosen,
        parse_ruleset(texts[chosen] or ""),
        listings[chosen],
        (both,) if len(holding) > 1 else (),
    )


def read_addresses(place: Place) -> dict[str, str]:
    """The node's own addresses, and the link of each."""
    links: list[dict[str, Any]] = json.loads(place.run("ip", "-j", "address", "show"))
    return {info["local"]: link["ifname"] for link in links for info in link.get("addr_info", []) if "local" in info}


def read_route(place: Place, destination: str) -> Route | None:
    """As ``ip route get`` has it; None: the node has no route there."""
    try:
        (found,) = json.loads(place.run("ip", "-j", "route", "get", destination))
    except (CommandError, ValueError):
        return None
    return Route(found.get("dev", ""), found.get("prefsrc", ""))


def read_memory(place: Place, source: str) -> frozenset[str] | None:
    """The sets that hold an address (those of ipset, where session affinity is kept); None: nobody can tell."""
    if shutil.which("ipset") is None:
        return None
    try:
        lines = place.run("ipset", "save").splitlines()
    except CommandError:
        return None
    words = (line.split() for line in lines)
    return frozenset(word[1] for word in words if word[0] == "add" and _is_same(word[2], source))


def _save(place: Place, tool: str) -> str | None:
    if shutil.which(tool) is None:
        return None
    try:
        return place.run(tool, "-c")
    except CommandError as error:
        raise TraceFailure(f"cannot read rules: {error}") from error


def _is_same(text: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(text) == ipaddress.ip_address(address)
    except ValueError:
        return False
