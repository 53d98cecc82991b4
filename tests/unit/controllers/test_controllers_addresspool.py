"""Which address a load balancer gets, keeps, is refused, and gives up."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.controllers.addresspool import CLASS, Assignment, Pool, held_addresses, is_ours, resolve_assignment
from agent.controllers.objects import Service, decoder
from agent.kube.informer import Key

POOL = Pool.parse(["192.0.2.1-192.0.2.3", "2001:db8::1-2001:db8::2"], reserved=["192.0.2.1"])
read = decoder(Service)


def balancer(
    name: str = "web", *has: str, age: int = 0, families: tuple[str, ...] = ("IPv4",), going: bool = False, **spec: Any
) -> Service:
    """A Service that has addresses; of two, the one of greater ``age`` is older."""
    meta = {"name": name, "namespace": "default", "uid": name, "creationTimestamp": f"{2025 - age}-01-01T00:00:00Z"}
    if going:
        meta["deletionTimestamp"] = "2025-01-02T00:00:00Z"
    whole = {"type": "LoadBalancer", "ipFamilies": families, "clusterIP": "10.96.0.9", **spec}
    status = {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in has]}}
    return read(json.dumps({"metadata": meta, "spec": whole, "status": status}).encode())


def holding(*others: Service) -> Callable[[str], list[Service]]:
    return lambda address: [other for other in others if address in held_addresses(other)]


def assign(service: Service, *others: Service, pool: Pool = POOL) -> Assignment:
    return resolve_assignment(service, pool, holding(*others))


BOTH = ("IPv6", "IPv4")


@pytest.mark.parametrize(
    ("service", "others", "expected"),
    [
        (balancer(), [], ["192.0.2.2"]),
        (balancer(), [balancer("a", "192.0.2.2")], ["192.0.2.3"]),
        (balancer("web", "192.0.2.3"), [], ["192.0.2.3"]),
        (balancer(families=BOTH), [], ["2001:db8::1", "192.0.2.2"]),
        (balancer("web", "192.0.2.3", families=BOTH), [], ["2001:db8::1", "192.0.2.3"]),
        (balancer("web", "2001:db8::1", "192.0.2.3"), [], ["192.0.2.3"]),
        (balancer(loadBalancerIP="192.0.2.3"), [], ["192.0.2.3"]),
        (balancer(loadBalancerIP="192.0.2.03"), [], ["192.0.2.3"]),
        (balancer("web", "192.0.2.2", loadBalancerIP="192.0.2.3"), [], ["192.0.2.3"]),
        (balancer("web", "192.0.2.3", loadBalancerIP="192.0.2.3"), [], ["192.0.2.3"]),
        (balancer(families=BOTH, loadBalancerIP="2001:db8::2"), [], ["2001:db8::2", "192.0.2.2"]),
        (balancer("web", "192.0.2.2", age=1), [balancer("a", "192.0.2.2")], ["192.0.2.2"]),
        (balancer("web", "192.0.2.2", going=True), [], ["192.0.2.2"]),
        (balancer(going=True), [], []),
    ],
)
def test_addresses(service: Service, others: list[Service], expected: list[str]) -> None:
    assert assign(service, *others) == Assignment(tuple(expected))


FULL = [balancer("a", "192.0.2.2"), balancer("b", "192.0.2.3")]


@pytest.mark.parametrize(
    ("service", "others", "expected", "problem"),
    [
        (balancer(), FULL, [], "load_balancer_pool has no free IPv4 address left"),
        (balancer(families=BOTH), FULL, ["2001:db8::1"], "load_balancer_pool has no free IPv4 address left"),
        (balancer(loadBalancerIP="nine"), [], [], "loadBalancerIP 'nine' is not an IP address"),
        (balancer(loadBalancerIP="198.51.100.1"), [], [], "loadBalancerIP 198.51.100.1 is not in load_balancer_pool"),
        (balancer(loadBalancerIP="192.0.2.1"), [], [], "loadBalancerIP 192.0.2.1 is this node's own"),
        (
            balancer(loadBalancerIP="2001:db8::1"),
            [],
            [],
            "loadBalancerIP 2001:db8::1 is an IPv6 address, and the Service has only IPv4",
        ),
        (balancer(loadBalancerIP="192.0.2.2"), FULL, [], "loadBalancerIP 192.0.2.2 is in use by Service default/a"),
        (
            balancer("web", "192.0.2.3", loadBalancerIP="192.0.2.2"),
            [balancer("a", "192.0.2.2")],
            ["192.0.2.3"],
            "loadBalancerIP 192.0.2.2 is in use by Service default/a",
        ),
        (
            balancer("web", "192.0.2.2"),
            [balancer("a", "192.0.2.2", age=1)],
            ["192.0.2.3"],
            "192.0.2.2 belongs to Service default/a, which is older",
        ),
    ],
)
def test_what_cannot_be_had_is_told(service: Service, others: list[Service], expected: list[str], problem: str) -> None:
    assert assign(service, *others) == Assignment(tuple(expected), (problem,))


def test_a_wish_does_not_take_from_an_older_service() -> None:
    found = assign(balancer("web", "192.0.2.2", loadBalancerIP="192.0.2.2"), balancer("a", "192.0.2.2", age=1))
    assert found.addresses == ()
    assert found.problems[-1] == "loadBalancerIP 192.0.2.2 is in use by Service default/a"


def test_a_pool_of_one_family_serves_that_one() -> None:
    four = Pool.parse(["192.0.2.0/24"])
    assert assign(balancer(families=BOTH), pool=four) == Assignment(("192.0.2.0",))
    assert assign(balancer(families=("IPv6",)), pool=four) == Assignment(
        (), ("load_balancer_pool has no IPv6 addresses",)
    )


def test_a_huge_pool_costs_nothing() -> None:
    assert assign(balancer(families=("IPv6",)), pool=Pool.parse(["2001:db8::/32"])).addresses == ("2001:db8::",)


@pytest.mark.parametrize(
    ("service", "ours"),
    [
        (balancer(), True),
        (balancer(loadBalancerClass=CLASS), True),
        (balancer(loadBalancerClass="example.com/other"), False),
        (balancer(type="NodePort"), False),
        (balancer("web", "192.0.2.2"), True),
        (balancer("web", "198.51.100.1"), False),
        (balancer("web", "192.0.2.2", "198.51.100.1"), False),
        (balancer("web", "192.0.2.1"), False),
    ],
)
def test_whose_service_it_is(service: Service, ours: bool) -> None:
    assert is_ours(service, POOL) is ours


def test_a_host_name_is_somebody_elses() -> None:
    named = {"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}}
    assert not is_ours(read(json.dumps(named).encode()), POOL)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from(["", "192.0.2.2", "192.0.2.3", "x"]))))
def test_never_two_services_with_one_address(steps: list[tuple[int, bool, str]]) -> None:
    """Services come, go and wish; each decision is carried out before the next."""
    known: dict[Key, Service] = {}
    for number, there, wish in steps:
        name = f"s{number}"
        old = known.pop(Key("default", name), None)
        if there:
            has = held_addresses(old) if old is not None else []
            found = assign(balancer(name, *has, loadBalancerIP=wish), *known.values())
            assert set(found.addresses) >= set(has) or wish in found.addresses
            known[Key("default", name)] = balancer(name, *found.addresses)
        everything = [address for service in known.values() for address in held_addresses(service)]
        assert len(everything) == len(set(everything))
        assert all(address in POOL for address in everything)
