"""What the server counts, under CoreDNS's names and labels, so that dashboards made for CoreDNS work as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dnsserver.records import Type
from dnsserver.respond import Reply
from dnsserver.zone import Rcode

TIME = tuple(0.00025 * 2**power for power in range(16))  # seconds, 250 us to 8 s
SIZE = (0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16000, 32000, 48000, 64000)  # octets
PROGRAMMING = tuple(0.001 * 2**power for power in range(20))  # seconds, 1 ms to 17 minutes
ALL = "."  # the cache serves what is forwarded, and that is the root zone's

_TYPES = {int(member): member.name for member in Type} | {15: "MX", 35: "NAPTR", 43: "DS", 48: "DNSKEY", 65: "HTTPS"}
_RCODES = {int(member): member.name for member in Rcode}


class Metrics:
    """``port`` names the server as CoreDNS does: ``dns://:53``."""

    def __init__(self, registry: CollectorRegistry, *, port: int = 53) -> None:
        self._server = f"dns://:{port}"
        self._children: dict[tuple[Any, ...], Callable[[int, int, float], None]] = {}
        common, cached = ("server", "zone", "view"), ("server", "zones", "view")

        def counter(name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"coredns_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"coredns_{name}", what, labels, buckets=buckets, registry=registry)

        self._requests = counter("dns_requests", "DNS requests.", (*common, "proto", "family", "type"))
        self._responses = counter("dns_responses", "DNS responses.", (*common, "rcode", "plugin"))
        self._do = counter("dns_do_requests", "DNS requests with the DO bit.", common)
        self._duration = histogram("dns_request_duration_seconds", "Time each request took.", common, TIME)
        self._asked = histogram("dns_request_size_bytes", "Size of requests.", (*common, "proto"), SIZE)
        self._answered = histogram("dns_response_size_bytes", "Size of responses.", (*common, "proto"), SIZE)
        self._lookups = counter("cache_requests", "Requests to the cache.", cached)
        self._hits = counter("cache_hits", "Cache hits.", ("server", "type", "zones", "view"))
        self._misses = counter("cache_misses", "Cache misses.", cached)
        self._stale = counter("cache_served_stale", "Answers served after they had expired.", cached)
        self._entries = Gauge(
            "coredns_cache_entries", "Answers in the cache.", ("server", "type", "zones", "view"), registry=registry
        )
        self._forward_requests = counter("forward_requests", "Requests sent to an upstream.", ("to",))
        self._forward_responses = counter("forward_responses", "Responses of an upstream.", ("to", "rcode"))
        self._forward_duration = histogram(
            "proxy_request_duration_seconds", "Time an upstream took.", ("proxy_name", "to", "rcode"), TIME
        )
        self.rejected = counter("forward_max_concurrent_rejects", "Queries rejected: too many under way.")
        self._programming = histogram(
            "kubernetes_dns_programming_duration_seconds",
            "From the change of an endpoint to its being served.",
            ("service_kind",),
            PROGRAMMING,
        )

    def observe(self, reply: Reply, *, asked: int, seconds: float, proto: str, family: int) -> None:
        """One request answered. ``asked``: its size in octets; ``family``: 4 or 6."""
        kind = (reply.zone, proto, family, reply.qtype, reply.rcode, reply.do)
        child = self._children.get(kind)
        if child is None:
            child = self._children[kind] = self._bind(*kind)
        child(asked, len(reply.data), seconds)

    def _bind(
        self, zone: str, proto: str, family: int, qtype: int | None, rcode: int, do: bool
    ) -> Callable[[int, int, float], None]:
        """Looking children up by label is the expensive part: it is done once per kind of reply."""
        common = (self._server, zone, "")
        name = _TYPES.get(-1 if qtype is None else qtype, "other")
        requests = self._requests.labels(*common, proto, "1" if family == 4 else "2", name)
        responses = self._responses.labels(*common, _RCODES.get(rcode, str(rcode)), "")
        duration = self._duration.labels(*common)
        asked, answered = self._asked.labels(*common, proto), self._answered.labels(*common, proto)
        with_do = self._do.labels(*common) if do else None

        def observe(request: int, response: int, seconds: float) -> None:
            requests.inc()
            responses.inc()
            duration.observe(seconds)
            asked.observe(request)
            answered.observe(response)
            if with_do is not None:
                with_do.inc()

        return observe

    def cache_hit(self, *, denial: bool) -> None:
        self._lookups.labels(self._server, ALL, "").inc()
        self._hits.labels(self._server, "denial" if denial else "success", ALL, "").inc()

    def cache_miss(self) -> None:
        self._lookups.labels(self._server, ALL, "").inc()
        self._misses.labels(self._server, ALL, "").inc()

    def served_stale(self) -> None:
        self._stale.labels(self._server, ALL, "").inc()

    def cache_entries(self, count: int) -> None:
        self._entries.labels(self._server, "success", ALL, "").set(count)

    def forwarded(self, to: str, rcode: int | None, seconds: float) -> None:
        """One exchange with the upstream ``to``; ``rcode`` is None if it gave no answer."""
        self._forward_requests.labels(to).inc()
        if rcode is not None:
            name = _RCODES.get(rcode, str(rcode))
            self._forward_responses.labels(to, name).inc()
            self._forward_duration.labels("forward", to, name).observe(seconds)

    def programmed(self, service_kind: str, seconds: float) -> None:
        self._programming.labels(service_kind).observe(seconds)
