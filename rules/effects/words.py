"""Numbers, lists and clients in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from rules.policy import Backend, Source
from rules.policy.addresses import Network, parse_network

SHOWN = 4  # of a list: more are counted, not named
Item = TypeVar("Item")

FROM = {
    frozenset({Source.ANYONE}): "from outside",
    frozenset({Source.POD}): "from pods",
    frozenset({Source.NODE}): "from this node",
    frozenset({Source.ANYONE, Source.POD}): "from anywhere but this node",
    frozenset({Source.ANYONE, Source.NODE}): "from outside the pod network",
    frozenset({Source.POD, Source.NODE}): "from pods and this node",
}
OPEN = {"TCP": "connections", "UDP": "flows", "SCTP": "associations"}


def still_open(protocol: str, lost: Collection[Backend], usable: Collection[Backend]) -> str:
    """What becomes of what is open to endpoints that get nothing new."""
    if not lost:
        return ""
    what = OPEN[protocol]
    ended = [backend for backend in sorted(lost) if backend not in usable]
    if protocol == "TCP" or not ended:
        return f"; open {what} go on"
    whose = "" if len(ended) == len(lost) else f" to {name_some(ended)}"
    return f"; open {what}{whose} are ended"


def moved_port(old: Sequence[Backend], new: Sequence[Backend]) -> tuple[int, int] | None:
    """From one port of all endpoints to another one of the same endpoints."""
    if {b.address for b in old} != {b.address for b in new} or len(old) != len(new):
        return None
    was, now = {b.port for b in old}, {b.port for b in new}
    return (was.pop(), now.pop()) if was != now and len(was) == len(now) == 1 else None


def parse_networks(texts: Iterable[str]) -> list[Network]:
    return [parse_network(text) for text in texts]


def subtract_networks(networks: Sequence[Network], covered: Iterable[str]) -> list[Network]:
    """What of ``networks`` is in none of ``covered``."""
    left = list(networks)
    for other in parse_networks(covered):
        left = [piece for network in left for piece in _cut(network, other)]
    return list(dict.fromkeys(left))


def _cut(network: Network, other: Network) -> Iterable[Network]:
    """``network`` without ``other``. The two are of one family, that of the address they guard."""
    if not network.overlaps(other):
        return (network,)
    inside = network.prefixlen < other.prefixlen
    return network.address_exclude(other) if inside else ()  # type: ignore[arg-type]


def name_ranges(networks: Iterable[Network], address: str | None) -> str:
    """Ranges that may connect to ``address``, which among them stands for the node's connections to itself."""
    names = (str(network) for network in networks)
    return name_some(["this node itself" if name in (f"{address}/32", f"{address}/128") else name for name in names])


def name_clients(who: Sequence[Source], all_of: Sequence[Source]) -> str:
    return "" if len(who) == len(all_of) else f"{FROM[frozenset(who)]} "


def agree(text: str, count: int) -> str:
    return text.replace("{are}", "are" if count > 1 else "is").replace("{s}", "" if count > 1 else "s")


def count_endpoints(backends: Sequence[Backend]) -> str:
    return f"{len(backends)} endpoint{'' if len(backends) == 1 else 's'}"


def verb_s(items: Sequence[object]) -> str:
    return "s" if len(items) == 1 else ""


def name_some(items: Sequence[object]) -> str:
    """The first few by name, the rest by number."""
    named = [str(item) for item in items[:SHOWN]]
    return join_and(named if len(items) <= SHOWN else [*named, f"{len(items) - SHOWN} more"])


def join_and(items: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def difference(items: Iterable[Item], others: Iterable[Item]) -> list[Item]:
    known = set(others)
    return [item for item in dict.fromkeys(items) if item not in known]


def duration(seconds: int) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
