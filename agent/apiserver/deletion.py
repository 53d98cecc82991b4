"""How objects go: at once, after a grace period, or when everybody who wanted a word has had it.

- A pod that runs somewhere is first marked (``deletionTimestamp``, ``deletionGracePeriodSeconds``); its kubelet stops
  it and deletes it again with a grace of 0, which removes it.
- An object with finalizers is marked and stays until the last one is taken off (``write.may_vanish``).
- ``propagationPolicy`` Foreground and Orphan are finalizers, too; the garbage collector does the work and takes them
  off.

The order of decisions is that of registry/rest/delete.go and registry/generic/registry/store.go.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from agent.apiserver import namespaces, objects
from agent.apiserver.admission import release
from agent.apiserver.api import Api, get_stored
from agent.apiserver.paths import Target
from agent.apiserver.query import DeleteOptions
from agent.apiserver.registry import JSON, Kind, value_at
from agent.apiserver.status import StatusError, conflict, not_found, success
from agent.apiserver.write import WRITE_TRIES, may_vanish, wrong_uid
from agent.store import Conflict, NotFound, Stored

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
POLICY_FINALIZERS = {"Orphan": ORPHAN, "Foreground": FOREGROUND}
POD_GRACE = 30  # seconds
SHOW_DELETED = frozenset({"pods", "services", "serviceaccounts", "namespaces"})  # answered with the object itself
AT_ONCE = 16  # deletions of a collection under way at the same time


@dataclass(frozen=True, slots=True)
class Outcome:
    """``gone`` False: it is only marked, as ``obj`` shows."""

    obj: JSON
    gone: bool


async def delete_object(api: Api, target: Target, options: DeleteOptions) -> JSON:
    """Returns the object, or a Status if it is gone and its kind has nothing to show. Raises StatusError."""
    namespaces.check_can_delete(target.kind, target.name)
    outcome = await _delete(api, target, options)
    if outcome.gone and target.kind.plural not in SHOW_DELETED:
        return success(target.kind, target.name, uid=outcome.obj["metadata"]["uid"])
    return outcome.obj


async def delete_stored(api: Api, kind: Kind, stored: list[Stored], options: DeleteOptions) -> None:
    """Delete many, a few at a time. Those that went in the meantime are as good as deleted."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def delete(item: Stored) -> None:
        metadata = objects.read(kind, item)["metadata"]
        target = Target(kind, metadata.get("namespace", ""), metadata["name"], "")
        async with gate:
            try:
                await _delete(api, target, replace(options, uid=options.uid or metadata["uid"]))
            except StatusError as error:
                if error.code not in (404, 409):
                    raise

    await asyncio.gather(*(delete(item) for item in stored))


async def _delete(api: Api, target: Target, options: DeleteOptions) -> Outcome:
    for _ in range(WRITE_TRIES):
        stored = await get_stored(api, target)
        obj = objects.read(target.kind, stored)
        _check_preconditions(target.kind, target.name, obj, options)
        marked = mark(target.kind, obj, options)
        if options.dry_run or (marked == obj and not may_vanish(target.kind, marked)):
            return Outcome(marked, may_vanish(target.kind, marked))
        try:
            return await _carry_out(api, target, stored, marked)
        except Conflict:
            continue
        except NotFound as error:
            raise not_found(target.kind, target.name) from error
    raise conflict(target.kind, target.name)


async def _carry_out(api: Api, target: Target, stored: Stored, marked: JSON) -> Outcome:
    """Remove the object if nothing holds it back, else write down that it is going. Raises Conflict, NotFound."""
    if may_vanish(target.kind, marked):
        revision = await api.store.delete(target.key, revision=stored.revision)
        with api.context.attempt() as attempt:
            release(target.kind, marked, attempt)
            attempt.commit()
        return Outcome(objects.with_version(objects.read(target.kind, stored), revision), gone=True)
    value = objects.encode(target.kind, marked)
    revision = await api.store.update(target.key, value, revision=stored.revision)
    return Outcome(objects.with_version(marked, revision), gone=False)


def _check_preconditions(kind: Kind, name: str, obj: JSON, options: DeleteOptions) -> None:
    metadata = obj["metadata"]
    if options.uid is not None and options.uid != metadata["uid"]:
        raise conflict(kind, name, wrong_uid(options.uid, metadata["uid"]))
    if options.version is not None and options.version != metadata["resourceVersion"]:
        found = metadata["resourceVersion"]
        why = f"ResourceVersion in precondition: {options.version}, ResourceVersion in object meta: {found}"
        raise conflict(kind, name, f"Precondition failed: {why}")


def mark(kind: Kind, obj: JSON, options: DeleteOptions) -> JSON:
    """The object as this deletion leaves it."""
    if kind is namespaces.NAMESPACES:
        return namespaces.mark_terminating(obj)
    finalizers = _finalizers(obj["metadata"].get("finalizers") or [], options.policy)
    metadata = {**obj["metadata"], "finalizers": finalizers}
    if not finalizers:
        del metadata["finalizers"]
    if metadata.get("deletionTimestamp") is None:
        metadata.update(_deadline(_grace(obj, options) if kind.plural == "pods" else 0))
        if metadata.get("generation"):
            metadata["generation"] += 1
    elif options.grace is not None:
        metadata.update(_shortened(metadata, options.grace))
    return {**obj, "metadata": metadata}


def _finalizers(finalizers: list[str], policy: str | None) -> list[str]:
    if policy is None:
        return finalizers
    others = [name for name in finalizers if name not in POLICY_FINALIZERS.values()]
    return [*others, POLICY_FINALIZERS[policy]] if policy in POLICY_FINALIZERS else others


def _grace(pod: JSON, options: DeleteOptions) -> int:
    """Seconds that the pod gets (registry/core/pod/strategy.go): none if it runs nowhere, or no longer."""
    if not value_at(pod, "spec.nodeName") or value_at(pod, "status.phase") in ("Failed", "Succeeded"):
        return 0
    asked = options.grace
    if asked is None:
        asked = value_at(pod, "spec.terminationGracePeriodSeconds")
    if asked is None:
        asked = POD_GRACE
    return 1 if asked < 0 else int(asked)


def _deadline(grace: int) -> JSON:
    moment = datetime.now(UTC) + timedelta(seconds=grace)
    return {"deletionTimestamp": objects.timestamp(moment), "deletionGracePeriodSeconds": grace}


def _shortened(metadata: JSON, grace: int) -> JSON:
    """A second deletion can only shorten the time that the first one granted."""
    before = metadata.get("deletionGracePeriodSeconds") or 0
    if grace >= before:
        return {}
    moment = datetime.fromisoformat(metadata["deletionTimestamp"]) + timedelta(seconds=grace - before)
    return {"deletionTimestamp": objects.timestamp(moment), "deletionGracePeriodSeconds": grace}
