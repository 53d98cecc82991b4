"""The index: whatever happens to objects, in whatever order, it ends as if it had been built from what is there."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsserver.names import Address, Name, parse_name, reverse_name
from dnsserver.records import Endpoint, EndpointSlice, Index, Port, Record, Service, Srv, Type, resolve_service

DOMAIN = parse_name("cluster.local")
WEB: Name = (b"web", b"shop", b"svc", *DOMAIN)

addresses = st.sampled_from([ip_address(f"10.0.0.{n}") for n in range(1, 6)] + [ip_address("fd00::1")])
names = st.sampled_from(["a", "b", "c"])
namespaces = st.sampled_from(["x", "y"])
ports = st.lists(
    st.builds(Port, st.sampled_from(["", "http", "dns"]), st.sampled_from(["TCP", "UDP"]), st.integers(1, 3)),
    max_size=2,
).map(tuple)
endpoints = st.lists(
    st.builds(
        Endpoint,
        st.lists(addresses, min_size=1, max_size=2).map(tuple),
        hostname=st.sampled_from(["", "", "h0", "h1"]),
        ready=st.booleans(),
    ),
    max_size=3,
).map(tuple)


@st.composite
def service_changes(draw: st.DrawFn) -> tuple[str, str, str, object]:
    namespace, name = draw(namespaces), draw(names)
    kind = draw(st.sampled_from(["gone", "cluster", "headless", "external"]))
    value = {
        "gone": None,
        "cluster": Service(namespace, name, tuple(draw(st.lists(addresses, max_size=2))), draw(ports)),
        "headless": Service(namespace, name, ports=draw(ports), headless=True, publish_not_ready=draw(st.booleans())),
        "external": Service(namespace, name, external_name=(b"example", b"com")),
    }[kind]
    return "service", namespace, name, value


slice_changes = st.tuples(
    st.just("slice"),
    namespaces,
    st.sampled_from(["s1", "s2", "s3", "s4"]),
    st.none() | st.builds(EndpointSlice, st.just(""), names, ports, endpoints),
)
namespace_changes = st.tuples(st.just("namespace"), namespaces, st.just(""), st.booleans())
pod_changes = st.tuples(st.just("pod"), namespaces, names, st.lists(addresses, max_size=2, unique=True).map(tuple))
changes = st.lists(service_changes() | slice_changes | namespace_changes | pod_changes, max_size=25)


def put(index: Index, change: tuple[str, str, str, object]) -> frozenset[Name]:
    kind, namespace, name, value = change
    match kind, value:
        case "service", (None | Service()) as service:
            return index.put_service(namespace, name, service)
        case "slice", None:
            return index.put_slice(namespace, name, None)
        case "slice", EndpointSlice() as piece:
            return index.put_slice(namespace, name, replace(piece, namespace=namespace))
        case "namespace", exists:
            return index.put_namespace(namespace, exists=bool(exists))
        case "pod", tuple() as found:
            return index.put_pod(namespace, name, found)
    raise AssertionError(change)


def view(index: Index) -> dict[object, object]:
    """Everything a client could tell two indexes apart by."""
    every = [ip_address(f"10.0.0.{n}") for n in range(1, 6)] + [ip_address("fd00::1")]
    return {
        "nodes": dict(index.nodes),
        "pointers": {address: index.pointers(address) for address in every},
        "namespaces": {label: index.has_namespace(label) for label in (b"x", b"y")},
        "pods": {(label, address): index.has_pod(label, address) for label in (b"x", b"y") for address in every},
        "known": {(ns, name): index.has_records(ns, name) for ns in "xy" for name in "abc"},
    }


@given(changes)
def test_any_history_ends_like_a_fresh_start(history: list[tuple[str, str, str, object]]) -> None:
    grown = Index(DOMAIN, ttl=5)
    for change in history:
        put(grown, change)
    last = {change[:3]: change for change in history}
    fresh = Index(DOMAIN, ttl=5)
    for change in sorted(last.values(), key=lambda change: change[:3]):
        put(fresh, change)
    assert view(grown) == view(fresh)


@given(changes)
def test_the_serial_moves_with_every_change_and_the_change_is_named(
    history: list[tuple[str, str, str, object]],
) -> None:
    index = Index(DOMAIN, ttl=5)
    for change in history:
        nodes, serial, before = dict(index.nodes), index.serial, view(index)
        changed = put(index, change)
        differing = {name for name in nodes.keys() | index.nodes.keys() if nodes.get(name) != index.nodes.get(name)}
        assert differing <= changed
        assert (index.serial != serial) == bool(changed)
        if view(index) != before:
            assert changed


@given(st.permutations(["s1", "s2", "s3"]))
def test_the_order_of_slices_does_not_matter(order: list[str]) -> None:
    slices = {
        name: EndpointSlice("shop", "web", (Port("http", "TCP", 80),), (Endpoint((ip_address(f"10.0.0.{n}"),), "h"),))
        for n, name in enumerate(["s1", "s2", "s3"], 1)
    }
    service = Service("shop", "web", headless=True)
    reference = resolve_service(service, list(slices.values()), domain=DOMAIN, ttl=5)
    assert resolve_service(service, [slices[name] for name in order], domain=DOMAIN, ttl=5) == reference


def test_a_change_of_one_service_leaves_the_others_alone() -> None:
    index = Index(DOMAIN, ttl=5)
    for n in range(1, 50):
        index.put_service("shop", f"s{n}", Service("shop", f"s{n}", (ip_address(f"10.0.0.{n}"),)))
    others = {name: node for name, node in index.nodes.items() if name[0] != b"s7"}
    changed = index.put_service("shop", "s7", Service("shop", "s7", (ip_address("10.0.1.7"),)))
    assert changed == {
        (b"s7", b"shop", b"svc", *DOMAIN),
        reverse_name(ip_address("10.0.0.7")),
        reverse_name(ip_address("10.0.1.7")),
    }
    assert all(index.nodes[name] is node for name, node in others.items())


@pytest.mark.parametrize(("count", "weight"), [(1, 100), (3, 33), (100, 1), (250, 1)])
def test_weights_share_a_hundred_and_are_never_zero(count: int, weight: int) -> None:
    members = tuple(Endpoint((ip_address(f"10.0.{n >> 8}.{n & 255}"),)) for n in range(1, count + 1))
    piece = EndpointSlice("shop", "web", (Port("http", "TCP", 80),), members)
    found = resolve_service(Service("shop", "web", headless=True), [piece], domain=DOMAIN, ttl=5)
    records = found.nodes[b"_http", b"_tcp", *WEB][Type.SRV]
    assert len(records) == count
    assert {record.data.weight for record in records if isinstance(record.data, Srv)} == {weight}


def test_a_dual_stack_service_is_one_srv_target() -> None:
    service = Service("shop", "web", (ip_address("10.0.0.1"), ip_address("fd00::1")), (Port("http", "TCP", 80),))
    found = resolve_service(service, [], domain=DOMAIN, ttl=7)
    assert found.nodes[WEB][Type.SRV] == (Record(WEB, Type.SRV, 7, Srv(0, 100, 80, WEB)),)


def test_a_slice_may_come_before_its_service_and_change_hands() -> None:
    index = Index(DOMAIN, ttl=5)
    piece = EndpointSlice("shop", "web", (), (Endpoint((ip_address("10.0.0.1"),)),))
    assert index.put_slice("shop", "s", piece) == frozenset()
    index.put_service("shop", "web", Service("shop", "web", headless=True))
    index.put_service("shop", "other", Service("shop", "other", headless=True))
    assert index.has_records("shop", "web")
    index.put_slice("shop", "s", EndpointSlice("shop", "other", (), piece.endpoints))
    assert not index.has_records("shop", "web")
    assert index.has_records("shop", "other")


def test_a_service_keeps_the_slices_that_are_left() -> None:
    index = Index(DOMAIN, ttl=5)
    index.put_service("shop", "web", Service("shop", "web", headless=True))
    for n in (1, 2):
        members = (Endpoint((ip_address(f"10.0.0.{n}"),)),)
        index.put_slice("shop", f"s{n}", EndpointSlice("shop", "web", (), members))
    index.put_slice("shop", "s1", None)
    assert [record.data for record in index.nodes[WEB][Type.A]] == [ip_address("10.0.0.2")]


def test_a_deleted_service_takes_its_names_along() -> None:
    index = Index(DOMAIN, ttl=5)
    index.put_service("shop", "web", Service("shop", "web", (ip_address("10.0.0.1"),)))
    assert WEB in index.nodes
    assert WEB in index.put_service("shop", "web", None)
    assert WEB not in index.nodes
    assert index.put_service("shop", "web", None) == frozenset()


def test_the_serial_wraps_around() -> None:
    index = Index(DOMAIN, ttl=5, serial=0xFFFFFFFF)
    index.put_namespace("shop", exists=True)
    assert index.serial == 0


def test_an_address_is_named_by_its_virtual_service_first() -> None:
    index, address = Index(DOMAIN, ttl=5), ip_address("10.0.0.1")
    index.put_service("shop", "by-hand", Service("shop", "by-hand", headless=True))
    index.put_slice("shop", "s", EndpointSlice("shop", "by-hand", (), (Endpoint((address,)),)))
    assert index.pointers(address) == ((b"10-0-0-1", b"by-hand", b"shop", b"svc", *DOMAIN),)
    index.put_service("shop", "web", Service("shop", "web", (address,)))
    assert index.pointers(address) == (WEB,)


def test_two_pods_may_share_an_address() -> None:
    index = Index(DOMAIN, ttl=5)
    shared: tuple[Address, ...] = (ip_address("10.0.0.1"),)
    assert index.put_pod("shop", "a", shared) == {(b"10-0-0-1", b"shop", b"pod", *DOMAIN)}
    assert index.put_pod("shop", "b", shared) == frozenset()
    assert index.put_pod("shop", "a", ()) == frozenset()
    assert index.has_pod(b"shop", shared[0])
    index.put_pod("shop", "b", ())
    assert not index.has_pod(b"shop", shared[0])
