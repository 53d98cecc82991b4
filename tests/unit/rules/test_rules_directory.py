"""Directories: a destination's rules are found wherever the tree has put them, by walking the chains as a packet does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.iptables.build import make_rule
from rules.iptables.directory import AddressDirectory, PortDirectory, address_key
from rules.iptables.names import MAX_CHAIN_NAME, is_ours
from rules.iptables.ruleset import Rule, Rules
from rules.snapshot import Family

TOP = "KUBE-SERVICES"
Chains = dict[str, Rules]


def follow(chains: Chains, changed: Iterable[tuple[str, Rules | None]]) -> Chains:
    for chain, rules in changed:
        if rules is None:
            chains.pop(chain, None)
        else:
            chains[chain] = rules
    return chains


def option(rule: Rule, name: str) -> str:
    words = rule.words
    return words[words.index(name) + 1] if name in words else ""


def met(
    chains: Mapping[str, Rules], chain: str, address: str = "", port: int = 0, protocol: str = ""
) -> Iterator[Rule]:
    """The lines (not the jumps to branches) that a packet for a destination meets and that fit it."""
    for rule in chains[chain]:
        network, ports = option(rule, "-d"), option(rule, "--dport")
        if network and ip_address(address) not in ip_network(network):
            continue
        low, _, high = ports.partition(":")
        if ports and (option(rule, "-p") != protocol or not int(low) <= port <= int(high or low)):
            continue
        if rule.target in chains:
            yield from met(chains, rule.target, address, port, protocol)
        else:
            yield rule


def line(address: str, owner: str) -> Rules:
    return (make_rule(owner, destination=str(ip_network(address)), then=f"KUBE-SVC-{owner}"),)


FOURS = st.builds(lambda high, low: f"10.96.{high}.{low}", st.sampled_from([0, 1, 17, 255]), st.integers(0, 255))
SIXES = st.builds(lambda high, low: f"fd00:96::{high:x}:{low:x}", st.sampled_from([0, 1, 255]), st.integers(0, 255))


@pytest.mark.parametrize("family", list(Family))
@given(data=st.data())
def test_every_address_is_found(family: Family, data: st.DataObject) -> None:
    """Whatever came and went before; and a packet walks a few short chains."""
    addresses = FOURS if family is Family.IPV4 else SIXES.map(lambda text: str(ip_address(text)))
    directory, chains = AddressDirectory(TOP, "V", family), Chains()
    model: dict[tuple[str, str], Rules] = {}
    for _ in range(data.draw(st.integers(1, 3))):
        for address in data.draw(st.sets(addresses, max_size=120)):
            directory.put(address, ("a",), line(address, "A"))
            model[address, "a"] = line(address, "A")
        for address, owner in data.draw(st.sets(st.sampled_from(sorted(model)), max_size=60)) if model else ():
            directory.put(address, (owner,), ())
            model.pop((address, owner), None)
        follow(chains, directory.changed())
    anew = AddressDirectory(TOP, "V", family)
    for (address, owner), rules in model.items():
        anew.put(address, (owner,), rules)
    assert chains == follow({}, anew.changed())
    for address, _ in model:
        assert tuple(met(chains, TOP, address)) == model[address, "a"]
    assert all(len(rules) <= 32 for rules in chains.values())
    assert all(len(name) <= MAX_CHAIN_NAME and is_ours(name) for name in chains)
    assert sum(rule.target not in chains for rules in chains.values() for rule in rules) == len(model)


def filled(count: int, family: Family = Family.IPV4) -> tuple[AddressDirectory, Chains]:
    directory = AddressDirectory(TOP, "V", family)
    kind, first = (IPv4Address, "10.96.3.0") if family is Family.IPV4 else (IPv6Address, "fd00:96::300")
    for number in range(count):
        address = str(kind(first) + number)
        directory.put(address, (), line(address, str(number)))
    return directory, follow({}, directory.changed())


def test_a_short_directory_is_one_list() -> None:
    _, chains = filled(32)
    assert set(chains) == {TOP}
    assert [rule.comment for rule in chains[TOP]] == [str(number) for number in range(32)]


def test_a_long_directory_as_text() -> None:
    _, chains = filled(40)
    (jump,) = chains[TOP]
    assert str(jump) == (
        '-d 10.96.3.0/24 -m comment --comment "podwire: addresses in 10.96.3.0/24" -j PODWIRE-V-10.96.3.0/24'
    )
    assert set(chains) == {TOP, *(f"PODWIRE-V-10.96.3.{part}" for part in ("0/24", "0/28", "16/28", "32/28"))}


def test_a_long_directory_of_ipv6_as_text() -> None:
    _, chains = filled(40, Family.IPV6)
    (jump,) = chains[TOP]
    assert str(jump) == (
        '-d fd00:96::300/120 -m comment --comment "podwire: addresses in fd00:96::300/120" -j PODWIRE-V-3IBDFBRV23JNKNB7'
    )
    assert [option(rule, "-d") for rule in chains[jump.target]] == [
        "fd00:96::300/124",
        "fd00:96::310/124",
        "fd00:96::320/124",
    ]


def test_what_is_known_of_one_address_stands_in_order() -> None:
    directory = AddressDirectory(TOP, "V", Family.IPV4)
    for order in ((1, "b"), (0, "z"), (1, "a")):
        directory.put("10.96.0.1", order, line("10.96.0.1", f"{order[0]}{order[1]}"))
    chains = follow({}, directory.changed())
    assert [rule.comment for rule in chains[TOP]] == ["0z", "1a", "1b"]


def test_the_tail_stands_last_however_long_the_directory_is() -> None:
    directory, chains = filled(40)
    tail = (make_rule("last", then="KUBE-NODEPORTS"),)
    directory.set_tail(tail)
    changed = list(directory.changed())
    assert [name for name, _ in changed] == [TOP]
    assert chains[TOP] + tail == changed[0][1]
    for number in range(40):
        directory.put(f"10.96.3.{number}", (), ())
    assert follow(chains, directory.changed()) == {TOP: tail}


def test_keys_of_addresses() -> None:
    assert address_key("10.96.0.10") == "0a60000a"
    assert address_key("fd00:96::a") == "fd00009600000000000000000000000a"


# Ports.

PORTS = st.one_of(st.integers(30000, 30100), st.sampled_from([0, 1, 80, 32767, 65535]))


def port_line(protocol: str, port: int) -> Rules:
    small = protocol.lower()
    return (make_rule(str(port), protocol=small, matches=f"-m {small} --dport {port}", then=f"KUBE-EXT-{small}{port}"),)


@given(st.sets(st.tuples(st.sampled_from(["TCP", "UDP", "SCTP"]), PORTS), max_size=200), st.data())
def test_every_port_is_found(ports: set[tuple[str, int]], data: st.DataObject) -> None:
    directory, chains = PortDirectory("KUBE-NODEPORTS", "P"), Chains()
    for protocol, port in ports:
        directory.put(protocol, port, (), port_line(protocol, port))
    follow(chains, directory.changed())
    gone = data.draw(st.sets(st.sampled_from(sorted(ports)))) if ports else set()
    for protocol, port in gone:
        directory.put(protocol, port, (), ())
    follow(chains, directory.changed())
    for protocol, port in ports:
        found = tuple(met(chains, "KUBE-NODEPORTS", port=port, protocol=protocol.lower()))
        assert found == (() if (protocol, port) in gone else port_line(protocol, port))
    assert all(len(rules) <= 3 * 32 for rules in chains.values())
    assert all(len(name) <= MAX_CHAIN_NAME and is_ours(name) for name in chains)
    anew = PortDirectory("KUBE-NODEPORTS", "P")
    for protocol, port in sorted(ports - gone, reverse=True):
        anew.put(protocol, port, (), port_line(protocol, port))
    assert chains == follow({}, anew.changed())


def test_ranges_of_ports_as_text() -> None:
    directory = PortDirectory("KUBE-NODEPORTS", "P")
    for port in (*range(0x7530, 0x7550), 0x7FFF, 80):
        directory.put("UDP", port, (), port_line("UDP", port))
    chains = follow({}, directory.changed())
    assert [str(rule) for rule in chains["KUBE-NODEPORTS"]] == [
        '-p udp -m comment --comment "podwire: ports 0 to 4095" -m udp --dport 0:4095 -j PODWIRE-P-udp-0-4095',
        '-p udp -m comment --comment "podwire: ports 28672 to 32767" -m udp --dport 28672:32767 -j PODWIRE-P-udp-28672-32767',
    ]
    assert [option(rule, "--dport") for rule in chains["PODWIRE-P-udp-28672-32767"]] == ["29952:30207", "32512:32767"]
