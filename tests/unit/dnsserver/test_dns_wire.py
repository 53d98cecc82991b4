"""Bytes in: whatever they are, a bounded answer. Bytes out: what dnslib, an independent reader, understands."""

import struct
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import dnslib
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dnsserver import wire
from dnsserver.names import MAX_NAME, Name, parse_name, wire_length
from dnsserver.records import Record, Soa, Srv, Type
from dnsserver.wire import (
    HEADER,
    Edns,
    Query,
    Refusal,
    WireError,
    assemble,
    assemble_refusal,
    encode_name,
    encode_query,
    encode_question,
    parse_query,
    parse_response,
    render,
    udp_limit,
)
from dnsserver.zone import Answer, Question, Rcode, Reason

WEB = parse_name("web.shop.svc.cluster.local")
RAW = encode_question(Question(WEB, Type.A))
labels = st.binary(min_size=1, max_size=63)
names = st.lists(labels, max_size=6).map(tuple).filter(lambda name: wire_length(name) <= MAX_NAME)


def header(flags: int = 0x0100, counts: tuple[int, int, int, int] = (1, 0, 0, 0), ident: int = 7) -> bytes:
    return HEADER.pack(ident, flags, *counts)


def opt(size: int = 1232, *, version: int = 0, do: bool = False, options: bytes = b"", owner: bytes = b"\0") -> bytes:
    return owner + struct.pack("!HHBBHH", 41, size, 0, version, 0x8000 if do else 0, len(options)) + options


def query(raw: bytes = RAW, edns: Edns | None = None, flags: int = 0x0100) -> Query:
    parsed = parse_query(header(flags) + raw)
    assert isinstance(parsed, Query)
    return replace(parsed, edns=edns)


def read(data: bytes) -> Any:
    return dnslib.DNSRecord.parse(data)


# Requests


def test_a_query_is_read() -> None:
    raw = RAW.replace(b"web", b"wEb")
    parsed = parse_query(header() + raw)
    assert parsed == Query(7, 0x0100, Question(WEB, 1, 1), raw, None)


def test_edns_is_read_and_unknown_options_are_ignored() -> None:
    cookie = struct.pack("!HH", 10, 8) + b"12345678"
    parsed = parse_query(header(counts=(1, 0, 0, 1)) + RAW + opt(4096, do=True, options=cookie))
    assert isinstance(parsed, Query)
    assert parsed.edns == Edns(4096, do=True)


def test_another_additional_record_is_stepped_over() -> None:
    tsig = b"\xc0\x0c" + struct.pack("!HHIH", 250, 255, 0, 3) + b"abc"
    parsed = parse_query(header(counts=(1, 0, 0, 2)) + RAW + opt() + tsig)
    assert isinstance(parsed, Query)
    assert parsed.edns == Edns(1232)


@pytest.mark.parametrize("data", [b"", b"x" * 11, header(0x8100) + RAW, header(0x8000, (0, 0, 0, 0))])
def test_silence(data: bytes) -> None:
    assert parse_query(data) is None


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (header(1 << 11) + RAW, Rcode.NOTIMP),  # IQUERY
        (header(5 << 11) + RAW, Rcode.NOTIMP),  # UPDATE
        (header(counts=(0, 0, 0, 0)), Rcode.FORMERR),
        (header(counts=(2, 0, 0, 0)) + RAW + RAW, Rcode.FORMERR),
        (header(counts=(1, 1, 0, 0)) + RAW, Rcode.FORMERR),
        (header(counts=(1, 0, 1, 0)) + RAW, Rcode.FORMERR),
        (header(), Rcode.FORMERR),
        (header() + RAW[:-1], Rcode.FORMERR),
        (header() + RAW[:9], Rcode.FORMERR),
        (header() + b"\xc0\x0c\0\1\0\1", Rcode.FORMERR),  # a pointer in the question
        (header() + b"\x40" + b"x" * 64 + b"\0\0\1\0\1", Rcode.FORMERR),  # a label type that never was
        (header() + encode_name((b"x" * 63,) * 3 + (b"x" * 62,)) + b"\0\1\0\1", Rcode.FORMERR),  # 256 octets
        (header() + RAW + b"more", Rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + RAW, Rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + RAW + b"\x03ab", Rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + RAW + b"\x80", Rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + RAW + opt()[:-1], Rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + RAW + opt(options=b"abc"), Rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + RAW + opt(options=b"\0\1\0\5a"), Rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + RAW + opt()[:-2] + b"\0\7", Rcode.FORMERR),
        (header(counts=(1, 0, 0, 2)) + RAW + opt() + opt(), Rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + RAW + opt(owner=b"\1x\0"), Rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + RAW + opt(owner=b"\xc0\x0c"), Rcode.FORMERR),
        (header(counts=(1, 0, 0, 1)) + RAW + opt(version=1), Rcode.BADVERS),
    ],
)
def test_refusals(data: bytes, rcode: Rcode) -> None:
    refusal = parse_query(data)
    assert isinstance(refusal, Refusal)
    assert refusal.rcode == rcode
    answer = read(assemble_refusal(refusal))
    assert (answer.header.id, answer.header.qr, answer.header.rcode) == (7, 1, rcode & 0xF)
    assert answer.header.opcode == data[2] >> 3


def test_bad_version_is_told_in_the_extended_code() -> None:
    refusal = parse_query(header(counts=(1, 0, 0, 1)) + RAW + opt(version=1, do=True))
    assert isinstance(refusal, Refusal)
    answer = read(assemble_refusal(refusal))
    assert answer.ar[0].edns_rcode << 4 | answer.header.rcode == Rcode.BADVERS
    assert answer.ar[0].edns_ver == 0
    assert str(answer.q.qname) == "web.shop.svc.cluster.local."


def test_a_name_of_255_octets_is_legal() -> None:
    name = (b"x" * 63,) * 3 + (b"x" * 61,)
    assert wire_length(name) == MAX_NAME
    parsed = parse_query(header() + encode_name(name) + b"\0\1\0\1")
    assert isinstance(parsed, Query)


@given(names, st.integers(0, 65535), st.integers(0, 65535))
def test_every_well_formed_question_is_read_back(name: Name, qtype: int, qclass: int) -> None:
    raw = encode_name(name) + struct.pack("!HH", qtype, qclass)
    parsed = parse_query(header() + raw)
    assert isinstance(parsed, Query)
    assert parsed.question == Question(tuple(label.lower() for label in name), qtype, qclass)
    assert parsed.raw == raw


def steps(data: bytes) -> int:
    """Octets and slices a parser takes from ``data``: how much work it makes, whatever the machine."""

    class Counted(bytes):
        taken = 0

        def __getitem__(self, key: Any) -> Any:
            Counted.taken += 1
            return super().__getitem__(key)

    parse_query(Counted(data))
    return Counted.taken


fuzz = st.binary(max_size=200) | st.builds(
    lambda counts, body: header(counts=counts) + body,
    st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1), st.integers(0, 4)),
    st.lists(
        st.sampled_from([RAW, b"\xc0\x0c", b"\xc0\x0d", opt(), b"\0", b"\x3f", b"\1a"]) | st.binary(max_size=20)
    ).map(b"".join),
)


@given(fuzz)
@example(header() + b"\xc0\x0c" * 600 + b"\0\1\0\1")
@example(header(counts=(1, 0, 0, 65535)) + RAW + b"\xc0\x0c" * 32000)
@example(header(counts=(1, 0, 0, 65535)) + RAW + b"\0" * 60000)
def test_random_bytes_never_raise_and_never_cost_much(data: bytes) -> None:
    parsed = parse_query(data)
    if isinstance(parsed, Refusal):
        assert 12 <= len(assemble_refusal(parsed)) <= 12 + 259 + 11
    assert steps(data) <= 2 * len(data) + 16


@given(fuzz)
@example(header(0x8100, (1, 4096, 0, 0)) + RAW + b"\xc0\x0c" * 32000)
def test_random_responses_raise_only_wire_errors(data: bytes) -> None:
    for candidate in (data, header(0x8180) + data, header(0x8180, (1, 2, 1, 1)) + RAW + data):
        try:
            parse_response(candidate, 7, Question(WEB, 1))
        except WireError:
            continue


# Responses to clients


def address_record(text: str, name: Name = WEB) -> Record:
    address = ip_address(text)
    return Record(name, Type.A if address.version == 4 else Type.AAAA, 5, address)


SOA = Record(
    parse_name("cluster.local"),
    Type.SOA,
    5,
    Soa(parse_name("ns.dns.cluster.local"), parse_name("hostmaster.cluster.local"), 9, 7200, 1800, 86400, 5),
)
SRV_NAME = parse_name("_http._tcp.web.shop.svc.cluster.local")
TARGET = parse_name("db-0.web.shop.svc.cluster.local")


@pytest.mark.parametrize(
    ("qtype", "answer", "expected"),
    [
        (1, Answer(answers=(address_record("10.96.0.7"),)), ["web.shop.svc.cluster.local. 5 IN A 10.96.0.7"]),
        (28, Answer(answers=(address_record("fd00::7"),)), ["web.shop.svc.cluster.local. 5 IN AAAA fd00::7"]),
        (
            1,
            Answer(Rcode.NXDOMAIN, authority=(SOA,)),
            [
                "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 9 7200 1800 86400 5",
            ],
        ),
        (
            33,
            Answer(
                answers=(Record(SRV_NAME, 33, 5, Srv(0, 100, 80, TARGET)),),
                additional=(address_record("1.2.3.4", TARGET),),
            ),
            [
                "_http._tcp.web.shop.svc.cluster.local. 5 IN SRV 0 100 80 db-0.web.shop.svc.cluster.local.",
                "db-0.web.shop.svc.cluster.local. 5 IN A 1.2.3.4",
            ],
        ),
        (
            12,
            Answer(answers=(Record(WEB, 12, 5, TARGET), Record(WEB, 2, 5, TARGET))),
            [
                "web.shop.svc.cluster.local. 5 IN PTR db-0.web.shop.svc.cluster.local.",
                "web.shop.svc.cluster.local. 5 IN NS db-0.web.shop.svc.cluster.local.",
            ],
        ),
        (16, Answer(answers=(Record(WEB, 16, 5, b"\x051.1.0"),)), ['web.shop.svc.cluster.local. 5 IN TXT "1.1.0"']),
        (
            1,
            Answer(answers=(Record(WEB, 5, 5, (b"example",)), Record((b"example",), 1, 9, b"\1\2\3\4"))),
            ["web.shop.svc.cluster.local. 5 IN CNAME example.", "example. 9 IN A 1.2.3.4"],
        ),
    ],
)
def test_answers_say_what_was_meant(qtype: int, answer: Answer, expected: list[str]) -> None:
    question = Question(answer.answers[0].name if answer.answers else WEB, qtype)
    asked = query(encode_question(question))
    message = read(assemble(asked, render(question, answer), limit=65535))
    said = [" ".join(str(rr).split()) for rr in (*message.rr, *message.auth, *message.ar)]
    assert said == expected
    assert message.header.rcode == answer.rcode
    assert (message.header.aa, message.header.ra, message.header.rd) == (1, 1, 1)


def test_owner_names_are_pointers_to_the_clients_own_spelling() -> None:
    raw = RAW.replace(b"shop", b"sHoP")
    rendered = render(Question(WEB, 1), Answer(answers=(address_record("10.96.0.7"),)))
    data = assemble(query(raw), rendered, limit=512)
    assert data[12 : 12 + len(raw)] == raw
    assert data[12 + len(raw) :].startswith(b"\xc0\x0c")
    assert str(read(data).rr[0].rname) == "web.sHoP.svc.cluster.local."


def test_flags() -> None:
    rendered = render(Question(WEB, 1), Answer(authoritative=False, authentic=True))
    message = read(assemble(query(flags=0x0110), rendered, limit=512, recursion=False))
    bits = message.header
    assert (bits.aa, bits.ad, bits.cd, bits.rd, bits.ra) == (0, 1, 1, 1, 0)


def test_records_rotate() -> None:
    records = tuple(address_record(f"10.0.0.{n}") for n in range(1, 4))
    rendered = render(Question(WEB, 1), Answer(answers=records))
    orders = []
    for turn in range(4):
        message = read(assemble(query(), rendered, limit=512, turn=turn))
        orders.append([str(rr.rdata)[-1] for rr in message.rr])
    assert orders == [["1", "2", "3"], ["2", "3", "1"], ["3", "1", "2"], ["1", "2", "3"]]


def test_srv_records_rotate_and_their_addresses_stay_readable() -> None:
    targets = [(f"h{n}".encode(), *WEB) for n in range(3)]
    answer = Answer(
        answers=tuple(Record(WEB, 33, 5, Srv(0, 33, 80, target)) for target in targets),
        additional=tuple(address_record(f"10.0.0.{n}", target) for n, target in enumerate(targets)),
    )
    for turn in range(3):
        message = read(assemble(query(), render(Question(WEB, 33), answer), limit=65535, turn=turn))
        assert {str(rr.rdata.target) for rr in message.rr} == {str(rr.rname) for rr in message.ar}


def test_a_cname_stays_before_what_it_leads_to() -> None:
    target = (b"example",)
    answers = (Record(WEB, 5, 5, target), *(Record(target, 1, 5, bytes([10, 0, 0, n])) for n in range(3)))
    for turn in range(3):
        message = read(assemble(query(), render(Question(WEB, 1), Answer(answers=answers)), limit=512, turn=turn))
        assert [rr.rtype for rr in message.rr] == [5, 1, 1, 1]
        assert {str(rr.rname) for rr in message.rr[1:]} == {"example."}


def test_records_of_an_unrelated_owner_do_not_move() -> None:
    other = (b"other",)
    rendered = render(
        Question(WEB, 1), Answer(answers=(address_record("10.0.0.1", other), address_record("10.0.0.2", other)))
    )
    assert (rendered.head_count, rendered.rotating) == (2, ())


@pytest.mark.parametrize(("edns", "limit"), [(None, 512), (Edns(100), 512), (Edns(600), 600), (Edns(4096), 1232)])
def test_the_clients_size_is_honoured(edns: Edns | None, limit: int) -> None:
    assert udp_limit(edns) == limit
    records = tuple(address_record(f"10.0.{n}.1") for n in range(200))
    asked = query(edns=edns)
    data = assemble(asked, render(Question(WEB, 1), Answer(answers=records)), limit=limit)
    message = read(data)
    assert len(data) <= limit
    assert message.header.tc == 1
    assert message.questions[0].qname == "web.shop.svc.cluster.local."
    assert limit - len(data) < 16  # as many records as fit: musl uses what is there
    assert len(message.rr) == message.header.a
    full = read(assemble(asked, render(Question(WEB, 1), Answer(answers=records)), limit=65535))
    assert (full.header.tc, len(full.rr)) == (0, 200)


def test_leaving_out_additional_records_is_no_truncation() -> None:
    answer = Answer(
        answers=(Record(WEB, 33, 5, Srv(0, 1, 80, TARGET)),),
        additional=tuple(address_record(f"10.0.{n}.1", TARGET) for n in range(60)),
    )
    message = read(assemble(query(), render(Question(WEB, 33), answer), limit=512))
    assert (message.header.tc, len(message.rr), len(message.ar)) == (0, 1, 0)


def test_what_cannot_be_cut_is_left_out_whole() -> None:
    answer = Answer(answers=tuple(Record(WEB, 16, 5, b"\xff" + b"x" * 255) for _ in range(3)))
    message = read(assemble(query(), render(Question(WEB, 16), answer), limit=512))
    assert (message.header.tc, len(message.rr), len(message.questions)) == (1, 0, 1)


def test_a_denial_that_does_not_fit_is_cut_to_its_question() -> None:
    rendered = render(Question(WEB, 1), Answer(Rcode.NXDOMAIN, authority=(SOA,)))
    message = read(assemble(query(), rendered, limit=60))
    assert (message.header.tc, message.header.rcode, len(message.auth)) == (1, Rcode.NXDOMAIN, 0)


@settings(max_examples=15)
@given(st.integers(1, 1500), st.integers(0, 3))
def test_names_beyond_the_reach_of_a_pointer_are_spelled_out(count: int, turn: int) -> None:
    """A pointer has 14 bits; a response over TCP may be longer than 16 KB."""
    targets = [(f"host-{n}".encode(), *WEB) for n in range(count)]
    answers = tuple(Record(WEB, 12, 5, target) for target in targets)
    extra = tuple(address_record("10.0.0.1", target) for target in targets[:20])
    rendered = render(Question(WEB, 12), Answer(answers=answers, additional=extra))
    data = assemble(query(encode_question(Question(WEB, 12))), rendered, limit=65535, turn=turn)
    response = parse_response(data, 7, Question(WEB, 12)).answer
    assert [record.data for record in response.answers] == [encode_name(target) for target in targets]
    assert [record.name for record in response.additional] == targets[:20]


def test_more_than_tcp_can_carry_is_cut() -> None:
    records = tuple(Record(WEB, 33, 5, Srv(0, 1, 80, (f"host-{n}".encode(), *WEB))) for n in range(2000))
    data = assemble(query(), render(Question(WEB, 33), Answer(answers=records)), limit=65535)
    assert len(data) <= 65535
    assert data[2] & 0x02


def test_opt_is_there_iff_asked_and_tells_the_reason() -> None:
    rendered = render(Question(WEB, 1), Answer(Rcode.SERVFAIL, reason=Reason(14, "not yet synced")))
    assert read(assemble(query(), rendered, limit=512)).ar == []
    message = read(assemble(query(edns=Edns(4096, do=True)), rendered, limit=512))
    (record,) = message.ar
    assert (record.edns_len, record.edns_do, record.edns_rcode) == (1232, 1, 0)
    (option,) = record.rdata
    assert (option.code, option.data) == (15, b"\x00\x0enot yet synced")


# Responses of upstreams


ASKED = Question(parse_name("example.com"), 1)
ASKED_RAW = encode_question(ASKED)


def response(
    *records: bytes, flags: int = 0x8180, counts: tuple[int, int, int] | None = None, raw: bytes = ASKED_RAW
) -> bytes:
    return HEADER.pack(7, flags, 1, *(counts or (len(records), 0, 0))) + raw + b"".join(records)


def rr(owner: bytes, rtype: int, data: bytes, ttl: int = 300) -> bytes:
    return owner + struct.pack("!HHIH", rtype, 1, ttl, len(data)) + data


def test_what_we_ask_is_well_formed() -> None:
    data = encode_query(9, ASKED, do=True, cd=True)
    parsed = parse_query(data)
    assert parsed == Query(9, 0x0110, ASKED, ASKED_RAW, Edns(1232, do=True))
    plain = parse_query(encode_query(9, ASKED, edns=False))
    assert plain == Query(9, 0x0100, ASKED, ASKED_RAW, None)


def test_a_response_is_read_and_its_names_are_expanded() -> None:
    data = response(
        rr(b"\xc0\x0c", 5, b"\x01A\xc0\x14"),  # a.com: "com" lies at 20
        rr(b"\x01a\xc0\x14", 1, b"\1\2\3\4"),
        rr(b"\xc0\x0c", 6, b"\x02ns\xc0\x0c\x02hm\xc0\x0c" + b"t" * 20),
        rr(b"\xc0\x0c", 15, b"\0\5\xc0\x0c"),
        rr(b"\xc0\x0c", 99, b"\xc0\x0c?"),  # unknown: its octets mean what they mean
        opt(do=True),
        flags=0x81A0,
        counts=(2, 1, 3),
    )
    parsed = parse_response(data, 7, ASKED)
    answer = parsed.answer
    assert answer.answers == (
        Record(ASKED.name, 5, 300, b"\x01A\x03com\0"),
        Record((b"a", b"com"), 1, 300, b"\1\2\3\4"),
    )
    domain = encode_name(ASKED.name)
    assert answer.authority == (Record(ASKED.name, 6, 300, b"\2ns" + domain + b"\2hm" + domain + b"t" * 20),)
    assert [record.data for record in answer.additional] == [b"\0\5" + domain, b"\xc0\x0c?"]
    assert (answer.authentic, answer.authoritative, parsed.truncated) == (True, False, False)


def test_extended_codes_and_odd_ttls() -> None:
    extended = b"\0" + struct.pack("!HHBBHH", 41, 1232, 1, 0, 0, 0)
    data = response(rr(b"\xc0\x0c", 1, b"\1\2\3\4", ttl=1 << 31), extended, counts=(1, 0, 1))
    answer = parse_response(data, 7, ASKED).answer
    assert (answer.rcode, answer.answers[0].ttl) == (Rcode.BADVERS, 0)


def test_a_cut_response_is_not_read_further() -> None:
    parsed = parse_response(response(flags=0x8380, counts=(9, 9, 9)), 7, ASKED)
    assert (parsed.truncated, parsed.answer.answers) == (True, ())


def test_a_refusal_may_be_a_bare_header() -> None:
    assert parse_response(HEADER.pack(7, 0x8185, 0, 0, 0, 0), 7, ASKED).answer.rcode == Rcode.REFUSED


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"short", "ends"),
        (HEADER.pack(8, 0x8180, 1, 0, 0, 0) + ASKED_RAW, "not the response"),
        (HEADER.pack(7, 0x0180, 1, 0, 0, 0) + ASKED_RAW, "not the response"),
        (HEADER.pack(7, 0x9180, 1, 0, 0, 0) + ASKED_RAW, "not the response"),
        (HEADER.pack(7, 0x8180, 0, 0, 0, 0), "no question"),
        (HEADER.pack(7, 0x8180, 2, 0, 0, 0) + ASKED_RAW * 2, "no question"),
        (response(raw=encode_question(Question(WEB, 1))), "another question"),
        (response(raw=encode_question(Question(ASKED.name, 28))), "another question"),
        (response(counts=(1, 0, 0)), "ends in the middle of a name"),
        (response(counts=(4096, 1, 0)), "more than 4096"),
        (response(b"\xc0", counts=(1, 0, 0)), "ends in the middle of a name"),
        (response(rr(b"\xc0\x0c", 1, b"\1\2\3\4")[:-1], counts=(1, 0, 0)), "longer than the message"),
        (response(b"\xc0\x0c\0\1", counts=(1, 0, 0)), "ends in the middle of a record"),
        (response(rr(b"\xc0\x1d", 1, b"")), "forward"),  # itself
        (response(rr(b"\xc1\x00", 1, b"")), "forward"),
        (response(rr(b"\x01a\xc0\x1d", 1, b"")), "forward"),  # a loop through a label
        (response(rr(b"\x41", 1, b"")), "too long"),
        (response(b"\x3fabc", counts=(1, 0, 0)), "too long"),
        (response(rr((b"\x3f" + b"x" * 63) * 4 + b"\0", 1, b"")), "too long"),
        (response(rr(b"\xc0\x0c", 5, b"\x01")), "too long"),
        (response(rr(b"\xc0\x0c", 5, b"\x01a"), rr(b"\x01a\0", 1, b"")), "over the end"),
    ],
)
def test_what_is_not_the_response_is_an_error(data: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        parse_response(data, 7, ASKED)


def test_a_chain_of_pointers_comes_to_an_end() -> None:
    start = 12 + len(ASKED_RAW) + 12
    chain = b"\xc0\x0c" + b"".join(struct.pack("!H", 0xC000 | start + 2 * n) for n in range(60))
    first = b"\xc0\x0c" + struct.pack("!HHIH", 99, 1, 0, len(chain)) + chain
    second = rr(struct.pack("!H", 0xC000 | start + 2 * 59), 1, b"\1\2\3\4")
    with pytest.raises(WireError, match="too far around"):
        parse_response(response(first, second), 7, ASKED)
    few = rr(struct.pack("!H", 0xC000 | start + 2 * 20), 1, b"\1\2\3\4")
    assert parse_response(response(first, few), 7, ASKED).answer.answers[1].name == ASKED.name


@given(st.lists(st.tuples(names, st.binary(max_size=30)), max_size=5))
def test_what_is_rendered_can_be_read_back(records: list[tuple[Name, bytes]]) -> None:
    lowered = [(tuple(label.lower() for label in name), data) for name, data in records]
    answer = Answer(answers=tuple(Record(name, 65280, 60, data) for name, data in lowered), authoritative=False)
    asked = query(ASKED_RAW)
    data = assemble(asked, render(ASKED, answer), limit=wire.MOST_TCP)
    assert parse_response(data, 7, ASKED).answer == answer
