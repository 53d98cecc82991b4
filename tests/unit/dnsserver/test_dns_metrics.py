"""CoreDNS's names and labels."""

from prometheus_client import CollectorRegistry

from dnsserver.metrics import Metrics
from dnsserver.respond import Reply


def test_requests_are_counted_as_coredns_counts_them() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, port=53)
    reply = Reply(b"x" * 50, 3, 28, "cluster.local.", do=True)
    for _ in range(2):
        metrics.observe(reply, asked=40, seconds=0.001, proto="udp", family=4)
    metrics.observe(Reply(b"x" * 12, 1, None, "."), asked=12, seconds=0.001, proto="tcp", family=6)
    common = {"server": "dns://:53", "zone": "cluster.local.", "view": ""}
    value = registry.get_sample_value
    assert value("coredns_dns_requests_total", {**common, "proto": "udp", "family": "1", "type": "AAAA"}) == 2
    assert value("coredns_dns_responses_total", {**common, "rcode": "NXDOMAIN", "plugin": ""}) == 2
    assert value("coredns_dns_do_requests_total", common) == 2
    assert value("coredns_dns_request_duration_seconds_count", common) == 2
    assert value("coredns_dns_request_size_bytes_sum", {**common, "proto": "udp"}) == 80
    assert value("coredns_dns_response_size_bytes_sum", {**common, "proto": "udp"}) == 100
    other = {**common, "zone": ".", "proto": "tcp", "family": "2", "type": "other"}
    assert value("coredns_dns_requests_total", other) == 1


def test_cache_upstreams_and_programming() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.cache_hit(denial=True)
    metrics.cache_miss()
    metrics.served_stale()
    metrics.cache_entries(7)
    metrics.forwarded("10.0.0.1:53", 0, 0.1)
    metrics.forwarded("10.0.0.1:53", None, 2.0)
    metrics.programmed("headless_with_selector", 0.01)
    value = registry.get_sample_value
    cached = {"server": "dns://:53", "zones": ".", "view": ""}
    assert value("coredns_cache_requests_total", cached) == 2
    assert value("coredns_cache_hits_total", {**cached, "type": "denial"}) == 1
    assert value("coredns_cache_misses_total", cached) == 1
    assert value("coredns_cache_served_stale_total", cached) == 1
    assert value("coredns_cache_entries", {**cached, "type": "success"}) == 7
    assert value("coredns_forward_requests_total", {"to": "10.0.0.1:53"}) == 2
    assert value("coredns_forward_responses_total", {"to": "10.0.0.1:53", "rcode": "NOERROR"}) == 1
    programming = "coredns_kubernetes_dns_programming_duration_seconds_count"
    assert value(programming, {"service_kind": "headless_with_selector"}) == 1
