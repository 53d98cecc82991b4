"""Metrics: kube-proxy's names, and numbers that mean what kube-proxy's mean."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.proxy.metrics import Metrics, count_without_local
from rules.policy import Frontends, resolve_frontends
from rules.snapshot import Family, Node, ServiceName
from tests.harness.services import endpoint, make_service, make_snapshot

IPV4, IPV6 = Family.IPV4, Family.IPV6
WEB, API = ServiceName("default", "web"), ServiceName("default", "api")
SYNC = "kubeproxy_sync_proxy_rules"
NOTHING = Frontends(Node("here"))

# Kubernetes 1.33, kube-proxy in iptables mode: name -> type, labels (le aside).
UPSTREAM = {
    f"{SYNC}_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_sync_full_proxy_rules_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_sync_partial_proxy_rules_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_network_programming_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_conntrack_reconciler_sync_duration_seconds": ("histogram", {"ip_family"}),
    "kubeproxy_conntrack_reconciler_deleted_entries": ("counter", {"ip_family"}),
    f"{SYNC}_last_timestamp_seconds": ("gauge", {"ip_family"}),
    f"{SYNC}_last_queued_timestamp_seconds": ("gauge", {"ip_family"}),
    f"{SYNC}_endpoint_changes_pending": ("gauge", set()),
    f"{SYNC}_endpoint_changes": ("counter", set()),
    f"{SYNC}_service_changes_pending": ("gauge", set()),
    f"{SYNC}_service_changes": ("counter", set()),
    f"{SYNC}_iptables_total": ("gauge", {"ip_family", "table"}),
    f"{SYNC}_iptables_last": ("gauge", {"ip_family", "table"}),
    f"{SYNC}_iptables_restore_failures": ("counter", {"ip_family"}),
    f"{SYNC}_iptables_partial_restore_failures": ("counter", {"ip_family"}),
    f"{SYNC}_no_local_endpoints_total": ("gauge", {"ip_family", "traffic_policy"}),
    "kubeproxy_proxy_healthz": ("counter", {"code"}),
    "kubeproxy_proxy_livez": ("counter", {"code"}),
}


def after_some_work(metrics: Metrics) -> Metrics:
    metrics.service_changed(WEB)
    metrics.endpoints_changed({WEB})
    metrics.queued()
    metrics.began()
    metrics.synced(IPV4, 0.01, full=True, written={"nat": 3, "filter": 2}, installed={"nat": 30, "filter": 20})
    metrics.synced(IPV4, 0.01, full=False, written={}, installed={})
    metrics.committed(NOTHING, triggered=[0.0])
    metrics.conntrack_reconciled(IPV4, 0.01, deleted=2)
    metrics.probed("healthz", 200)
    metrics.probed("livez", 503)
    return metrics


def test_names_types_and_labels_are_those_of_kube_proxy() -> None:
    """A dashboard made for kube-proxy finds everything it asks for."""
    text = generate_latest(after_some_work(Metrics()).registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = {
        name: (family.type, set().union(*(sample.labels for sample in family.samples)) - {"le"})
        for name, family in families.items()
        if name.startswith("kubeproxy_") and not name.endswith("_created")
    }
    assert found == UPSTREAM


def test_the_process_and_the_build_are_there() -> None:
    text = generate_latest(Metrics().registry).decode()
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "podwire_build_info{version="):
        assert f"\n{name}" in text


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        (f"{SYNC}_duration_seconds", [0.001 * 2**power for power in range(15)]),
        ("kubeproxy_conntrack_reconciler_sync_duration_seconds", [0.001, 16.384]),
        ("kubeproxy_network_programming_duration_seconds", [0.25, 0.5, 1, 59, 60, 65, 115, 120, 150, 300]),
    ],
)
def test_buckets_of_kube_proxy_are_there(name: str, bounds: list[float]) -> None:
    metrics = after_some_work(Metrics())
    for bound in bounds:
        labels = {"ip_family": "IPv4", "le": str(float(bound))}
        assert metrics.registry.get_sample_value(f"{name}_bucket", labels) is not None, bound


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_change_is_pending_until_it_is_in_the_kernel() -> None:
    metrics = Metrics()
    services, endpoints = f"{SYNC}_service_changes_pending", f"{SYNC}_endpoint_changes_pending"
    metrics.service_changed(WEB)
    metrics.service_changed(WEB)
    metrics.endpoints_changed({WEB, API})
    assert (value(metrics, services), value(metrics, endpoints)) == (1, 2)  # Services, not events
    metrics.began()
    metrics.failed(IPV4, 0.1, full=False)
    assert value(metrics, services) == 1
    metrics.began()
    metrics.service_changed(API)  # while the sync runs: for the next one
    metrics.committed(NOTHING, triggered=[])
    assert (value(metrics, services), value(metrics, endpoints)) == (1, 0)
    assert value(metrics, f"{SYNC}_service_changes_total") == 3


def test_full_and_partial_syncs_and_their_failures() -> None:
    metrics = Metrics((IPV4, IPV6))
    metrics.synced(IPV4, 0.5, full=True, written={"nat": 7}, installed={"nat": 70, "filter": 9})
    metrics.synced(IPV4, 0.1, full=False, written={"nat": 1}, installed={"nat": 71, "filter": 9})
    metrics.failed(IPV4, 0.1, full=False)
    metrics.failed(IPV6, 0.1, full=True)
    four, six = {"ip_family": "IPv4"}, {"ip_family": "IPv6"}
    assert value(metrics, f"{SYNC}_duration_seconds_count", **four) == 3
    assert value(metrics, "kubeproxy_sync_full_proxy_rules_duration_seconds_count", **four) == 1
    assert value(metrics, "kubeproxy_sync_partial_proxy_rules_duration_seconds_count", **four) == 2
    assert value(metrics, f"{SYNC}_iptables_restore_failures_total", **four) == 1
    assert value(metrics, f"{SYNC}_iptables_partial_restore_failures_total", **four) == 1
    assert value(metrics, f"{SYNC}_iptables_restore_failures_total", **six) == 1
    assert value(metrics, f"{SYNC}_iptables_partial_restore_failures_total", **six) == 0
    assert value(metrics, f"{SYNC}_iptables_last", table="nat", **four) == 1
    assert value(metrics, f"{SYNC}_iptables_total", table="nat", **four) == 71
    assert value(metrics, f"{SYNC}_last_timestamp_seconds", **six) is None  # it never succeeded


def test_refusals_count_though_the_sync_went_on_without_the_services_to_blame() -> None:
    metrics = Metrics()
    metrics.synced(IPV4, 0.1, full=False, written={}, installed={}, refusals=3)
    metrics.failed(IPV4, 0.1, full=True, refusals=2)
    metrics.failed(IPV4, 0.1, full=False, refusals=0)  # it could not even read
    four = {"ip_family": "IPv4"}
    assert value(metrics, f"{SYNC}_iptables_restore_failures_total", **four) == 5
    assert value(metrics, f"{SYNC}_iptables_partial_restore_failures_total", **four) == 1


def test_ports_without_an_endpoint_here_are_counted() -> None:
    """Dropped because of a Local policy; not what has no endpoints at all, and not a policy of Cluster."""
    there = endpoint("10.244.1.3", here=False)
    local: dict[str, Any] = {"external_traffic_policy": "Local", "type": "NodePort", "node_port": 30001}
    snapshot = make_snapshot(
        make_service("inside", there, internal_traffic_policy="Local"),
        make_service("outside", there, vip="10.96.0.11", **local),
        make_service("both", there, vip="10.96.0.12", internal_traffic_policy="Local", **{**local, "node_port": 30002}),
        make_service("here", "10.244.0.1", vip="10.96.0.13", **{**local, "node_port": 30003}),
        make_service("empty", vip="10.96.0.14", **{**local, "node_port": 30004}),
        make_service("plain", there, vip="10.96.0.15"),
    )
    frontends = resolve_frontends(snapshot)
    assert count_without_local(frontends, IPV4) == {"internal": 2, "external": 2}
    assert count_without_local(frontends, IPV6) == {"internal": 0, "external": 0}
    metrics = Metrics()
    metrics.committed(frontends, triggered=[])
    labels = {"ip_family": "IPv4", "traffic_policy": "internal"}
    assert value(metrics, f"{SYNC}_no_local_endpoints_total", **labels) == 2


def test_podwires_own() -> None:
    metrics = Metrics()
    metrics.checked(0.01, repaired=True)
    metrics.checked(0.01, repaired=False)
    metrics.committed(NOTHING, triggered=[], refused=2)
    metrics.health_check_ports(3, 1)
    assert value(metrics, "podwire_proxy_repairs_total") == 1
    assert value(metrics, "podwire_proxy_check_duration_seconds_count") == 2
    assert value(metrics, "podwire_proxy_refused_services") == 2
    assert value(metrics, "podwire_proxy_health_check_ports", state="listening") == 3
    assert value(metrics, "podwire_proxy_health_check_ports", state="failed") == 1
