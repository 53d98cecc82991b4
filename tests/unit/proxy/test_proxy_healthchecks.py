"""Health checks of Services: which ports are wanted, whose they are, where they listen. No sockets here."""

from __future__ import annotations

from typing import Any

import pytest

from agent.proxy.healthchecks import (
    Place,
    assign_ports,
    find_places,
    listening_ranges,
    revise_checks,
    wanted_checks,
)
from rules.policy import HealthCheck, resolve_frontends
from rules.snapshot import Family, ServiceName, Settings
from tests.harness.services import Made, make_service, make_snapshot

WEB, API = ServiceName("default", "web"), ServiceName("default", "api")
IPV4, IPV6 = Family.IPV4, Family.IPV6


def balanced(name: str, *endpoints: str, port: int, **fields: Any) -> Made:
    local = {"type": "LoadBalancer", "external_traffic_policy": "Local", "health_check_node_port": port}
    return make_service(name, *endpoints, **{**local, **fields})


def test_what_is_wanted() -> None:
    frontends = resolve_frontends(
        make_snapshot(
            balanced("web", "10.244.0.1", "10.244.0.2", port=32000),
            balanced("api", port=32001, vip="10.96.0.11"),
            make_service("plain", "10.244.0.3", vip="10.96.0.12"),
        )
    )
    assert wanted_checks(frontends) == {WEB: HealthCheck(32000, 2), API: HealthCheck(32001, 0)}


@pytest.mark.parametrize(
    "made",
    [
        [],
        [balanced("web", port=32000)],
        [balanced("web", "10.244.0.1", port=32000)],
        [balanced("web", "10.244.0.1", port=32005)],
        [make_service("web", "10.244.0.1")],
        [balanced("web", "10.244.0.1", port=32000), balanced("api", port=32001, vip="10.96.0.11")],
    ],
)
def test_revising_what_changed_is_as_good_as_looking_at_everything(made: list[Made]) -> None:
    before = {WEB: HealthCheck(32000, 0)}
    after = resolve_frontends(make_snapshot(*made))
    revised = revise_checks(before, after, {WEB, API})
    assert revised == wanted_checks(after)
    assert (revised is before) == (revised == before)


@pytest.mark.parametrize(
    ("held", "holder", "loser"),
    [
        ({}, API, WEB),  # nobody has it: the first by name
        ({32000: WEB}, WEB, API),  # who has it keeps it
        ({32000: ServiceName("default", "gone")}, API, WEB),
    ],
)
def test_a_port_claimed_twice(held: dict[int, ServiceName], holder: ServiceName, loser: ServiceName) -> None:
    wanted = {WEB: HealthCheck(32000), API: HealthCheck(32000), ServiceName("default", "x"): HealthCheck(32001)}
    holders, troubles = assign_ports(wanted, held)
    assert holders == {32000: holder, 32001: ServiceName("default", "x")}
    assert troubles == {loser: f"healthCheckNodePort 32000 is that of Service {holder} already"}


LOCAL = ("127.0.0.1", "192.0.2.2", "198.51.100.7", "::1", "2001:db8::2")


@pytest.mark.parametrize(
    ("node_port_addresses", "addresses"),
    [
        ((), {"0.0.0.0", "::"}),
        (("192.0.2.0/24",), {"192.0.2.2", "::"}),  # none of a family: everywhere in it
        (("192.0.2.0/24", "198.51.100.0/24", "2001:db8::/64"), {"192.0.2.2", "198.51.100.7", "2001:db8::2"}),
        (("203.0.113.0/24", "2001:db8:1::/64"), set()),
        (("primary",), {"192.0.2.2", "::"}),  # the Node object has one address, an IPv4 one
    ],
)
def test_they_listen_where_node_ports_do(node_port_addresses: tuple[str, ...], addresses: set[str]) -> None:
    frontends = resolve_frontends(make_snapshot(settings=Settings(node_port_addresses=node_port_addresses)))
    ranges = listening_ranges(frontends)
    assert find_places([32000], ranges, LOCAL) == {Place(address, 32000) for address in addresses}
    assert find_places([], ranges, LOCAL) == frozenset()
