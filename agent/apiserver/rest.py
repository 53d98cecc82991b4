"""From a request to a verb, and from what the verb returns to an answer.

One table says which method on which kind of target is which verb (``handler_of``). An answer is a status code and
bytes; only watches and logs are streams, which ``app`` sends as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import msgspec

from agent.apiserver import body, read, subresources, write
from agent.apiserver.api import Api
from agent.apiserver.apply import apply_object
from agent.apiserver.deletion import delete_object, delete_stored
from agent.apiserver.negotiate import Form, negotiate
from agent.apiserver.patch import APPLY_PATCH, PATCH_TYPES, patch_object
from agent.apiserver.paths import Target
from agent.apiserver.query import ListOptions, Query, WriteOptions, parse_delete, parse_list, parse_watch, parse_write
from agent.apiserver.registry import JSON, REVIEWS
from agent.apiserver.status import (
    bad_request,
    method_not_allowed,
    unsupported_media_type,
)
from agent.apiserver.streams import find_way
from agent.apiserver.watch import watch_lines

SPDY = "this server speaks WebSocket only, not SPDY: use kubectl 1.31 or later"


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read. ``headers`` have lower-case names."""

    method: str
    target: Target
    query: Query
    headers: dict[str, str]
    content: bytes

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "")

    @property
    def form(self) -> Form:
        """Raises StatusError 406."""
        return negotiate(self.headers.get("accept", ""), self.query)


@dataclass(frozen=True, slots=True)
class Answer:
    """``parts`` are JSON, to be sent one after the other; ``warnings`` become headers."""

    parts: list[bytes]
    code: int = 200
    warnings: tuple[str, ...] = ()
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Stream:
    """A watch: lines as they come, until the time is over."""

    lines: AsyncGenerator[bytes, None]


COLLECTION_VERBS = ("create", "list", "watch", "deletecollection")

Handler = Callable[[Api, Request], Awaitable["Answer | Stream"]]


def verb_of(method: str, target: Target, query: Query) -> str:
    """The verb in upstream's words (for metrics, and to find the handler)."""
    if method == "GET" or method == "HEAD":
        return "get" if target.name else "watch" if query.flag("watch") else "list"
    if method == "DELETE":
        return "delete" if target.name else "deletecollection"
    return {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, method.lower())


def handler_of(verb: str, target: Target) -> Handler:
    """Raises StatusError 405."""
    if target.kind in REVIEWS:
        if verb != "create":
            raise method_not_allowed()
        return review
    handler = HANDLERS.get((verb, target.subresource))
    known = target.subresource or verb in target.kind.verbs
    missing_namespace = target.kind.namespaced and not target.namespace and verb in ("create", "deletecollection")
    of_collection = verb in COLLECTION_VERBS and not target.subresource
    if handler is None or not known or missing_namespace or of_collection is bool(target.name):
        raise method_not_allowed()
    return handler


def answer(request: Request, obj: JSON, *, code: int = 200, warnings: tuple[str, ...] = ()) -> Answer:
    """One object in the form that was asked for; a Status stays what it is."""
    form = request.form
    shown = obj if obj.get("kind") == "Status" else form.render(request.target.kind, obj)
    return Answer([msgspec.json.encode(shown)], code, warnings, form.media_type)


async def get(api: Api, request: Request) -> Answer:
    form = request.form
    return Answer([await read.get_body(api, request.target, form)], media_type=form.media_type)


async def list_(api: Api, request: Request) -> Answer:
    form = request.form
    options = parse_list(request.target.kind, request.target.prefix, request.query)
    return Answer(await read.list_body(api, request.target, options, form), media_type=form.media_type)


async def watch(api: Api, request: Request) -> Stream:
    return Stream(watch_lines(api, request.target, parse_watch(request.target.kind, request.query), request.form))


async def create(api: Api, request: Request) -> Answer:
    options = parse_write(request.query)
    obj, warnings = await _read_body(request, options)
    created = await write.create_object(api, request.target, obj, options)
    return answer(request, created, code=201, warnings=warnings)


async def update(api: Api, request: Request) -> Answer:
    options = parse_write(request.query)
    obj, warnings = await _read_body(request, options)
    updated = await write.update_object(api, request.target, lambda _: obj, options)
    return answer(request, updated, warnings=warnings)


async def _read_body(request: Request, options: WriteOptions) -> tuple[JSON, tuple[str, ...]]:
    """Big bodies are read in a thread."""
    arguments = (request.target, request.content, request.content_type, options.validation)
    if len(request.content) > 1 << 16:
        return await asyncio.to_thread(body.decode_object, *arguments)
    return body.decode_object(*arguments)


async def patch(api: Api, request: Request) -> Answer:
    options = parse_write(request.query)
    media_type, sent = _read_patch(request)
    if media_type == APPLY_PATCH:
        applied, created = await apply_object(api, request.target, sent, options)
        return answer(request, applied, code=201 if created else 200)
    transform = _Patching(request.target, media_type, sent, options)
    patched = await write.update_object(api, request.target, transform, options)
    return answer(request, patched, warnings=transform.warnings)


def _read_patch(request: Request) -> tuple[str, object]:
    media_type = body.media_type_of(request.content_type)
    if media_type not in PATCH_TYPES:
        raise unsupported_media_type(PATCH_TYPES)
    return media_type, body.decode_body(request.content, media_type)


class _Patching:
    """The transform of a PATCH; it may run more than once, ``warnings`` are those of the last time."""

    def __init__(self, target: Target, media_type: str, patch: object, options: WriteOptions) -> None:
        self._target, self._media_type, self._patch = target, media_type, patch
        self._validation = options.validation
        self.warnings: tuple[str, ...] = ()

    def __call__(self, old: JSON) -> JSON:
        kind = self._target.kind
        new = body.check_kind(kind, patch_object(kind, self._media_type, old, self._patch))
        self.warnings = body.check_object(kind, new, self._validation, known=old)
        return body.place(self._target, new)


async def delete(api: Api, request: Request) -> Answer:
    options = parse_delete(request.query, body.decode_options(request.content, request.content_type))
    return answer(request, await delete_object(api, request.target, options))


async def delete_collection(api: Api, request: Request) -> Answer:
    """Deletes what a list would show, and answers with that list."""
    kind = request.target.kind
    options = parse_delete(request.query, body.decode_options(request.content, request.content_type))
    wanted = parse_list(kind, request.target.prefix, request.query)
    found = await read.find(api, request.target, ListOptions(wanted.selection, wanted.limit, wanted.place, None, None))
    await delete_stored(api, kind, found.items, options)
    return Answer(read.render_list(request.target, found, request.form))


async def get_scale(api: Api, request: Request) -> Answer:
    return Answer([msgspec.json.encode(await subresources.get_scale(api, request.target))])


async def update_scale(api: Api, request: Request) -> Answer:
    sent = _object(body.decode_options(request.content, request.content_type))
    scale = await subresources.update_scale(api, request.target, lambda _: sent, parse_write(request.query))
    return Answer([msgspec.json.encode(scale)])


async def patch_scale(api: Api, request: Request) -> Answer:
    media_type, sent = _read_patch(request)
    if media_type == APPLY_PATCH:
        raise unsupported_media_type(PATCH_TYPES[:-1])
    kind = request.target.kind

    def change(scale: JSON) -> JSON:
        return patch_object(kind, media_type, scale, sent)

    scale = await subresources.update_scale(api, request.target, change, parse_write(request.query))
    return Answer([msgspec.json.encode(scale)])


async def bind(api: Api, request: Request) -> Answer:
    sent = _object(body.decode_options(request.content, request.content_type))
    return answer(request, await subresources.bind(api, request.target, sent, parse_write(request.query)), code=201)


async def evict(api: Api, request: Request) -> Answer:
    sent = _object(body.decode_options(request.content, request.content_type))
    return answer(request, await subresources.evict(api, request.target, sent, request.query), code=201)


def _object(sent: JSON | None) -> JSON:
    if sent is None:
        raise bad_request("the request needs a body")
    return sent


async def upgrade_needed(api: Api, request: Request) -> Answer:
    """exec, attach, port-forward without a WebSocket. What is wrong with the pod is said first."""
    await find_way(api, request.target, request.query)
    raise bad_request(f"unable to upgrade: {SPDY}")


async def review(api: Api, request: Request) -> Answer:
    """``kubectl auth can-i`` and ``whoami``: there is one token, and whoever holds it may do everything."""
    sent = _object(body.decode_options(request.content, request.content_type))
    kind = request.target.kind
    head = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": sent.get("metadata") or {}}
    spec = {"spec": sent["spec"]} if "spec" in sent else {}
    return Answer([msgspec.json.encode({**head, **spec, "status": VERDICTS[kind.kind]})], code=201)


VERDICTS: dict[str, JSON] = {
    "SelfSubjectAccessReview": {"allowed": True, "reason": "the holder of the node's token may do everything"},
    "SelfSubjectReview": {"userInfo": {"username": "podwire:admin", "groups": ["system:masters"]}},
    "SelfSubjectRulesReview": {
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        "incomplete": False,
    },
}


HANDLERS: dict[tuple[str, str], Handler] = {
    ("get", ""): get,
    ("list", ""): list_,
    ("watch", ""): watch,
    ("create", ""): create,
    ("update", ""): update,
    ("patch", ""): patch,
    ("delete", ""): delete,
    ("deletecollection", ""): delete_collection,
    ("get", "status"): get,
    ("update", "status"): update,
    ("patch", "status"): patch,
    ("update", "finalize"): update,
    ("get", "scale"): get_scale,
    ("update", "scale"): update_scale,
    ("patch", "scale"): patch_scale,
    ("create", "binding"): bind,
    ("create", "eviction"): evict,
    ("get", "exec"): upgrade_needed,
    ("create", "exec"): upgrade_needed,
    ("get", "attach"): upgrade_needed,
    ("create", "attach"): upgrade_needed,
    ("get", "portforward"): upgrade_needed,
    ("create", "portforward"): upgrade_needed,
}
