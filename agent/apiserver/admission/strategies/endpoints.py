"""Endpoints and EndpointSlices: the addresses behind a Service (apis/core and apis/discovery, validation)."""

from __future__ import annotations

from agent.apiserver.admission import names
from agent.apiserver.admission.errors import duplicate, invalid, required, too_many
from agent.apiserver.admission.rules import Causes, formed, one_of, same
from agent.apiserver.admission.strategies.base import Strategy
from agent.apiserver.registry import JSON

ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
PROTOCOLS = ("SCTP", "TCP", "UDP")
MAX_ENDPOINTS = 1000
MAX_PORTS = 20000
MAX_ADDRESSES = 100
MAX_HINTS = 8


class EndpointsStrategy(Strategy):
    def default(self, obj: JSON) -> None:
        for subset in obj.get("subsets") or []:
            for port in subset.get("ports") or []:
                port.setdefault("protocol", "TCP")

    def validate(self, obj: JSON) -> Causes:
        for index, subset in enumerate(obj.get("subsets") or []):
            yield from _check_subset(f"subsets[{index}]", subset)


def _check_subset(path: str, subset: JSON) -> Causes:
    if not subset.get("addresses") and not subset.get("notReadyAddresses"):
        yield required(path, "must specify `addresses` or `notReadyAddresses`")
    for group in ("addresses", "notReadyAddresses"):
        for index, address in enumerate(subset.get(group) or []):
            here = f"{path}.{group}[{index}]"
            yield from formed(f"{here}.ip", address.get("ip", ""), names.ip)
            yield from formed(f"{here}.ip", address.get("ip", ""), names.special_ip)
            if address.get("hostname"):
                yield from formed(f"{here}.hostname", address["hostname"], names.dns_label)
            if address.get("nodeName"):
                yield from formed(f"{here}.nodeName", address["nodeName"], names.dns_subdomain)
    ports = subset.get("ports") or []
    for index, port in enumerate(ports):
        here, name = f"{path}.ports[{index}]", port.get("name", "")
        if not name and len(ports) > 1:
            yield required(f"{here}.name")
        elif name:
            yield from formed(f"{here}.name", name, names.dns_label)
        for complaint in names.port_number(port.get("port", 0)):
            yield invalid(f"{here}.port", port.get("port", 0), complaint)
        yield from one_of(f"{here}.protocol", port["protocol"], PROTOCOLS)


class EndpointSliceStrategy(Strategy):
    def default(self, obj: JSON) -> None:
        for port in obj.get("ports") or []:
            port.setdefault("name", "")
            port.setdefault("protocol", "TCP")

    def validate(self, obj: JSON) -> Causes:
        kind, endpoints, ports = obj.get("addressType"), obj.get("endpoints") or [], obj.get("ports") or []
        yield from one_of("addressType", kind, ADDRESS_TYPES)
        if len(endpoints) > MAX_ENDPOINTS:
            yield too_many("endpoints", len(endpoints), MAX_ENDPOINTS)
            return
        for index, endpoint in enumerate(endpoints):
            yield from _check_endpoint(f"endpoints[{index}]", endpoint, kind or "")
        if len(ports) > MAX_PORTS:
            yield too_many("ports", len(ports), MAX_PORTS)
            return
        yield from _check_ports(ports)

    def validate_update(self, new: JSON, old: JSON, subresource: str | None) -> Causes:
        return same("addressType", new.get("addressType"), old.get("addressType"))


def _check_endpoint(path: str, endpoint: JSON, kind: str) -> Causes:
    addresses = endpoint.get("addresses") or []
    if not addresses:
        yield required(f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > MAX_ADDRESSES:
        yield too_many(f"{path}.addresses", len(addresses), MAX_ADDRESSES)
    for index, address in enumerate(addresses):
        yield from _check_address(f"{path}.addresses[{index}]", address, kind)
    for name, check in (("hostname", names.dns_label), ("nodeName", names.dns_subdomain)):
        if endpoint.get(name) is not None:
            yield from formed(f"{path}.{name}", endpoint[name], check)
    yield from _check_hints(f"{path}.hints", endpoint.get("hints") or {})


def _check_address(path: str, address: str, kind: str) -> Causes:
    """Of an unknown type: no rule is known."""
    if kind == "FQDN":
        yield from formed(path, address, names.fully_qualified) if address else iter((required(path),))
    elif kind in ("IPv4", "IPv6"):
        parsed = names.parse_ip(address)
        yield from formed(path, address, names.ip)
        if parsed is not None and kind != f"IPv{parsed.version}":
            yield invalid(path, address, f"must be an {kind} address")
        yield from formed(path, address, names.special_ip)


def _check_hints(path: str, hints: JSON) -> Causes:
    """A node's name may be longer than a label's value."""
    for group, check in (("forZones", names.label_value), ("forNodes", names.dns_subdomain)):
        entries = hints.get(group) or []
        if len(entries) > MAX_HINTS:
            yield too_many(f"{path}.{group}", len(entries), MAX_HINTS)
        seen: set[str] = set()
        for index, entry in enumerate(entries):
            name = entry.get("name", "")
            if name in seen:
                yield duplicate(f"{path}.{group}[{index}].name", name)
            seen.add(name)
            yield from formed(f"{path}.{group}[{index}].name", name, check)


def _check_ports(ports: list[JSON]) -> Causes:
    seen: set[str] = set()
    for index, port in enumerate(ports):
        here, name = f"ports[{index}]", port["name"]
        if name:
            yield from formed(f"{here}.name", name, names.dns_label)
        if name in seen:
            yield duplicate(f"{here}.name", name)
        seen.add(name)
        if port.get("port") is not None:
            for complaint in names.port_number(port["port"]):
                yield invalid(f"{here}.port", port["port"], complaint)
        yield from one_of(f"{here}.protocol", port["protocol"], PROTOCOLS)
        if port.get("appProtocol"):
            yield from formed(f"{here}.appProtocol", port["appProtocol"], names.qualified_name)
