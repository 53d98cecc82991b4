"""The only door to the API server: JSON in and out, errors translated.

Spoken over the standard library's HTTP client: one connection, kept while a command lasts, one more for each stream.
The objects are plain JSON; a command line has no business knowing every field of every kind.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import ssl
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from agent.cli.kubectl.discovery import (
    Catalog,
    Resource,
    dump_catalog,
    load_catalog,
    parse_aggregated,
    parse_resource_lists,
)
from agent.cli.kubectl.errors import ApiError, KubectlError, client_error
from agent.cli.kubectl.kubeconfig import find_kubeconfig, load_access, sign_in
from agent.cli.kubectl.objects import Obj

TIMEOUT = 30.0  # seconds for one request; watches and streams have none
IDLE = 2.0  # seconds after which a connection is not used again: servers close idle ones without a word
CACHE_SECONDS = 600.0  # how long what a server offers is remembered

JSON = "application/json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"

Params = Mapping[str, str | int]


@dataclass
class Cluster:
    """One API server, as one command sees it. ``namespace``: what was asked for, else the context's."""

    server: str
    kubeconfig: str
    namespace: str
    namespace_given: bool
    tls: ssl.SSLContext
    credentials: Mapping[str, str]  # the header that says who we are
    _kept: http.client.HTTPConnection | None = field(default=None, repr=False)
    _used: float = field(default=0.0, repr=False)
    _catalog: Catalog | None = field(default=None, repr=False)
    _fresh: bool = field(default=False, repr=False)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    # --- requests ---

    def get(self, path: str, *, params: Params | None = None, accept: str = JSON) -> Obj:
        return self._send("GET", path, params=params, accept=accept)

    def create(self, path: str, body: Mapping[str, Any], *, params: Params | None = None) -> Obj:
        strict = {"fieldValidation": "Strict", "fieldManager": "podwire", **(params or {})}
        return self._send("POST", path, params=strict, body=body)

    def patch(self, path: str, body: Any, *, kind: str, params: Params | None = None) -> Obj:
        """``kind``: strategic-merge-patch, merge-patch or json-patch."""
        strict = {"fieldValidation": "Strict", "fieldManager": "podwire", **(params or {})}
        return self._send("PATCH", path, params=strict, body=body, content_type=f"application/{kind}+json")

    def delete(self, path: str, options: Mapping[str, Any], *, params: Params | None = None) -> Obj:
        return self._send("DELETE", path, params=params, body={"kind": "DeleteOptions", "apiVersion": "v1", **options})

    def watch(self, path: str, *, params: Params, accept: str = JSON) -> Generator[Obj]:
        """Watch events, until the server ends the watch. An ERROR event raises ApiError."""
        with self._opened(path, {**params, "watch": "true"}, accept) as response:
            while line := response.readline():
                event: Obj = json.loads(line)
                if event.get("type") == "ERROR":
                    raise ApiError(event["object"])
                yield event

    def stream(self, path: str, *, params: Params) -> Iterator[bytes]:
        """A body as it comes (logs), until the server ends it."""
        with self._opened(path, params, "*/*") as response:
            while data := response.read1(CHUNK):
                yield data

    # --- discovery ---

    def find_resource(self, word: str) -> Resource:
        """What a word on the command line means here. Raises KubectlError as kubectl words it."""
        found = self.catalog().find(word) or self._ask_again().find(word)
        if found is None:
            raise client_error(f'the server doesn\'t have a resource type "{word}"')
        return found

    def find_kind(self, api_version: str, kind: str) -> Resource | None:
        return self.catalog().of_kind(api_version, kind) or self._ask_again().of_kind(api_version, kind)

    def catalog(self) -> Catalog:
        if self._catalog is None:
            self._catalog = self._remembered() or self._ask_again()
        return self._catalog

    def _ask_again(self) -> Catalog:
        """The server's own answer, once per command; a kind may be newer than what is remembered."""
        if self._catalog is None or not self._fresh:
            self._catalog, self._fresh = self._discover(), True
            self._remember(self._catalog)
        return self._catalog

    def _discover(self) -> Catalog:
        documents = [self.get("/api", accept=AGGREGATED), self.get("/apis", accept=AGGREGATED)]
        if all(document.get("kind") == "APIGroupDiscoveryList" for document in documents):
            return parse_aggregated(documents)
        versions = [f"/api/{version}" for version in documents[0].get("versions") or []]
        groups = documents[1].get("groups") or []
        versions += [f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups]
        return parse_resource_lists(self.get(version) for version in versions)

    def _cache_file(self) -> Path:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        which = hashlib.sha256(f"{self.server}\n{self.kubeconfig}".encode()).hexdigest()[:16]
        return Path(home).expanduser() / "podwire" / "discovery" / f"{which}.json"

    def _remembered(self) -> Catalog | None:
        """What the server offered lately; None where that is unknown, old or not readable (then it is asked again)."""
        try:
            file = self._cache_file()
            if time.time() - file.stat().st_mtime > CACHE_SECONDS:
                return None
            return load_catalog(json.loads(file.read_text()))
        except (OSError, RuntimeError, ValueError, TypeError, KeyError):
            return None

    def _remember(self, catalog: Catalog) -> None:
        # A cache that cannot be written (no home, read-only) only costs the next command two requests.
        with contextlib.suppress(OSError, RuntimeError):
            file = self._cache_file()
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(dump_catalog(catalog)))
            temporary.replace(file)

    # --- plumbing ---

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Any = None,
        accept: str = JSON,
        content_type: str = JSON,
    ) -> Obj:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Accept": accept, **self.credentials}
        if content is not None:
            headers["Content-Type"] = content_type
        with self._translated():
            connection = self._connection()
            connection.request(method, _url(self.server, path, params), body=content, headers=headers)
            response = connection.getresponse()
            text = response.read()
            self._used = time.monotonic()
        self._complain(response, text)
        answer: Obj = json.loads(text)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        """The connection of this command, anew where it has lain idle."""
        if self._kept is None or time.monotonic() - self._used > IDLE:
            self.close()
            self._kept = self._connect(TIMEOUT)
        return self._kept

    def _connect(self, timeout: float | None) -> http.client.HTTPConnection:
        parts = urlsplit(self.server)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname or "", parts.port, context=self.tls, timeout=timeout)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)

    @contextlib.contextmanager
    def _opened(self, path: str, params: Params, accept: str) -> Iterator[http.client.HTTPResponse]:
        """A response whose body is still to be read, on a connection of its own, without a time limit."""
        with contextlib.closing(self._connect(TIMEOUT)) as connection:
            with self._translated():
                headers = {"Accept": accept, **self.credentials}
                connection.request("GET", _url(self.server, path, params), headers=headers)
                response = connection.getresponse()
                connection.sock.settimeout(None)
                self._complain(response, response.read() if response.status >= 400 else b"")
                yield response

    def _complain(self, response: http.client.HTTPResponse, text: bytes) -> None:
        """Show the server's warnings; raise ApiError for anything but success."""
        for warning in response.headers.get_all("Warning") or []:
            code_agent_text = warning.split(" ", 2)  # RFC 7234: 299 - "text"
            print("Warning: " + code_agent_text[-1].strip('"'), file=sys.stderr)
        if response.status < 400:
            return
        if response.status == 401:
            raise client_error(f"You must be logged in to the server (Unauthorized); check {self.kubeconfig}")
        raise ApiError(_status_of(response, text))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Transport errors as messages: which server, which kubeconfig, what to try."""
        try:
            yield
        except ConnectionRefusedError as error:
            said = f"The connection to the server {self._where} was refused - did you specify the right host or port?"
            raise KubectlError(f"{said}\n{self._hint}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = f"Unable to talk to the server {self._where}: {error or type(error).__name__}"
            raise KubectlError(f"{said}\n{self._hint}") from error

    @property
    def _where(self) -> str:
        return self.server.partition("://")[2]

    @property
    def _hint(self) -> str:
        return f"(kubeconfig {self.kubeconfig}; is the node up? See: podwire status)"


CHUNK = 64 * 1024


def _url(server: str, path: str, params: Params | None) -> str:
    base = urlsplit(server).path.rstrip("/")
    return f"{base}{path}?{urlencode(params)}" if params else f"{base}{path}"


def _status_of(response: http.client.HTTPResponse, text: bytes) -> Mapping[str, Any]:
    try:
        status = json.loads(text)
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return status
    return {"reason": response.reason or str(response.status), "message": text.decode(errors="replace").strip()}


def open_cluster(*, kubeconfig: str | None, context: str | None, namespace: str | None) -> Cluster:
    """The Cluster that flags, ``$KUBECONFIG`` or this machine's node lead to. Raises KubectlError."""
    access = load_access(find_kubeconfig(kubeconfig), context)
    tls, credentials = sign_in(access)
    return Cluster(
        server=access.server,
        kubeconfig=str(access.file),
        namespace=namespace or access.namespace,
        namespace_given=namespace is not None,
        tls=tls,
        credentials=credentials,
    )
