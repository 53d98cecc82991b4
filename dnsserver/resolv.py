"""The nameservers of a resolv.conf, as upstreams: without ourselves, or a query would go round for ever."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Collection
from pathlib import Path

from dnsserver.upstream import Server

log = logging.getLogger(__name__)

# systemd-resolved puts its stub into /etc/resolv.conf, on a loopback address that is not reachable from another network
# namespace; it keeps the servers it asks itself here (resolved.conf(5)).
SYSTEMD = Path("/run/systemd/resolve/resolv.conf")


def parse_resolv_conf(text: str) -> tuple[str, ...]:
    """The ``nameserver`` lines (resolv.conf(5)): addresses in order, without zone identifiers; others are left out."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            found[str(ipaddress.ip_address(words[1].partition("%")[0]))] = None
        except ValueError:
            log.warning("nameserver %s of resolv.conf is not an address: left out", words[1])
    return tuple(found)


def read_upstreams(path: Path, *, own: Collection[str], systemd: Path = SYSTEMD) -> tuple[Server, ...]:
    """The servers ``path`` names, without ``own``; systemd-resolved's own list if ``path`` holds only its stub."""
    hosts = _read(path)
    if hosts and all(ipaddress.ip_address(host).is_loopback for host in hosts) and systemd.exists():
        hosts = _read(systemd)
    return tuple(Server(host) for host in hosts if host not in own)


def _read(path: Path) -> tuple[str, ...]:
    try:
        return parse_resolv_conf(path.read_text(errors="replace"))
    except OSError as error:
        log.warning("cannot read %s: %s: no upstream is taken from it", path, error.strerror)
        return ()
