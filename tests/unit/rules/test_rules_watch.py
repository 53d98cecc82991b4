"""What the kernel announces of nf_tables, as bytes; and the lock of legacy iptables being let go."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.iptables.engines import EngineError, Seen, watch
from rules.iptables.engines.watch import LockWatch, parse_announcements

# Captured on Linux 6.18 with iptables-nft 1.8.9. Each line is one message; the last closes the transaction.
CREATED = """
38000000000a000402000000e766000002000002080001006e61740008000300000000010c000400000000000000000108000200000000004000
0000030a000203000000e766000002000002080001006e6174000f0003004b5542452d5356432d4100000c000200000000000000000108000600
0000000198000000060a000c05000000e766000002000002080001006e6174000f0002004b5542452d5356432d4100000c000300000000000000
0002600004002c0001000c000100636f756e746572001c0002000c00010000000000000000000c0002000000000000000000300001000e000100
696d6d6564696174650000001c0002000800010000000000100002000c00020008000100fffffffb
380000000f0a000002000000e766000000000002080001000000000208000200000066e71400030069707461626c65732d6e66742d726500
"""
TWO_TABLES = """
98000000080a000002000000e966000002000003080001006e6174000f0002004b5542452d5356432d4100000c00030000000000000000026000
04002c0001000c000100636f756e746572001c0002000c00010000000000000000000c0002000000000000000000300001000e000100696d6d65
64696174650000001c0002000800010000000000100002000c00020008000100fffffffb98000000060a000c03000000e9660000020000030800
01006e6174000f0002004b5542452d5356432d4100000c0003000000000000000003600004002c0001000c000100636f756e746572001c000200
0c00010000000000000000000c0002000000000000000000300001000e000100696d6d6564696174650000001c00020008000100000000001000
02000c000200080001000000000140000000030a000204000000e966000002000003080001006e6174000f0003004b5542452d5356432d420000
0c00020000000000000000040800060000000000
380000000f0a000002000000e966000000000003080001000000000308000200000066e91400030069707461626c65732d6e66742d726500
3c000000000a000402000000e9660000020000040b00010066696c746572000008000300000000010c0004000000000000000002080002000000
000048000000030a000203000000e9660000020000040b00010066696c7465720000110003004b5542452d464f5257415244000000000c000200
00000000000000010800060000000000
380000000f0a000002000000e966000000000004080001000000000408000200000066e91400030069707461626c65732d6e66742d726500
"""
CHAIN_GONE = """
38000000050a000002000000eb66000002000005080001006e6174000f0003004b5542452d5356432d4200000c0002000000000000000004
380000000f0a000002000000eb66000000000005080001000000000508000200000066eb1100030069707461626c65732d6e667400000000
"""
OF_IPV6 = """
38000000000a000402000000ed6600000a000006080001006e61740008000300000000010c000400000000000000000308000200000000004000
0000030a000203000000ed6600000a000006080001006e6174000f0003004b5542452d5356432d3600000c000200000000000000000108000600
00000000
380000000f0a000002000000ed66000000000006080001000000000608000200000066ed120003006970367461626c65732d6e6674000000
"""
TABLE_GONE = """
98000000080a000001000000ee66000002000007080001006e6174000f0002004b5542452d5356432d4100000c00030000000000000000036000
04002c0001000c000100636f756e746572001c0002000c00010000000000000000000c0002000000000000000000300001000e000100696d6d65
6469617465 0000001c0002000800010000000000100002000c000200080001000000000138000000050a000001000000ee6600000200000708
0001006e6174000f0003004b5542452d5356432d4100000c000200000000000000000130000000020a000001000000ee66000002000007080001
006e61740008000300000000000c0004000000000000000001
2c0000000f0a000001000000ee66000000000007080001000000000708000200000066ee080003006e667400
"""
CAPTURED = [bytes.fromhex(text) for text in (CREATED, TWO_TABLES, CHAIN_GONE, OF_IPV6, TABLE_GONE)]
CLOSE = (True, "", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CREATED, [(False, "nat", "KUBE-SVC-A")] * 2 + [CLOSE]),
        (
            TWO_TABLES,
            [(False, "nat", "KUBE-SVC-A")] * 2
            + [(False, "nat", "KUBE-SVC-B"), CLOSE, (False, "filter", "KUBE-FORWARD"), CLOSE],
        ),
        (CHAIN_GONE, [(False, "nat", "KUBE-SVC-B"), CLOSE]),
        (OF_IPV6, [CLOSE]),
        (TABLE_GONE, [(False, "nat", "KUBE-SVC-A")] * 2 + [(False, "nat", ""), CLOSE]),
    ],
)
def test_what_the_kernel_announces(text: str, expected: list[tuple[bool, str, str]]) -> None:
    assert list(parse_announcements(bytes.fromhex(text), socket.AF_INET)) == expected


def test_of_the_other_family() -> None:
    assert list(parse_announcements(bytes.fromhex(OF_IPV6), socket.AF_INET6)) == [(False, "nat", "KUBE-SVC-6"), CLOSE]
    assert list(parse_announcements(bytes.fromhex(CREATED), socket.AF_INET6)) == [CLOSE]


@given(st.sampled_from(CAPTURED), st.data())
def test_broken_bytes_are_no_accident(whole: bytes, data: st.DataObject) -> None:
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for place in data.draw(st.lists(st.integers(0, max(len(broken) - 1, 0)), max_size=8)) if broken else ():
        broken[place] = data.draw(st.integers(0, 255))
    assert len(list(parse_announcements(bytes(broken), socket.AF_INET))) <= len(whole) // 20


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    list(parse_announcements(data, socket.AF_INET))


def message(kind: int, payload: bytes, *, length: int | None = None) -> bytes:
    """One message of nf_tables about IPv4."""
    size = 20 + len(payload) if length is None else length
    return struct.pack("=IHHII", size, 10 << 8 | kind, 0, 0, 0) + bytes([socket.AF_INET, 0, 0, 0]) + payload


def attribute(kind: int, text: bytes, *, length: int | None = None) -> bytes:
    size = 4 + len(text) if length is None else length
    return struct.pack("=HH", size, kind) + text + bytes(-len(text) % 4)


NEW_RULE = 6


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (message(NEW_RULE, attribute(1, b"nat\0") + attribute(2, b"X\0")), [(False, "nat", "X")]),
        (message(NEW_RULE, attribute(2, b"X\0") + attribute(1, b"nat\0")), [(False, "nat", "X")]),
        (message(NEW_RULE, attribute(9, b"x") + attribute(1, b"nat\0")), [(False, "nat", "")]),
        (message(NEW_RULE, attribute(1, b"\xff\0")), [(False, "\ufffd", "")]),
        (message(NEW_RULE, attribute(1, b"nat\0", length=2)), [(False, "", "")]),
        (message(NEW_RULE, b"", length=400), [(False, "", "")]),  # says it is longer than what came
        (message(NEW_RULE, attribute(1, b"nat\0"), length=400), [(False, "nat", "")]),
        (message(NEW_RULE, b"", length=7) + message(NEW_RULE, b""), []),
        (message(99, attribute(1, b"nat\0")), []),
    ],
)
def test_odd_messages(data: bytes, expected: list[tuple[bool, str, str]]) -> None:
    assert list(parse_announcements(data, socket.AF_INET)) == expected


# The lock.


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    return path


@pytest.fixture
def watched(lock: Path) -> Iterator[LockWatch]:
    made = LockWatch()
    yield made
    made.close()


def take_and_let_go(path: Path, how: int = os.O_RDONLY) -> None:
    descriptor = os.open(path, os.O_CREAT | how, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.close(descriptor)


@pytest.mark.parametrize("how", [os.O_RDONLY, os.O_RDWR])
def test_each_holder_of_the_lock_is_counted(lock: Path, watched: LockWatch, how: int) -> None:
    assert watched.fileno() > 0
    assert watched.drain() == Seen()
    take_and_let_go(lock, how)
    assert watched.drain() == Seen(1, None)  # which chains it was about cannot be told
    for _ in range(2000):
        take_and_let_go(lock, how)
    assert watched.drain() == Seen(2000, None)
    assert watched.drain() == Seen()


def test_a_lock_that_is_held_is_no_change_yet(lock: Path, watched: LockWatch) -> None:
    held = os.open(lock, os.O_RDONLY)
    assert watched.drain() == Seen()
    os.close(held)
    assert watched.drain() == Seen(1, None)


def test_more_than_the_kernel_keeps_is_something_all_the_same(lock: Path, watched: LockWatch) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for _ in range(min(most, 20000)):
        take_and_let_go(lock)
    assert watched.drain().commits > 0


def test_a_lock_file_that_somebody_removed(lock: Path, watched: LockWatch) -> None:
    lock.unlink()
    assert watched.drain() == Seen(1, None)  # nobody knows what happened meanwhile
    take_and_let_go(lock)
    assert watched.drain() == Seen(1, None)


def test_what_cannot_be_watched(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_IN_OPEN", 0)
    monkeypatch.setattr(watch, "_IN_CLOSE", 0)
    with pytest.raises(EngineError, match=f"cannot watch {lock}"):
        LockWatch()


def test_a_lock_file_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "nowhere" / "lock"))
    with pytest.raises(EngineError, match=r"cannot watch .*/nowhere/lock: No such file or directory"):
        LockWatch()
