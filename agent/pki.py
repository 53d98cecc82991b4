"""Keys, certificates and kubeconfigs of one node: made once, kept in ``<state-dir>/pki``, renewed before they end.

One CA signs three certificates: the API server's, the kubelet's (for ``exec`` and logs) and the API server's client
certificate towards the kubelet. People and components show the API server a bearer token. All private files are 0600
and written by rename, so that a crash leaves the old file or the new one. What is found is checked: a file that cannot
be read, a key without its certificate, a certificate of another CA are made again.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.config import Config

log = logging.getLogger(__name__)

CA_DAYS, LEAF_DAYS, RENEW_DAYS = 3650, 365, 30


def ensure_pki(config: Config, *, loopback_port: int) -> None:
    """Make what is missing, renew what ends within ``RENEW_DAYS`` or no longer names the node; write the kubeconfigs.

    ``loopback_port``: the API server's port on the caller's loopback, for the kubeconfig that people use.
    """
    folder = config.paths.pki
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca = _ensure_ca(folder)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names += [f"kubernetes.default.svc.{config.cluster_domain}", config.node_name]
    addresses = ["127.0.0.1", config.kubernetes_ip, config.gateway, *([config.node_ip] if config.node_ip else [])]
    _ensure_leaf(folder, ca, "apiserver", "kube-apiserver", names=names, addresses=addresses)
    _ensure_leaf(
        folder, ca, "kubelet", f"system:node:{config.node_name}", names=[config.node_name], addresses=addresses
    )
    _ensure_leaf(folder, ca, "kubelet-client", "kube-apiserver-kubelet-client", names=[], addresses=[])
    _ensure_token(folder / "token")
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
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the new name too: a kubeconfig that somebody has copied must go on being true
    finally:
        os.close(folder)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def _ensure_token(path: Path) -> None:
    token = path.read_bytes() if path.exists() else b""
    if not re.fullmatch(rb"[A-Za-z0-9_-]{16,}", token):
        write_private(path, secrets.token_urlsafe(32).encode())


def _ensure_ca(folder: Path) -> _Pair:
    found = _read(folder, "ca")
    if found is not None and not _ends_soon(found.certificate):
        return found
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "podwire-ca")])
    builder = _builder(name, name, key.public_key(), days=CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return _write(folder, "ca", _Pair(builder.sign(key, hashes.SHA256()), key))


def _ensure_leaf(
    folder: Path, ca: _Pair, file: str, common_name: str, *, names: Sequence[str], addresses: Sequence[str]
) -> None:
    wanted: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    wanted += [x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(addresses)]
    found = _read(folder, file)
    if found is not None and _still_good(found.certificate, ca.certificate, wanted):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(subject, ca.certificate.subject, key.public_key(), days=LEAF_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(ca=False), critical=True)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    if wanted:
        builder = builder.add_extension(x509.SubjectAlternativeName(wanted), critical=False)
    _write(folder, file, _Pair(builder.sign(ca.key, hashes.SHA256()), key))


def _read(folder: Path, file: str) -> _Pair | None:
    """A certificate and the key that belongs to it; None if they are not both there, or not both sound."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / f"{file}.crt").read_bytes())
        key = serialization.load_pem_private_key((folder / f"{file}.key").read_bytes(), password=None)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:  # not PEM; a key with a password
        log.warning("%s: %s.crt and %s.key are made again: %s", folder, file, file, error)
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        log.warning("%s: %s.crt and %s.key are made again: they do not belong together", folder, file, file)
        return None
    return _Pair(certificate, key)


def _write(folder: Path, file: str, pair: _Pair) -> _Pair:
    write_private(folder / f"{file}.key", _pem(pair.key))
    write_private(folder / f"{file}.crt", pair.certificate.public_bytes(serialization.Encoding.PEM))
    return pair


def _still_good(certificate: x509.Certificate, ca: x509.Certificate, wanted: Sequence[x509.GeneralName]) -> bool:
    if _ends_soon(certificate):
        return False
    try:
        certificate.verify_directly_issued_by(ca)
        have = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except InvalidSignature:
        return False
    except x509.ExtensionNotFound:
        return not wanted
    return set(wanted) <= set(have)


def _ends_soon(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=RENEW_DAYS)


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
