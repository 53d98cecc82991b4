"""Metrics under kube-proxy's names, so that its dashboards and alerts work unchanged."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SYNC_BUCKETS = [0.001 * 2**n for n in range(15)]
_PROGRAMMING_BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30)]


class Metrics:
    """One proxy's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name = "kubeproxy_sync_proxy_rules"
        self.sync_seconds = Histogram(
            f"{name}_duration_seconds", "Time a sync took.", buckets=_SYNC_BUCKETS, registry=self.registry
        )
        self.programming_seconds = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "Time from a change of endpoints to rules in the kernel.",
            buckets=_PROGRAMMING_BUCKETS,
            registry=self.registry,
        )
        self.last_sync = Gauge(f"{name}_last_timestamp_seconds", "When a sync last succeeded.", registry=self.registry)
        self.last_queued = Gauge(
            f"{name}_last_queued_timestamp_seconds", "When a sync was last asked for.", registry=self.registry
        )
        self.service_changes = Counter(f"{name}_service_changes", "Changes of Services.", registry=self.registry)
        self.endpoint_changes = Counter(f"{name}_endpoint_changes", "Changes of endpoints.", registry=self.registry)
        self.failures = Counter(
            f"{name}_iptables_restore_failures", "Syncs that the kernel refused.", registry=self.registry
        )
        self.rules = Gauge(f"{name}_iptables_total", "Rules installed.", ["table"], registry=self.registry)
        self.last_rules = Gauge(f"{name}_iptables_last", "Rules written by the last sync.", registry=self.registry)
        self.repairs = Counter("podwire_proxy_repairs", "Foreign changes to our rules undone.", registry=self.registry)
        self.refused = Gauge("podwire_proxy_refused_services", "Services the kernel refused.", registry=self.registry)

    def queued(self) -> None:
        self.last_queued.set(time.time())

    def synced(self, seconds: float, *, rules: int, installed: dict[str, int], triggered: list[float]) -> None:
        """A sync succeeded. ``triggered``: when the endpoint changes in it happened (seconds since the epoch)."""
        now = time.time()
        self.sync_seconds.observe(seconds)
        self.last_sync.set(now)
        self.last_rules.set(rules)
        for table, count in installed.items():
            self.rules.labels(table).set(count)
        for moment in triggered:
            self.programming_seconds.observe(max(0.0, now - moment))
