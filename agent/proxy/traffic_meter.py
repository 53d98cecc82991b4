"""The sockets and clocks around ``traffic``: hears of connections that end, lists those that live, tells the sums.

Connections that end are taken from the kernel five times a second, all that have come, and not at all while none do:
waking for each would cost more than counting it. Whoever asks has the living connections listed at that moment; a
connection that ends meanwhile would be in the list and among the ended, so what ended since the list began is taken
out of it again.

Nothing here keeps the proxy from its work: what a kernel cannot do is told once in the log, and in every report.
Counting begins with the process; what it knew goes with it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

import msgspec
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.proxy.conntrack_netlink import RECEIVE_BUFFER, Conntrack, ConntrackError, EndedConnections, enable_accounting
from agent.proxy.conntrack_wire import DST_NAT, Direction, Entry
from agent.proxy.traffic import Ledger, Report
from rules.policy import Frontends
from rules.snapshot import ServiceName

log = logging.getLogger(__name__)
T = TypeVar("T")

PAUSE = 0.2  # seconds between two looks at what has ended
BATCH = 1000  # connections; more are taken after other tasks had their turn (some 10 ms each time)


class TrafficMeter:
    """Counts in the network namespace of the thread that makes it. May be used from several threads."""

    def __init__(self, *, receive_buffer: int = RECEIVE_BUFFER) -> None:
        """``receive_buffer``: bytes, for connections that end between two looks."""
        self._since = time.time()
        self._ledger = Ledger()
        self._problems: tuple[str, ...] = ()
        self._lock, self._listing = threading.Lock(), threading.Lock()
        self._ended_meanwhile: set[tuple[int, Direction]] | None = None
        self._ended = self._open(lambda: EndedConnections(receive_buffer=receive_buffer))
        self._conntrack = self._open(Conntrack)
        if self._conntrack is not None:
            self._problems += enable_accounting()
        for problem in self._problems:
            log.warning("%s", problem)

    def follow(self, frontends: Frontends, changed: Collection[ServiceName] | None = None) -> None:
        """Services are now these; see ``Ledger.follow``."""
        with self._lock:
            self._take()  # what ended before belongs to the Services before
            self._ledger.follow(frontends, changed)

    async def run(self) -> None:
        """Take what ends, until cancelled."""
        while self._ended is not None:
            await _readable(self._ended.fileno())
            with self._lock:
                taken = self._take(BATCH)
            await asyncio.sleep(PAUSE if taken < BATCH else 0)

    def report(self, *, namespace: str = "", service: str = "") -> Report:
        """The sums of all Services, or of those of a namespace, or of this name. Blocks while the kernel lists its
        connections (some 10 us for each that was translated): not for an event loop's thread."""
        with self._listing:
            with self._lock:
                self._take()
                self._ended_meanwhile = set()
            live, problems = self._list()
            with self._lock:
                self._take()
                ended, self._ended_meanwhile = self._ended_meanwhile, None
                living = (entry for entry in live if (entry.id, entry.original) not in ended)
                return Report(
                    since=self._since,
                    at=time.time(),
                    ports=self._ledger.rows(living, namespace=namespace, service=service),
                    forgotten=self._ledger.forgotten,
                    lost=self._ended.lost if self._ended is not None else 0,
                    problems=self._problems + problems,
                )

    def close(self) -> None:
        for sock in (self._ended, self._conntrack):
            if sock is not None:
                sock.close()

    def _open(self, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except ConntrackError as error:
            self._problems += (f"traffic of Services is not counted completely: {error}",)
            return None

    def _list(self) -> tuple[list[Entry], tuple[str, ...]]:
        """The connections that live, or why they cannot be listed now."""
        if self._conntrack is None:
            return [], ()
        try:
            return self._conntrack.dump(status=DST_NAT), ()
        except ConntrackError as error:
            return [], (str(error),)

    def _take(self, limit: int = 1 << 20) -> int:
        """What has ended goes into the ledger; how many did. With the lock held."""
        if self._ended is None:
            return 0
        try:
            return self._ledger.add(self._noted(self._ended.drain(limit)))
        except ConntrackError as error:
            self._deafen(error)
            return 0

    def _noted(self, ended: Iterator[Entry]) -> Iterator[Entry]:
        for entry in ended:
            if self._ended_meanwhile is not None:
                self._ended_meanwhile.add((entry.id, entry.original))
            yield entry

    def _deafen(self, error: ConntrackError) -> None:
        log.error("%s; from now on only living connections are counted", error)
        self._problems += (f"connections that have ended are not counted any more: {error}",)
        if self._ended is not None:
            self._ended.close()
        self._ended = None


class TrafficCollector(Collector):
    """The sums as Prometheus counters; register it with the proxy's registry. Blocks as ``report`` does.

    A counter never falls: when connections end unheard, what was told of them while they lived stays.
    """

    def __init__(self, meter: TrafficMeter) -> None:
        self._meter = meter
        self._told: dict[tuple[str, ...], int] = {}

    def collect(self) -> Iterator[CounterMetricFamily]:
        report = self._meter.report()
        labels = ("namespace", "service", "port")
        connections = CounterMetricFamily(
            "podwire_proxy_service_connections", "Connections to a Service.", labels=labels
        )
        size = CounterMetricFamily(
            "podwire_proxy_service_bytes",
            "Bytes to (in) and from (out) a Service, IP headers included.",
            labels=(*labels, "direction"),
        )
        before, self._told = self._told, {}
        for row in report.ports:
            port = (row.namespace, row.service, row.port_name or str(row.port))
            connections.add_metric(port, self._rising(before, port, row.total.connections))
            for direction, total in (("in", row.total.bytes_in), ("out", row.total.bytes_out)):
                size.add_metric((*port, direction), self._rising(before, (*port, direction), total))
        lost = CounterMetricFamily(
            "podwire_proxy_lost_connections", "Connections that ended without being counted.", value=report.lost
        )
        yield from (connections, size, lost)

    def _rising(self, before: dict[tuple[str, ...], int], key: tuple[str, ...], value: int) -> int:
        self._told[key] = max(value, before.get(key, 0))
        return self._told[key]


def routes(meter: TrafficMeter) -> list[Route]:
    """``GET /traffic?namespace=&service=``: a ``Report`` as JSON."""

    async def traffic(request: Request) -> Response:
        namespace, service = (request.query_params.get(name, "") for name in ("namespace", "service"))
        report = await asyncio.to_thread(meter.report, namespace=namespace, service=service)
        return Response(msgspec.json.encode(report), media_type="application/json")

    return [Route("/traffic", traffic)]


async def _readable(descriptor: int) -> None:
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)
