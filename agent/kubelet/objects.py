"""The API objects that a node follows besides its pods: Services, ConfigMaps, Secrets.

Informers keep copies, so that a container starts without asking anybody. A pod may be seen here before the ConfigMap
that was made just before it (two watches have no common order), so what is not in the copy is asked for once before it
counts as missing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from agent.kube import rest
from agent.kube.client import Client
from agent.kube.informer import Informer, Key
from agent.kubelet.environment import Sources, referred_objects
from agent.kubelet.spec import Pod, parse_service

Data = Mapping[str, bytes]
Kind = Literal["configmaps", "secrets"]
Changed = Callable[[Kind, Key], None]
"""Called when a ConfigMap or Secret has changed."""


class _ConfigMap(msgspec.Struct):
    data: dict[str, str] | None = None
    binaryData: dict[str, str] | None = None


class _Secret(msgspec.Struct):
    data: dict[str, str] | None = None


def parse_config_map(raw: bytes) -> Data:
    """Keys and contents. Raises ValueError."""
    decoded = msgspec.json.decode(raw, type=_ConfigMap)
    return {**{k: v.encode() for k, v in (decoded.data or {}).items()}, **_decode(decoded.binaryData)}


def parse_secret(raw: bytes) -> Data:
    """Keys and contents. Raises ValueError."""
    return _decode(msgspec.json.decode(raw, type=_Secret).data)


def refers(pod: Pod, kind: Kind, name: str) -> bool:
    """Does the pod refer to this object of its namespace?"""
    maps, secrets = referred_objects(pod)
    return name in (maps if kind == "configmaps" else secrets)


class Objects:
    """The copies. ``run`` must be running; ``synced`` returns when they are complete."""

    def __init__(self, client: Client, changed: Changed) -> None:
        self._client = client
        self._services = Informer(client, "/api/v1/services", parse_service)
        self._config_maps = Informer(client, "/api/v1/configmaps", parse_config_map)
        self._secrets = Informer(client, "/api/v1/secrets", parse_secret)
        self._config_maps.subscribe(lambda change: changed("configmaps", change.key))
        self._secrets.subscribe(lambda change: changed("secrets", change.key))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._services.run())
            group.create_task(self._config_maps.run())
            group.create_task(self._secrets.run())

    async def synced(self) -> None:
        for event in (self._services.synced, self._config_maps.synced, self._secrets.synced):
            await event.wait()

    async def sources(self, pod: Pod) -> Sources:
        """What this pod may refer to. Raises KubeError where the API cannot be asked."""
        maps, secrets = referred_objects(pod)
        namespace = pod.metadata.namespace
        return Sources(
            services=tuple(self._services.cache.values()),
            config_maps=await self._collect(self._config_maps, "configmaps", namespace, maps, parse_config_map),
            secrets=await self._collect(self._secrets, "secrets", namespace, secrets, parse_secret),
        )

    async def _collect(
        self,
        informer: Informer[Data],
        plural: Kind,
        namespace: str,
        names: Iterable[str],
        parse: Callable[[bytes], Data],
    ) -> dict[str, Data]:
        found: dict[str, Data] = {}
        for name in names:
            data = informer.cache.get(Key(namespace, name))
            if data is None:
                data = await self._ask(f"/api/v1/namespaces/{namespace}/{plural}/{name}", parse)
            if data is not None:
                found[name] = data
        return found

    async def _ask(self, path: str, parse: Callable[[bytes], Data]) -> Data | None:
        try:
            return parse(msgspec.json.encode(await rest.get(self._client, path)))
        except rest.ApiError as error:
            if error.not_found:
                return None
            raise


def _decode(data: Mapping[str, str] | None) -> dict[str, bytes]:
    try:
        return {key: base64.b64decode(value, validate=True) for key, value in (data or {}).items()}
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
