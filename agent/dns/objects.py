"""API objects as small values: what DNS needs of them, and no more.

Ten thousand Services live in this process's memory, so each object's JSON is decoded straight into the few fields that
matter and becomes a value of ``dnsserver.records``. A field that is ``null`` counts as absent (kube-controller-manager
writes ``endpoints: null``). What cannot be said in DNS raises ValueError: the informer then leaves that object out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from dnsserver.names import Address, parse_address, parse_label, parse_name
from dnsserver.records import Endpoint, EndpointSlice, Port, Service

SERVICE_NAME = "kubernetes.io/service-name"
TRIGGERED = "endpoints.kubernetes.io/last-change-trigger-time"
HEADLESS = "None"


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Port(msgspec.Struct):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class _ServiceSpec(msgspec.Struct):
    type: str | None = None
    clusterIP: str | None = None
    clusterIPs: list[str] | None = None
    externalName: str | None = None
    publishNotReadyAddresses: bool | None = None
    ports: list[_Port] | None = None


class _Service(msgspec.Struct):
    metadata: _Meta
    spec: _ServiceSpec = msgspec.field(default_factory=_ServiceSpec)


class _Conditions(msgspec.Struct):
    ready: bool | None = None


class _Endpoint(msgspec.Struct):
    addresses: list[str] | None = None
    conditions: _Conditions | None = None
    hostname: str | None = None


class _Slice(msgspec.Struct):
    metadata: _Meta
    addressType: str = ""
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _PodIP(msgspec.Struct):
    ip: str = ""


class _PodStatus(msgspec.Struct):
    phase: str | None = None
    podIPs: list[_PodIP] | None = None


class _Pod(msgspec.Struct):
    metadata: _Meta
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


@dataclass(frozen=True, slots=True)
class SliceObject:
    """An EndpointSlice and the moment of the change that caused it (seconds since the epoch), if it says so."""

    piece: EndpointSlice
    triggered: float | None = None


_services = msgspec.json.Decoder(_Service)
_slices = msgspec.json.Decoder(_Slice)
_pods = msgspec.json.Decoder(_Pod)


def decode_service(data: bytes) -> Service:
    """A Service's JSON. Raises ValueError."""
    found = _services.decode(data)
    meta, spec = found.metadata, found.spec
    parse_label(meta.namespace), parse_label(meta.name)
    if spec.type == "ExternalName":
        return Service(meta.namespace, meta.name, external_name=_external_name(spec.externalName or ""))
    addresses = spec.clusterIPs or ([spec.clusterIP] if spec.clusterIP else [])
    return Service(
        meta.namespace,
        meta.name,
        addresses=tuple(parse_address(address) for address in addresses if address and address != HEADLESS),
        ports=_ports(spec.ports),
        headless=HEADLESS in addresses,
        publish_not_ready=bool(spec.publishNotReadyAddresses),
    )


def decode_slice(data: bytes) -> SliceObject:
    """An EndpointSlice's JSON; one of FQDNs, or of no Service, holds no endpoints for DNS. Raises ValueError."""
    found = _slices.decode(data)
    meta = found.metadata
    service = (meta.labels or {}).get(SERVICE_NAME, "")
    usable = found.endpoints or [] if service and found.addressType != "FQDN" else []
    endpoints = tuple(_endpoint(endpoint) for endpoint in usable)
    piece = EndpointSlice(meta.namespace, service, _ports(found.ports), endpoints)
    return SliceObject(piece, _moment((meta.annotations or {}).get(TRIGGERED)))


def decode_pod(data: bytes) -> tuple[Address, ...]:
    """A Pod's addresses; none once it has ended. Raises ValueError."""
    status = _pods.decode(data).status
    if status.phase in ("Succeeded", "Failed"):
        return ()
    return tuple(parse_address(pod.ip) for pod in status.podIPs or [] if pod.ip)


def decode_namespace(data: bytes) -> bool:
    """A Namespace is there, and that is all DNS asks of it."""
    return bool(data)


def _external_name(text: str) -> tuple[bytes, ...] | None:
    """The CNAME's target. An address is none (CoreDNS leaves such a Service out as well): the name does not exist."""
    try:
        parse_address(text)
    except ValueError:
        return parse_name(text) or None
    return None


def _endpoint(found: _Endpoint) -> Endpoint:
    """``ready`` absent means ready (discovery/v1: consumers should take unknown for true)."""
    ready = found.conditions is None or found.conditions.ready is not False
    if found.hostname:
        parse_label(found.hostname)
    return Endpoint(tuple(map(parse_address, found.addresses or [])), found.hostname or "", ready)


def _ports(found: list[_Port] | None) -> tuple[Port, ...]:
    """Ports by number; one without a number (an EndpointSlice's "all ports") cannot be said in an SRV record."""
    return tuple(Port(p.name or "", p.protocol or "TCP", p.port) for p in found or [] if p.port is not None)


def _moment(text: str | None) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None
