"""How long an upstream's answer is believed."""

import pytest

from dnsserver.cache import Ask, Cache, lifetime
from dnsserver.names import parse_name
from dnsserver.records import Record, Type
from dnsserver.zone import Answer, Question, Rcode, Reason

NAME = parse_name("example.com")
ASK = Ask(Question(NAME, Type.A))


def a(ttl: int) -> Record:
    return Record(NAME, Type.A, ttl, b"\1\2\3\4")


def cname(ttl: int) -> Record:
    return Record(NAME, Type.CNAME, ttl, b"\1a\0")


def soa(ttl: int, minimum: int) -> Record:
    return Record(NAME, Type.SOA, ttl, b"\0\0" + bytes(16) + minimum.to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (Answer(answers=(a(300), a(60))), 60),
        (Answer(answers=(cname(20), a(60))), 20),
        (Answer(answers=(a(86400),)), 3600),
        (Answer(answers=(a(0),)), 0),
        (Answer(Rcode.NXDOMAIN, authority=(soa(900, 60),)), 60),
        (Answer(Rcode.NXDOMAIN, authority=(soa(30, 600),)), 30),
        (Answer(Rcode.NXDOMAIN, authority=(soa(86400, 86400),)), 1800),
        (Answer(authority=(soa(900, 60),)), 60),
        (Answer(answers=(cname(20),), authority=(soa(900, 60),)), 20),  # the alias exists, its target has no such type
        (Answer(Rcode.NXDOMAIN), 0),  # no proof, no memory (RFC 2308 section 5)
        (Answer(), 0),
        (Answer(Rcode.SERVFAIL, answers=(a(60),)), 0),
        (Answer(Rcode.REFUSED), 0),
    ],
)
def test_lifetime(answer: Answer, seconds: int) -> None:
    assert lifetime(answer) == seconds


def test_ttls_count_down_and_the_answer_ends() -> None:
    cache = Cache()
    cache.put(ASK, Answer(answers=(a(60),), additional=(a(20),)), 100.0)
    kept = cache.get(ASK, 130.9)
    assert kept is not None
    assert ([r.ttl for r in kept.answers], [r.ttl for r in kept.additional]) == ([30], [0])
    assert cache.get(ASK, 160.0) is None


def test_what_may_not_be_kept_is_not() -> None:
    cache = Cache()
    cache.put(ASK, Answer(answers=(a(0),)), 0.0)
    assert len(cache) == 0
    assert cache.get(ASK, 0.0) is None
    assert cache.get_stale(ASK, 0.0) is None


def test_an_ended_answer_is_better_than_none_for_a_while() -> None:
    cache = Cache()
    cache.put(ASK, Answer(answers=(a(60), a(600))), 0.0)
    stale = cache.get_stale(ASK, 61.0)
    assert stale is not None
    assert [r.ttl for r in stale.answers] == [30, 30]
    assert stale.reason == Reason(3, "upstreams do not answer")
    assert cache.get_stale(ASK, 60.0 + 3600) is None


def test_questions_with_other_bits_are_other_questions() -> None:
    cache = Cache()
    cache.put(ASK, Answer(answers=(a(60),)), 0.0)
    assert cache.get(Ask(ASK.question, do=True), 0.0) is None
    assert cache.get(Ask(ASK.question, cd=True), 0.0) is None


def test_the_least_recently_used_goes_first() -> None:
    cache, answer = Cache(size=2), Answer(answers=(a(60),))
    first, second, third = (Ask(Question((name,), 1)) for name in (b"1", b"2", b"3"))
    cache.put(first, answer, 0.0)
    cache.put(second, answer, 0.0)
    assert cache.get(first, 1.0) is not None
    cache.put(third, answer, 2.0)
    assert len(cache) == 2
    assert cache.get(second, 3.0) is None
    assert cache.get(first, 3.0) is not None
