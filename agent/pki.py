"""Keys, certificates and kubeconfigs of one node: made once, kept in ``<state-dir>/pki``, renewed before they end.

One CA signs three certificates: the API server's, the kubelet's (for ``exec`` and logs) and the API server's client
certificate towards the kubelet. People and components show the API server a bearer token. All private files are 0600
and written by rename, so that a crash leaves the old file or the new one.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.config import Config

CA_DAYS, LEAF_DAYS, RENEW_DAYS = 3650, 365, 30


def ensure_pki(config: Config, *, loopback_port: int) -> None:
    """Make what is missing, renew what ends within ``RENEW_DAYS`` or no longer names the node; write the kubeconfigs.

    ``loopback_port``: the API server's port on the caller's loopback, for the kubeconfig that people use.
    """
    folder = config.paths.pki
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _ensure_ca(folder)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names += [f"kubernetes.default.svc.{config.cluster_domain}", config.node_name]
    addresses = ["127.0.0.1", config.kubernetes_ip, config.gateway, *([config.node_ip] if config.node_ip else [])]
    _ensure_leaf(folder, "apiserver", "kube-apiserver", names=names, addresses=addresses)
    _ensure_leaf(folder, "kubelet", f"system:node:{config.node_name}", names=[config.node_name], addresses=addresses)
    _ensure_leaf(folder, "kubelet-client", "kube-apiserver-kubelet-client", names=[], addresses=[])
    token = folder / "token"
    if not token.exists():
        write_private(token, secrets.token_urlsafe(32).encode())
    _write_kubeconfig(config.paths.kubeconfig, folder, f"https://127.0.0.1:{loopback_port}", config)
    node_server = (
        f"https://{config.node_ip}:{config.api_port}" if config.node_ip else f"https://127.0.0.1:{loopback_port}"
    )
    _write_kubeconfig(config.paths.node_kubeconfig, folder, node_server, config)


def write_private(path: Path, content: bytes) -> None:
    """Write a 0600 file so that a crash leaves the old content or the new, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _ensure_ca(folder: Path) -> None:
    if (folder / "ca.crt").exists() and (folder / "ca.key").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "podwire-ca")])
    builder = _builder(name, name, key.public_key(), days=CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    write_private(folder / "ca.key", _pem(key))
    write_private(folder / "ca.crt", builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _ensure_leaf(folder: Path, file: str, common_name: str, *, names: Sequence[str], addresses: Sequence[str]) -> None:
    wanted: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    wanted += [x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(addresses)]
    path = folder / f"{file}.crt"
    if path.exists() and (folder / f"{file}.key").exists() and _still_good(path, wanted):
        return
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(subject, ca.subject, key.public_key(), days=LEAF_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(ca=False), critical=True)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    if wanted:
        builder = builder.add_extension(x509.SubjectAlternativeName(wanted), critical=False)
    write_private(folder / f"{file}.key", _pem(key))
    write_private(path, builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _still_good(path: Path, wanted: Sequence[x509.GeneralName]) -> bool:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=RENEW_DAYS):
        return False
    try:
        have = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return not wanted
    return set(wanted) <= set(have)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # for guests whose clock is a little behind
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, none)


def _write_kubeconfig(path: Path, folder: Path, server: str, config: Config) -> None:
    """A self-contained kubeconfig (certificates inline), so that it can be copied to another machine."""
    ca = base64.b64encode((folder / "ca.crt").read_bytes()).decode()
    name = f"podwire-{config.node_name}"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": ca}}],
        "users": [{"name": name, "user": {"token": (folder / "token").read_text()}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
        "current-context": name,
    }
    write_private(path, yaml.safe_dump(document, sort_keys=False).encode())
