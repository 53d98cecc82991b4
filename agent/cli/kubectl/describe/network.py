"""Services and where they lead: the heart of the document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli.kubectl.describe.page import NONE, UNSET, Page, joined, or_none, write_head, write_labels
from agent.cli.kubectl.describe.related import Related

Json = Mapping[str, Any]
SHOWN_ENDPOINTS = 3  # of a port; the others are counted


def write_service(page: Page, service: Json, related: Related) -> None:
    spec, status = service.get("spec") or {}, service.get("status") or {}
    write_head(page, service)
    write_labels(page, service)
    page.field("Selector", joined(spec.get("selector")))
    page.field("Type", spec.get("type", ""))
    page.optional("IP Family Policy", spec.get("ipFamilyPolicy"))
    page.field("IP Families", or_none(",".join(spec.get("ipFamilies") or [])))
    page.field("IP", spec.get("clusterIP", ""))
    page.field("IPs", or_none(",".join(spec.get("clusterIPs") or [])))
    page.optional("External IPs", ",".join(spec.get("externalIPs") or []))
    page.optional("Desired LoadBalancer IP", spec.get("loadBalancerIP"))
    page.optional("External Name", spec.get("externalName"))
    page.optional("LoadBalancer Ingress", _ingress((status.get("loadBalancer") or {}).get("ingress") or []))
    for port in spec.get("ports") or []:
        _write_port(page, port, related.slices)
    page.field("Session Affinity", spec.get("sessionAffinity", ""))
    page.optional("External Traffic Policy", spec.get("externalTrafficPolicy"))
    page.optional("Internal Traffic Policy", spec.get("internalTrafficPolicy"))
    page.optional("HealthCheck NodePort", spec.get("healthCheckNodePort"))
    page.optional("LoadBalancer Source Ranges", ",".join(spec.get("loadBalancerSourceRanges") or []))
    page.optional("Traffic Distribution", spec.get("trafficDistribution"))


def _write_port(page: Page, port: Json, slices: Sequence[Json]) -> None:
    name, protocol = port.get("name") or UNSET, port.get("protocol", "TCP")
    page.line(f"Port:\t{name}\t{port.get('port')}/{protocol}")
    page.field("TargetPort", f"{port.get('targetPort', 0)}/{protocol}")
    page.optional("AppProtocol", port.get("appProtocol"))
    if port.get("nodePort"):
        page.line(f"NodePort:\t{name}\t{port['nodePort']}/{protocol}")
    page.field("Endpoints", format_endpoints(slices, port.get("name") or ""))


def format_endpoints(slices: Sequence[Json], port_name: str) -> str:
    """``172.17.0.4:28017,172.17.0.5:28017 + 2 more...``: the ready endpoints of the port with this name."""
    if not slices:
        return NONE
    found = [each for piece in slices for each in _endpoints(piece, port_name)]
    text = ",".join(found[:SHOWN_ENDPOINTS])
    more = len(found) - SHOWN_ENDPOINTS
    return f"{text} + {more} more..." if more > 0 else text


def _endpoints(piece: Json, port_name: str) -> list[str]:
    addresses = [each["addresses"][0] for each in piece.get("endpoints") or [] if _is_ready(each)]
    ports = piece.get("ports") or []
    if not ports:
        return addresses
    numbers = [port.get("port") for port in ports if (port.get("name") or "") == port_name]
    return [f"[{a}]:{number}" if ":" in a else f"{a}:{number}" for number in numbers for a in addresses]


def _is_ready(endpoint: Json) -> bool:
    return (endpoint.get("conditions") or {}).get("ready") is not False


def _ingress(ingress: Sequence[Json]) -> str:
    texts = [each.get("ip") or each.get("hostname", "") for each in ingress]
    modes = [f" ({each['ipMode']})" if each.get("ip") and each.get("ipMode") else "" for each in ingress]
    return ", ".join(text + mode for text, mode in zip(texts, modes, strict=True))


def write_endpoints(page: Page, endpoints: Json, related: Related) -> None:
    write_head(page, endpoints)
    write_labels(page, endpoints)
    page.line("Subsets:")
    for subset in endpoints.get("subsets") or []:
        for title, field in (("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")):
            page.field(title, or_none(",".join(each["ip"] for each in subset.get(field) or [])), level=1)
        if ports := subset.get("ports"):
            page.line("Ports:", level=1)
            _write_ports(page, ports, level=2)
        page.line()


def _write_ports(page: Page, ports: Sequence[Json], *, level: int) -> None:
    page.line("Name\tPort\tProtocol", level=level)
    page.line("----\t----\t--------", level=level)
    for port in ports:
        number = UNSET if port.get("port") is None else port["port"]
        page.line(f"{port.get('name') or UNSET}\t{number}\t{port.get('protocol', 'TCP')}", level=level)


def write_endpoint_slice(page: Page, piece: Json, related: Related) -> None:
    write_head(page, piece)
    write_labels(page, piece)
    page.field("AddressType", piece.get("addressType", ""))
    if ports := piece.get("ports"):
        page.line("Ports:")
        _write_ports(page, ports, level=1)
    else:
        page.line(f"Ports: {UNSET}")
    if not piece.get("endpoints"):
        page.line(f"Endpoints: {NONE}")
        return
    page.line("Endpoints:")
    for endpoint in piece["endpoints"]:
        _write_endpoint(page, endpoint)


def _write_endpoint(page: Page, endpoint: Json) -> None:
    ready = (endpoint.get("conditions") or {}).get("ready")
    page.field("- Addresses", or_none(", ".join(endpoint.get("addresses") or [])), level=1)
    page.line("Conditions:", level=2)
    page.field("Ready", UNSET if ready is None else str(ready).lower(), level=3)
    page.field("Hostname", endpoint.get("hostname") or UNSET, level=2)
    if target := endpoint.get("targetRef"):
        page.field("TargetRef", f"{target.get('kind', '')}/{target.get('name', '')}", level=2)
    page.field("NodeName", endpoint.get("nodeName") or UNSET, level=2)
    page.field("Zone", endpoint.get("zone") or UNSET, level=2)
