"""EndpointSlices and Endpoints as values: what controllers compare, and what they write.

These two kinds are written whole by their controllers, so the values hold every field a controller sets. They are
hashable (tuples, not lists), and ``to_json`` leaves out what is not set, as the API does.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agent.controllers.objects import Meta, Value

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
SERVICE_NAME = "kubernetes.io/service-name"
HEADLESS = "service.kubernetes.io/headless"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"

Json = dict[str, Any]


class Part(Value, frozen=True, omit_defaults=True):
    """A part that is written as well as read."""


class Target(Part, frozen=True):
    """The object behind an address, a Pod mostly."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Port(Part, frozen=True):
    """``name`` is written even when it is empty: an absent name means "any" to older readers."""

    name: str | None = None
    port: int | None = None
    protocol: str = msgspec.field(default="")
    app_protocol: str | None = None

    @property
    def identity(self) -> tuple[str, int, str, str]:
        return (self.name or "", self.port or 0, self.protocol or "TCP", self.app_protocol or "")


class Conditions(Part, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForName(Part, frozen=True):
    name: str


class Hints(Part, frozen=True):
    for_zones: tuple[ForName, ...] = ()
    for_nodes: tuple[ForName, ...] = ()


class Endpoint(Part, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: Conditions = Conditions()
    hostname: str | None = None
    target_ref: Target | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: Hints | None = None

    @property
    def identity(self) -> tuple[tuple[str, ...], Target | None]:
        """Two endpoints of one identity are the same one, before and after a change."""
        return (self.addresses, self.target_ref)


class EndpointSlice(Value, frozen=True):
    metadata: Meta = Meta()
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[Port, ...] = ()

    @property
    def port_set(self) -> frozenset[tuple[str, int, str, str]]:
        return frozenset(port.identity for port in self.ports)


class Address(Part, frozen=True):
    """An address of a v1 Endpoints object."""

    ip: str = ""
    hostname: str = ""
    node_name: str | None = None
    target_ref: Target | None = None


class SubsetPort(Part, frozen=True):
    name: str = ""
    port: int = 0
    protocol: str = ""
    app_protocol: str | None = None


class Subset(Part, frozen=True):
    """Every address times every port is an endpoint."""

    addresses: tuple[Address, ...] = ()
    not_ready_addresses: tuple[Address, ...] = ()
    ports: tuple[SubsetPort, ...] = ()


class Endpoints(Value, frozen=True):
    metadata: Meta = Meta()
    subsets: tuple[Subset, ...] = ()


def to_json(value: Part) -> Json:
    """As plain JSON (lists, not tuples)."""
    result: Json = msgspec.json.decode(msgspec.json.encode(value))
    return result
