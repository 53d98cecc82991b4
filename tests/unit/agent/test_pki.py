import ipaddress
import ssl
import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from agent.config import Config
from agent.pki import ensure_pki


def _config(folder: Path, **changes: str) -> Config:
    return Config(state_dir=folder, node_name="n1", **{"node_ip": "192.0.2.2", **changes})  # type: ignore[arg-type]


def _addresses(folder: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate((folder / "pki/apiserver.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(address) for address in names.get_values_for_type(x509.IPAddress)}


def test_certificates_are_signed_by_the_ca_and_name_the_node(tmp_path: Path) -> None:
    ensure_pki(_config(tmp_path), loopback_port=1234)
    context = ssl.create_default_context(cafile=str(tmp_path / "pki/ca.crt"))
    for name in ("apiserver", "kubelet", "kubelet-client"):
        context.load_cert_chain(tmp_path / f"pki/{name}.crt", tmp_path / f"pki/{name}.key")
    assert {"127.0.0.1", "192.0.2.2", "10.96.0.1", "10.244.0.1"} <= _addresses(tmp_path)


def test_nothing_changes_the_second_time(tmp_path: Path) -> None:
    ensure_pki(_config(tmp_path), loopback_port=1234)
    before = {path.name: path.read_bytes() for path in (tmp_path / "pki").iterdir()}
    ensure_pki(_config(tmp_path), loopback_port=1234)
    assert {path.name: path.read_bytes() for path in (tmp_path / "pki").iterdir()} == before


def test_a_new_address_gives_a_new_certificate_and_keeps_ca_and_token(tmp_path: Path) -> None:
    ensure_pki(_config(tmp_path), loopback_port=1234)
    ca, token = (tmp_path / "pki/ca.crt").read_bytes(), (tmp_path / "pki/token").read_bytes()
    ensure_pki(_config(tmp_path, node_ip="192.0.2.77"), loopback_port=1234)
    assert str(ipaddress.ip_address("192.0.2.77")) in _addresses(tmp_path)
    assert ((tmp_path / "pki/ca.crt").read_bytes(), (tmp_path / "pki/token").read_bytes()) == (ca, token)


def test_kubeconfigs_and_private_files_are_for_their_owner_only(tmp_path: Path) -> None:
    ensure_pki(_config(tmp_path), loopback_port=1234)
    for path in [tmp_path / "kubeconfig", tmp_path / "node.kubeconfig", *(tmp_path / "pki").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    servers = [
        yaml.safe_load((tmp_path / name).read_text())["clusters"][0]["cluster"]["server"]
        for name in ("kubeconfig", "node.kubeconfig")
    ]
    assert servers == ["https://127.0.0.1:1234", "https://192.0.2.2:6443"]


def _accepts_itself(folder: Path) -> None:
    """A client that trusts the CA of the kubeconfig's making accepts what the API server and the kubelet show."""
    context = ssl.create_default_context(cafile=str(folder / "pki/ca.crt"))
    ca = x509.load_pem_x509_certificate((folder / "pki/ca.crt").read_bytes())
    for name in ("apiserver", "kubelet", "kubelet-client"):
        context.load_cert_chain(folder / f"pki/{name}.crt", folder / f"pki/{name}.key")
        x509.load_pem_x509_certificate((folder / f"pki/{name}.crt").read_bytes()).verify_directly_issued_by(ca)
    user = yaml.safe_load((folder / "kubeconfig").read_text())["users"][0]["user"]
    assert user["token"] == (folder / "pki/token").read_text() != ""


@pytest.mark.parametrize("content", [None, b"", bytes(range(256))], ids=["missing", "empty", "garbage"])
@pytest.mark.parametrize("file", ["ca.crt", "ca.key", "apiserver.crt", "apiserver.key", "kubelet.key", "token"])
def test_what_is_missing_or_damaged_is_made_again(tmp_path: Path, file: str, content: bytes | None) -> None:
    ensure_pki(_config(tmp_path), loopback_port=1234)
    if content is None:
        (tmp_path / "pki" / file).unlink()
    else:
        (tmp_path / "pki" / file).write_bytes(content)
    ensure_pki(_config(tmp_path), loopback_port=1234)
    _accepts_itself(tmp_path)


def test_a_key_of_another_certificate_is_not_used(tmp_path: Path) -> None:
    """As after a crash between the two files."""
    ensure_pki(_config(tmp_path), loopback_port=1234)
    (tmp_path / "pki/kubelet.key").write_bytes((tmp_path / "pki/apiserver.key").read_bytes())
    ensure_pki(_config(tmp_path), loopback_port=1234)
    _accepts_itself(tmp_path)
