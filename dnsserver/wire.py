"""Bytes: requests are checked before anything believes them, answers are rendered once and assembled often.

What comes in is read by the few functions here and by nothing else: each octet is looked at a bounded number of
times, and all that can be wrong is a ``Refusal`` or a ``WireError``. (dnslib's parser follows any pointer a packet
holds: 64 KB of them keep it busy for half a minute. It never sees bytes that came from the network.)

What goes out is made in two steps. ``render`` turns an Answer into the bytes behind the question, with dnslib as the
record encoder and the question's labels as the first targets of name compression. Owner names are therefore pointers
to the client's own spelling, and the result depends neither on ID nor on letter case (0x20): it can be kept and used
again. ``assemble`` puts header, the client's question, those bytes and an OPT record together, in a rotated order,
and cuts what does not fit. A cut answer keeps its question (glibc waits for a timeout otherwise) and as many records
as fit (musl before 1.2.4 never asks again over TCP).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import dnslib

from dnsserver.names import MAX_LABEL, MAX_NAME, Name
from dnsserver.records import Record, Soa, Srv, Type
from dnsserver.zone import Answer, Question, Rcode, Reason

HEADER = struct.Struct("!6H")
QUESTION_TAIL = struct.Struct("!HH")
RR_TAIL = struct.Struct("!HHIH")
OPT_TAIL = struct.Struct("!HHBBHH")

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE, OPCODE_SHIFT = 0x7800, 11
DO = 0x8000  # in the flags of OPT
EDE_OPTION = 15  # RFC 8914

PLAIN_UDP = 512  # octets without EDNS (RFC 1035 section 4.2.1)
MOST_UDP = 1232  # fits any IPv6 path unfragmented (DNS flag day 2020)
MOST_TCP = 65535
POINTERS = 0x4000  # offsets from here on cannot be the target of a compression pointer
MOST_JUMPS = 32  # pointers followed in one name of an upstream's response
MOST_RECORDS = 4096  # in an upstream's response


class WireError(ValueError):
    """These bytes are not the message that was expected; the text says why."""


@dataclass(frozen=True, slots=True)
class Edns:
    """What the client's OPT record said. ``size``: the largest UDP response it takes, in octets."""

    size: int
    do: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed request. ``flags`` are the header's, ``raw`` is the question as it was spelled."""

    id: int
    flags: int
    question: Question
    raw: bytes
    edns: Edns | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that gets nothing but a code. ``raw``: the question, if it could be read."""

    id: int
    flags: int
    rcode: int
    raw: bytes = b""
    edns: Edns | None = None


def parse_query(data: bytes) -> Query | Refusal | None:
    """A request's bytes, checked. None: say nothing (too short to be answered, or itself a response)."""
    if len(data) < HEADER.size:
        return None
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(data)
    if flags & QR:
        return None
    if flags & OPCODE:
        return Refusal(ident, flags, Rcode.NOTIMP)
    if questions != 1 or answers or authorities:
        return Refusal(ident, flags, Rcode.FORMERR)
    try:
        name, end = _read_plain_name(data, HEADER.size)
        qtype, qclass = _unpack(QUESTION_TAIL, data, end)
    except WireError:
        return Refusal(ident, flags, Rcode.FORMERR)
    raw = data[HEADER.size : end + QUESTION_TAIL.size]
    try:
        edns, version = _read_additional(data, end + QUESTION_TAIL.size, additionals)
    except WireError:
        return Refusal(ident, flags, Rcode.FORMERR, raw)
    if version:
        return Refusal(ident, flags, Rcode.BADVERS, raw, edns)
    return Query(ident, flags, Question(name, qtype, qclass), raw, edns)


def _unpack(layout: struct.Struct, data: bytes, at: int) -> tuple[Any, ...]:
    if at + layout.size > len(data):
        raise WireError("the message ends in the middle of a record")
    return layout.unpack_from(data, at)


def _read_plain_name(data: bytes, at: int) -> tuple[Name, int]:
    """A name without pointers, lowered, and the offset behind it."""
    start: int = at
    labels: list[bytes] = []
    while True:
        length = data[at] if at < len(data) else MAX_LABEL + 1
        if length == 0:
            return tuple(labels), at + 1
        if length > MAX_LABEL:
            raise WireError("the name has a pointer or no end")
        labels.append(data[at + 1 : at + 1 + length].lower())
        at += 1 + length
        if at - start >= MAX_NAME:
            raise WireError(f"the name is longer than {MAX_NAME} octets")


def _read_additional(data: bytes, at: int, count: int) -> tuple[Edns | None, int]:
    """The OPT record of a request, and its EDNS version. Other records (TSIG) are stepped over; nothing may follow."""
    edns, version = None, 0
    for _ in range(count):
        is_root, at = _skip_name(data, at)
        rtype, size, ttl, length = _unpack(RR_TAIL, data, at)
        at += RR_TAIL.size
        if at + length > len(data):
            raise WireError("a record is longer than the message")
        if rtype == Type.OPT:
            if edns is not None or not is_root:
                raise WireError("more than one OPT record, or one that is not at the root")
            _check_options(data[at : at + length])
            edns, version = Edns(size, bool(ttl & DO)), ttl >> 16 & 0xFF
        at += length
    if at != len(data):
        raise WireError("something follows the last record")
    return edns, version


def _skip_name(data: bytes, at: int) -> tuple[bool, int]:
    """Step over a name, pointers unfollowed: was it the root, and where does it end."""
    start = at
    while at < len(data):
        length = data[at]
        if length >= 0xC0:
            return False, at + 2
        if length > MAX_LABEL:
            break
        at += 1 + length
        if length == 0:
            return at == start + 1, at
    raise WireError("a name has no end")


def _check_options(options: bytes) -> None:
    at = 0
    while at < len(options):
        _, length = _unpack(QUESTION_TAIL, options, at)
        at += QUESTION_TAIL.size + length
    if at != len(options):
        raise WireError("an EDNS option is longer than the OPT record")


# Rendering


class _Offsets(dict[Name, int]):
    """Where names lie in the message. A pointer has 14 bits: what lies further back cannot be pointed to."""

    def __setitem__(self, name: Name, offset: int) -> None:
        if offset < POINTERS:
            super().__setitem__(name, offset)


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer as bytes, to stand behind a question of this length. ``rotating``: records that may take any order."""

    rcode: int
    flags: int
    head: bytes
    head_count: int
    rotating: tuple[bytes, ...]
    authority: bytes
    authority_count: int
    additional: bytes
    additional_count: int
    reason: Reason | None


def render(question: Question, answer: Answer) -> Rendered:
    """``answer`` as bytes. Everything in it is ours or has been read by ``parse_response``: dnslib only encodes."""
    buffer = dnslib.DNSBuffer()
    buffer.names = _Offsets()
    buffer.append(bytes(HEADER.size))
    buffer.encode_name(dnslib.DNSLabel(question.name))
    buffer.append(bytes(QUESTION_TAIL.size))
    chunks = [_render_record(buffer, record) for record in answer.answers]
    fixed = _fixed_records(answer.answers, chunks)
    authority = b"".join(_render_record(buffer, record) for record in answer.authority)
    additional = b"".join(_render_record(buffer, record) for record in answer.additional)
    return Rendered(
        rcode=answer.rcode,
        flags=(AA if answer.authoritative else 0) | (AD if answer.authentic else 0),
        head=b"".join(chunks[:fixed]),
        head_count=fixed,
        rotating=tuple(chunks[fixed:]),
        authority=authority,
        authority_count=len(answer.authority),
        additional=additional,
        additional_count=len(answer.additional),
        reason=answer.reason,
    )


def _fixed_records(answers: tuple[Record, ...], chunks: list[bytes]) -> int:
    """How many leading records must stay where they are: the CNAME chain, or all.

    A record may move if it is found wherever it stands: its owner is a pointer to something before all of them, and its
    data holds no name that another record points to.
    """
    first = next((at for at, record in enumerate(answers) if record.rtype != Type.CNAME), len(answers))
    movable = all(
        record.rtype in (Type.A, Type.AAAA, Type.SRV) and record.name == answers[first].name and chunk[0] >= 0xC0
        for record, chunk in zip(answers[first:], chunks[first:], strict=True)
    )
    return first if movable else len(answers)


def _render_record(buffer: Any, record: Record) -> bytes:
    start = len(buffer)
    label = dnslib.DNSLabel(record.name)
    dnslib.RR(label, record.rtype, record.rclass, record.ttl, rdata=_rdata(record)).pack(buffer)
    return bytes(buffer.data[start:])


_OF_A_NAME = {Type.CNAME: dnslib.CNAME, Type.NS: dnslib.NS, Type.PTR: dnslib.PTR}


def _rdata(record: Record) -> Any:
    match record.data:
        case IPv4Address() as address:
            return dnslib.A(tuple(address.packed))
        case IPv6Address() as address:
            return dnslib.AAAA(tuple(address.packed))
        case Srv(priority, weight, port, target):
            return dnslib.SRV(priority, weight, port, dnslib.DNSLabel(target))
        case Soa() as soa:
            times = (soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum)
            return dnslib.SOA(dnslib.DNSLabel(soa.mname), dnslib.DNSLabel(soa.rname), times)
        case bytes() as data:
            return dnslib.RD(data)
        case name:
            return _OF_A_NAME[Type(record.rtype)](dnslib.DNSLabel(name))


def udp_limit(edns: Edns | None) -> int:
    """The most octets of a UDP response to this client."""
    return PLAIN_UDP if edns is None else min(max(edns.size, PLAIN_UDP), MOST_UDP)


def assemble(query: Query, rendered: Rendered, *, limit: int, turn: int = 0, recursion: bool = True) -> bytes:
    """The response to ``query``, at most ``limit`` octets. ``turn`` rotates the records; ``recursion``: the RA bit."""
    opt = _opt(query.edns, rendered.rcode, rendered.reason)
    records = rendered.rotating
    if len(records) > 1 and turn:
        cut = turn % len(records)
        records = records[cut:] + records[:cut]
    room = limit - HEADER.size - len(query.raw) - len(opt)
    head, body = (rendered.head, rendered.head_count), (rendered.authority, rendered.authority_count)
    extra = (rendered.additional, rendered.additional_count)
    flags = QR | query.flags & (RD | CD) | rendered.flags | (RA if recursion else 0) | rendered.rcode & 0xF
    size = len(rendered.head) + sum(map(len, records)) + len(rendered.authority)
    if size > room:
        flags |= TC
        head, records, body, extra = *_cut(rendered, records, room), (b"", 0), (b"", 0)
    elif size + len(rendered.additional) > room:
        extra = (b"", 0)  # it is a courtesy: leaving it out is no truncation (RFC 2181 section 9)
    header = HEADER.pack(query.id, flags, 1, head[1] + len(records), body[1], extra[1] + bool(opt))
    return b"".join((header, query.raw, head[0], *records, body[0], extra[0], opt))


def _cut(rendered: Rendered, records: tuple[bytes, ...], room: int) -> tuple[tuple[bytes, int], tuple[bytes, ...]]:
    """As many answers as fit into ``room`` octets."""
    room -= len(rendered.head)
    if room < 0:
        return (b"", 0), ()
    count = 0
    while count < len(records) and len(records[count]) <= room:
        room -= len(records[count])
        count += 1
    return (rendered.head, rendered.head_count), records[:count]


def assemble_refusal(refusal: Refusal) -> bytes:
    opt = _opt(refusal.edns, refusal.rcode, None)
    flags = QR | refusal.flags & (OPCODE | RD) | refusal.rcode & 0xF
    return HEADER.pack(refusal.id, flags, bool(refusal.raw), 0, 0, bool(opt)) + refusal.raw + opt


def _opt(edns: Edns | None, rcode: int, reason: Reason | None) -> bytes:
    """The OPT record of a response: there iff the client sent one (RFC 6891 section 7)."""
    if edns is None:
        return b""
    option = b""
    if reason is not None:
        text = reason.text.encode()[:128]
        option = struct.pack("!HHH", EDE_OPTION, 2 + len(text), reason.code) + text
    tail = OPT_TAIL.pack(Type.OPT, MOST_UDP, rcode >> 4, 0, DO if edns.do else 0, len(option))
    return b"\x00" + tail + option


# The other direction: this server as a client


@dataclass(frozen=True, slots=True)
class Response:
    """What an upstream said. ``truncated``: ask again over TCP."""

    answer: Answer
    truncated: bool = False


# Types whose data may hold compressed names (RFC 1035, RFC 3597 section 4): octets before the names, number of names.
_NAMES_IN_DATA = {
    2: (0, 1),  # NS
    3: (0, 1),  # MD
    4: (0, 1),  # MF
    5: (0, 1),  # CNAME
    6: (0, 2),  # SOA
    7: (0, 1),  # MB
    8: (0, 1),  # MG
    9: (0, 1),  # MR
    12: (0, 1),  # PTR
    14: (0, 2),  # MINFO
    15: (2, 1),  # MX
    17: (0, 2),  # RP
    18: (2, 1),  # AFSDB
    21: (2, 1),  # RT
    26: (2, 2),  # PX
    33: (6, 1),  # SRV
    36: (2, 1),  # KX
    39: (0, 1),  # DNAME
}


def encode_name(name: Name) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in name) + b"\x00"


def encode_question(question: Question) -> bytes:
    return encode_name(question.name) + QUESTION_TAIL.pack(question.qtype, question.qclass)


def encode_query(ident: int, question: Question, *, do: bool = False, cd: bool = False, edns: bool = True) -> bytes:
    """A recursive query to an upstream."""
    opt = b"\x00" + OPT_TAIL.pack(Type.OPT, MOST_UDP, 0, 0, DO if do else 0, 0) if edns else b""
    header = HEADER.pack(ident, RD | (CD if cd else 0), 1, 0, 0, bool(opt))
    return header + encode_question(question) + opt


def parse_response(data: bytes, ident: int, question: Question) -> Response:
    """An upstream's response, checked against what it was asked. Raises WireError; the time it takes is bounded."""
    got, flags, *counts = _unpack(HEADER, data, 0)
    if got != ident or not flags & QR or flags & OPCODE:
        raise WireError("this is not the response to this query")
    if counts[0] != 1:
        # A server that refuses may leave the question out (RFC 1035 wants it back; some send the header only).
        if len(data) == HEADER.size and flags & 0xF:
            return Response(Answer(flags & 0xF, authoritative=False))
        raise WireError("the response has no question")
    name, at = _read_plain_name(data, HEADER.size)
    if (name, *_unpack(QUESTION_TAIL, data, at)) != (question.name, question.qtype, question.qclass):
        raise WireError("the response answers another question")
    return _read_sections(data, at + QUESTION_TAIL.size, flags, counts[1:])


def _read_sections(data: bytes, at: int, flags: int, counts: list[int]) -> Response:
    truncated = bool(flags & TC)
    if sum(counts) > MOST_RECORDS:
        raise WireError(f"the response has more than {MOST_RECORDS} records")
    rcode, sections = flags & 0xF, []
    for count in counts if not truncated else (0, 0, 0):
        section = []
        for _ in range(count):
            record, at = _read_record(data, at)
            if record.rtype == Type.OPT:
                rcode |= record.ttl >> 24 << 4
            else:
                section.append(record)
        sections.append(tuple(section))
    answers, authority, additional = sections
    authentic = bool(flags & AD)
    answer = Answer(rcode, answers, authority, additional, authoritative=False, authentic=authentic)
    return Response(answer, truncated)


def _read_record(data: bytes, at: int) -> tuple[Record, int]:
    name, at = _read_name(data, at)
    rtype, rclass, ttl, length = _unpack(RR_TAIL, data, at)
    at += RR_TAIL.size
    end = at + length
    if end > len(data):
        raise WireError("a record is longer than the message")
    if rtype != Type.OPT and ttl > 0x7FFFFFFF:
        ttl = 0  # RFC 2181 section 8
    owner = tuple(label.lower() for label in name)
    return Record(owner, rtype, ttl, _expand(data, at, end, rtype), rclass), end


def _expand(data: bytes, at: int, end: int, rtype: int) -> bytes:
    """A record's data with the names in it uncompressed, so that it means the same in another message."""
    prefix, names = _NAMES_IN_DATA.get(rtype, (0, 0))
    if end == at or not names:
        return data[at:end]
    expanded = data[at : at + prefix]
    at += prefix
    for _ in range(names):
        name, at = _read_name(data, at)
        expanded += encode_name(name)
    if at > end:
        raise WireError("a name runs over the end of its record")
    return expanded + data[at:end]


def _read_name(data: bytes, at: int) -> tuple[Name, int]:
    """A name as it is spelled, pointers followed, and the offset behind it.

    Each pointer must lead to before the run of labels it ends: pointers to pointers and loops come to an end.
    """
    labels: list[bytes] = []
    behind, start, length, jumps = 0, at, 1, 0
    while True:
        octet = _octet(data, at)
        if octet == 0:
            return tuple(labels), behind or at + 1
        if octet >= 0xC0:
            target = (octet & 0x3F) << 8 | _octet(data, at + 1)
            behind, jumps = behind or at + 2, jumps + 1
            if target >= start or jumps > MOST_JUMPS:
                raise WireError("a compression pointer leads forward or too far around")
            at = start = target
            continue
        length += octet + 1
        if octet > MAX_LABEL or length > MAX_NAME or at + 1 + octet > len(data):
            raise WireError("a name is too long or has no end")
        labels.append(data[at + 1 : at + 1 + octet])
        at += 1 + octet


def _octet(data: bytes, at: int) -> int:
    if at >= len(data):
        raise WireError("the message ends in the middle of a name")
    return data[at]
