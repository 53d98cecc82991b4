"""Where NodePorts listen: on which of the node's own addresses (kube-proxy's ``nodePortAddresses``).

Loopback addresses are a matter of their own. A NodePort answers there only in IPv4 and only if asked for
(``localhost_node_ports``): the kernel has to be told to route 127/8, which opens it to the neighbours (CVE-2020-8558).
So a range that holds the loopback range and more is cut in pieces, and a backend need not look inside one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rules.policy.addresses import ANYWHERE, LOOPBACK, NOWHERE, Network, family_of, parse_address, parse_network
from rules.policy.values import Frontends
from rules.snapshot import Family


def node_port_destinations(frontends: Frontends, family: Family) -> tuple[str, ...]:
    """CIDRs in which NodePorts listen (on those of their addresses that are this node's); empty: everywhere on it but
    on loopback addresses, and on these too if ``localhost_node_ports`` says so.
    """
    settings = frontends.settings
    ranges = [text for text in settings.node_port_addresses if text != "primary"]
    primary = list(_primary(frontends.node.addresses, family)) if "primary" in settings.node_port_addresses else []
    given = dict.fromkeys([*primary, *(n for n in map(parse_network, ranges) if family_of(n) is family)])
    if not given or parse_network(ANYWHERE[family]) in given:
        return ()
    localhost = settings.localhost_node_ports and family is Family.IPV4
    found = (str(piece) for network in given for piece in _apart(network, localhost=localhost))
    return tuple(dict.fromkeys(found)) or (NOWHERE[family],)


def _primary(addresses: Iterable[str], family: Family) -> Iterator[Network]:
    """The node's first address of a family, as a network of one."""
    for text in addresses:
        try:
            address = parse_address(text)
        except ValueError:  # a node may well be known by a name, too; it is no address of it
            continue
        if family_of(address) is family:
            yield parse_network(str(address))
            return


def _apart(network: Network, *, localhost: bool) -> Iterator[Network]:
    """A network without loopback addresses, and these by themselves if they are wanted."""
    loopback = parse_network(LOOPBACK[family_of(network)])
    if not network.overlaps(loopback):
        yield network
        return
    if network.prefixlen < loopback.prefixlen:
        yield from network.address_exclude(loopback)  # type: ignore[arg-type]  # both are of one family
        network = loopback
    if localhost:
        yield network
