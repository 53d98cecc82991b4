"""kubeconfig files: which server, how to trust it, and as whom. Reading is pure but for the files it names.

Read here and not by a library for two reasons: ``podwire get`` would spend more time loading the library than asking
the server, and clusters in the wild sign people in with exec plugins of ``client.authentication.k8s.io/v1``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.cli.kubectl.errors import client_error

NODE_KUBECONFIG = Path("/var/lib/podwire/kubeconfig")


@dataclass(frozen=True, slots=True)
class Access:
    """One context of a kubeconfig, ready for use."""

    file: Path
    server: str
    namespace: str
    cluster: Mapping[str, Any]
    user: Mapping[str, Any]


def find_kubeconfig(given: str | None) -> Path:
    """``--kubeconfig``, else ``$KUBECONFIG`` (the first file of it that exists), else this node's, else the user's."""
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
    there = NODE_KUBECONFIG.parent.exists()
    hint = f"{NODE_KUBECONFIG} is not readable (try sudo)" if there else "no node was started here (podwire up)"
    raise client_error(f"no kubeconfig: --kubeconfig and $KUBECONFIG are not set, there is no {home}, and {hint}")


def load_access(file: Path, context: str | None) -> Access:
    """The named context, or the current one. Raises KubectlError that names the file and what is wrong in it."""
    from agent.cli.kubectl.yamltext import YamlError, load_documents

    try:
        documents = load_documents(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise client_error(f"cannot use kubeconfig {file}: {error}") from error
    except YamlError as error:
        raise client_error(f"cannot use kubeconfig {file}: not YAML: {error}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise client_error(f"cannot use kubeconfig {file}: expected one map of clusters, users and contexts")
    return parse_access(documents[0], file, context)


def parse_access(config: Mapping[str, Any], file: Path, context: str | None) -> Access:
    name = context or config.get("current-context")
    if not name:
        raise client_error(f"cannot use kubeconfig {file}: it has no current-context, and --context is not given")
    chosen = _entry(config, "context", str(name), file)
    cluster = _entry(config, "cluster", str(chosen.get("cluster")), file)
    user = _entry(config, "user", str(chosen["user"]), file) if chosen.get("user") else {}
    server = str(cluster.get("server") or "").rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise client_error(f"cannot use kubeconfig {file}: cluster {chosen.get('cluster')} has no server address")
    return Access(file, server, str(chosen.get("namespace") or "default"), cluster, user)


def _entry(config: Mapping[str, Any], kind: str, name: str, file: Path) -> Mapping[str, Any]:
    for entry in config.get(f"{kind}s") or []:
        if isinstance(entry, Mapping) and entry.get("name") == name and isinstance(entry.get(kind), Mapping):
            found: Mapping[str, Any] = entry[kind]
            return found
    raise client_error(f'cannot use kubeconfig {file}: {kind} "{name}" does not exist')


def sign_in(access: Access) -> tuple[ssl.SSLContext, dict[str, str]]:
    """How to talk to the server: the TLS context (with the client's certificate) and the Authorization header."""
    user = {**access.user, **_run_plugin(access)}
    try:
        tls = _trust(access)
        _show_certificate(tls, access, user)
        return tls, _authorization(access, user)
    except (OSError, ssl.SSLError, binascii.Error) as error:
        raise client_error(f"cannot use kubeconfig {access.file}: certificates or token: {error}") from error


def _trust(access: Access) -> ssl.SSLContext:
    cluster = access.cluster
    if not access.server.startswith("https"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used
    if data := cluster.get("certificate-authority-data"):
        return ssl.create_default_context(cadata=base64.b64decode(data).decode("ascii"))
    if file := cluster.get("certificate-authority"):
        return ssl.create_default_context(cafile=_beside(access, file))
    context = ssl.create_default_context()
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _show_certificate(tls: ssl.SSLContext, access: Access, user: Mapping[str, Any]) -> None:
    """Load the client's certificate and key; inline ones pass through a private file, as OpenSSL reads only files."""
    if user.get("client-certificate-data"):
        import tempfile

        parts = [base64.b64decode(user.get(f"client-{part}-data") or "") for part in ("certificate", "key")]
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"\n".join(parts))
            file.flush()
            tls.load_cert_chain(file.name)
    elif user.get("client-certificate"):
        key = user.get("client-key")
        tls.load_cert_chain(_beside(access, user["client-certificate"]), _beside(access, key) if key else None)


def _authorization(access: Access, user: Mapping[str, Any]) -> dict[str, str]:
    token = user.get("token")
    if not token and user.get("tokenFile"):
        token = _beside(access, user["tokenFile"]).read_text().strip()
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {}


def _beside(access: Access, name: str) -> Path:
    """Relative paths in a kubeconfig are relative to it."""
    return access.file.absolute().parent / name


def _run_plugin(access: Access) -> dict[str, str]:
    """What an exec plugin answers: a token, or a certificate and its key."""
    plugin = access.user.get("exec")
    if not plugin:
        return {}
    import subprocess

    info = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    extra = {each["name"]: each["value"] for each in plugin.get("env") or []}
    env = {**os.environ, **extra, "KUBERNETES_EXEC_INFO": json.dumps(info)}
    argv = [plugin["command"], *(plugin.get("args") or [])]
    try:
        done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, check=True, text=True)
        status = json.loads(done.stdout)["status"]
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError) as error:
        raise client_error(f"getting credentials: exec plugin {argv[0]} of {access.file} failed: {error}") from error
    found = {"token": status.get("token") or ""}
    for part in ("Certificate", "Key"):
        if pem := status.get(f"client{part}Data"):
            found[f"client-{part.lower()}-data"] = base64.b64encode(pem.encode()).decode()
    return found
