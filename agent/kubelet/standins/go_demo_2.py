"""A stand-in for vfarcic/go-demo-2: the API of the document, on port 8080, with its database at ``$DB``.

``/demo/hello`` greets. ``/demo/person`` needs the database: ``PUT ?name=`` adds a person, ``GET`` lists them, and
without a database it is 500, as in the original. The names live in the database, so all replicas answer alike.
"""

from __future__ import annotations

import os
import sys
import time

from . import serving, wire

NAME = "podwire stand-in for vfarcic/go-demo-2"
PORT, DATABASE_PORT, PATIENCE = 8080, 27017, 3.0


def main(argv: list[str]) -> None:
    if argv:
        sys.exit(f"{NAME} takes no arguments")
    serving.mind_signals()
    serving.serve_http(PORT, handle, server=NAME)
    serving.say(f"{NAME}: listening on port {PORT}, database at {database()}:{DATABASE_PORT}")
    serving.wait_for_end()


def database() -> str:
    return os.environ.get("DB") or "localhost"


def handle(request: serving.Request) -> serving.Response:
    if request.path == "/demo/hello":
        time.sleep(min(60.0, float(request.query.get("delay", "0")) / 1000))
        return serving.Response("hello, world!\n")
    if request.path == "/demo/person":
        return _person(request)
    if request.path == "/":
        return serving.Response(f"This is {NAME}: try /demo/hello and /demo/person.\n")
    return serving.Response("404 page not found\n", 404)


def _person(request: serving.Request) -> serving.Response:
    try:
        if request.method in ("PUT", "POST"):
            return _add(request.query.get("name", ""))
        reply = _ask({"find": "people"})
        people = reply["cursor"]["firstBatch"]
        return serving.Response("".join(f"{person['Name']}\n" for person in people))
    except (OSError, wire.WireError, KeyError, TypeError) as error:
        why = f"cannot use the database at {database()}:{DATABASE_PORT}: {error}"
        serving.say(why)
        return serving.Response(why + "\n", 500)


def _add(name: str) -> serving.Response:
    if not name:
        return serving.Response("expected ?name=NAME\n", 400)
    person = {"_id": name, "Name": name}
    _ask({"update": "people", "updates": [{"q": {"_id": name}, "u": person, "upsert": True}]})
    return serving.Response("")


def _ask(command: wire.Document) -> wire.Document:
    reply = wire.ask(database(), DATABASE_PORT, command, timeout=PATIENCE)
    if reply.get("ok") != 1:
        raise wire.WireError(str(reply.get("errmsg", reply)))
    return reply
