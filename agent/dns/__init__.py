"""The DNS component: Services, EndpointSlices and Namespaces of an API server, answered on port 53.

``run`` is one coroutine: it binds, follows the API, answers, and stops when cancelled. What a name means is decided in
``dnsserver.zone``; here the objects become its values (``objects``), changes find their way into it (``feed``), and the
process tells how it is (``http``).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from agent.dns.feed import Feed
from agent.dns.http import make_app, serve_http
from agent.dns.options import Options
from agent.kube.client import Client
from agent.telemetry import Timeline
from dnsserver.metrics import Metrics
from dnsserver.names import parse_name
from dnsserver.records import Index
from dnsserver.resolv import read_upstreams
from dnsserver.respond import Responder
from dnsserver.server import BindError, bind, serve
from dnsserver.upstream import Forwarder, Routes, parse_server
from dnsserver.zone import Settings, Zone

__all__ = ["BindError", "Options", "run"]

log = logging.getLogger(__name__)


async def run(client: Client, options: Options, *, ready: Callable[[], None]) -> None:
    """Answer DNS until cancelled. ``ready`` is called once: listening and synced. Raises BindError."""
    listeners = bind(options.listen, options.port)
    registry = CollectorRegistry()
    metrics = Metrics(registry, port=options.port)
    zone = make_zone(options)
    routes = make_routes(options)
    forwarder = Forwarder(routes, metrics=metrics)
    feed = Feed(client, zone, timeline=Timeline(options.timeline), metrics=metrics)
    async with asyncio.TaskGroup() as tasks:
        listening = asyncio.Event()
        responder = Responder(zone, recursion=bool(routes))
        tasks.create_task(serve(listeners, responder, forwarder, metrics=metrics, listening=listening.set))
        if options.http is not None:
            app = make_app(is_ready=lambda: zone.synced, registry=registry)
            tasks.create_task(serve_http(options.http, app))
        await listening.wait()
        for listener in listeners:
            log.info("listening on %s port %d, UDP and TCP", listener.address, listener.port)
        tasks.create_task(feed.run(ready))


def make_zone(options: Options) -> Zone:
    """An empty zone. The serial starts at the clock's seconds, so that it goes on after a restart (RFC 1912 2.2)."""
    domain = parse_name(options.cluster_domain)
    settings = Settings(
        domain=domain,
        ttl=options.ttl,
        pods=options.pods,
        networks=tuple(ipaddress.ip_network(cidr) for cidr in (*options.service_cidrs, *options.pod_cidrs)),
        nameservers=tuple(ipaddress.ip_address(address) for address in options.listen),
    )
    return Zone(settings, Index(domain, ttl=options.ttl, serial=int(time.time())))


def make_routes(options: Options) -> Routes:
    """Whom to ask for other names: as configured, else as resolv.conf says."""
    stubs = tuple((parse_name(suffix), servers) for suffix, servers in options.stub_servers)
    default = tuple(map(parse_server, options.upstreams))
    if not default:
        own = {*options.own_addresses, *(options.listen if options.port == 53 else ())}
        default = read_upstreams(options.resolv_conf, own=own)
    log.info("other names are asked of %s", ", ".join(map(str, default)) or "nobody: no upstream is known")
    return Routes(default, stubs)
