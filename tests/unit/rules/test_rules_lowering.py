"""Rules kept up to date: whatever came before, they are those that would be made anew, at the cost of what changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.iptables.diff import Plan, apply_plan, diff_rulesets
from rules.iptables.lower import Lowering, lower_frontends
from rules.iptables.ruleset import TABLES, Ruleset, Table
from rules.iptables.tree import LEAF
from rules.policy import resolve_frontends
from rules.snapshot import (
    EndpointSlice,
    Family,
    LoadBalancerIngress,
    ServiceName,
    ServicePort,
    Settings,
    SlicePort,
    Snapshot,
)
from tests.harness.services import SETTINGS, Made, endpoint, make_service, make_snapshot, many_services

NETWORKS = [
    SETTINGS,
    Settings(),
    replace(SETTINGS, localhost_node_ports=True, node_port_addresses=("127.0.0.0/8", "primary")),
    Settings(cluster_cidrs=("10.244.0.0/16", "10.245.0.0/16", "fd00:244::/64"), masquerade_all=True),
    replace(SETTINGS, egress_cidrs=("10.244.0.0/24", "fd00:244::/64"), pod_bridge="podwire0"),
]


def frozen(ruleset: Ruleset) -> Ruleset:
    """What it is now, whatever becomes of it."""
    filter_, nat = (Table(dict(table.chains), dict(table.jumps)) for table in (ruleset.filter, ruleset.nat))
    return Ruleset(filter_, nat, ruleset.sets)


def counted(ruleset: Ruleset) -> dict[str, int]:
    return {name: sum(len(rules) for rules in ruleset.table(name).chains.values()) for name in TABLES}


# Random histories. Each Service has a few addresses and ports that others want as well.


@st.composite
def services(draw: st.DrawFn, number: int) -> Made:
    """A Service of two families and two ports, with anything that a Service can say."""
    count = draw(st.sampled_from([0, 0, 1, 2, 3, LEAF, LEAF + 1, 70]))
    first = draw(st.integers(1, 3))
    protocol = draw(st.sampled_from(["TCP", "UDP", "SCTP"]))
    addresses = [endpoint(f"10.244.{first}.{low}", here=low % 3 == 0) for low in range(count)]
    sixes = tuple(endpoint(f"fd00:244::{low + 1:x}", here=low % 3 == 0) for low in range(count // 2))
    fields: dict[str, Any] = {
        "type": "LoadBalancer",
        "cluster_ips": draw(st.sampled_from([(f"10.96.{number}.1", f"fd00:96::{number + 1:x}"), ("10.96.9.9",)])),
        "affinity_seconds": draw(st.sampled_from([None, None, 60, 61])),
        "external_ips": draw(st.sampled_from([(), ("198.51.100.1",), ("198.51.100.1", f"198.51.100.{number + 2}")])),
        "load_balancer": draw(st.sampled_from([(), (LoadBalancerIngress(f"203.0.113.{number}"),)])),
        "source_ranges": draw(st.sampled_from([(), ("198.51.100.0/24", "0.0.0.0/0"), ("203.0.113.0/24",)])),
        "external_traffic_policy": draw(st.sampled_from(["Cluster", "Local"])),
        "internal_traffic_policy": draw(st.sampled_from(["Cluster", "Local"])),
        "health_check_node_port": draw(st.sampled_from([0, 32000])),
    }
    node_port = draw(st.sampled_from([0, 30000 + number, 30000]))
    service, slices = make_service(f"s{number}", *addresses, protocol=protocol, node_port=node_port, port_name="a")
    second = ServicePort(81, "b", draw(st.sampled_from(["TCP", "UDP"])), 30100 + number)
    six = EndpointSlice(f"s{number}-6", "IPv6", (SlicePort(8080, "a", protocol),), sixes)
    return replace(service, ports=(*service.ports, second), **fields), (*slices, six)


NAMES = range(4)
steps = st.tuples(
    st.tuples(*(st.one_of(st.none(), st.just("as before"), services(number)) for number in NAMES)),
    st.sampled_from([0, 3, LEAF, LEAF + 8]),  # how many others there are
    st.sampled_from([None, *NETWORKS]),
)


def crowd(count: int) -> list[Made]:
    return [
        make_service(f"other-{n}", *(["10.244.0.9"] * (n % 2)), vip=f"10.96.0.{n + 1}", node_port=31000 + n)
        for n in range(count)
    ]


def histories(drawn: Iterable[tuple[tuple[Made | str | None, ...], int, Settings | None]]) -> list[Snapshot]:
    found: list[Snapshot] = []
    present: dict[int, Made] = {}
    settings = SETTINGS
    for edits, others, network in drawn:
        for number, edit in zip(NAMES, edits, strict=True):
            if edit is None:
                present.pop(number, None)
            elif not isinstance(edit, str):
                present[number] = edit
        settings = network or settings
        found.append(make_snapshot(*present.values(), *crowd(others), settings=settings))
    return found


@pytest.mark.parametrize("family", list(Family))
@given(st.lists(steps, min_size=1, max_size=5))
def test_incremental_is_full(family: Family, drawn: list[Any]) -> None:
    lowering = Lowering(family)
    before = frozen(lowering.ruleset)
    for snapshot in histories(drawn):
        frontends = resolve_frontends(snapshot)
        plan = lowering.update(frontends)
        after = frozen(lowering.ruleset)
        assert after == lower_frontends(frontends, family)
        assert apply_plan(plan, before) == after
        assert plan.size == diff_rulesets(before, after).size  # it holds no more than what changed
        assert lowering.rules == counted(after)
        assert lowering.update(frontends) == Plan()
        before = after


@pytest.mark.parametrize("family", list(Family))
@given(st.lists(steps, min_size=2, max_size=5))
def test_only_what_is_named_is_looked_at(family: Family, drawn: list[Any]) -> None:
    """Frontends of the changed Services alone are enough, as long as the settings are the same."""
    snapshots = [replace(snapshot, settings=SETTINGS) for snapshot in histories(drawn)]
    lowering = Lowering(family)
    lowering.update(resolve_frontends(snapshots[0]))
    for old, new in pairwise(snapshots):
        before = frozen(lowering.ruleset)
        names = old.services.keys() | new.services.keys()
        changed = [n for n in sorted(names) if told(old, n) != told(new, n)]
        part = replace(new, services={name: new.services[name] for name in changed if name in new.services})
        plan = lowering.update(resolve_frontends(part), changed=changed)
        assert lowering.ruleset == lower_frontends(resolve_frontends(new), family)
        assert apply_plan(plan, before) == lowering.ruleset


def told(snapshot: Snapshot, name: ServiceName) -> object:
    return snapshot.services.get(name), snapshot.slices.get(name)


def test_a_service_that_was_never_there_is_nothing_to_do() -> None:
    lowering = Lowering(Family.IPV4)
    lowering.update(resolve_frontends(make_snapshot()))
    assert lowering.update(resolve_frontends(make_snapshot()), changed=[ServiceName("default", "x")]) == Plan()


def test_the_ruleset_is_a_live_view() -> None:
    lowering = Lowering(Family.IPV4)
    seen = lowering.ruleset
    lowering.update(resolve_frontends(make_snapshot(make_service("web", "10.244.0.1"))))
    assert "KUBE-SERVICES" in seen.nat.chains
    with pytest.raises(TypeError):
        seen.nat.chains["KUBE-SERVICES"] = ()  # type: ignore[index]


# What a change costs.


def edit(count: int, changed: Made) -> Plan:
    """The plan for one Service's change (or arrival) among ``count``."""
    lowering = Lowering(Family.IPV4)
    lowering.update(resolve_frontends(many_services(count, 3)))
    return lowering.update(resolve_frontends(make_snapshot(changed)), changed=[changed[0].name])


ADDRESSES = [f"10.244.{high}.1" for high in (1, 11, 21)]


@pytest.mark.parametrize("count", [1, 100, 1000])
def test_an_endpoint_that_comes_costs_the_same_among_many(count: int) -> None:
    plan = edit(count, make_service("svc-00000", *ADDRESSES, "10.244.77.1", vip="10.96.0.1"))
    (table,) = plan.tables
    assert sorted(change.chain.split("-")[1] for change in table.chains) == ["SEP", "SVC"]
    assert plan.size == 9  # two chains; masquerade and four endpoints; hairpin and DNAT


@pytest.mark.parametrize("address", ["10.96.0.200", "10.96.99.1", "10.100.0.1"])
def test_a_service_that_comes_costs_about_the_same_among_many(address: str) -> None:
    """Its own chains, and the lists in which it is looked up: none is longer than a leaf."""
    made = make_service("web", "10.244.0.1", vip=address, node_port=32000, external_ips=("198.51.100.1",))
    for count in (1, 100, 1000):
        assert edit(count, made).size <= 12 + 4 * LEAF


def test_an_endpoint_among_hundreds_costs_its_part_of_the_choice() -> None:
    addresses = [f"10.244.{high}.{low}" for high in range(4) for low in range(1, 251)]
    lowering = Lowering(Family.IPV4)
    lowering.update(resolve_frontends(make_snapshot(make_service("web", *addresses))))
    more = resolve_frontends(make_snapshot(make_service("web", *addresses, "10.244.9.9")))
    plan = lowering.update(more)
    assert plan.size <= 5 * LEAF


# Sets of clients.


def test_sets_come_and_go_with_affinity_and_endpoints() -> None:
    lowering = Lowering(Family.IPV4)

    def step(*addresses: str, affinity: int | None = 60) -> Plan:
        made = make_service("web", *addresses, affinity_seconds=affinity)
        return lowering.update(resolve_frontends(make_snapshot(made)))

    first = step("10.244.0.1", "10.244.0.2")
    assert (len(first.new_sets), first.old_sets) == (2, ())
    second = step("10.244.0.2", "10.244.0.3")
    assert (len(second.new_sets), len(second.old_sets)) == (1, 1)
    assert set(second.old_sets) < set(first.new_sets)
    longer = step("10.244.0.2", "10.244.0.3", affinity=61)
    assert longer
    assert (longer.new_sets, longer.old_sets) == ((), ())  # who is in them stays
    last = step("10.244.0.2", "10.244.0.3", affinity=None)
    assert (last.new_sets, len(last.old_sets)) == ((), 2)
    assert not lowering.ruleset.sets
