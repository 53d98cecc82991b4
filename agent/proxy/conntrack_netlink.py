"""Asking the kernel about connections, over netlink: the only module that opens such sockets.

- ``Conntrack``: list entries, delete one.
- ``EndedConnections``: entries as they end, with what they carried. The kernel sends a message for each entry that it
  destroys; a filter in the kernel (classic BPF) lets only those through that were sent on to somewhere else (DNAT), so
  that a node's other traffic costs nothing here. Nobody is made to wait for us: what does not fit into the receive
  buffer is lost, and the kernel counts it. (With NETLINK_BROADCAST_ERROR it would keep such entries until they are
  read; but they would go on counting against ``nf_conntrack_max``, and a slow reader would cost new connections.)
- ``enable_accounting``: have the kernel count packets and bytes of connections.

A socket belongs to the network namespace of the thread that opens it, and stays there whoever uses it. None of this
waits for the network, only for the kernel. One thread at a time may use a socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import socket
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.proxy import conntrack_wire as wire
from agent.proxy.conntrack_wire import Entry
from rules.snapshot import Family

NETLINK_NETFILTER, SOL_NETLINK, ADD_MEMBERSHIP = 12, 270, 1
GROUP_DESTROY = 3  # NFNLGRP_CONNTRACK_DESTROY
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_MEMINFO = 26, 33, 55  # asm-generic/socket.h
MEMINFO = struct.Struct("=9I")  # linux/sock_diag.h; the last is how many messages found the buffer full
DATAGRAM = 1 << 16  # bytes; the kernel sends lists in pieces of at most 32 KiB
EVENT = 1 << 12  # bytes; an entry that ended has a datagram of its own, of some 200
RECEIVE_BUFFER = 16 << 20  # bytes: a burst of some ten thousand connections that end between two looks
TIMEOUT = 10.0  # seconds for the kernel to answer
SYSCTLS = Path("/proc/sys/net/netfilter")  # of the namespace of the thread that looks


class ConntrackError(Exception):
    """The kernel would not tell of connections, or not end one; the message says what, and what to do."""


class Conntrack:
    """Lists and deletes entries of the namespace in which it was made. Every method raises ConntrackError."""

    def __init__(self) -> None:
        self._socket = _open("follow connections")
        self._sequence = 0

    def dump(self, family: Family | None = None, protocols: Collection[str] = (), *, status: int = 0) -> list[Entry]:
        """The entries of a family (None: both) and of these protocols ("TCP", "UDP", "SCTP"; none: all).

        ``status``: only those with these bits, such as ``wire.DST_NAT``.
        """
        self._sequence += 1
        numbers = {wire.PROTOCOLS[name] for name in protocols}
        request = wire.encode_dump(family, status=status, sequence=self._sequence)
        with _translated("list connections"):
            return [
                entry
                for entry in self._answers(request)
                if entry.status & status == status and (not numbers or entry.protocol in numbers)
            ]

    def delete(self, entry: Entry) -> bool:
        """Delete exactly this entry. False: it had ended by itself."""
        self._sequence += 1
        try:
            with _translated(f"end connection {entry}"):
                list(self._answers(wire.encode_delete(entry, sequence=self._sequence)))
        except ConntrackError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOENT:
                return False
            raise
        return True

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self, request: bytes) -> Iterator[Entry]:
        """Entries until the kernel says that this was all. Raises OSError, WireError."""
        self._socket.send(request)
        while True:
            data = self._socket.recv(DATAGRAM)
            for kind, sequence, start, end in wire.split_messages(data):
                if sequence != self._sequence:
                    continue  # left over from a request that failed
                if kind in (wire.DONE, wire.ERROR):
                    if number := wire.parse_error(data, start, end):
                        raise OSError(number, os.strerror(number))
                    return
                if kind == wire.NEW:
                    yield wire.parse_entry(data, start, end)


class EndedConnections:
    """Hears of each connection that ends in the namespace in which this was made. Raises ConntrackError."""

    def __init__(self, *, status: int = wire.DST_NAT, receive_buffer: int = RECEIVE_BUFFER) -> None:
        """``status``: only entries with these bits. ``receive_buffer``: bytes."""
        self._status = status
        self._socket = _open("hear of connections that end")
        try:
            with _translated("hear of connections that end"):
                self._socket.setblocking(False)
                _grow(self._socket, receive_buffer)
                _attach_filter(self._socket, status)
                self._socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, GROUP_DESTROY)
        except ConntrackError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when something has ended."""
        return self._socket.fileno()

    def drain(self, limit: int = 1 << 20) -> Iterator[Entry]:
        """Those that ended since the last time, at most ``limit``, one by one as they are read; never waits."""
        with _translated("hear of connections that end"):
            for data in itertools.islice(self._datagrams(), limit):
                for kind, _, start, end in wire.split_messages(data):
                    if kind == wire.DELETE:
                        entry = wire.parse_entry(data, start, end)
                        if entry.status & self._status == self._status:
                            yield entry

    def _datagrams(self) -> Iterator[bytes]:
        while True:
            try:
                data = self._socket.recv(EVENT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue  # something was lost since the last time; ``lost`` knows how much
            yield data

    @property
    def lost(self) -> int:
        """How many have ended without our hearing of them, because too many did at once."""
        found: int = MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size))[-1]
        return found

    def close(self) -> None:
        self._socket.close()


def enable_accounting(sysctls: Path = SYSCTLS) -> tuple[str, ...]:
    """Count packets and bytes of connections that begin from now on, in the calling thread's namespace, and tell of
    their end whether or not somebody listens when they begin. Returns what could not be had, and what to do.

    To be called when a socket of this module is open: opening one loads the kernel's modules.
    """
    wanted = {"nf_conntrack_acct": "bytes per Service", "nf_conntrack_events": "connections that have ended"}
    found = (_ensure_on(sysctls / name, what) for name, what in wanted.items())
    return tuple(problem for problem in found if problem)


def _ensure_on(sysctl: Path, what: str) -> str:
    try:
        if sysctl.read_text().strip() != "1":
            sysctl.write_text("1")
    except FileNotFoundError:
        return f"cannot count {what}: this kernel has no {sysctl}"
    except OSError as error:
        return f"cannot count {what}: {sysctl}: {error.strerror}; set net.netfilter.{sysctl.name}=1 where it is allowed"
    return ""


def _open(what: str) -> socket.socket:
    with _translated(what):
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        made.settimeout(TIMEOUT)
        made.bind((0, 0))
    return made


def _grow(sock: socket.socket, size: int) -> None:
    """A receive buffer of ``size`` bytes, or as much as the host allows where we may not exceed that."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _attach_filter(sock: socket.socket, status: int) -> None:
    """Let messages pass that have all of these bits of STATUS, or no STATUS: linux/filter.h, and
    ``bpf_skb_get_nlattr`` in net/core/filter.c."""
    program = (
        (0x00, 0, 0, wire.HEADER.size + wire.NFGEN.size),  # A = where attributes begin
        (0x01, 0, 0, wire.STATUS),  # X = the attribute
        (0x20, 0, 0, 0xFFFFF00C),  # A = where it is (SKF_AD_OFF + SKF_AD_NLATTR); 0: nowhere
        (0x15, 4, 0, 0),  # nowhere: accept
        (0x07, 0, 0, 0),  # X = A
        (0x40, 0, 0, wire.ATTRIBUTE.size),  # A = its value
        (0x54, 0, 0, status),  # A &= status
        (0x15, 0, 1, status),  # all of them?
        (0x06, 0, 0, 0xFFFFFFFF),  # accept
        (0x06, 0, 0, 0),  # drop
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, wire.WireError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = "; this needs CAP_NET_ADMIN" if isinstance(error, PermissionError) else ""
        raise ConntrackError(f"cannot {what}: {reason}{hint}") from error
