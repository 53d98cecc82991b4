"""Snapshots for tests of the dataplane, in few words.

Address plan: pods 10.244.0.0/16, those of this node (``here``) in 10.244.0.0/24; ClusterIPs 10.96.0.0/12; the node is
192.0.2.2.
"""

from __future__ import annotations

from dataclasses import replace
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

HERE = "here"
NODE = Node(HERE, addresses=("192.0.2.2",), zone="east")
SETTINGS = Settings(cluster_cidrs=("10.244.0.0/16",))
Made = tuple[Service, tuple[EndpointSlice, ...]]


def endpoint(address: str, *, here: bool = True, **conditions: Any) -> Endpoint:
    return Endpoint(address, node=HERE if here else "elsewhere", **conditions)


def make_service(
    name: str = "web",
    *endpoints: Endpoint | str,
    vip: str = "10.96.0.10",
    port: int = 80,
    target: int = 8080,
    protocol: str = "TCP",
    node_port: int = 0,
    port_name: str = "",
    **fields: Any,
) -> Made:
    """One Service in ``default`` with one port and one slice."""
    service = Service(
        name=ServiceName("default", name),
        cluster_ips=(vip,),
        ports=(ServicePort(port, port_name, protocol, node_port),),
        uid=f"uid-{name}",
    )
    found = tuple(e if isinstance(e, Endpoint) else endpoint(e) for e in endpoints)
    family = "IPv6" if ":" in vip else "IPv4"
    piece = EndpointSlice(f"{name}-1", family, (SlicePort(target, port_name, protocol),), found)
    return replace(service, **fields), (piece,)


def make_snapshot(*made: Made, node: Node = NODE, settings: Settings = SETTINGS) -> Snapshot:
    return Snapshot(
        node,
        settings,
        services={service.name: service for service, _ in made},
        slices={service.name: slices for service, slices in made},
    )


def many_services(count: int, endpoints: int, *, shift: int = 0) -> Snapshot:
    """``count`` Services of ``endpoints`` endpoints; ``shift`` moves one endpoint of the first to another address."""
    made = []
    for number in range(count):
        high, low = divmod(number, 250)
        addresses = [f"10.244.{high + 1 + 10 * index}.{low + 1}" for index in range(endpoints)]
        if number == 0 and shift:
            addresses[0] = f"10.245.0.{shift}"
        made.append(make_service(f"svc-{number:05}", *addresses, vip=f"10.96.{high}.{low + 1}"))
    return make_snapshot(*made)
