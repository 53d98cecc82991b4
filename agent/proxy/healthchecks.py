"""Health checks of Services, for external load balancers (``spec.healthCheckNodePort``).

With externalTrafficPolicy Local a node serves a Service only if it has endpoints of it, and a load balancer finds out
by asking each node on the Service's own port. It is told 200 if this node has a *ready* endpoint and the proxy does its
work, else 503; with the number of endpoints, by which it may weigh the nodes. (pkg/proxy/healthcheck upstream.)

```
Frontends -> wanted: {Service: HealthCheck} -> assign: {port: Service} -> listeners to open and to close
          `--------------------------- pure -------------------------------------'   `HealthChecks.run
```
A count that changes opens and closes nothing: requests are answered from the mapping as it is. A port that somebody
else has, or that two Services claim, is told, and tried again until it can be had; all others go on.

All ports are one HTTP application, which knows by the port a request came to which Service is meant. uvicorn's protocol
is used without uvicorn's server, whose loop would wake once a second for each port.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate

import uvicorn
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from rules.policy import Frontends, HealthCheck, ServiceFrontends, node_port_destinations
from rules.snapshot import Family, ServiceName

log = logging.getLogger(__name__)

RETRY = 10.0  # seconds until a port that could not be had is tried again, and addresses are looked at again
ANY = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]  # upstream does not look at it

Wanted = Mapping[ServiceName, HealthCheck]
Ranges = Mapping[Family, tuple[str, ...]]  # CIDRs; empty: every address of that family
Tell = Callable[[ServiceName, str], None]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where to listen: a local address (or the unspecified one) and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


# Pure: what is wanted, and who gets which port.


def wanted_checks(frontends: Frontends) -> dict[ServiceName, HealthCheck]:
    """The health checks of all Services."""
    services = frontends.services.values()
    return {service.name: service.health_check for service in services if service.health_check is not None}


def revise_checks(wanted: Wanted, frontends: Frontends, changed: Iterable[ServiceName]) -> Wanted:
    """``wanted_checks(frontends)``, if ``wanted`` was right but for the ``changed`` Services; costs what changed."""
    found = {name: _check_of(frontends.services.get(name)) for name in changed}
    if all(wanted.get(name) == check for name, check in found.items()):
        return wanted
    kept = {name: check for name, check in wanted.items() if name not in found}
    return kept | {name: check for name, check in found.items() if check is not None}


def listening_ranges(frontends: Frontends) -> dict[Family, tuple[str, ...]]:
    """Health checks are where NodePorts are (nodePortAddresses)."""
    return {family: node_port_destinations(frontends, family) for family in Family}


def assign_ports(
    wanted: Wanted, held: Mapping[int, ServiceName]
) -> tuple[dict[int, ServiceName], dict[ServiceName, str]]:
    """Which Service each port belongs to, and what is to be told to those that get none.

    The API server gives each port to one Service only; where it did not, the one that has it keeps it, or else the
    first by name gets it.
    """
    holders: dict[int, ServiceName] = {}
    for name in sorted(wanted, key=lambda name: (held.get(wanted[name].port) != name, name)):
        holders.setdefault(wanted[name].port, name)
    return holders, {
        name: f"healthCheckNodePort {check.port} is that of Service {holders[check.port]} already"
        for name, check in wanted.items()
        if holders[check.port] != name
    }


def find_places(ports: Iterable[int], ranges: Ranges, local: Iterable[str]) -> frozenset[Place]:
    """Where to listen for these ports. ``local``: this node's addresses."""
    known = [ipaddress.ip_address(text) for text in local]
    addresses: list[str] = []
    for family, cidrs in ranges.items():
        networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
        inside = [str(a) for a in known if a.version == family and any(a in network for network in networks)]
        addresses += inside if networks else [ANY[family]]
    return frozenset(Place(address, port) for port in ports for address in addresses)


def _check_of(service: ServiceFrontends | None) -> HealthCheck | None:
    return None if service is None else service.health_check


# The listeners.


class HealthChecks:
    """Answers load balancers. ``update`` says what is wanted, ``run`` must be running.

    ``is_healthy``: does the proxy do its work? ``tell`` is called with a Service and a sentence when its port cannot be
    had, once until that changes; ``count`` with the numbers of Services that can be asked about, and that cannot.
    """

    def __init__(
        self,
        *,
        is_healthy: Callable[[], bool],
        tell: Tell,
        count: Callable[[int, int], None] = lambda listening, failed: None,
    ) -> None:
        self._is_healthy, self._tell, self._count = is_healthy, tell, count
        self._wanted: Wanted = {}
        self._ranges: Ranges = dict.fromkeys(Family, ())
        self._holders: dict[int, ServiceName] = {}
        self._told: dict[ServiceName, str] = {}
        self._changed = asyncio.Event()
        self._ports = _Ports(self._make_app())

    @property
    def wanted(self) -> Wanted:
        return self._wanted

    def update(self, wanted: Wanted, ranges: Ranges) -> None:
        """From now on, answer so. Ports follow as soon as the event loop turns."""
        if _ports_of(wanted) != _ports_of(self._wanted) or ranges != self._ranges:
            self._changed.set()
        self._wanted, self._ranges = wanted, ranges

    async def run(self) -> None:
        """Until cancelled; then no port is listened on."""
        try:
            while True:
                self._changed.clear()
                await self._follow()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY if self._told or self._needs_addresses else None):
                        await self._changed.wait()
        finally:
            self._ports.close()

    async def _follow(self) -> None:
        """Bring the listeners to what is wanted."""
        holders, troubles = assign_ports(self._wanted, self._holders)
        self._holders = holders
        try:
            local = await asyncio.to_thread(_local_addresses) if self._needs_addresses else ()
        except (OSError, NetlinkError) as error:
            log.warning("cannot list this node's addresses, health checks stay as they are: %s", error)
            return
        places = find_places(holders, self._ranges, local)
        failed = await self._ports.follow(places)
        for place in sorted(failed):
            troubles.setdefault(holders[place.port], f"cannot listen on {place} for health checks: {failed[place]}")
        for port in holders.keys() - {place.port for place in places}:
            troubles[holders[port]] = f"no address of this node is in nodePortAddresses: nothing listens on port {port}"
        self._report(troubles)

    @property
    def _needs_addresses(self) -> bool:
        """Addresses come and go, and nobody tells."""
        return bool(self._holders) and any(self._ranges.values())

    def _report(self, troubles: dict[ServiceName, str]) -> None:
        for name in sorted(troubles):
            if self._told.get(name) != troubles[name]:
                self._tell(name, troubles[name])
        self._told = troubles
        self._count(len(self._wanted) - len(troubles), len(troubles))

    def _make_app(self) -> Starlette:
        async def answer(request: Request) -> Response:
            name = self._holders.get(request.scope["server"][1])
            return _answer(name, self._wanted.get(name) if name else None, self._is_healthy())

        return Starlette(routes=[Route("/{path:path}", answer, methods=METHODS)])


def _answer(name: ServiceName | None, check: HealthCheck | None, healthy: bool) -> Response:
    """Upstream's answer. A Service that went while its port is being closed has no endpoints."""
    count = check.ready_here if check is not None else 0
    body = {
        "service": {"namespace": name.namespace if name else "", "name": name.name if name else ""},
        "localEndpoints": count,
        "serviceProxyHealthy": healthy,
    }
    headers = {
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(count),
        "Date": formatdate(usegmt=True),
    }
    return JSONResponse(body, 200 if count and healthy else 503, headers)


class _Ports:
    """One application on listening sockets that come and go."""

    def __init__(self, app: Starlette) -> None:
        self._config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,  # the server's loop, which is not there, would keep it right
        )
        self._state = ServerState()
        self._open: dict[Place, asyncio.Server] = {}

    async def follow(self, places: frozenset[Place]) -> dict[Place, str]:
        """Listen there and nowhere else; where that cannot be done, and why."""
        if places and not self._config.loaded:
            self._config.load()
        for place in self._open.keys() - places:
            self._shut(place)
        failed: dict[Place, str] = {}
        for place in sorted(places - self._open.keys()):
            try:
                await self._listen(place)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:  # a kernel without IPv6 has no such address to be asked on
                    failed[place] = os.strerror(error.errno) if error.errno else str(error)
        return failed

    def close(self) -> None:
        for place in list(self._open):
            self._shut(place)

    async def _listen(self, place: Place) -> None:
        """Noted before it serves, so that one who is cancelled meanwhile closes it."""
        family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
        sock = socket.create_server((place.address, place.port), family=family)
        loop = asyncio.get_running_loop()
        self._open[place] = await loop.create_server(self._make_protocol, sock=sock, start_serving=False)
        await self._open[place].start_serving()

    def _make_protocol(self) -> asyncio.Protocol:
        return H11Protocol(config=self._config, server_state=self._state, app_state={})

    def _shut(self, place: Place) -> None:
        """Connections that idle are closed, those with a request under way after the answer."""
        self._open.pop(place).close()
        for connection in list(self._state.connections):
            if isinstance(connection, H11Protocol) and connection.server and connection.server[1] == place.port:
                connection.shutdown()


def _ports_of(wanted: Wanted) -> set[tuple[ServiceName, int]]:
    return {(name, check.port) for name, check in wanted.items()}


def _local_addresses() -> tuple[str, ...]:
    """This network namespace's addresses. Blocks for about a millisecond. Raises OSError, NetlinkError."""
    with IPRoute() as netlink:
        return tuple(str(found.get("local") or found.get("address")) for found in netlink.addr("dump"))
