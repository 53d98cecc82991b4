"""Who holds a port? For the one error everybody meets who starts a DNS server: the address is in use.

/proc/net lists the sockets of this network namespace by inode (proc(5)), /proc/PID/fd says which process has which.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from dnsserver.names import parse_address

PROC = Path("/proc")
LISTENING = {"tcp": "0A", "udp": "07"}  # TCP_LISTEN; unconnected UDP (include/net/tcp_states.h)


def find_holder(address: str, port: int, proto: str, *, proc: Path = PROC) -> str | None:
    """``"dnsmasq (pid 812)"``: who has ``proto`` (tcp, udp) ``address:port``; None if that cannot be seen."""
    inodes = set(_inodes(address, port, proto, proc))
    for process in proc.iterdir() if inodes else ():
        if process.name.isdigit() and _has_socket(process, inodes):
            return f"{_name(process)} (pid {process.name})"
    return None


def _inodes(address: str, port: int, proto: str, proc: Path) -> Iterator[str]:
    """Sockets that take packets for ``address:port``: bound to it or to any address."""
    wanted = {f"{spelled}:{port:04X}" for spelled in (_spell(address), "0" * 8, "0" * 32)}
    own = proc / "thread-self/net"  # /proc/net is that of the process's first thread, which may be elsewhere
    net = own if own.exists() else proc / "net"
    for table in (net / proto, net / f"{proto}6"):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[1] in wanted and fields[3] == LISTENING[proto]:
                yield fields[9]


def _spell(address: str) -> str:
    """As the kernel writes it: 32-bit words in the machine's byte order, in hexadecimal."""
    packed = parse_address(address).packed
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:  # gone meanwhile
        return "a process that has ended"


def _has_socket(process: Path, inodes: set[str]) -> bool:
    try:
        fds = list((process / "fd").iterdir())
    except OSError:  # gone meanwhile, or not ours to look at
        return False
    return any(_target(fd).removeprefix("socket:[").removesuffix("]") in inodes for fd in fds)


def _target(fd: Path) -> str:
    try:
        return os.readlink(fd)
    except OSError:  # closed meanwhile
        return ""
