"""Writing objects as raw JSON: create, replace, patch, delete, each one request.

Raw JSON because a model that does not know a field would drop it. Whoever changes an object of somebody else says which
state of it was decided upon: ``uid`` (this object, not another of its name) and ``resourceVersion`` (as I saw it). A
server that has moved on answers 409, and the caller looks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec

from agent.kube.client import Client, KubeError

Json = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


class Unreachable(KubeError):
    """The API server did not answer: try again later."""


class ApiError(KubeError):
    """The API server refused. ``code`` is HTTP's, ``reason`` the Status's (``NotFound``, ``AlreadyExists``, ...)."""

    def __init__(
        self, doing: str, *, code: int, reason: str, message: str, causes: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(f"cannot {doing}: {message}")
        self.code, self.reason, self.message, self.causes = code, reason, message, causes

    @property
    def not_found(self) -> bool:
        return self.code == 404

    @property
    def conflict(self) -> bool:
        """Something else was there first: the object changed, or exists, or is another one by now."""
        return self.code == 409

    @property
    def namespace_terminating(self) -> bool:
        """Nothing can be created in a namespace that is being deleted; trying again would not help."""
        return self.code == 403 and ("NamespaceTerminating" in self.causes or "being terminated" in self.message)


class _Cause(msgspec.Struct):
    reason: str | None = None


class _Details(msgspec.Struct):
    causes: list[_Cause] | None = None


class _Status(msgspec.Struct):
    reason: str | None = None
    message: str | None = None
    details: _Details | None = None


async def get(client: Client, path: str, *, params: Mapping[str, str] | None = None) -> Json:
    """One object or list. Raises ApiError (404: not there) and Unreachable."""
    return await _call(client, "GET", path, params=params)


async def create(client: Client, path: str, body: Json) -> Json:
    """POST to a collection (or a subresource such as ``binding``); returns the object as it was stored."""
    return await _call(client, "POST", path, body=body)


async def replace(client: Client, path: str, body: Json) -> Json:
    """PUT a whole object; ``body.metadata.resourceVersion`` says which state it replaces."""
    return await _call(client, "PUT", path, body=body)


async def patch(client: Client, path: str, body: Json, *, content_type: str = MERGE_PATCH) -> Json:
    """A merge patch (RFC 7386), or a strategic one. A ``metadata.uid`` or ``metadata.resourceVersion`` in it is a
    precondition.
    """
    return await _call(client, "PATCH", path, body=body, content_type=content_type)


async def patch_listed(client: Client, path: str, body: Json) -> Json:
    """A strategic merge patch: an item of a keyed list (a condition, by its type) changes and its neighbours stay."""
    return await _call(client, "PATCH", path, body=body, content_type=STRATEGIC_PATCH)


async def delete(
    client: Client,
    path: str,
    *,
    uid: str | None = None,
    version: str | None = None,
    grace: int | None = None,
    propagation: str | None = None,
) -> Json:
    """Delete one object if it is still the one of ``uid`` and ``version``; ``grace`` in seconds.

    ``propagation``: Background, Foreground or Orphan (what becomes of dependents).
    """
    preconditions = {k: v for k, v in (("uid", uid), ("resourceVersion", version)) if v}
    options = {"gracePeriodSeconds": grace, "propagationPolicy": propagation, "preconditions": preconditions or None}
    given = {name: value for name, value in options.items() if value is not None}
    return await _call(client, "DELETE", path, body={"kind": "DeleteOptions", "apiVersion": "v1", **given})


async def _call(
    client: Client,
    method: str,
    path: str,
    *,
    body: Json | None = None,
    params: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> Json:
    content = None if body is None else msgspec.json.encode(body)
    headers = {} if body is None else {"Content-Type": content_type}
    doing = f"{method.lower()} {path}"
    try:
        response = await client.http.request(method, path, content=content, params=params, headers=headers)
    except httpx2.HTTPError as error:
        raise Unreachable(f"cannot {doing}: {client.server}: {str(error) or type(error).__name__}") from error
    if response.is_success:
        answer: Json = msgspec.json.decode(response.content)
        return answer
    raise _refusal(doing, response)


def _refusal(doing: str, response: httpx2.Response) -> ApiError:
    try:
        status = msgspec.json.decode(response.content, type=_Status)
    except msgspec.DecodeError:  # a proxy in between, or a server that fell over: what it said is all there is
        status = _Status(message=f"HTTP {response.status_code}: {response.text[:200]}")
    causes = status.details.causes if status.details and status.details.causes else []
    return ApiError(
        doing,
        code=response.status_code,
        reason=status.reason or "",
        message=status.message or f"HTTP {response.status_code}",
        causes=frozenset(cause.reason for cause in causes if cause.reason),
    )
