"""Informers: a local copy of one kind of object, kept true by list and watch.

The shape is client-go's reflector and shared informer: list at a resourceVersion, watch from it, take bookmarks, list
again after 410 Gone (KEP-365, KEP-956). What differs is that each object is decoded on its own, into whatever value the
component needs: one object that cannot be decoded is told to the log and left as it was, and never blocks the others.

Handlers are called in the event loop, in order, with the old and the new value; they take notes and return at once.
After a lost connection the cache is compared with a fresh list and only the differences are handed on, so a handler
never sees a change that did not happen and never misses the sum of those that did. An object that was deleted and made
again under its name is handed on as what it is: one that went and one that came, never an update across two UIDs. A
handler that raises is told to the log and the others still hear.

``version`` is how far the cache has come. Numbers of one collection grow with every change (KEP-5504 makes comparing
them legal), so who has just written an object can ask whether the cache already knows it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import httpx2
import msgspec
from lightkube.core.exceptions import ConfigError as LightkubeConfigError
from lightkube.core.resource import Resource, api_info

from agent.kube.client import Client

log = logging.getLogger(__name__)
V = TypeVar("V")

WATCH_SECONDS = 300  # the server ends a watch after one to two times this (as client-go), so that not all end at once
SILENCE = 60.0  # seconds without a byte beyond which a watch is taken for dead once its time is over
SHORT = 1.0  # seconds: a watch that ends sooner, and without a single event, counts as a failure
PAGE = 500
BACKOFF = (0.2, 10.0)  # seconds: first and last pause after a failure
STEADY = 5.0  # seconds of work after which a failure counts as the first again


class Key(NamedTuple):
    """An object's identity within its kind. Cluster-scoped objects have namespace ``""``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Change(Generic[V]):
    """``old`` is None for a new object, ``new`` is None for a deleted one."""

    key: Key
    old: V | None
    new: V | None


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str | None = None
    uid: str = ""
    resourceVersion: str = ""


class _Object(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""
    continue_: str | None = msgspec.field(name="continue", default=None)


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _WatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int | None = None
    message: str | None = None


class Gone(Exception):
    """The server no longer knows the resourceVersion (410): list again."""


def resource_path(resource: type[Resource]) -> str:
    """The collection's path over all namespaces: ``/api/v1/services``."""
    info = api_info(resource)
    group = info.resource.group
    root = f"/apis/{group}/{info.resource.version}" if group else f"/api/{info.resource.version}"
    return f"{root}/{info.plural}"


class Informer(Generic[V]):
    """A cache of one collection.

    ``path``: the collection's URL path. ``decode``: one object's JSON bytes to the value to keep; raising ValueError
    (msgspec's errors are ValueErrors) quarantines the object. ``labels`` and ``fields``: selectors as in the API.
    ``cache`` is a live read-only view; ``synced`` is set after the first complete list and never cleared.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        decode: Callable[[bytes], V],
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> None:
        self._client, self._path, self._decode = client, path, decode
        self._params = {k: v for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v}
        self._cache: dict[Key, V] = {}
        self._known: dict[Key, tuple[str, str]] = {}  # UID and resourceVersion of what is cached
        self._handlers: list[Callable[[Change[V]], None]] = []
        self.cache: Mapping[Key, V] = MappingProxyType(self._cache)
        self.synced = asyncio.Event()
        self.version = 0

    def subscribe(self, handler: Callable[[Change[V]], None]) -> None:
        """Call ``handler`` for every change from now on, and once for everything already in the cache."""
        self._handlers.append(handler)
        for key, value in list(self._cache.items()):
            handler(Change(key, None, value))

    async def run(self) -> None:
        """List and watch until cancelled; failures are logged and retried with back-off and jitter."""
        pause = BACKOFF[0]
        while True:
            started = time.monotonic()
            try:
                await self._follow()
            except Gone as error:
                problem = str(error)
            except (httpx2.HTTPError, LightkubeConfigError, msgspec.DecodeError, OSError) as error:
                problem = str(error) or type(error).__name__
            if time.monotonic() - started > STEADY:
                pause = BACKOFF[0]
            log.warning("%s: %s: listing again in %.1f s", self._path, problem, pause)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(pause * 2, BACKOFF[1])

    async def _follow(self) -> NoReturn:
        version = await self._relist()
        while True:
            version = await self._watch(version)

    async def _relist(self) -> str:
        """Replace the cache by what the server has now. Returns the list's resourceVersion."""
        seen: set[Key] = set()
        version, token = "", None
        while True:
            params: dict[str, Any] = {**self._params, "limit": PAGE, **({"continue": token} if token else {})}
            page = await self._get_page(params)
            for raw in page.items or []:
                if (key := self._put(bytes(raw))) is not None:
                    seen.add(key)
            version, token = page.metadata.resourceVersion, page.metadata.continue_
            if not token:
                break
        self.version = _number(version)
        for key in self._cache.keys() - seen:
            self._drop(key)
        self.synced.set()
        return version

    async def _get_page(self, params: dict[str, Any]) -> _List:
        response = await self._client.http.get(self._path, params=params)
        if response.status_code == 410:
            raise Gone("the list's continue token is too old")
        response.raise_for_status()
        return msgspec.json.decode(response.content, type=_List)

    async def _watch(self, version: str) -> str:
        """Follow changes from ``version`` until the server ends the watch. Returns the last version seen."""
        seconds = int(WATCH_SECONDS * random.uniform(1, 2))
        params: dict[str, Any] = {
            **self._params,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": seconds,
        }
        timeout = httpx2.Timeout(15.0, read=seconds + SILENCE)
        started, events = time.monotonic(), 0
        async with self._client.http.stream("GET", self._path, params=params, timeout=timeout) as response:
            if response.status_code == 410:
                raise Gone(f"resourceVersion {version} is too old")
            response.raise_for_status()
            async for line in _lines(response):
                version, events = self._take(msgspec.json.decode(line, type=_WatchEvent)) or version, events + 1
        if not events and time.monotonic() - started < SHORT:
            raise httpx2.RemoteProtocolError("the server ended the watch at once")
        return version

    def _take(self, event: _WatchEvent) -> str:
        """Apply one watch event; returns its resourceVersion."""
        raw = bytes(event.object)
        if event.type == "ERROR":
            status = msgspec.json.decode(raw, type=_Status)
            if status.code == 410:
                raise Gone(status.message or "resourceVersion is too old")
            raise httpx2.RemoteProtocolError(f"the server ended the watch: {status.message}")
        meta = _identity(raw)
        if meta is None:
            log.warning("%s: a watch event without a readable name is left out: %.200r", self._path, raw)
            return ""
        self.version = max(self.version, _number(meta.resourceVersion))
        if event.type in ("ADDED", "MODIFIED"):
            self._put(raw)
        elif event.type == "DELETED":
            self._drop(Key(meta.namespace or "", meta.name))
        return meta.resourceVersion

    def _put(self, raw: bytes) -> Key | None:
        """Keep one object. Returns its key, or None when it has no readable name."""
        meta = _identity(raw)
        if meta is None:
            log.warning("%s: an object without a readable name is left out: %.200r", self._path, raw)
            return None
        key, known = Key(meta.namespace or "", meta.name), (meta.uid, meta.resourceVersion)
        if meta.resourceVersion and self._known.get(key) == known:
            return key
        try:
            value = self._decode(raw)
        except ValueError as error:
            log.warning("%s: cannot read %s, it is left as it was: %s", self._path, key, error)
            return key
        if key in self._known and self._known[key][0] != meta.uid:
            self._drop(key)
        old = self._cache.get(key)
        self._cache[key], self._known[key] = value, known
        self._notify(Change(key, old, value))
        return key

    def _drop(self, key: Key) -> None:
        old = self._cache.pop(key, None)
        self._known.pop(key, None)
        if old is not None:
            self._notify(Change(key, old, None))

    def _notify(self, change: Change[V]) -> None:
        for handler in self._handlers:
            try:
                handler(change)
            except Exception:
                log.exception("%s: a handler failed at %s", self._path, change.key)


def _identity(raw: bytes) -> _Meta | None:
    try:
        return msgspec.json.decode(raw, type=_Object).metadata
    except msgspec.DecodeError:
        return None


def _number(version: str) -> int:
    """A resourceVersion as a number; 0 for one that is none (a server may say so before its first write)."""
    return int(version) if version.isdecimal() else 0


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The response's lines as they arrive. (``aiter_lines`` decodes to text first, which JSON does not need.)"""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
