"""The Services that are measured, as values and as objects of the API, and where their addresses lie.

| what | where |
|---|---|
| ClusterIPs | 10.96.0.0/12, scattered over all of it, as an API server gives them out |
| pods, the endpoints among them | 10.128.0.0/9, the pod network |
| endpoints that come by a change | 10.192.0.0/11 |
| endpoints of the Service that has thousands | 10.224.0.0/12 |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rules.snapshot import (
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServiceName,
    ServicePort,
    Settings,
    SlicePort,
    Snapshot,
)

NODE_NAME = "here"
POD_NETWORK = "10.128.0.0/9"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
SERVICE_PORT, ENDPOINT_PORT, NODE_PORT = 80, 8080, 30080
MANY = 4000  # endpoints of the one Service that has so many
LARGE, OPEN = ServiceName("default", "large"), ServiceName("default", "open")

_SETTINGS = Settings(cluster_cidrs=(POD_NETWORK,))
_CLUSTER_IPS, _BITS = 10 << 24 | 96 << 16, 20
_STEP = 0x9E3779B1  # odd, so that multiples of it visit each of 2**_BITS addresses once
_PODS, _CHANGED, _LARGE = 10 << 24 | 128 << 16, 10 << 24 | 192 << 16, 10 << 24 | 224 << 16


@dataclass(frozen=True, slots=True)
class Size:
    """So many Services, each with so many endpoints."""

    services: int
    endpoints: int

    def __str__(self) -> str:
        return f"{self.services:,} x {self.endpoints}"


def make_world(size: Size) -> Snapshot:
    names = [_name(number) for number in range(size.services)]
    return Snapshot(
        Node(NODE_NAME),
        _SETTINGS,
        services={
            name: Service(name, cluster_ips=(cluster_ip(n),), ports=(ServicePort(SERVICE_PORT),))
            for n, name in enumerate(names)
        },
        slices={name: (_slice(name, endpoints_of(n, size)),) for n, name in enumerate(names)},
    )


def make_change(world: Snapshot, number: int, size: Size) -> Snapshot:
    """What is news when a Service has another first endpoint: that Service alone, as the proxy hands it on."""
    name = _name(number)
    addresses = [changed_endpoint(number), *endpoints_of(number, size)[1:]]
    return Snapshot(world.node, world.settings, {name: world.services[name]}, {name: (_slice(name, addresses),)})


def make_extras(world: Snapshot) -> Snapshot:
    """Two Services that come later: ``LARGE`` has ``MANY`` endpoints, ``OPEN`` has one, and a NodePort."""
    large = Service(LARGE, cluster_ips=(_address(_CLUSTER_IPS),), ports=(ServicePort(SERVICE_PORT),))
    port = ServicePort(SERVICE_PORT, node_port=NODE_PORT)
    opened = Service(OPEN, type="NodePort", cluster_ips=(_address(_CLUSTER_IPS + 1),), ports=(port,))
    slices = {
        LARGE: (_slice(LARGE, [_address(_LARGE + 1 + n) for n in range(MANY)]),),
        OPEN: (_slice(OPEN, [_address(_LARGE + 1 + MANY)]),),
    }
    return Snapshot(world.node, world.settings, {LARGE: large, OPEN: opened}, slices)


def spread(size: Size, count: int) -> range:
    """The numbers of so many Services (or all, if there are fewer), from all over the range."""
    step = max(1, size.services // count)
    return range(0, size.services, step)[:count]


def cluster_ip(number: int) -> str:
    """Of the Service with this number. The range's first two addresses, which no number below 100,000 gets, are the
    extras'."""
    return _address(_CLUSTER_IPS + (number + 1) * _STEP % 2**_BITS)


def endpoints_of(number: int, size: Size) -> list[str]:
    first = _PODS + 1 + number * size.endpoints
    return [_address(first + index) for index in range(size.endpoints)]


def changed_endpoint(number: int) -> str:
    return _address(_CHANGED + 1 + number)


def service_objects(size: Size) -> Iterator[dict[str, Any]]:
    """The Services as the API has them."""
    for number in range(size.services):
        spec = {"type": "ClusterIP", "clusterIPs": [cluster_ip(number)], "ports": [{"port": SERVICE_PORT}]}
        yield {"metadata": _meta(number, _name(number).name), "spec": spec}


def slice_objects(size: Size) -> Iterator[dict[str, Any]]:
    """Their EndpointSlices."""
    for number in range(size.services):
        labels = {"kubernetes.io/service-name": _name(number).name}
        yield {
            "metadata": {**_meta(number, slice_name(number)), "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": ENDPOINT_PORT, "protocol": "TCP"}],
            "endpoints": endpoint_objects(endpoints_of(number, size)),
        }


def endpoint_objects(addresses: Iterable[str]) -> list[dict[str, Any]]:
    return [{"addresses": [address], "conditions": {"ready": True}, "nodeName": NODE_NAME} for address in addresses]


def port_name(number: int) -> str:
    """Of the Service's only port, which has no name of its own."""
    return str(_name(number))


def slice_name(number: int) -> str:
    return f"{_name(number).name}-1"


def _name(number: int) -> ServiceName:
    return ServiceName("default", f"service-{number}")


def _meta(number: int, name: str) -> dict[str, Any]:
    return {"name": name, "namespace": "default", "uid": f"{name}-uid", "resourceVersion": str(number + 1)}


def _slice(name: ServiceName, addresses: list[str]) -> EndpointSlice:
    endpoints = tuple(Endpoint(address, ready=True, node=NODE_NAME) for address in addresses)
    return EndpointSlice(f"{name.name}-1", "IPv4", (SlicePort(ENDPOINT_PORT),), endpoints)


def _address(value: int) -> str:
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))
