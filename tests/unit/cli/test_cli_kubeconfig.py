"""kubeconfigs: which server, and as whom; and what is said when the server is not there."""

from __future__ import annotations

import base64
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli.kubectl.connection import open_cluster
from agent.cli.kubectl.errors import KubectlError
from agent.cli.kubectl.kubeconfig import Access, load_access, sign_in
from agent.config import Config
from agent.pki import ensure_pki


def config(user: dict[str, Any] | None = None, /, **cluster: Any) -> dict[str, Any]:
    return {
        "current-context": "a",
        "contexts": [
            {"name": "a", "context": {"cluster": "c", "user": "u", "namespace": "here"}},
            {"name": "b", "context": {"cluster": "c"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
    }


def access(folder: Path, content: dict[str, Any], context: str | None = None) -> Access:
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return load_access(file, context)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real certificates, and a kubeconfig that names them."""
    made = Config(state_dir=tmp_path_factory.mktemp("state"), node_name="n1")
    ensure_pki(made, loopback_port=1)
    return made.paths.pki


def test_the_context_and_its_namespace(tmp_path: Path) -> None:
    current = access(tmp_path, config())
    assert (current.server, current.namespace) == ("https://127.0.0.1:6443", "here")
    other = access(tmp_path, config(), "b")
    assert (other.namespace, other.user) == ("default", {})


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({"token": "t"}, {"Authorization": "Bearer t"}),
        ({"tokenFile": "token"}, {"Authorization": "Bearer from-file"}),
        ({"username": "u", "password": "p"}, {"Authorization": "Basic dTpw"}),
        ({}, {}),
    ],
)
def test_tokens_and_passwords(tmp_path: Path, user: dict[str, str], header: dict[str, str]) -> None:
    (tmp_path / "token").write_text("from-file\n")
    _, found = sign_in(access(tmp_path, config(user)))
    assert found == header


def test_certificates_inline_and_beside_the_file(tmp_path: Path, pki: Path) -> None:
    def inline(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    user = {"client-certificate-data": inline("kubelet-client.crt"), "client-key-data": inline("kubelet-client.key")}
    tls, _ = sign_in(access(tmp_path, config(user, **{"certificate-authority-data": inline("ca.crt")})))
    assert [each["subject"] for each in tls.get_ca_certs()] == [((("commonName", "podwire-ca"),),)]
    for name in ("kubelet-client.crt", "kubelet-client.key", "ca.crt"):
        (tmp_path / name).write_bytes((pki / name).read_bytes())
    user = {"client-certificate": "kubelet-client.crt", "client-key": "kubelet-client.key"}
    tls, _ = sign_in(access(tmp_path, config(user, **{"certificate-authority": "ca.crt"})))
    assert len(tls.get_ca_certs()) == 1
    tls, _ = sign_in(access(tmp_path, config(None, **{"insecure-skip-tls-verify": True})))
    assert tls.verify_mode == ssl.CERT_NONE


def test_an_exec_plugin_signs_in(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        'case "$KUBERNETES_EXEC_INFO" in *client.authentication.k8s.io/v1*) ;; *) exit 1;; esac\n'
        'echo "{\\"status\\": {\\"token\\": \\"$WHO-$1\\"}}"\n'
    )
    plugin.chmod(0o755)
    call = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "args": ["x"]}
    _, header = sign_in(access(tmp_path, config({"exec": {**call, "env": [{"name": "WHO", "value": "me"}]}})))
    assert header == {"Authorization": "Bearer me-x"}
    with pytest.raises(KubectlError, match=r"exec plugin /bin/false of .*kubeconfig failed"):
        sign_in(access(tmp_path, config({"exec": {**call, "command": "/bin/false"}})))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({}, "no current-context"),
        ({"current-context": "x"}, 'context "x" does not exist'),
        ({**config(), "clusters": None}, 'cluster "c" does not exist'),
        ({**config(), "users": []}, 'user "u" does not exist'),
        (config(server=""), "has no server address"),
        ([], "expected one map"),
    ],
)
def test_what_is_wrong_in_a_kubeconfig(tmp_path: Path, content: Any, complaint: str) -> None:
    with pytest.raises(KubectlError, match=complaint):
        access(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "not YAML"), ("a: 1\na: 2", "already set in map"), (None, "No such file or directory")],
)
def test_a_kubeconfig_that_cannot_be_read(tmp_path: Path, text: str | None, complaint: str) -> None:
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)
    with pytest.raises(KubectlError, match=complaint) as caught:
        load_access(file, None)
    assert str(file) in str(caught.value)


def test_bad_certificates_are_named(tmp_path: Path) -> None:
    with pytest.raises(KubectlError, match="certificates or token"):
        sign_in(access(tmp_path, config(None, **{"certificate-authority": "missing.crt"})))


def test_a_server_that_is_not_there(pki: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    kubeconfig = pki.parent / "other"
    kubeconfig.write_text((pki.parent / "kubeconfig").read_text().replace("127.0.0.1:1", f"127.0.0.1:{port}"))
    cluster = open_cluster(kubeconfig=str(kubeconfig), context=None, namespace=None)
    with pytest.raises(KubectlError) as caught:
        cluster.get("/api")
    cluster.close()
    assert str(caught.value) == (
        f"The connection to the server 127.0.0.1:{port} was refused - did you specify the right host or port?\n"
        f"(kubeconfig {kubeconfig}; is the node up? See: podwire status)"
    )


def test_a_server_that_hangs_up_or_talks_nonsense(tmp_path: Path) -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for text in (b"", b"nonsense\r\n\r\n"):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(text)

        thread = threading.Thread(target=answer)
        thread.start()
        content = config(server=f"http://127.0.0.1:{server.getsockname()[1]}")
        file = access(tmp_path, content).file
        for _ in range(2):
            cluster = open_cluster(kubeconfig=str(file), context=None, namespace="x")
            with pytest.raises(KubectlError, match=r"Unable to talk to the server 127\.0\.0\.1:"):
                cluster.get("/api")
            cluster.close()
        thread.join()
