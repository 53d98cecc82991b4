"""The server without its sockets: request bytes in, response bytes out."""

from ipaddress import ip_address
from typing import Any

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsserver import respond
from dnsserver.names import parse_name
from dnsserver.records import Index, Record, Service
from dnsserver.respond import Forward, Reply, Responder
from dnsserver.wire import encode_query
from dnsserver.zone import Answer, Question, Rcode, Settings, Zone

DOMAIN = parse_name("cluster.local")


@pytest.fixture
def zone() -> Zone:
    made = Zone(Settings(DOMAIN), Index(DOMAIN, ttl=5))
    made.index.put_service("shop", "web", Service("shop", "web", (ip_address("10.96.0.7"),)))
    made.index.put_service("shop", "out", Service("shop", "out", external_name=parse_name("example.com")))
    made.synced = True
    return made


def ask(name: str, qtype: int = 1, qclass: int = 1) -> bytes:
    return encode_query(7, Question(parse_name(name), qtype, qclass))


def read(outcome: object) -> Any:
    assert isinstance(outcome, Reply)
    return dnslib.DNSRecord.parse(outcome.data)


def test_an_answer(zone: Zone) -> None:
    reply = Responder(zone).receive(ask("web.shop.svc.cluster.local"), udp=True)
    assert isinstance(reply, Reply)
    assert (reply.rcode, reply.qtype, reply.zone, reply.do) == (0, 1, "cluster.local.", False)
    assert str(read(reply).rr[0].rdata) == "10.96.0.7"


def test_a_change_is_in_the_very_next_answer(zone: Zone) -> None:
    responder = Responder(zone)
    for last in (8, 9, 10):
        zone.index.put_service("shop", "web", Service("shop", "web", (ip_address(f"10.96.0.{last}"),)))
        for _ in range(2):
            message = read(responder.receive(ask("web.shop.svc.cluster.local"), udp=True))
            assert str(message.rr[0].rdata) == f"10.96.0.{last}"


def test_the_first_sync_is_in_the_very_next_answer(zone: Zone) -> None:
    zone.synced = False
    responder = Responder(zone)
    data = ask("nobody.shop.svc.cluster.local")
    assert read(responder.receive(data, udp=True)).header.rcode == Rcode.SERVFAIL
    zone.synced = True
    assert read(responder.receive(data, udp=True)).header.rcode == Rcode.NXDOMAIN


def test_types_that_differ_like_letter_cases_are_not_mixed_up(zone: Zone) -> None:
    """Type 65 (HTTPS) is an A, type 97 an a: the names' letter case must not be taken for theirs."""
    responder = Responder(zone)
    for qtype in (65, 97):
        message = read(responder.receive(ask("web.shop.svc.cluster.local", qtype), udp=True))
        assert message.q.qtype == qtype


def test_letter_case_and_id_are_the_clients_even_from_the_cache(zone: Zone) -> None:
    responder = Responder(zone)
    responder.receive(ask("web.shop.svc.cluster.local"), udp=True)
    data = bytearray(ask("web.shop.svc.cluster.local").replace(b"shop", b"ShOp"))
    data[0:2] = b"\x12\x34"
    message = read(responder.receive(bytes(data), udp=True))
    assert message.header.id == 0x1234
    assert str(message.rr[0].rname) == "web.ShOp.svc.cluster.local."


def test_order_rotates_from_request_to_request(zone: Zone) -> None:
    addresses = tuple(ip_address(f"10.96.0.{n}") for n in (1, 2, 3))
    zone.index.put_service("shop", "many", Service("shop", "many", addresses))
    responder = Responder(zone)
    firsts = [str(read(responder.receive(ask("many.shop.svc.cluster.local"), udp=True)).rr[0].rdata) for _ in range(6)]
    assert firsts[:3] == firsts[3:]
    assert sorted(firsts[:3]) == ["10.96.0.1", "10.96.0.2", "10.96.0.3"]


def test_a_foreign_name_is_forwarded(zone: Zone) -> None:
    responder = Responder(zone)
    forward = responder.receive(ask("Example.com"), udp=True)
    assert isinstance(forward, Forward)
    assert (forward.question, forward.chain) == (Question(parse_name("example.com"), 1), None)
    answer = Answer(answers=(Record(parse_name("example.com"), 1, 60, b"\1\2\3\4"),), authoritative=False)
    reply = responder.finish(forward, answer, udp=True)
    message = read(reply)
    assert (str(message.rr[0].rdata), message.header.aa, message.header.ra, reply.zone) == ("1.2.3.4", 0, 1, ".")


def test_an_external_name_is_chased(zone: Zone) -> None:
    responder = Responder(zone)
    forward = responder.receive(ask("out.shop.svc.cluster.local", 28), udp=True)
    assert isinstance(forward, Forward)
    assert forward.question == Question(parse_name("example.com"), 28)
    answer = Answer(answers=(Record(parse_name("example.com"), 28, 60, bytes(16)),), authoritative=False)
    message = read(responder.finish(forward, answer, udp=True))
    assert [(str(rr.rname), rr.rtype) for rr in message.rr] == [
        ("out.shop.svc.cluster.local.", 5),
        ("example.com.", 28),
    ]
    assert message.header.aa == 1


def test_without_upstreams_foreign_names_are_refused(zone: Zone) -> None:
    responder = Responder(zone, recursion=False)
    message = read(responder.receive(ask("example.com"), udp=True))
    assert (message.header.rcode, message.header.ra) == (Rcode.REFUSED, 0)
    message = read(responder.receive(ask("out.shop.svc.cluster.local"), udp=True))
    assert [rr.rtype for rr in message.rr] == [5]


@pytest.mark.parametrize("qtype", [251, 252])
def test_transfers_are_not_forwarded(zone: Zone, qtype: int) -> None:
    assert read(Responder(zone).receive(ask("example.com", qtype), udp=False)).header.rcode == Rcode.REFUSED


def test_other_classes_of_foreign_names_are_forwarded(zone: Zone) -> None:
    forward = Responder(zone).receive(ask("version.bind", 16, 3), udp=True)
    assert isinstance(forward, Forward)
    assert forward.question.qclass == 3


def test_over_tcp_the_answer_is_whole(zone: Zone) -> None:
    addresses = tuple(ip_address(f"10.97.{n}.1") for n in range(200))
    zone.index.put_service("shop", "big", Service("shop", "big", addresses))
    responder, data = Responder(zone), ask("big.shop.svc.cluster.local")
    cut, whole = read(responder.receive(data, udp=True)), read(responder.receive(data, udp=False))
    assert (cut.header.tc, whole.header.tc, len(whole.rr)) == (1, 0, 200)


def test_what_is_kept_is_bounded(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(respond, "KEPT", 100)
    responder = Responder(zone)
    template = ask("n000000.shop.svc.cluster.local")
    for n in range(250):
        responder.receive(template.replace(b"n000000", b"n%06d" % n), udp=True)
    assert 0 < len(responder._rendered) <= 100


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda data: ask("web.shop.svc.cluster.local")[:40] + data))
def test_no_bytes_upset_it(data: bytes) -> None:
    zone = Zone(Settings(DOMAIN), Index(DOMAIN, ttl=5))
    outcome = Responder(zone).receive(data, udp=True)
    assert outcome is None or isinstance(outcome, Forward) or 12 <= len(outcome.data) <= 1232
