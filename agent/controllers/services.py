"""The objects a cluster stands on: its first namespaces, and the Services ``kubernetes`` and ``kube-dns``.

Neither Service has a selector, because neither is served by pods here: the API server and the DNS server are processes
of the node. So their Endpoints and EndpointSlices are written here, pointing at the node's own address, and repaired as
soon as anybody changes or deletes them.

Each object is compared with what the server has by its fields that matter (``resolve_repair``, pure): what others add
to it, labels and annotations say, is theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from agent.config import Config
from agent.controllers.caches import Caches
from agent.controllers.endpoint_objects import MANAGED_BY, SERVICE_NAME, SKIP_MIRROR
from agent.controllers.membership import address_family
from agent.controllers.runner import Controller
from agent.kube import rest
from agent.kube.client import Client, KubeError
from agent.kube.informer import Change

log = logging.getLogger(__name__)
NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
MANAGER = "podwire"
IMMUTABLE = (("spec", "clusterIP"), ("addressType",))  # what the API server does not let anybody change in place
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Base:
    """An object that must exist: its collection's path, and the fields it must have (None: must be absent)."""

    collection: str
    body: Json

    @property
    def path(self) -> str:
        return f"{self.collection}/{self.body['metadata']['name']}"


@dataclass(frozen=True, slots=True)
class Repair:
    """What to do: nothing, create, a merge patch, or delete first because a field cannot be changed in place."""

    verb: Literal["keep", "create", "patch", "recreate"]
    patch: Json | None = None


class BaseObjects:
    """Makes the base objects, and makes them right again."""

    def __init__(self, client: Client, caches: Caches, config: Config) -> None:
        self._client = client
        self._wanted = {base.path: base for base in render_base(config)}
        self.controller = Controller("base-objects", self.reconcile, workers=1)
        for collection, informer in caches.by_path.items():
            informer.subscribe(partial(self._changed, collection))

    async def ensure(self) -> None:
        """Make everything that is missing, in order. Raises KubeError."""
        for path in self._wanted:
            await self.reconcile(path)

    async def reconcile(self, path: str) -> None:
        wanted = self._wanted[path]
        try:
            found: Json | None = await rest.get(self._client, path)
        except rest.ApiError as error:
            if not error.not_found:
                raise
            found = None
        repair = resolve_repair(found, wanted.body)
        if repair.verb != "keep" and found is not None:
            log.warning("%s was changed: repairing it", path)
        if repair.verb == "recreate":
            await rest.delete(self._client, path)
        if repair.verb == "patch":
            await rest.patch(self._client, path, repair.patch or {})
        if repair.verb in ("create", "recreate"):
            await self._create(wanted)

    async def _create(self, wanted: Base) -> None:
        try:
            await rest.create(self._client, wanted.collection, without_absent(wanted.body))
        except rest.ApiError as error:
            if not error.conflict:
                raise

    def _changed(self, collection: str, change: Change[Any]) -> None:
        root, _, plural = collection.rpartition("/")
        scope = f"/namespaces/{change.key.namespace}" if change.key.namespace else ""
        path = f"{root}{scope}/{plural}/{change.key.name}"
        if path in self._wanted:
            self.controller.queue.add(path)


def render_base(config: Config) -> list[Base]:
    """Every base object, in the order in which they must be made."""
    if not config.node_ip:
        raise KubeError("cannot publish the kubernetes and kube-dns Services: no node_ip; set it, or let `up` find it")
    namespaces = [Base("/api/v1/namespaces", _object("v1", "Namespace", {"name": name})) for name in NAMESPACES]
    api = [{"name": "https", "protocol": "TCP", "port": config.api_port}]
    dns = [{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}]
    return [
        *namespaces,
        *_service(
            {"namespace": "default", "name": "kubernetes"},
            labels={"component": "apiserver", "provider": "kubernetes"},
            cluster_ip=config.kubernetes_ip,
            ports=[{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.api_port}],
        ),
        *_backends("default", "kubernetes", config.node_ip, api),
        *_service(
            {"namespace": "kube-system", "name": "kube-dns"},
            labels={"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"},
            cluster_ip=config.dns_ip,
            ports=[{**port, "targetPort": 53} for port in dns],
        ),
        *_backends("kube-system", "kube-dns", config.node_ip, dns),
    ]


def _service(meta: Json, *, labels: Json, cluster_ip: str, ports: list[Json]) -> list[Base]:
    spec = {"type": "ClusterIP", "clusterIP": cluster_ip, "ports": ports, "selector": None, "sessionAffinity": "None"}
    body = _object("v1", "Service", {**meta, "labels": labels}, spec=spec)
    return [Base(f"/api/v1/namespaces/{meta['namespace']}/services", body)]


def _backends(namespace: str, service: str, address: str, ports: list[Json]) -> list[Base]:
    """The Endpoints and the EndpointSlice of a Service that the node itself serves."""
    meta = {"namespace": namespace, "name": service}
    subset = {"addresses": [{"ip": address}], "ports": ports}
    endpoints = _object("v1", "Endpoints", {**meta, "labels": {SKIP_MIRROR: "true"}}, subsets=[subset])
    labels = {SERVICE_NAME: service, MANAGED_BY: MANAGER}
    found = _object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        {**meta, "labels": labels},
        addressType=address_family(address),
        endpoints=[{"addresses": [address], "conditions": {"ready": True}}],
        ports=ports,
    )
    return [
        Base(f"/api/v1/namespaces/{namespace}/endpoints", endpoints),
        Base(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", found),
    ]


def _object(api_version: str, kind: str, meta: Json, **fields: Any) -> Json:
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, **fields}


def resolve_repair(found: Json | None, wanted: Json) -> Repair:
    """What turns ``found`` into something that has every field of ``wanted``."""
    if found is None:
        return Repair("create")
    if includes(found, wanted):
        return Repair("keep")
    if any(_at(found, *path) != _at(wanted, *path) for path in IMMUTABLE):
        return Repair("recreate")
    return Repair("patch", {**wanted, "metadata": {**wanted["metadata"], "uid": found["metadata"].get("uid")}})


def _at(body: Json, *path: str) -> Any:
    for name in path:
        body = body.get(name) or {}
    return body


def includes(found: Any, wanted: Any) -> bool:
    """Whether ``found`` says all that ``wanted`` says. Lists must have the same items; None means absent."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(includes(found.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        same = isinstance(found, list) and len(found) == len(wanted)
        return same and all(includes(have, want) for have, want in zip(found, wanted, strict=True))
    return bool(found == wanted) or (wanted is None and not found)


def without_absent(body: Json) -> Json:
    return {
        name: without_absent(value) if isinstance(value, dict) else value
        for name, value in body.items()
        if value is not None
    }
