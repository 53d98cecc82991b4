"""Being told when somebody writes to the tables, instead of looking all the time.

**nft**: the kernel announces every transaction to whoever listens (nfnetlink group NFNLGRP_NFTABLES: net/netfilter/
nf_tables_api.c, nf_tables_commit): a message per table, chain and rule that came or went, with the chain's name, and at
the end one that closes the transaction (NFT_MSG_NEWGEN). So we know which chains to look at.

**legacy**: the kernel tells nobody. But every program that follows the rules takes a lock before it writes, a file
(``/run/xtables.lock``), and inotify tells when it is let go. The file is the same for all network namespaces: it may
have been about another one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator

from rules.iptables.engines import EngineError, Seen
from rules.snapshot import Family

LOCK_FILE = "/run/xtables.lock"  # XTABLES_LOCKFILE in iptables' source

_NETLINK_NETFILTER, _NFNLGRP_NFTABLES, _NETLINK_ADD_MEMBERSHIP, _SOL_NETLINK = 12, 7, 1, 270
_SO_RCVBUFFORCE = 33
_BUFFER = 8 << 20  # bytes of announcements that may wait
_SUBSYSTEM, _NEWGEN = 10, 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN
_CHAINS = {3: 3, 5: 3}  # NEWCHAIN, DELCHAIN: their attribute NFTA_CHAIN_NAME
_RULES = {6: 2, 8: 2}  # NEWRULE, DELRULE: NFTA_RULE_CHAIN
_TABLES = {2: 0}  # DELTABLE: the table itself is gone
_NAMES = {**_CHAINS, **_RULES, **_TABLES}
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_IN_OPEN, _IN_CLOSE = 0x20, 0x08 | 0x10  # the latter: IN_CLOSE_WRITE, IN_CLOSE_NOWRITE
_IN_IGNORED = 0x8000  # the file is gone, and the watch with it
_EVENT = struct.Struct("=iIII")  # struct inotify_event


def lock_file() -> str:
    """Where this machine's iptables has its lock."""
    return os.environ.get("XTABLES_LOCKFILE", LOCK_FILE)


class NftWatch:
    """Announcements of nf_tables about one family, in the namespace of the thread that made this."""

    def __init__(self, family: Family) -> None:
        self._family = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
        self._chains: set[tuple[str, str]] = set()  # of a transaction that has not been closed yet
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._socket.bind((0, 0))  # without an address of its own it would hear nothing
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        except OSError as error:
            raise EngineError(f"cannot listen to changes of nf_tables: {error}") from error
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> Seen:
        commits, seen, lost = 0, set[tuple[str, str]](), False
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise EngineError(f"cannot listen to changes of nf_tables: {error}") from error
                lost = True
                continue
            for closes, table, chain in parse_announcements(data, self._family):
                if not closes:
                    self._chains.add((table, chain))
                elif self._chains:
                    commits, seen = commits + 1, seen | self._chains
                    self._chains = set()
        gone = any(not chain for _, chain in seen)
        return Seen(commits, None if lost or gone else frozenset(seen))

    def close(self) -> None:
        self._socket.close()


class LockWatch:
    """The lock of legacy iptables being let go.

    The kernel tells equal events in a row as one (fs/notify/inotify/inotify_fsnotify.c: inotify_merge), so this asks to
    be told of the file being opened as well: then two holders, one after the other, are two.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._listen()
        except EngineError:
            self.close()
            raise

    def fileno(self) -> int:
        return int(self._descriptor)

    def drain(self) -> Seen:
        commits = 0
        while True:
            try:
                masks = list(_read_events(os.read(self._descriptor, 1 << 16)))
            except BlockingIOError:
                return Seen(commits, None if commits else frozenset())
            commits += sum(mask != _IN_OPEN for mask in masks)
            if _IN_IGNORED in masks:
                self._listen()

    def close(self) -> None:
        os.close(self._descriptor)

    def _listen(self) -> None:
        path = lock_file()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
            if self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN | _IN_CLOSE) < 0:
                raise OSError(code := ctypes.get_errno(), os.strerror(code))
        except OSError as error:
            raise EngineError(f"cannot watch {path}: {error.strerror}") from error


def parse_announcements(data: bytes, family: int) -> Iterator[tuple[bool, str, str]]:
    """(does it close a transaction, table, chain) of each message that says where a change was. A table without a chain
    is a table that is gone. Messages about other families and other things are left out."""
    offset = 0
    while offset + 20 <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < 20:
            return
        subsystem, message = kind >> 8, kind & 0xFF
        if subsystem == _SUBSYSTEM and message == _NEWGEN:
            yield True, "", ""
        elif subsystem == _SUBSYSTEM and message in _NAMES and data[offset + 16] == family:
            names = _read_names(data[offset + 20 : offset + length], _NAMES[message])
            yield False, names.get(1, ""), names.get(_NAMES[message], "")
        offset += length + 3 & ~3


def _read_names(data: bytes, last: int) -> dict[int, str]:
    """The strings among the first attributes, up to the one that is wanted; attribute 1 is always the table's name."""
    found: dict[int, str] = {}
    start = 0
    while start + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4:
            break
        if kind in (1, last):
            found[kind] = data[start + 4 : start + length].rstrip(b"\0").decode(errors="replace")
        if 1 in found and (last in found or not last):
            break
        start += length + 3 & ~3
    return found


def _read_events(data: bytes) -> Iterator[int]:
    """What happened, as masks."""
    offset = 0
    while offset + _EVENT.size <= len(data):
        _, mask, _, length = _EVENT.unpack_from(data, offset)
        yield mask
        offset += _EVENT.size + length
