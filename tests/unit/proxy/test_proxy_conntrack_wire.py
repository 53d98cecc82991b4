"""Conntrack's netlink messages, as a kernel (6.18, x86-64) sent them, and as they must never be read."""

from __future__ import annotations

import contextlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.proxy.conntrack_wire import (
    DELETE,
    DST_NAT,
    DYING,
    GET,
    NEW,
    PROTOCOLS,
    Counters,
    Direction,
    Entry,
    WireError,
    encode_delete,
    encode_dump,
    encode_entry,
    parse_entry,
    parse_error,
    split_messages,
    text_of,
)
from rules.snapshot import Family

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="captured on a little-endian machine")

ENDED_UDP6 = bytes.fromhex(  # fd00::8 asked fd00::9, port 53, which is DNAT to fd00::8, port 5353
    "fc0000000201000000000000c520e3cf0a0000004c0001802c00018014000300fd00000000000000000000000000000814000400fd00000000"
    "00000000000000000000091c0002800500010011000000060002008e42000006000300003500004c0002802c00018014000300fd0000000000"
    "0000000000000000000814000400fd0000000000000000000000000000081c00028005000100110000000600020014e90000060003008e4200"
    "0008000c008ff06c1e08000300000003aa080007000000001d1c0009800c00010000000000000000010c00020000000000000000941c000a80"
    "0c00010000000000000000010c0002000000000000000062"
)
ENDED_TCP4 = bytes.fromhex(  # in TIME_WAIT
    "dc0000000201000000000000c520e3cf020000003400018014000180080001000a090908080002000a0909091c000280050001000600000006"
    "0002009b58000006000300005000003400028014000180080001007f000001080002000a0909081c00028005000100060000000600020014e9"
    "0000060003009b58000008000c00c15dde9a08000300000003ae08000700000000771c0009800c00010000000000000000050c000200000000"
    "000000010c1c000a800c00010000000000000000030c000200000000000000048c100004800c0001800500010007000000"
)
LISTED = bytes.fromhex(  # two entries of a list: a UDP one that nobody has answered, a TCP one that is established
    "dc0000000001020000000000c520e3cf020000003400018014000180080001007f000001080002007f0000011c000280050001001100000006"
    "000200b1ef00000600030014e900003400028014000180080001007f000001080002007f0000011c00028005000100110000000600020014e9"
    "000006000300b1ef00000800030000000188080008000000000008000c00c8ca302c08000b0000000001080007000000001d1c0009800c0001"
    "0000000000000000010c000200000000000000001d1c000a800c00010000000000000000000c00020000000000000000003c01000000010200"
    "00000000c520e3cf0a0000004c0001802c00018014000300fd00000000000000000000000000000814000400fd000000000000000000000000"
    "0000091c000280050001000600000006000200982c000006000300005000004c0002802c00018014000300fd00000000000000000000000000"
    "000814000400fd0000000000000000000000000000081c00028005000100060000000600020014e9000006000300982c000008000300000001"
    "ae080008000000000008000c004fee711608000b0000000001080007000006977f300004802c0001800500010003000000050002000a000000"
    "050003000a000000060004002300000006000500230000001c0009800c00010000000000000000030c00020000000000000000e01c000a800c"
    "00010000000000000000020c000200000000000000" + "0480"
)
DONE = bytes.fromhex("140000000300020000000000c520e3cf00000000")


def parse_all(data: bytes) -> list[tuple[int, Entry]]:
    return [(kind, parse_entry(data, start, end)) for kind, _, start, end in split_messages(data)]


def test_the_end_of_a_udp_flow() -> None:
    [(kind, entry)] = parse_all(ENDED_UDP6)
    assert (kind, entry.protocol_name) == (DELETE, "UDP")
    assert (entry.destination, entry.endpoint) == (("fd00::9", 53), ("fd00::8", 5353))
    assert (entry.sent, entry.received) == (Counters(1, 148), Counters(1, 98))
    assert entry.status & DST_NAT
    assert entry.status & DYING
    assert (entry.original.source_port, entry.reply.destination_port) == (36418, 36418)


def test_the_end_of_a_tcp_connection() -> None:
    [(_, entry)] = parse_all(ENDED_TCP4)
    assert (entry.family, entry.protocol_name, entry.tcp_state) == (Family.IPV4, "TCP", 7)
    assert (entry.destination, entry.endpoint) == (("10.9.9.9", 80), ("127.0.0.1", 5353))
    assert (entry.sent, entry.received) == (Counters(5, 268), Counters(3, 1164))
    assert not entry.is_open
    assert str(entry) == "TCP 10.9.9.8:39768 -> 10.9.9.9:80 (127.0.0.1:5353)"


def test_a_list() -> None:
    (kind, udp), (_, tcp) = parse_all(LISTED)
    assert kind == NEW
    assert (udp.sent, udp.received, udp.status & DST_NAT) == (Counters(1, 29), Counters(), 0)
    assert (tcp.tcp_state, tcp.is_open, tcp.sent) == (3, True, Counters(3, 224))
    assert tcp.id == 0x4FEE7116


def test_the_end_of_a_list() -> None:
    [(kind, sequence, start, end)] = split_messages(DONE)
    assert (kind, sequence, parse_error(DONE, start, end)) == (3, 0, 0)


def test_an_error_has_its_number() -> None:
    refusal = bytes.fromhex("24000000020000000500000000000000feffffff20000000020105000000000000000000")
    [(_, sequence, start, end)] = split_messages(refusal)
    assert (sequence, parse_error(refusal, start, end)) == (5, 2)


def test_asking_for_a_list() -> None:
    assert encode_dump(Family.IPV6, sequence=7).hex() == "140000000101010307000000000000000a000000"
    [(kind, _, start, end)] = split_messages(encode_dump(None, status=DST_NAT))
    assert (kind, end - start) == (GET, 4 + 8 + 8)


def test_a_deletion_names_exactly_one_entry() -> None:
    """Its TUPLE_ORIG is byte for byte the kernel's own, and the id goes along."""
    [(_, entry)] = parse_all(ENDED_TCP4)
    message = encode_delete(entry, sequence=9)
    assert ENDED_TCP4[20 : 20 + 0x34] in message
    assert bytes.fromhex("08000c00c15dde9a") in message
    assert encode_delete(entry._replace(zone=3)) != encode_delete(entry)


packed = {Family.IPV4: st.binary(min_size=4, max_size=4), Family.IPV6: st.binary(min_size=16, max_size=16)}
counters = st.builds(Counters, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
words = st.integers(0, 2**32 - 1)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    family, port = draw(st.sampled_from(Family)), st.integers(0, 65535)
    there, back = (Direction(draw(packed[family]), draw(packed[family]), draw(port), draw(port)) for _ in range(2))
    protocol, zone, state = (
        draw(st.sampled_from([*PROTOCOLS.values()])),
        draw(st.integers(0, 9)),
        draw(st.integers(0, 9)),
    )
    return Entry(family, protocol, there, back, draw(words), draw(words), zone, state, draw(counters), draw(counters))


@given(st.lists(entries(), max_size=4))
def test_what_is_written_is_read(made: list[Entry]) -> None:
    data = b"".join(encode_entry(entry, kind=DELETE) for entry in made)
    assert parse_all(data) == [(DELETE, entry) for entry in made]


@given(entries(), st.data())
def test_unusual_forms_mean_the_same(entry: Entry, data: st.DataObject) -> None:
    """Attributes may come in another order, and with others that we do not know."""
    message = encode_entry(entry)
    parts, at = [], 20
    while at < len(message):
        length = int.from_bytes(message[at : at + 2], "little")
        parts.append(message[at : at + (length + 3 & ~3)])
        at += length + 3 & ~3
    unknown = bytes.fromhex("0500630001000000")
    shuffled = data.draw(st.permutations([*parts, unknown]))
    wider = [_with_unknown(part) if data.draw(st.booleans()) else part for part in shuffled]
    assert parse_entry(message[16:20] + b"".join(wider)) == entry


def _with_unknown(part: bytes) -> bytes:
    """One more attribute at the end of those that hold attributes."""
    length, kind = int.from_bytes(part[:2], "little"), int.from_bytes(part[2:4], "little")
    if not kind & 0x8000:
        return part
    return (length + 8).to_bytes(2, "little") + part[2:] + bytes.fromhex("0500620001000000")


@given(
    st.binary(max_size=200)
    | st.builds(lambda e, at, b: _spoilt(encode_entry(e), at, b), entries(), st.integers(0, 400), st.binary(max_size=4))
)
def test_nonsense_is_refused_in_words(data: bytes) -> None:
    with contextlib.suppress(WireError):
        parse_all(data)


def test_a_message_cut_short_is_refused() -> None:
    for cut in range(1, len(ENDED_TCP4)):
        with pytest.raises(WireError):
            parse_all(ENDED_TCP4[:cut])


def test_other_families_are_refused() -> None:
    with pytest.raises(WireError, match="IPv4 or IPv6"):
        parse_entry(bytes.fromhex("07000000"))


def test_addresses_as_the_policy_writes_them() -> None:
    assert text_of(bytes(15) + b"\x01") == "::1"
    assert text_of(bytes((10, 0, 0, 1))) == "10.0.0.1"


def _spoilt(message: bytes, at: int, change: bytes) -> bytes:
    return message[:at] + change + message[at + len(change) :]
