"""The only door to the API server: a kubeconfig in, JSON in and out, errors translated.

lightkube reads the kubeconfig (certificates, tokens, exec plugins) and makes the HTTP client; its typed models are not
used, because loading them costs more than a whole ``get`` and a command line has no business knowing every field.
Heavy modules are imported when a Cluster is opened, so that ``--help`` and usage errors cost nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.kubectl.discovery import (
    Catalog,
    Resource,
    dump_catalog,
    load_catalog,
    parse_aggregated,
    parse_resource_lists,
)
from agent.cli.kubectl.errors import ApiError, KubectlError, client_error
from agent.cli.kubectl.objects import Obj

if TYPE_CHECKING:
    import ssl

    import httpx2
    from lightkube.config.kubeconfig import SingleConfig

NODE_KUBECONFIG = Path("/var/lib/podwire/kubeconfig")
TIMEOUT = 30.0  # seconds for one request; watches and streams have none
CACHE_SECONDS = 600.0  # how long what a server offers is remembered

JSON = "application/json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"

Params = Mapping[str, str | int]


@dataclass
class Cluster:
    """One API server, as one command sees it. ``namespace``: what was asked for, else the context's."""

    http: httpx2.Client
    server: str
    kubeconfig: str
    namespace: str
    namespace_given: bool
    tls: ssl.SSLContext
    _catalog: Catalog | None = field(default=None, repr=False)
    _fresh: bool = field(default=False, repr=False)

    def close(self) -> None:
        self.http.close()

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
        for line in self._lines(path, {**params, "watch": "true"}, accept):
            event: Obj = json.loads(line)
            if event.get("type") == "ERROR":
                raise ApiError(event["object"])
            yield event

    def stream(self, path: str, *, params: Params) -> Iterator[bytes]:
        """A body as it comes (logs), until the server ends it."""
        with self._translated(), self._open(path, params, "*/*") as response:
            yield from response.iter_bytes()

    def credentials(self) -> dict[str, str]:
        """The header that says who we are, for streams, which are not HTTP requests."""
        request = self.http.build_request("GET", "/")
        if self.http.auth is not None:
            request = next(self.http.auth.sync_auth_flow(request))
        found = request.headers.get("Authorization")
        return {"Authorization": found} if found else {}

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
        headers = {"Accept": accept, **({"Content-Type": content_type} if content is not None else {})}
        with self._translated():
            response = self.http.request(method, path, params=params, content=content, headers=headers)
        self._complain(response)
        answer: Obj = response.json()
        return answer

    @contextlib.contextmanager
    def _open(self, path: str, params: Params, accept: str) -> Iterator[httpx2.Response]:
        headers, forever = {"Accept": accept}, {"connect": TIMEOUT, "read": None, "write": TIMEOUT, "pool": TIMEOUT}
        request = self.http.build_request("GET", path, params=params, headers=headers, extensions={"timeout": forever})
        response = self.http.send(request, stream=True)
        try:
            if response.is_error:
                response.read()
            self._complain(response)
            yield response
        finally:
            response.close()

    def _lines(self, path: str, params: Params, accept: str) -> Iterator[str]:
        with self._translated(), self._open(path, params, accept) as response:
            yield from (line for line in response.iter_lines() if line)

    def _complain(self, response: httpx2.Response) -> None:
        """Show the server's warnings; raise ApiError for anything but success."""
        for warning in response.headers.get_list("Warning"):
            print(f"Warning: {warning.partition(' - ')[2].strip() or warning}".replace('"', ""), file=sys.stderr)
        if not response.is_error:
            return
        if response.status_code == 401:
            raise client_error(f"You must be logged in to the server (Unauthorized); check {self.kubeconfig}")
        raise ApiError(_status_of(response))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Transport errors as messages: which server, which kubeconfig, what to try."""
        import httpx2

        try:
            yield
        except httpx2.ConnectError as error:
            raise KubectlError(self._unreachable(error)) from error
        except httpx2.TransportError as error:
            raise KubectlError(
                f"Unable to talk to the server {self.server}: {error or type(error).__name__} "
                f"(kubeconfig {self.kubeconfig})"
            ) from error

    def _unreachable(self, error: Exception) -> str:
        where = self.server.partition("://")[2]
        if "refused" in str(error):
            said = f"The connection to the server {where} was refused - did you specify the right host or port?"
        else:
            said = f"Unable to connect to the server {where}: {error}"
        return f"{said}\n(kubeconfig {self.kubeconfig}; is the node up? See: podwire status)"


def _status_of(response: httpx2.Response) -> Mapping[str, Any]:
    try:
        status = response.json()
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return status
    return {"reason": response.reason_phrase or str(response.status_code), "message": response.text.strip()}


def open_cluster(*, kubeconfig: str | None, context: str | None, namespace: str | None) -> Cluster:
    """A Cluster from ``--kubeconfig``, else ``$KUBECONFIG``, else this machine's node, else ``~/.kube/config``."""
    import httpx2
    from lightkube.config.client_adapter import user_auth, verify_cluster

    file = find_kubeconfig(kubeconfig)
    config = _load(file, context)
    if config.user is None:
        raise client_error(f"cannot use kubeconfig {file}: context {config.context_name} names no user")
    tls = verify_cluster(config.cluster, config.user, config.abs_file, trust_env=False)
    http = httpx2.Client(
        base_url=config.cluster.server, verify=tls, auth=user_auth(config.user), timeout=TIMEOUT, trust_env=False
    )
    return Cluster(
        http=http,
        server=config.cluster.server,
        kubeconfig=str(file),
        namespace=namespace or config.namespace,
        namespace_given=namespace is not None,
        tls=tls,
    )


def find_kubeconfig(given: str | None) -> Path:
    """The kubeconfig to use; ``$KUBECONFIG`` may list several files, of which the first that exists is used."""
    if given:
        return Path(given)
    if from_environment := os.environ.get("KUBECONFIG"):
        files = [Path(name) for name in from_environment.split(":") if name]
        return next((file for file in files if file.exists()), files[0])
    if os.access(NODE_KUBECONFIG, os.R_OK):
        return NODE_KUBECONFIG
    home = Path("~/.kube/config").expanduser()
    if home.exists():
        return home
    hint = (
        f"{NODE_KUBECONFIG} is not readable (try sudo)"
        if NODE_KUBECONFIG.parent.exists()
        else "start a node: podwire up"
    )
    raise client_error(f"no kubeconfig: --kubeconfig and $KUBECONFIG are not set, there is no {home}, and {hint}")


def _load(file: Path, context: str | None) -> SingleConfig:
    import yaml
    from lightkube.config.kubeconfig import KubeConfig
    from lightkube.core.exceptions import ConfigError
    from msgspec import ValidationError

    try:
        config = KubeConfig.from_file(file).get(context_name=context)
    except (ConfigError, OSError, ValidationError, TypeError, yaml.YAMLError) as error:
        raise client_error(f"cannot use kubeconfig {file}: {error}") from error
    except KeyError as error:
        raise client_error(f"cannot use kubeconfig {file}: it has no {error}") from error
    if config is None:
        raise client_error(f"cannot use kubeconfig {file}: no current context")
    return config
