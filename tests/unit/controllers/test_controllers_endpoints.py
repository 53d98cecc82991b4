"""Who stands behind a Service, as slices and as Endpoints."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.controllers.endpoint_objects import (
    HEADLESS,
    MANAGED_BY,
    SERVICE_NAME,
    Address,
    Conditions,
    Endpoint,
    Endpoints,
    EndpointSlice,
    ForName,
    Hints,
    Port,
    Subset,
    SubsetPort,
    Target,
    to_json,
)
from agent.controllers.endpoints import render_endpoints
from agent.controllers.endpointslices import MANAGER, format_time, render_slice, slice_labels
from agent.controllers.membership import Member, canonical_address, resolve_families, resolve_members, resolve_ports
from agent.controllers.mirroring import mirror_labels, render_mirror, resolve_mirrored, should_mirror
from agent.controllers.objects import Container, ContainerPort, Meta, Pod, Service
from agent.controllers.slices import Content, SlicePlan, diff_slices, group_by_ports
from agent.controllers.subsets import limit_addresses, resolve_subsets
from agent.controllers.triggers import TriggerTimes
from agent.kube.informer import Key
from tests.harness.controller_objects import NOW, ago, node, nodes, pod, service


def members(found: Service, *pods: Pod, family: str = "IPv4", **known: str) -> tuple[Member, ...]:
    return resolve_members(
        found, pods, nodes(*(node(n, zone=z) for n, z in (known or {"n1": ""}).items())), family=family
    )


def truths(found: Service, each: Pod) -> tuple[bool | None, bool | None, bool | None]:
    conditions = members(found, each)[0].endpoint.conditions
    return conditions.ready, conditions.serving, conditions.terminating


@pytest.mark.parametrize(
    ("ready", "terminating", "publish", "expected"),
    [
        (True, False, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (True, True, False, (False, True, True)),
        (False, True, False, (False, False, True)),
        (False, False, True, (True, False, False)),
        (True, True, True, (True, True, True)),
    ],
)
def test_three_truths(ready: bool, terminating: bool, publish: bool, expected: tuple[bool, bool, bool]) -> None:
    found = service(json.dumps({"publishNotReadyAddresses": publish}))
    assert truths(found, pod("a", "10.244.0.5", ready=ready, terminating=terminating)) == expected


def test_who_is_no_member() -> None:
    found = service()
    assert members(found, pod("no address")) == ()
    assert members(found, pod("done", "10.244.0.5", phase="Succeeded")) == ()
    assert members(found, pod("failed", "10.244.0.5", phase="Failed")) == ()
    assert members(found, pod("lost", "10.244.0.5", node="gone")) == ()
    assert members(found, pod("v6", "fd00::5")) == ()
    tolerant = service('{"ports": [{"port": 80}], "publishNotReadyAddresses": true}')
    assert len(members(tolerant, pod("lost", "10.244.0.5", node="gone"))) == 1


def test_an_endpoint_in_full() -> None:
    found = service()
    member = members(found, pod("a", "10.244.0.05", hostname="db-0", subdomain="web"), n1="north")[0]
    assert to_json(member.endpoint) == {
        "addresses": ["10.244.0.5"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "hostname": "db-0",
        "targetRef": {"kind": "Pod", "namespace": "default", "name": "a", "uid": "uid-a"},
        "nodeName": "n1",
        "zone": "north",
    }
    assert [to_json(port) for port in member.ports] == [{"name": "", "port": 80, "protocol": "TCP"}]


def test_a_hostname_counts_below_its_own_service_only() -> None:
    each = pod("a", "10.244.0.5", hostname="db-0", subdomain="other")
    assert members(service(), each)[0].endpoint.hostname is None


def test_dual_stack() -> None:
    found = service('{"ports": [{"port": 80}], "ipFamilies": ["IPv6", "IPv4"]}')
    each = pod("a", ips=("10.244.0.5", "FD00::0:5"))
    assert resolve_families(found) == ("IPv6", "IPv4")
    assert members(found, each, family="IPv6")[0].endpoint.addresses == ("fd00::5",)
    assert members(found, each, family="IPv4")[0].endpoint.addresses == ("10.244.0.5",)


@pytest.mark.parametrize(
    ("spec", "families"),
    [
        ('{"ipFamilies": [], "clusterIP": "10.96.0.1"}', ("IPv4",)),
        ('{"ipFamilies": [], "clusterIP": "fd00::1"}', ("IPv6",)),
        ('{"ipFamilies": [], "clusterIP": "None"}', ("IPv4",)),
    ],
)
def test_families_of_old_services(spec: str, families: tuple[str, ...]) -> None:
    assert resolve_families(service(spec)) == families


def test_canonical_addresses() -> None:
    assert canonical_address("010.001.0.09") == "10.1.0.9"
    assert canonical_address("2001:DB8::0001") == "2001:db8::1"


def test_ports_by_number_and_by_name() -> None:
    found = service(
        '{"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81, "targetPort": 8081},'
        ' {"name": "c", "port": 82, "targetPort": "http", "appProtocol": "http"},'
        ' {"name": "d", "port": 83, "targetPort": "http", "protocol": "UDP"},'
        ' {"name": "e", "port": 84, "targetPort": "side"}, {"name": "f", "port": 85, "targetPort": "init"}]}'
    )
    side = Container(name="s", restart_policy="Always", ports=[ContainerPort(name="side", container_port=9000)])
    init = Container(name="i", ports=[ContainerPort(name="init", container_port=9001)])
    ports = resolve_ports(found, pod("a", "10.244.0.5", ports={"http": 8080}, init_containers=[side, init]))
    assert [(port.name, port.port, port.app_protocol) for port in ports] == [
        ("a", 80, None),
        ("b", 8081, None),
        ("c", 8080, "http"),
        ("e", 9000, None),
    ]


@pytest.mark.parametrize(
    ("wish", "zone", "hints"),
    [
        ("PreferClose", "north", Hints(for_zones=(ForName(name="north"),))),
        ("PreferSameZone", "north", Hints(for_zones=(ForName(name="north"),))),
        ("PreferSameZone", "", None),
        ("PreferSameNode", "", Hints(for_nodes=(ForName(name="n1"),))),
        ("", "north", None),
    ],
)
def test_hints(wish: str, zone: str, hints: Hints | None) -> None:
    found = service(json.dumps({"trafficDistribution": wish}))
    assert members(found, pod("a", "10.244.0.5"), n1=zone)[0].endpoint.hints == hints
    assert members(found, pod("a", "10.244.0.5", ready=False), n1=zone)[0].endpoint.hints is None


def test_pods_on_different_numbers_part_company() -> None:
    found = service('{"ports": [{"port": 80, "targetPort": "http"}]}')
    standing = members(
        found,
        pod("a", "10.244.0.5", ports={"http": 8080}),
        pod("b", "10.244.0.6", ports={"http": 9090}),
        pod("c", "10.244.0.7", ports={"http": 8080}),
    )
    groups = group_by_ports((m.endpoint, m.ports) for m in standing)
    assert {ports[0].port: [e.addresses[0] for e in found] for ports, found in groups.items()} == {
        8080: ["10.244.0.5", "10.244.0.7"],
        9090: ["10.244.0.6"],
    }
    subsets = resolve_subsets(standing, publish_not_ready=False)
    assert [(s.ports[0].port, len(s.addresses)) for s in subsets] == [(8080, 2), (9090, 1)]


# Slices: the smallest change.

PORTS = (Port(name="", port=80, protocol="TCP"),)
OTHER = (Port(name="", port=81, protocol="TCP"),)
LABELS = {"kubernetes.io/service-name": "web"}


def endpoint(number: int, *, ready: bool = True) -> Endpoint:
    target = Target(kind="Pod", name=f"p{number}", uid=f"u{number}")
    return Endpoint(
        addresses=(f"10.0.{number // 256}.{number % 256}",), conditions=Conditions(ready=ready), target_ref=target
    )


def some(*numbers: int) -> list[Endpoint]:
    return [endpoint(number) for number in numbers]


def stored(name: str, endpoints: Sequence[Endpoint], ports: tuple[Port, ...] = PORTS) -> EndpointSlice:
    return EndpointSlice(metadata=Meta(name=name, labels=LABELS), endpoints=tuple(endpoints), ports=ports)


def told(plan: SlicePlan) -> tuple[dict[str, list[str]], list[str]]:
    """What is written (addresses by slice, ``new`` for a new one) and the names of what is deleted."""
    written = {
        (c.slice.metadata.name if c.slice else "new"): [e.addresses[0].rpartition(".")[2] for e in c.endpoints]
        for c in plan.write
    }
    return written, [each.metadata.name for each in plan.delete]


def diff(
    existing: list[EndpointSlice], wanted: list[Endpoint], limit: int = 3
) -> tuple[dict[str, list[str]], list[str]]:
    return told(diff_slices(existing, {PORTS: wanted} if wanted else {}, labels=LABELS, limit=limit))


def test_nothing_to_do() -> None:
    assert diff([stored("a", some(1, 2))], some(2, 1)) == ({}, [])


def test_the_first_slice() -> None:
    assert diff([], some(1, 2)) == ({"new": ["1", "2"]}, [])


def test_nobody_is_told_by_an_empty_slice() -> None:
    plan = diff_slices([], {}, labels=LABELS)
    assert told(plan) == ({"new": []}, [])
    assert plan.write[0].ports == ()
    assert diff([stored("a", [], ())], []) == ({}, []), "once is enough"


def test_the_last_endpoint_leaves_its_slice_empty_and_the_next_moves_in() -> None:
    assert diff([stored("a", some(1))], []) == ({"a": []}, [])
    assert diff([stored("a", [], ())], some(2)) == ({"a": ["2"]}, [])


def test_a_changed_endpoint_stays_where_it_is() -> None:
    existing = [stored("a", some(1, 2)), stored("b", some(3))]
    assert diff(existing, [endpoint(1), endpoint(2, ready=False), endpoint(3)]) == ({"a": ["1", "2"]}, [])


def test_what_must_be_written_is_filled_first() -> None:
    existing = [stored("a", some(1, 2)), stored("b", some(3, 4, 5))]
    assert diff(existing, some(1, 2, 3, 4, 6)) == ({"b": ["3", "4", "6"]}, [])


def test_else_the_fullest_that_can_take_all() -> None:
    existing = [stored("a", some(1)), stored("b", some(2, 3))]
    assert diff(existing, some(1, 2, 3, 4)) == ({"b": ["2", "3", "4"]}, [])


def test_else_a_new_one() -> None:
    existing = [stored("a", some(1, 2)), stored("b", some(3, 4))]
    assert diff(existing, some(1, 2, 3, 4, 5, 6)) == ({"new": ["5", "6"]}, [])


def test_an_emptied_slice_is_used_again_and_surplus_ones_go() -> None:
    existing = [stored("a", some(1)), stored("b", some(2)), stored("c", some(3))]
    assert diff(existing, some(1, 9, 10)) == ({"a": ["1", "9", "10"]}, ["b", "c"])
    assert diff(existing, some(7, 8, 9, 10)) == ({"a": ["7", "8", "9"], "b": ["10"]}, ["c"])
    assert diff([stored("a", some(1, 2, 3))], some(4)) == ({"a": ["4"]}, [])


def test_twins_are_parted() -> None:
    assert diff([stored("a", some(1)), stored("b", some(1))], some(1)) == ({}, ["b"])


def test_too_full_a_slice_gives_away() -> None:
    assert diff([stored("a", some(1, 2, 3, 4))], some(1, 2, 3, 4)) == ({"a": ["1", "2", "3"], "new": ["4"]}, [])


def test_changed_ports_keep_the_slice() -> None:
    plan = diff_slices([stored("a", some(1), OTHER)], {PORTS: some(1)}, labels=LABELS)
    assert told(plan) == ({"a": ["1"]}, [])
    assert plan.write[0].ports == PORTS


def test_changed_labels_are_written() -> None:
    plan = diff_slices([stored("a", some(1))], {PORTS: some(1)}, labels={**LABELS, "new": "label"})
    assert told(plan) == ({"a": ["1"]}, [])


FRESH = itertools.count()


def apply(plan: SlicePlan, existing: list[EndpointSlice]) -> list[EndpointSlice]:
    gone = {each.metadata.name for each in plan.delete}
    after = {each.metadata.name: each for each in existing if each.metadata.name not in gone}
    for content in plan.write:
        name = content.slice.metadata.name if content.slice else f"new-{next(FRESH)}"
        after[name] = EndpointSlice(
            metadata=Meta(name=name, labels=LABELS), endpoints=content.endpoints, ports=content.ports
        )
    return list(after.values())


numbers = st.lists(st.integers(0, 30), unique=True, max_size=25)
history = st.lists(st.tuples(numbers, numbers, st.booleans()), min_size=1, max_size=6)


@given(history)
def test_any_history_ends_in_the_truth(steps: list[tuple[list[int], list[int], bool]]) -> None:
    """apply(diff(a, b), a) says b: every endpoint once, at its ports, in slices that are not too full; and b needs nothing."""
    existing: list[EndpointSlice] = []
    for first, second, ready in steps:
        wanted: dict[tuple[Port, ...], list[Endpoint]] = {}
        if first:
            wanted[PORTS] = [endpoint(number, ready=ready) for number in first]
        if second:
            wanted[OTHER] = [endpoint(number) for number in second]
        existing = apply(diff_slices(existing, wanted, labels=LABELS, limit=4), existing)
        found = Counter((each.ports, e) for each in existing for e in each.endpoints)
        assert found == Counter((ports, e) for ports, group in wanted.items() for e in group)
        assert all(len(each.endpoints) <= 4 for each in existing)
        assert existing, "nobody is said, not left unsaid"
        assert all(each.endpoints for each in existing) or len(existing) == 1
        assert diff_slices(existing, wanted, labels=LABELS, limit=4) == SlicePlan()


def test_a_slice_as_it_is_written() -> None:
    found = service(labels={"app": "web", SERVICE_NAME: "a lie", HEADLESS: "a lie"})
    body = render_slice(found, Content(None, PORTS, tuple(some(1))), family="IPv4", trigger=ago(0.5))
    assert body["metadata"] == {
        "namespace": "default",
        "generateName": "web-",
        "labels": {"app": "web", SERVICE_NAME: "web", MANAGED_BY: MANAGER},
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2025-01-01T11:59:59.500000Z"},
        "ownerReferences": [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "name": "web",
                "uid": "uid-web",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    assert (body["addressType"], body["ports"]) == ("IPv4", [{"name": "", "port": 80, "protocol": "TCP"}])
    again = EndpointSlice(metadata=Meta(name="web-x", uid="u", resource_version="7"))
    identity = render_slice(found, Content(again, PORTS, ()), family="IPv4", trigger=None)["metadata"]
    assert (identity["name"], identity["uid"], identity["resourceVersion"]) == ("web-x", "u", "7")
    assert identity["annotations"] == {}


def test_headless_slices_say_so() -> None:
    assert slice_labels(service('{"clusterIP": "None"}'))[HEADLESS] == ""
    assert HEADLESS not in slice_labels(service())


def test_times_are_written_as_the_api_does() -> None:
    assert format_time(NOW) == "2025-01-01T12:00:00Z"


def test_trigger_times() -> None:
    times, key, found = TriggerTimes(), Key("default", "web"), service(creationTimestamp="2025-01-01T11:00:00Z")
    first = pod("a", "10.244.0.5", ready_for=100)
    assert times.since_last(key, found, [first]) == ago(100), "at the first look the latest"
    assert times.since_last(key, found, [first]) is None
    changed = [pod("a", "10.244.0.5", ready_for=20), pod("b", "10.244.0.6", ready_for=30)]
    assert times.since_last(key, found, changed) == ago(30), "then the earliest of what is new"
    times.forget(key)
    assert times.since_last(key, found, []) == found.metadata.creation_timestamp


# v1 Endpoints.


def test_subsets_of_two_ports_and_readiness() -> None:
    found = service('{"ports": [{"name": "b", "port": 81}, {"name": "a", "port": 80}]}')
    standing = members(
        found,
        pod("x", "10.244.0.7"),
        pod("y", "10.244.0.6", ready=False),
        pod("z", "10.244.0.5"),
        pod("going", "10.244.0.4", terminating=True),
    )
    (subset,) = resolve_subsets(standing, publish_not_ready=False)
    assert [address.ip for address in subset.addresses] == ["10.244.0.5", "10.244.0.7"]
    assert [address.ip for address in subset.not_ready_addresses] == ["10.244.0.6"]
    assert [to_json(port) for port in subset.ports] == [
        {"name": "a", "port": 80, "protocol": "TCP"},
        {"name": "b", "port": 81, "protocol": "TCP"},
    ]
    (published,) = resolve_subsets(
        members(
            service('{"ports": [{"port": 80}], "publishNotReadyAddresses": true}'),
            pod("going", "10.244.0.4", terminating=True),
        ),
        publish_not_ready=True,
    )
    assert len(published.addresses) == 1


def test_a_headless_service_without_ports_has_addresses_all_the_same() -> None:
    found = service('{"clusterIP": "None", "ports": []}')
    (subset,) = resolve_subsets(members(found, pod("a", "10.244.0.5")), publish_not_ready=False)
    assert (len(subset.addresses), subset.ports) == (1, ())


def test_at_most_a_thousand_addresses_ready_ones_first() -> None:
    def addresses(count: int, third: int) -> tuple[Address, ...]:
        return tuple(Address(ip=f"10.0.{third}.{number}") for number in range(count))

    one = Subset(addresses=addresses(60, 1), not_ready_addresses=addresses(30, 2), ports=(SubsetPort(port=80),))
    two = Subset(addresses=addresses(30, 3), ports=(SubsetPort(port=81),))
    assert limit_addresses([one, two], 120) == ((one, two), False)
    cut, truncated = limit_addresses([one, two], 100)
    assert truncated
    assert [(len(s.addresses), len(s.not_ready_addresses)) for s in cut] == [(60, 10), (30, 0)]
    cut, _ = limit_addresses([one, two], 45)
    assert [(len(s.addresses), len(s.not_ready_addresses)) for s in cut] == [(30, 0), (15, 0)]


def test_endpoints_are_written_when_something_differs() -> None:
    found = service(labels={"app": "web"})
    subsets = (Subset(addresses=(Address(ip="10.244.0.5"),), ports=(SubsetPort(port=80, protocol="TCP"),)),)
    body = render_endpoints(found, None, subsets)
    assert body is not None
    assert body["metadata"]["labels"] == {"app": "web", "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
    assert body["subsets"] == [{"addresses": [{"ip": "10.244.0.5"}], "ports": [{"port": 80, "protocol": "TCP"}]}]
    there = msgspec.json.decode(
        msgspec.json.encode({**body, "metadata": {**body["metadata"], "uid": "u", "resourceVersion": "9"}}),
        type=Endpoints,
    )
    assert render_endpoints(found, there, subsets) is None
    changed = render_endpoints(found, there, ())
    assert changed is not None
    assert (changed["metadata"]["uid"], changed["metadata"]["resourceVersion"]) == ("u", "9")


# Mirroring.


def by_hand(**meta: object) -> Endpoints:
    fields = {"name": "db", "namespace": "default", "uid": "e1", **meta}
    subset = {
        "addresses": [{"ip": "192.0.2.9", "hostname": "primary"}, {"ip": "2001:db8::9"}, {"ip": "nonsense"}],
        "notReadyAddresses": [{"ip": "192.0.2.10"}],
        "ports": [{"name": "sql", "port": 5432}],
    }
    return msgspec.json.decode(msgspec.json.encode({"metadata": fields, "subsets": [subset]}), type=Endpoints)


def test_what_is_mirrored() -> None:
    bare = service('{"selector": {}}', name="db")
    assert should_mirror(bare, by_hand())
    assert not should_mirror(None, by_hand())
    assert not should_mirror(service(name="db"), by_hand())
    assert not should_mirror(bare, by_hand(labels={"endpointslice.kubernetes.io/skip-mirror": "true"}))
    assert not should_mirror(bare, by_hand(annotations={"control-plane.alpha.kubernetes.io/leader": "{}"}))


def test_mirrored_endpoints() -> None:
    four = [(e.addresses[0], e.conditions.ready, e.hostname, p[0].port) for e, p in resolve_mirrored(by_hand(), "IPv4")]
    assert four == [("192.0.2.9", True, "primary", 5432), ("192.0.2.10", False, None, 5432)]
    assert [e.addresses[0] for e, _ in resolve_mirrored(by_hand(), "IPv6")] == ["2001:db8::9"]


def test_a_mirror_belongs_to_its_endpoints() -> None:
    found = by_hand(labels={"x": "y"}, annotations={"kubectl.kubernetes.io/last-applied-configuration": "{}", "k": "v"})
    body = render_mirror(found, Content(None, PORTS, ()), "IPv4")
    assert body["metadata"]["labels"] == mirror_labels(found)
    assert body["metadata"]["labels"][SERVICE_NAME] == "db"
    assert body["metadata"]["annotations"] == {"k": "v"}
    assert body["metadata"]["ownerReferences"][0]["kind"] == "Endpoints"
