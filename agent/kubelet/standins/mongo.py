"""A stand-in for MongoDB: TCP 27017, and with ``--httpinterface`` (or ``--rest``) the status page on port 28017.

It is not a database. It answers the commands by which a client finds out whether a server is there (hello, isMaster,
ping, buildInfo), and keeps what is inserted in memory, per collection, so that the document's example can be played:
insert, update with upsert, find and delete by equality, count. Everything else is refused by name.
"""

from __future__ import annotations

import socket
import threading
import time

from . import serving, wire

NAME = "podwire stand-in for mongo (not MongoDB)"
STARTED = time.time()

PAGE = """<!DOCTYPE html><html><head><title>mongod {host}</title></head><body>
<h2>mongod {host}</h2>
<p>This is podwire's stand-in for <code>mongo</code>: not MongoDB, but something that listens where MongoDB would.</p>
<pre>uptime: {uptime:.0f} seconds
connections so far: {connections}
documents: {documents}</pre></body></html>
"""

_lock = threading.Lock()
_collections: dict[str, list[wire.Document]] = {}
_connections = 0


def main(argv: list[str]) -> None:
    options = _options(argv)
    serving.mind_signals()
    port = int(options.get("port", "27017"))
    serving.serve_connections(port, _converse)
    serving.say(f"{NAME}: waiting for connections on port {port}")
    if "rest" in options or "httpinterface" in options:
        serving.serve_http(port + 1000, _page, server=NAME)
        serving.say(f"{NAME}: admin web console waiting for connections on port {port + 1000}")
    serving.wait_for_end()


def _options(argv: list[str]) -> dict[str, str]:
    """``--name value``, ``--name=value`` and ``--name``; what mongod knows and this does not need is let pass."""
    options: dict[str, str] = {}
    for place, word in enumerate(argv):
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            following = argv[place + 1] if place + 1 < len(argv) and not argv[place + 1].startswith("-") else ""
            options[name] = value if given else following
    return options


def _page(request: serving.Request) -> serving.Response:
    with _lock:
        documents = sum(map(len, _collections.values()))
        page = PAGE.format(
            host=socket.gethostname(), uptime=time.time() - STARTED, connections=_connections, documents=documents
        )
    return serving.Response(page, kind="text/html; charset=utf-8")


def _converse(connection: socket.socket, client: tuple[str, int]) -> None:
    global _connections
    with _lock:
        _connections += 1
    while True:
        try:
            message = wire.read_message(connection)
        except wire.WireError as error:
            serving.say(f"{client[0]}:{client[1]}: {error}")
            return
        if message is None:
            return
        with _lock:
            reply = _execute(message.document)
        wire.send_reply(connection, message, reply)


def _execute(command: wire.Document) -> wire.Document:
    name = next(iter(command), "")
    action = _COMMANDS.get(name.lower())
    if action is None:
        return {"ok": 0.0, "code": 59, "codeName": "CommandNotFound", "errmsg": f"{NAME}: no such command: '{name}'"}
    return {**action(command), "ok": 1.0}


def _hello(command: wire.Document) -> wire.Document:
    return {
        "ismaster": True,
        "isWritablePrimary": True,
        "msg": NAME,
        "maxBsonObjectSize": 16 << 20,
        "maxMessageSizeBytes": wire.MAX_MESSAGE,
        "maxWriteBatchSize": 1000,
        "minWireVersion": 0,
        "maxWireVersion": 6,
        "readOnly": False,
    }


def _build_info(command: wire.Document) -> wire.Document:
    return {"version": "3.3.0", "gitVersion": NAME, "versionArray": [3, 3, 0, 0], "bits": 64}


def _ping(command: wire.Document) -> wire.Document:
    return {}


def _insert(command: wire.Document) -> wire.Document:
    documents = command.get("documents", [])
    _collection(command).extend(documents)
    return {"n": len(documents)}


def _update(command: wire.Document) -> wire.Document:
    """Whole documents and ``$set``; ``upsert`` inserts what was not found."""
    changed = 0
    for update in command.get("updates", []):
        wanted, change = update.get("q", {}), update.get("u", {})
        values = change.get("$set", change)
        found = [document for document in _collection(command) if _matches(document, wanted)]
        for document in found if update.get("multi") else found[:1]:
            document.update(values)
            changed += 1
        if not found and update.get("upsert"):
            _collection(command).append({**wanted, **values})
            changed += 1
    return {"n": changed, "nModified": changed}


def _delete(command: wire.Document) -> wire.Document:
    collection, removed = _collection(command), 0
    for delete in command.get("deletes", []):
        found = [document for document in collection if _matches(document, delete.get("q", {}))]
        for document in found[:1] if delete.get("limit") else found:
            collection.remove(document)
            removed += 1
    return {"n": removed}


def _find(command: wire.Document) -> wire.Document:
    found = [document for document in _collection(command) if _matches(document, command.get("filter", {}))]
    limit = command.get("limit", 0)
    name = f"{command.get('$db', 'test')}.{command['find']}"
    return {"cursor": {"firstBatch": found[:limit] if limit else found, "id": 0, "ns": name}}


def _count(command: wire.Document) -> wire.Document:
    return {"n": sum(_matches(document, command.get("query", {})) for document in _collection(command))}


def _collection(command: wire.Document) -> list[wire.Document]:
    return _collections.setdefault(f"{command.get('$db', 'test')}.{next(iter(command.values()))}", [])


def _matches(document: wire.Document, wanted: wire.Document) -> bool:
    return all(document.get(name) == value for name, value in wanted.items())


_COMMANDS = {
    "ismaster": _hello,
    "hello": _hello,
    "ping": _ping,
    "buildinfo": _build_info,
    "insert": _insert,
    "update": _update,
    "delete": _delete,
    "find": _find,
    "count": _count,
}
