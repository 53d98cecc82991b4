"""ClusterIPs and NodePorts: never two owners, nothing leaks, nothing is lost."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.apiserver.admission import Context, Invalid, admit_create, admit_update, release
from agent.apiserver.admission.allocation import (
    Exhausted,
    Lease,
    OutOfRange,
    Pool,
    Range,
    Taken,
    address_range,
    port_range,
)
from agent.apiserver.admission.context import held_by
from agent.apiserver.registry import Kind, find_kind
from agent.config import Config

Object = dict[str, Any]
SMALL = Config(service_cidr="10.96.0.0/29", node_port_range=(30000, 30005), dns_ip="10.96.0.2")


def services() -> Kind:
    kind = find_kind("", "v1", "services")
    assert kind is not None
    return kind


def service(name: str, **spec: Any) -> Object:
    ports = spec.pop("ports", [{"port": 80}])
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": ports, **spec},
    }


# Ranges


@pytest.mark.parametrize(
    ("cidr", "first", "last", "dynamic"),
    [
        ("10.96.0.0/12", "10.96.0.1", "10.111.255.254", 256),
        ("10.96.0.0/24", "10.96.0.1", "10.96.0.254", 16),
        ("10.96.0.0/20", "10.96.0.1", "10.96.15.254", 255),
        ("10.96.0.0/28", "10.96.0.1", "10.96.0.14", 0),
    ],
)
def test_address_ranges(cidr: str, first: str, last: str, dynamic: int) -> None:
    import ipaddress

    values = address_range(cidr)
    assert (str(ipaddress.ip_address(values.first)), str(ipaddress.ip_address(values.last))) == (first, last)
    assert values.dynamic - values.first == dynamic


def test_an_ipv6_range_has_no_broadcast_address() -> None:
    values = address_range("fd00::/120")
    assert values.last - values.first == 254


def test_port_ranges() -> None:
    assert port_range(30000, 32767).dynamic == 30086
    assert port_range(30000, 30009).dynamic == 30000


# Pools


def test_choices_come_from_above_the_band_until_it_is_full() -> None:
    pool = Pool(Range(1, 10, 6), choose=lambda size: 0)
    lease = Lease(pool)
    assert [lease.take_any("a") for _ in range(10)] == [6, 7, 8, 9, 10, 1, 2, 3, 4, 5]
    with pytest.raises(Exhausted):
        lease.take_any("a")


def test_reserved_values_are_given_to_those_who_ask_only() -> None:
    lease = Lease(Pool(Range(1, 3, 1, frozenset({2})), choose=lambda size: 0))
    assert [lease.take_any("a"), lease.take_any("a")] == [1, 3]
    with pytest.raises(Exhausted):
        lease.take_any("a")
    lease.take(2, "b")
    assert lease.pool.holders[2] == "b"


def test_refusals() -> None:
    lease = Lease(Pool(Range(1, 3, 1)))
    lease.take(1, "a")
    lease.take(1, "a")
    with pytest.raises(Taken):
        lease.take(1, "b")
    with pytest.raises(OutOfRange):
        lease.take(4, "a")


def test_nobody_frees_what_belongs_to_another() -> None:
    pool = Pool(Range(1, 3, 1))
    pool.take(1, "a")
    pool.free(1, "b")
    assert pool.holders == {1: "a"}
    pool.free(1, "a")
    assert pool.holders == {}


def test_what_is_freed_stays_taken_until_commit() -> None:
    pool = Pool(Range(1, 3, 1))
    first = Lease(pool)
    first.take(1, "a")
    first.commit()
    second = Lease(pool)
    second.free(1, "a")
    second.free(1, "somebody else")
    assert pool.holders == {1: "a"}
    second.commit()
    assert pool.holders == {}


def test_freeing_and_taking_again_in_one_request_keeps_the_value() -> None:
    pool = Pool(Range(1, 3, 1))
    first = Lease(pool)
    first.take(1, "a")
    first.commit()
    second = Lease(pool)
    second.free(1, "a")
    second.take(1, "a")
    second.commit()
    assert pool.holders == {1: "a"}


# Requests


def test_an_attempt_that_is_not_committed_leaks_nothing() -> None:
    context = Context.load([], SMALL)
    with context.attempt() as attempt:
        admit_create(services(), service("a", type="NodePort"), attempt)
        assert len(context.addresses.pool.holders) == 1
        assert len(context.ports.pool.holders) == 1
    assert context.addresses.pool.holders == {}
    assert context.ports.pool.holders == {}


def test_an_attempt_that_is_committed_stays() -> None:
    context = Context.load([], SMALL)
    with context.attempt() as attempt:
        obj = admit_create(services(), service("a", type="NodePort"), attempt)
        attempt.commit()
    assert list(context.ports.pool.holders) == [obj["spec"]["ports"][0]["nodePort"]]
    with context.attempt() as attempt:
        release(services(), obj, attempt)
        assert len(context.ports.pool.holders) == 1
        attempt.commit()
    assert context.ports.pool.holders == {}


def test_a_refused_object_has_taken_nothing() -> None:
    context = Context.load([], SMALL)
    with pytest.raises(Invalid):
        admit_create(services(), service("a", type="NodePort", ports=[{"port": 80, "nodePort": 80}]), context)
    assert context.addresses.pool.holders == {}


def test_an_update_that_is_dropped_keeps_what_the_old_object_held() -> None:
    context = Context.load([], SMALL)
    old = admit_create(services(), service("a", type="NodePort"), context)
    held = dict(context.ports.pool.holders)
    with context.attempt() as attempt:
        admit_update(services(), None, service("a"), old, attempt)
    assert context.ports.pool.holders == held
    with context.attempt() as attempt:
        admit_update(services(), None, service("a"), old, attempt)
        attempt.commit()
    assert context.ports.pool.holders == {}


def test_the_range_can_be_full() -> None:
    context = Context.load([], SMALL)
    for index in range(4):
        admit_create(services(), service(f"s{index}"), context)
    with pytest.raises(Invalid, match=r"failed to allocate a serviceIP: range 10\.96\.0\.0/29 is full"):
        admit_create(services(), service("s9"), context)
    for wanted in ("10.96.0.1", "10.96.0.2"):  # kept for the kubernetes Service and for DNS
        admit_create(services(), service(f"asked-{wanted[-1]}", clusterIP=wanted), context)


def test_node_ports_can_run_out() -> None:
    many = [{"port": port, "name": f"p{port}"} for port in range(1, 9)]
    with pytest.raises(Invalid, match="range is full"):
        admit_create(services(), service("many", type="NodePort", ports=many), Context.load([], SMALL))


def test_two_stored_services_with_one_address_are_told() -> None:
    stored = [
        {"metadata": {"namespace": "default", "name": name}, "spec": {"clusterIPs": [ip], "ports": []}}
        for name, ip in (("a", "10.96.0.3"), ("b", "10.96.0.3"), ("c", "192.0.2.1"))
    ]
    context = Context.load(stored, SMALL)
    assert context.conflicts == [
        "Service default/b: clusterIP 10.96.0.3 is also held by another Service",
        "Service default/c: clusterIP 192.0.2.1 is outside the configured range",
    ]


def test_external_names_and_headless_services_hold_nothing() -> None:
    named = {"metadata": {"name": "a"}, "spec": {"type": "ExternalName", "clusterIP": "10.96.0.3"}}
    assert list(held_by(named)) == []
    assert list(held_by({"metadata": {"name": "a"}, "spec": {"clusterIP": "None"}})) == []


# Any history of requests

NAMES = ("a", "b", "c", "d")
CHOICES = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["ClusterIP", "NodePort", "ExternalName", "LoadBalancer"]),
        "ports": st.lists(
            st.tuples(st.sampled_from(["TCP", "UDP"]), st.sampled_from([0, 30000, 30001, 30005, 1])), max_size=3
        ),
        "ip": st.sampled_from(["", "", "None", "10.96.0.1", "10.96.0.3", "1.2.3.4"]),
        "policy": st.sampled_from(["", "Local"]),
    }
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "dry-run", "lost"]), st.sampled_from(NAMES), CHOICES), max_size=25
)


def wanted(name: str, choice: Object) -> Object:
    spec: Object = {
        "type": choice["type"],
        "ports": [
            {"name": f"p{index}", "port": 80 + index, "protocol": protocol, **({"nodePort": number} if number else {})}
            for index, (protocol, number) in enumerate(choice["ports"])
        ],
    }
    if choice["type"] == "ExternalName":
        spec["externalName"] = "example.org"
    elif choice["ip"]:
        spec["clusterIP"] = choice["ip"]
    if choice["policy"] and choice["type"] in ("NodePort", "LoadBalancer"):
        spec["externalTrafficPolicy"] = choice["policy"]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def play(steps: list[tuple[str, str, Object]], context: Context) -> dict[str, Object]:
    """Follow a history as the REST core would; returns the stored Services."""
    stored: dict[str, Object] = {}
    for action, name, choice in steps:
        old = stored.get(name)
        with context.attempt() as attempt:
            if action == "delete":
                if old is not None:
                    release(services(), stored.pop(name), attempt)
                    attempt.commit()
                continue
            try:
                new = wanted(name, choice)
                obj = (
                    admit_create(services(), new, attempt)
                    if old is None
                    else admit_update(services(), None, new, old, attempt)
                )
            except Invalid:
                continue
            if action == "put":  # a dry run and a lost race end here
                stored[name] = obj
                attempt.commit()
    return stored


def holdings(context: Context) -> tuple[dict[int, str], dict[int, str]]:
    return dict(context.addresses.pool.holders), dict(context.ports.pool.holders)


@given(STEPS, st.integers())
def test_after_any_history_memory_is_what_the_stored_services_say(
    steps: list[tuple[str, str, Object]], seed: int
) -> None:
    context = Context.load([], SMALL, choose=random.Random(seed).randrange)
    stored = play(steps, context)
    fresh = Context.load(stored.values(), SMALL)
    assert fresh.conflicts == []
    assert holdings(context) == holdings(fresh)


@given(STEPS)
def test_after_all_are_deleted_nothing_is_held(steps: list[tuple[str, str, Object]]) -> None:
    context = Context.load([], SMALL)
    for obj in play(steps, context).values():
        release(services(), obj, context)
    assert holdings(context) == ({}, {})
