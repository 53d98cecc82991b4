"""Metrics under kube-proxy's names, so that its dashboards and alerts work unchanged (names, labels and meanings of
Kubernetes 1.33's iptables mode); what kube-proxy has no name for is called ``podwire_proxy_...``. The whole list, with
what is left out and why, is in docs/operations.md.

The loop tells what happened, in words of its own (``queued``, ``synced``, ``failed``, ...), and no metric is touched
from outside. What is a property of the Services as they are (how many have no local endpoint) is counted when somebody
asks, not with each sync: a sync costs what changed.

``ip_family`` is ``IPv4`` or ``IPv6``, as upstream since 1.33.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rules.policy import Action, Frontends, Kind, PortFrontends
from rules.snapshot import Family, ServiceName

# Upstream's buckets. Programming a change may take far less than its first one, 0.25 s, so there are finer ones below.
SYNC_BUCKETS = [0.001 * 2**n for n in range(15)]
FINE_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1]
PROGRAMMING_BUCKETS = [*FINE_BUCKETS, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30)]

FAMILY = "ip_family"
SYNC = "kubeproxy_sync_proxy_rules"
CONNTRACK = "kubeproxy_conntrack_reconciler"
NO_LOCAL = f"{SYNC}_no_local_endpoints_total"


class Metrics:
    """One proxy's metrics, in a registry of their own. ``families``: those it programs."""

    def __init__(self, families: Iterable[Family] = (Family.IPV4,)) -> None:
        self.registry = CollectorRegistry()
        self._families = {family: family_label(family) for family in families}
        self._services, self._endpoints = _Pending(), _Pending()
        self._state = _State(tuple(self._families))
        self._make_sync_metrics()
        self._make_change_metrics()
        self._make_other_metrics()
        self.registry.register(self._state)
        for collector in (ProcessCollector, PlatformCollector):
            collector(registry=self.registry)

    # What the loop tells.

    def service_changed(self, name: ServiceName) -> None:
        """The API told of a Service; it waits for a sync."""
        self._service_changes.inc()
        self._services.add(name)

    def endpoints_changed(self, names: Iterable[ServiceName]) -> None:
        """The API told of an EndpointSlice, of these Services."""
        self._endpoint_changes.inc()
        for name in names:
            self._endpoints.add(name)

    def queued(self) -> None:
        """A sync was asked for."""
        for label in self._families.values():
            self._last_queued.labels(label).set_to_current_time()

    def began(self) -> None:
        """A sync begins; all that is known by now is in it."""
        self._services.take()
        self._endpoints.take()

    def synced(
        self,
        family: Family,
        seconds: float,
        *,
        full: bool,
        written: Mapping[str, int],
        installed: Mapping[str, int],
        refusals: int = 0,
    ) -> None:
        """A sync of one family succeeded. ``full``: it began by reading what was there, rather than knowing it.
        ``written``, ``installed``: rules by table. ``refusals``: how often the kernel had to be asked again."""
        label = family_label(family)
        self._took(label, seconds, full=full)
        self._refusals(label, refusals, full=full)
        self._last_sync.labels(label).set_to_current_time()
        for gauge, counts in ((self._rules_last, written), (self._rules, installed)):
            for table, count in counts.items():
                gauge.labels(table, label).set(count)

    def failed(self, family: Family, seconds: float, *, full: bool, refusals: int = 1) -> None:
        """A sync failed; ``refusals``: how often the kernel said no to this family. A partial sync is followed by a
        full one."""
        label = family_label(family)
        self._took(label, seconds, full=full)
        self._refusals(label, refusals, full=full)

    def committed(self, frontends: Frontends, *, triggered: Iterable[float], refused: int = 0) -> None:
        """All families are as ``frontends`` says, but for ``refused`` Services. ``triggered``: when the endpoint
        changes in it happened (seconds since the epoch)."""
        now = time.time()
        self._services.done()
        self._endpoints.done()
        self._state.frontends = frontends
        self._refused.set(refused)
        for moment in triggered:
            for label in self._families.values():
                self._programming.labels(label).observe(max(0.0, now - moment))

    def conntrack_reconciled(self, family: Family, seconds: float, *, deleted: int) -> None:
        """Stale connections of one family were looked for; ``deleted``: how many entries."""
        label = family_label(family)
        self._conntrack_seconds.labels(label).observe(seconds)
        self._conntrack_deleted.labels(label).inc(deleted)

    def checked(self, seconds: float, *, repaired: bool) -> None:
        """The kernel's rules were compared with ours."""
        self._check_seconds.observe(seconds)
        if repaired:
            self._repairs.inc()

    def probed(self, endpoint: str, code: int) -> None:
        """Somebody asked ``healthz`` or ``livez``."""
        self._probes[endpoint].labels(str(code)).inc()

    def health_check_ports(self, listening: int, failed: int) -> None:
        """Health checks of Services: how many can be asked, how many have a port that cannot be had."""
        self._check_ports.labels("listening").set(listening)
        self._check_ports.labels("failed").set(failed)

    def _refusals(self, label: str, count: int, *, full: bool) -> None:
        """What follows the first refusal of a partial sync is none any more."""
        self._failures.labels(label).inc(count)
        if count and not full:
            self._partial_failures.labels(label).inc()

    def _took(self, label: str, seconds: float, *, full: bool) -> None:
        self._seconds.labels(label).observe(seconds)
        (self._full_seconds if full else self._partial_seconds).labels(label).observe(seconds)

    # What there is. Everything that is known beforehand to be counted is there from the start, at 0.

    def _make_sync_metrics(self) -> None:
        self._seconds = self._histogram(f"{SYNC}_duration_seconds", "Duration of a sync.", SYNC_BUCKETS)
        self._full_seconds = self._histogram(
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "Duration of a sync that read what was installed.",
            SYNC_BUCKETS,
        )
        self._partial_seconds = self._histogram(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "Duration of a sync that wrote what had changed, knowing the rest.",
            SYNC_BUCKETS,
        )
        self._programming = self._histogram(
            "kubeproxy_network_programming_duration_seconds",
            "Time from a change of endpoints to rules in the kernel.",
            PROGRAMMING_BUCKETS,
        )
        self._last_sync = self._gauge(f"{SYNC}_last_timestamp_seconds", "When a sync last succeeded.", FAMILY)
        self._last_queued = self._gauge(
            f"{SYNC}_last_queued_timestamp_seconds", "When a sync was last asked for.", FAMILY
        )
        self._failures = self._counter(f"{SYNC}_iptables_restore_failures", "Syncs the kernel refused.", FAMILY)
        self._partial_failures = self._counter(
            f"{SYNC}_iptables_partial_restore_failures", "Syncs of what had changed that the kernel refused.", FAMILY
        )
        self._rules = self._gauge(f"{SYNC}_iptables_total", "Rules installed.", "table", FAMILY)
        self._rules_last = self._gauge(f"{SYNC}_iptables_last", "Rules written by the last sync.", "table", FAMILY)
        for label in self._families.values():
            for metric in (self._failures, self._partial_failures):
                metric.labels(label)

    def _make_change_metrics(self) -> None:
        self._service_changes = self._counter(f"{SYNC}_service_changes", "Changes of Services seen.")
        self._endpoint_changes = self._counter(f"{SYNC}_endpoint_changes", "Changes of EndpointSlices seen.")
        for what, pending in (("service", self._services), ("endpoint", self._endpoints)):
            gauge = self._gauge(
                f"{SYNC}_{what}_changes_pending", f"Services with {what} changes not in the kernel yet."
            )
            gauge.set_function(pending.__len__)

    def _make_other_metrics(self) -> None:
        self._probes = {
            name: self._counter(f"kubeproxy_proxy_{name}", f"Answers of /{name}, by status code.", "code")
            for name in ("healthz", "livez")
        }
        self._conntrack_seconds = self._histogram(
            f"{CONNTRACK}_sync_duration_seconds", "Duration of a search for stale connections.", SYNC_BUCKETS
        )
        self._conntrack_deleted = self._counter(
            f"{CONNTRACK}_deleted_entries", "Connection tracking entries deleted because stale.", FAMILY
        )
        self._repairs = self._counter("podwire_proxy_repairs", "Foreign changes to our rules undone.")
        self._refused = self._gauge("podwire_proxy_refused_services", "Services whose rules the kernel refused.")
        self._check_seconds = Histogram(
            "podwire_proxy_check_duration_seconds",
            "Duration of comparing the kernel's rules with ours, and of their repair.",
            buckets=SYNC_BUCKETS,
            registry=self.registry,
        )
        self._check_ports = self._gauge("podwire_proxy_health_check_ports", "Health check ports of Services.", "state")
        build = self._gauge("podwire_build_info", "1, labelled with the version of podwire.", "version")
        build.labels(_version()).set(1)
        for label in self._families.values():
            self._conntrack_deleted.labels(label)

    def _histogram(self, name: str, text: str, buckets: list[float]) -> Histogram:
        return Histogram(name, text, [FAMILY], buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)


def family_label(family: Family) -> str:
    """As the API writes it: ``IPv4``."""
    return f"IPv{family.value}"


def _version() -> str:
    try:
        return version("podwire")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def count_without_local(frontends: Frontends, family: Family) -> dict[str, int]:
    """Service ports that have endpoints, none of them on this node, and a traffic policy that wants one: connections
    to them are dropped here. By policy, ``internal`` and ``external``."""
    counts = {"internal": 0, "external": 0}
    for port in frontends.ports(family):
        counts["internal"] += _drops(port, internal=True)
        counts["external"] += _drops(port, internal=False)
    return counts


def _drops(port: PortFrontends, *, internal: bool) -> bool:
    return any(
        route.action is Action.DROP
        for frontend in port.frontends
        if (frontend.kind is Kind.CLUSTER_IP) is internal
        for route in frontend.routes
    )


class _State(Collector):
    """Counted when asked, from what was last committed."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        self._families = families
        self.frontends: Frontends | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        text = "Service ports with a Local traffic policy, and endpoints on other nodes only."
        found = GaugeMetricFamily(NO_LOCAL, text, labels=[FAMILY, "traffic_policy"])
        if self.frontends is not None:
            for family in self._families:
                for policy, count in count_without_local(self.frontends, family).items():
                    found.add_metric([family_label(family), policy], count)
        yield found


class _Pending:
    """Which Services have changes that are not in the kernel yet: those that wait, and those being written."""

    def __init__(self) -> None:
        self._waiting: set[ServiceName] = set()
        self._taken: set[ServiceName] = set()

    def __len__(self) -> int:
        return len(self._waiting | self._taken)

    def add(self, name: ServiceName) -> None:
        self._waiting.add(name)

    def take(self) -> None:
        """What a sync that failed had taken is still pending."""
        self._taken |= self._waiting
        self._waiting = set()

    def done(self) -> None:
        self._taken = set()
