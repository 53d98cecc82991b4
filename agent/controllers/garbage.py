"""The garbage collector: what belongs to something that is gone goes too.

``metadata.ownerReferences`` make a graph over all kinds. For each object there is one pure question (``resolve_fate``):
given its owners that are there, gone, or going in the foreground, should it stay, lose some references, or be deleted?

- Background (the default): the owner is deleted at once; its dependents are noticed here and follow.
- Foreground: the owner keeps the finalizer ``foregroundDeletion`` until every dependent that blocks it
  (``blockOwnerDeletion``) is gone.
- Orphan: the owner keeps the finalizer ``orphan`` until its dependents have forgotten it.

An owner counts as gone only when the API server says so (a cache may lag), and only by UID: an object made anew under
the same name is another one. Deletions carry the UID and resourceVersion they were decided upon.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from agent.controllers.discovery import Resource
from agent.controllers.objects import Meta, OwnerReference
from agent.controllers.replicaset import render_reference
from agent.controllers.runner import Controller
from agent.kube import rest
from agent.kube.client import Client
from agent.kube.informer import Change, Informer

log = logging.getLogger(__name__)
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"

OwnerState = Literal["there", "gone", "waiting"]


@dataclass(frozen=True, slots=True)
class Node:
    """An object in the graph: what it is and its metadata."""

    resource: Resource
    meta: Meta

    @property
    def path(self) -> str:
        return self.resource.path(self.meta.namespace, self.meta.name)

    @property
    def leaving(self) -> str | None:
        """The finalizer that asks the garbage collector for something before the object may go."""
        if self.meta.deletion_timestamp is None:
            return None
        return next((name for name in (ORPHAN, FOREGROUND) if name in self.meta.finalizers), None)


@dataclass(frozen=True, slots=True)
class Fate:
    """Keep; unlink (drop the references to ``uids``); or delete with a propagation policy."""

    verb: Literal["keep", "unlink", "delete"]
    uids: frozenset[str] = frozenset()
    propagation: str = "Background"


class Graph:
    """Who owns whom, by UID."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._dependents: defaultdict[str, set[str]] = defaultdict(set)

    def put(self, node: Node) -> None:
        self.remove(node.meta.uid)
        self.nodes[node.meta.uid] = node
        for owner in node.meta.owner_references:
            self._dependents[owner.uid].add(node.meta.uid)

    def remove(self, uid: str) -> None:
        node = self.nodes.pop(uid, None)
        for owner in node.meta.owner_references if node else []:
            self._dependents[owner.uid].discard(uid)
            if not self._dependents[owner.uid]:
                del self._dependents[owner.uid]

    def dependents(self, uid: str) -> list[Node]:
        return [self.nodes[dependent] for dependent in self._dependents.get(uid, ())]

    def blocking(self, uid: str) -> list[Node]:
        """Dependents for which a foreground deletion of ``uid`` waits."""
        return [node for node in self.dependents(uid) if _blocks(node.meta.owner_references, uid)]


def resolve_fate(meta: Meta, owners: Mapping[str, OwnerState], *, has_dependents: bool) -> Fate:
    """``owners``: what each owner's UID stands for now."""
    if not owners or all(state == "there" for state in owners.values()):
        return Fate("keep")
    lost = frozenset(uid for uid, state in owners.items() if state != "there")
    if len(lost) < len(owners):
        return Fate("unlink", lost)
    if "waiting" in owners.values() and has_dependents:
        return Fate("delete", propagation="Foreground")
    policies = {ORPHAN: "Orphan", FOREGROUND: "Foreground"}
    own = next((policies[name] for name in (ORPHAN, FOREGROUND) if name in meta.finalizers), "Background")
    return Fate("delete", propagation=own)


class GarbageCollector:
    """``watched``: an informer per kind; their values need only have ``metadata``."""

    def __init__(self, client: Client, watched: Mapping[Resource, Informer[Any]]) -> None:
        self._client, self._graph = client, Graph()
        self._resources = {(resource.api_version, resource.kind): resource for resource in watched}
        self.controller = Controller("garbage", self.reconcile)
        for resource, informer in watched.items():
            informer.subscribe(partial(self._changed, resource))

    async def reconcile(self, uid: str) -> None:
        node = self._graph.nodes.get(uid)
        if node is None:
            return
        if node.meta.deletion_timestamp is None:
            await self._judge(node)
        elif node.leaving == ORPHAN:
            await self._orphan(node)
        elif node.leaving == FOREGROUND:
            await self._foreground(node)

    async def _judge(self, node: Node) -> None:
        owners = {owner.uid: await self._owner_state(node, owner) for owner in node.meta.owner_references}
        fate = resolve_fate(node.meta, owners, has_dependents=bool(self._graph.dependents(node.meta.uid)))
        if fate.verb == "unlink":
            await self._unlink(node, fate.uids)
        elif fate.verb == "delete":
            log.info("deleting %s: its owners are gone or going", node.path)
            meta = node.meta
            await self._forgiving(
                rest.delete(
                    self._client, node.path, uid=meta.uid, version=meta.resource_version, propagation=fate.propagation
                )
            )

    async def _owner_state(self, node: Node, owner: OwnerReference) -> OwnerState:
        known = self._graph.nodes.get(owner.uid)
        if known is not None and known.meta.namespace in ("", node.meta.namespace):
            return "waiting" if known.leaving == FOREGROUND else "there"
        resource = self._resources.get((owner.api_version, owner.kind))
        if resource is None or (resource.namespaced and not node.meta.namespace):
            log.warning("%s: cannot tell whether its owner %s %s exists: kept", node.path, owner.kind, owner.name)
            return "there"
        try:
            live = await rest.get(self._client, resource.path(node.meta.namespace, owner.name))
        except rest.ApiError as error:
            if error.not_found:
                return "gone"
            raise
        return "there" if live["metadata"]["uid"] == owner.uid else "gone"

    async def _foreground(self, node: Node) -> None:
        """Wait for the dependents that block; ask for each one's deletion; then let the owner go."""
        blocking = self._graph.blocking(node.meta.uid)
        for dependent in blocking:
            self.controller.queue.add(dependent.meta.uid)
        if not blocking:
            await self._drop_finalizer(node, FOREGROUND)

    async def _orphan(self, node: Node) -> None:
        """Make the dependents forget their owner, then let it go."""
        for dependent in self._graph.dependents(node.meta.uid):
            await self._unlink(dependent, frozenset({node.meta.uid}))
        await self._drop_finalizer(node, ORPHAN)

    async def _unlink(self, node: Node, uids: frozenset[str]) -> None:
        kept = [render_reference(owner) for owner in node.meta.owner_references if owner.uid not in uids]
        await self._patch(node, {"ownerReferences": kept})

    async def _drop_finalizer(self, node: Node, name: str) -> None:
        await self._patch(node, {"finalizers": [entry for entry in node.meta.finalizers if entry != name]})

    async def _patch(self, node: Node, change: dict[str, Any]) -> None:
        known = {"uid": node.meta.uid, "resourceVersion": node.meta.resource_version}
        await self._forgiving(rest.patch(self._client, node.path, {"metadata": {**known, **change}}))

    async def _forgiving(self, request: Any) -> None:
        """What is not there any more needs nothing."""
        try:
            await request
        except rest.ApiError as error:
            if not error.not_found:
                raise

    def _changed(self, resource: Resource, change: Change[Any]) -> None:
        if change.new is None:
            gone: Meta = change.old.metadata if change.old is not None else Meta()
            self._graph.remove(gone.uid)
            self._look_at(node.meta.uid for node in self._graph.dependents(gone.uid))
            self._look_at(owner.uid for owner in gone.owner_references)
            return
        node = Node(resource, change.new.metadata)
        before: list[OwnerReference] = change.old.metadata.owner_references if change.old is not None else []
        self._graph.put(node)
        if node.meta.owner_references != before:
            self._look_at([node.meta.uid, *(owner.uid for owner in before)])
        if node.leaving is not None:
            self._look_at([node.meta.uid])

    def _look_at(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self.controller.queue.add(uid)


def _blocks(owners: Iterable[OwnerReference], uid: str) -> bool:
    return any(owner.uid == uid and owner.block_owner_deletion for owner in owners)
