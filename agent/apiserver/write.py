"""Creating and changing objects.

Every change is the same loop: read, work out the new object, let admission have its say, write if nobody was quicker,
else begin anew. An update that names a ``resourceVersion`` is refused in the second round; one that names none wins in
the end. A change that changes nothing is not written, so controllers that repeat themselves wake nobody.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable
from functools import partial

from agent.apiserver import namespaces, objects
from agent.apiserver.admission import Context, Forbidden, Invalid, admit_create, admit_update, release
from agent.apiserver.admission.errors import required
from agent.apiserver.api import Api, get_stored
from agent.apiserver.paths import Target
from agent.apiserver.query import WriteOptions
from agent.apiserver.registry import JSON, Kind
from agent.apiserver.status import (
    StatusError,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid_object,
    not_found,
)
from agent.store import AlreadyExists, Conflict, NotFound
from agent.telemetry import REQUEST_ACCEPTED

ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, so no words (apimachinery: util/rand)
GENERATED, PREFIX_LIMIT = 5, 58
NAME_TRIES, WRITE_TRIES = 8, 100

# Working out the new object from the stored one. Raises StatusError.
Transform = Callable[[JSON], JSON]


async def create_object(api: Api, target: Target, obj: JSON, options: WriteOptions) -> JSON:
    """Create what was sent in the target's collection. Returns the object as stored. Raises StatusError."""
    kind = target.kind
    metadata = obj["metadata"]
    if metadata.get("resourceVersion"):
        raise bad_request("resourceVersion should not be set on objects to be created")
    prefix = "" if metadata.get("name") else str(metadata.get("generateName") or "")
    if not prefix and not metadata.get("name"):
        raise invalid_object(kind, "", [required("metadata.name", "name or generateName is required")])
    if kind.namespaced:
        await namespaces.check_can_create(api, kind, target.namespace, str(metadata.get("name") or ""))
    for attempt in range(NAME_TRIES):
        name = _generate_name(prefix) if prefix else str(metadata["name"])
        try:
            return await _create(api, kind, _prepare(kind, obj, target.namespace, name, options), options)
        except StatusError as error:
            if not (prefix and error.reason == "AlreadyExists" and attempt < NAME_TRIES - 1):
                raise
    raise AssertionError("the last attempt raises or returns")


def _generate_name(prefix: str) -> str:
    return prefix[:PREFIX_LIMIT] + "".join(secrets.choice(ALPHABET) for _ in range(GENERATED))


def _prepare(kind: Kind, obj: JSON, namespace: str, name: str, options: WriteOptions) -> JSON:
    """Fill in what only the server knows."""
    dropped = _server_owned(options)
    kept = {field: value for field, value in obj["metadata"].items() if field not in dropped}
    metadata: JSON = {**kept, "name": name, "uid": str(uuid.uuid4()), "creationTimestamp": objects.now()}
    if namespace:
        metadata["namespace"] = namespace
    if kind.generation_of:
        metadata["generation"] = 1
    return {**obj, "metadata": metadata}


def _server_owned(options: WriteOptions) -> tuple[str, ...]:
    """Metadata that clients do not get to set."""
    fields = ("deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")
    return fields if options.managed else (*fields, "managedFields")


async def _create(api: Api, kind: Kind, obj: JSON, options: WriteOptions) -> JSON:
    metadata = obj["metadata"]
    target = Target(kind, metadata.get("namespace", ""), metadata["name"], "")
    if await api.store.get(target.key) is not None:  # before admission: not to be told that one's own port is taken
        raise already_exists(kind, target.name)
    with api.context.attempt() as attempt:
        obj = _admitted(kind, target.name, partial(admit_create, kind, obj, attempt))
        if options.dry_run:
            return obj
        accepted = time.time()  # before the store tells the watchers, who may act on it before we go on here
        try:
            revision = await api.store.create(target.key, objects.encode(kind, obj))
        except AlreadyExists as error:
            raise already_exists(kind, target.name) from error
        attempt.commit()
    if kind.plural == "services":
        api.timeline.mark(REQUEST_ACCEPTED, target.namespace, target.name, at=accepted)
    return objects.with_version(obj, revision)


async def update_object(api: Api, target: Target, transform: Transform, options: WriteOptions) -> JSON:
    """Change the stored object. Returns it as it is now. Raises StatusError.

    ``target.subresource`` (``""``, ``status``, ``finalize``) says to admission which part may change.
    """
    kind = target.kind
    for _ in range(WRITE_TRIES):
        stored = await get_stored(api, target)
        old = objects.read(kind, stored)
        new = _carry_over(target, transform(old), old, options)
        with api.context.attempt() as attempt:
            new = _admitted(kind, target.name, partial(_admit_update, target, new, old, attempt))
            if options.dry_run or new == old:
                return new
            try:
                if may_vanish(kind, new):
                    revision = await api.store.delete(target.key, revision=stored.revision)
                    release(kind, new, attempt)
                else:
                    revision = await api.store.update(target.key, objects.encode(kind, new), revision=stored.revision)
            except Conflict:
                continue
            except NotFound as error:
                raise not_found(kind, target.name) from error
            attempt.commit()
        return objects.with_version(new, revision)
    raise conflict(kind, target.name)


def _admitted(kind: Kind, name: str, admit: Callable[[], JSON]) -> JSON:
    try:
        return admit()
    except Invalid as error:
        raise invalid_object(kind, name, error.causes) from error
    except Forbidden as error:
        raise forbidden(kind, name, str(error)) from error


def _admit_update(target: Target, new: JSON, old: JSON, attempt: Context) -> JSON:
    admitted = admit_update(target.kind, target.subresource or None, new, old, attempt)
    return _with_generation(target.kind, admitted, old)


def _carry_over(target: Target, new: JSON, old: JSON, options: WriteOptions) -> JSON:
    """Check that the same object at the same version is meant; keep what clients do not get to set."""
    kind, name = target.kind, target.name
    before, sent = old["metadata"], new["metadata"]
    if sent.get("uid") and sent["uid"] != before["uid"]:
        raise conflict(kind, name, wrong_uid(sent["uid"], before["uid"]))
    if sent.get("resourceVersion") and sent["resourceVersion"] != before["resourceVersion"]:
        raise conflict(kind, name)
    fixed = _server_owned(options)
    metadata = {field: value for field, value in sent.items() if field not in fixed}
    metadata.update({field: before[field] for field in fixed if field in before})
    for field in ("uid", "creationTimestamp", "resourceVersion"):
        metadata[field] = sent.get(field) or before[field]
    return {**new, "metadata": metadata}


def wrong_uid(asked: str, found: str) -> str:
    return f"Precondition failed: UID in precondition: {asked}, UID in object meta: {found}"


def _with_generation(kind: Kind, new: JSON, old: JSON) -> JSON:
    if not kind.generation_of:
        return new
    generation = old["metadata"].get("generation") or 1
    if any(new.get(field) != old.get(field) for field in kind.generation_of):
        generation += 1
    return {**new, "metadata": {**new["metadata"], "generation": generation}}


def may_vanish(kind: Kind, obj: JSON) -> bool:
    """Was this the last thing a deleted object was waiting for? (registry/generic/registry/store.go)"""
    metadata = obj["metadata"]
    if metadata.get("deletionTimestamp") is None or metadata.get("finalizers"):
        return False
    if kind is namespaces.NAMESPACES:
        return namespaces.is_finalized(obj)
    return not metadata.get("deletionGracePeriodSeconds")
