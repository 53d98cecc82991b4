"""Every row of what a name must answer, written as DNS.

The cluster of these tests:

    namespaces   shop, empty
    shop/web     ClusterIP 10.96.0.7 and fd00:96::7; ports http 80/TCP, dns 53/UDP, 9/TCP unnamed; endpoint 10.244.0.9
    shop/lonely  ClusterIP 10.96.0.8, no endpoints
    shop/db      headless; db-0 at 10.244.0.3 and fd00:244::3, an endpoint without hostname at 10.244.0.4, one not ready
                 at 10.244.0.5; port mongo 27017/TCP
    shop/twins   headless; hostname twin at 10.244.0.3 and 10.244.0.6; no ports
    shop/none    headless, nothing ready
    shop/early   headless, publishNotReadyAddresses; 10.244.0.5, not ready
    shop/far     headless; 192.168.7.7 and 8.8.8.8, outside our ranges
    shop/out     ExternalName example.com
    shop/alias   ExternalName web.shop.svc.cluster.local; shop/alias2 -> alias; shop/dangling -> nowhere in shop
    shop/loop    ExternalName of itself by way of shop/pool
    pod p in shop at 10.244.0.9
"""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Literal

import pytest

from dnsserver.names import Address, Name, parse_name, render_name
from dnsserver.records import Endpoint, EndpointSlice, Index, Port, Record, Service, Soa, Srv, Type
from dnsserver.zone import Answer, Question, Rcode, Reason, Settings, Zone, append_chased

DOMAIN = parse_name("cluster.local")
SETTINGS = Settings(
    domain=DOMAIN,
    networks=(ip_network("10.96.0.0/12"), ip_network("10.244.0.0/24"), ip_network("fd00:96::/112")),
    nameservers=(ip_address("10.0.0.2"), ip_address("fd00::2")),
)
HTTP, MONGO = Port("http", "TCP", 80), Port("mongo", "TCP", 27017)


def at(*texts: str) -> tuple[Address, ...]:
    return tuple(map(ip_address, texts))


def external(name: str, target: str) -> Service:
    return Service("shop", name, external_name=parse_name(target))


SERVICES = (
    Service("shop", "web", at("10.96.0.7", "fd00:96::7"), (HTTP, Port("dns", "UDP", 53), Port("", "TCP", 9))),
    Service("shop", "lonely", at("10.96.0.8"), (Port("", "TCP", 80),)),
    Service("shop", "db", headless=True, ports=(MONGO,)),
    Service("shop", "twins", headless=True),
    Service("shop", "none", headless=True, ports=(HTTP,)),
    Service("shop", "early", headless=True, ports=(HTTP,), publish_not_ready=True),
    Service("shop", "far", headless=True),
    Service("shop", "pending"),
    external("out", "example.com"),
    external("alias", "web.shop.svc.cluster.local"),
    external("alias2", "alias.shop.svc.cluster.local"),
    external("dangling", "nowhere.shop.svc.cluster.local"),
    external("loop", "pool.shop.svc.cluster.local"),
    external("pool", "loop.shop.svc.cluster.local"),
)
SLICES = {
    "web-4": EndpointSlice("shop", "web", (HTTP,), (Endpoint(at("10.244.0.9")),)),
    "db-4": EndpointSlice(
        "shop",
        "db",
        (MONGO,),
        (Endpoint(at("10.244.0.3"), "db-0"), Endpoint(at("10.244.0.4")), Endpoint(at("10.244.0.5"), ready=False)),
    ),
    "db-6": EndpointSlice("shop", "db", (MONGO,), (Endpoint(at("fd00:244::3"), "db-0"),)),
    "twins-4": EndpointSlice(
        "shop", "twins", (), (Endpoint(at("10.244.0.3"), "twin"), Endpoint(at("10.244.0.6"), "Twin"))
    ),
    "none-4": EndpointSlice("shop", "none", (HTTP,), (Endpoint(at("10.244.0.5"), ready=False),)),
    "early-4": EndpointSlice("shop", "early", (HTTP,), (Endpoint(at("10.244.0.5"), ready=False),)),
    "far-4": EndpointSlice("shop", "far", (), (Endpoint(at("192.168.7.7")), Endpoint(at("8.8.8.8")))),
}


def make_zone(pods: Literal["disabled", "insecure", "verified"] = "disabled") -> Zone:
    index = Index(DOMAIN, ttl=5)
    for namespace in ("shop", "empty"):
        index.put_namespace(namespace, exists=True)
    for service in SERVICES:
        index.put_service(service.namespace, service.name, service)
    for name, piece in SLICES.items():
        index.put_slice("shop", name, piece)
    index.put_pod("shop", "p", at("10.244.0.9", "fd00:244::9"))
    zone = Zone(replace(SETTINGS, pods=pods), index)
    zone.synced = True
    return zone


ZONE = make_zone()


def ask(text: str, zone: Zone = ZONE) -> Answer | None:
    """``"name TYPE"`` as dig takes it; names are relative to the cluster domain unless they end in a dot."""
    name, _, kind = text.partition(" ")
    full = parse_name(name) if name.endswith(".") else parse_name(f"{name}.cluster.local" if name else "cluster.local")
    return zone.answer(Question(full, Type[kind or "A"]))


def lines(records: tuple[Record, ...]) -> list[str]:
    return [
        f"{render_name(r.name)} {r.ttl} {Type(r.rtype).name} {show(r)}".replace("cluster.local.", "Z") for r in records
    ]


def show(record: Record) -> str:
    match record.data:
        case Srv(priority, weight, port, target):
            return f"{priority} {weight} {port} {render_name(target)}"
        case Soa():
            return "soa"
        case tuple() as name:
            return render_name(name)
        case data:
            return str(data)


def found(text: str, zone: Zone = ZONE) -> list[str]:
    answer = ask(text, zone)
    assert answer is not None
    assert (answer.rcode, answer.authoritative, answer.chase) == (Rcode.NOERROR, True, None)
    return lines(answer.answers)


def denial(text: str, zone: Zone = ZONE) -> str:
    """NXDOMAIN or NODATA, with nothing but the SOA of the right zone."""
    answer = ask(text, zone)
    assert answer is not None
    assert (answer.answers, answer.additional, answer.chase, answer.authoritative) == ((), (), None, True)
    (soa,) = answer.authority
    assert soa.rtype == Type.SOA
    code = {Rcode.NOERROR: "NODATA", Rcode.NXDOMAIN: "NXDOMAIN"}[Rcode(answer.rcode)]
    return f"{code} {render_name(soa.name)}".replace("cluster.local.", "Z")


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        # A Service's name: the ClusterIP of each family, endpoints or not.
        ("web.shop.svc A", ["web.shop.svc.Z 5 A 10.96.0.7"]),
        ("web.shop.svc AAAA", ["web.shop.svc.Z 5 AAAA fd00:96::7"]),
        ("lonely.shop.svc A", ["lonely.shop.svc.Z 5 A 10.96.0.8"]),
        # Headless: every ready endpoint.
        ("db.shop.svc A", ["db.shop.svc.Z 5 A 10.244.0.3", "db.shop.svc.Z 5 A 10.244.0.4"]),
        ("db.shop.svc AAAA", ["db.shop.svc.Z 5 AAAA fd00:244::3"]),
        ("early.shop.svc A", ["early.shop.svc.Z 5 A 10.244.0.5"]),
        # SRV: named ports, and all ports at the bare name.
        ("_http._tcp.web.shop.svc SRV", ["_http._tcp.web.shop.svc.Z 5 SRV 0 100 80 web.shop.svc.Z"]),
        ("_dns._udp.web.shop.svc SRV", ["_dns._udp.web.shop.svc.Z 5 SRV 0 100 53 web.shop.svc.Z"]),
        (
            "web.shop.svc SRV",
            [
                "web.shop.svc.Z 5 SRV 0 33 9 web.shop.svc.Z",
                "web.shop.svc.Z 5 SRV 0 33 53 web.shop.svc.Z",
                "web.shop.svc.Z 5 SRV 0 33 80 web.shop.svc.Z",
            ],
        ),
        (
            "_mongo._tcp.db.shop.svc SRV",
            [
                "_mongo._tcp.db.shop.svc.Z 5 SRV 0 50 27017 10-244-0-4.db.shop.svc.Z",
                "_mongo._tcp.db.shop.svc.Z 5 SRV 0 50 27017 db-0.db.shop.svc.Z",
            ],
        ),
        # Endpoints by name.
        ("db-0.db.shop.svc A", ["db-0.db.shop.svc.Z 5 A 10.244.0.3"]),
        ("db-0.db.shop.svc AAAA", ["db-0.db.shop.svc.Z 5 AAAA fd00:244::3"]),
        ("10-244-0-4.db.shop.svc A", ["10-244-0-4.db.shop.svc.Z 5 A 10.244.0.4"]),
        ("twin.twins.shop.svc A", ["twin.twins.shop.svc.Z 5 A 10.244.0.3", "twin.twins.shop.svc.Z 5 A 10.244.0.6"]),
        ("10-244-0-9.web.shop.svc A", ["10-244-0-9.web.shop.svc.Z 5 A 10.244.0.9"]),
        # Reverse.
        ("7.0.96.10.in-addr.arpa. PTR", ["7.0.96.10.in-addr.arpa. 5 PTR web.shop.svc.Z"]),
        (
            "7." + "0." * 23 + "6.9.0.0.0.0.d.f.ip6.arpa. PTR",
            ["7." + "0." * 23 + "6.9.0.0.0.0.d.f.ip6.arpa. 5 PTR web.shop.svc.Z"],
        ),
        ("4.0.244.10.in-addr.arpa. PTR", ["4.0.244.10.in-addr.arpa. 5 PTR 10-244-0-4.db.shop.svc.Z"]),
        (
            "3.0.244.10.in-addr.arpa. PTR",
            [
                "3.0.244.10.in-addr.arpa. 5 PTR db-0.db.shop.svc.Z",
                "3.0.244.10.in-addr.arpa. 5 PTR twin.twins.shop.svc.Z",
            ],
        ),
        ("7.7.168.192.in-addr.arpa. PTR", ["7.7.168.192.in-addr.arpa. 5 PTR 192-168-7-7.far.shop.svc.Z"]),
        # ExternalName inside the zone: the chain and what is at its end.
        (
            "alias2.shop.svc A",
            [
                "alias2.shop.svc.Z 5 CNAME alias.shop.svc.Z",
                "alias.shop.svc.Z 5 CNAME web.shop.svc.Z",
                "web.shop.svc.Z 5 A 10.96.0.7",
            ],
        ),
        ("out.shop.svc CNAME", ["out.shop.svc.Z 5 CNAME example.com."]),
        # The apex and what stands beside Services.
        (" NS", ["Z 5 NS ns.dns.Z"]),
        (" SOA", ["Z 5 SOA soa"]),
        ("ns.dns A", ["ns.dns.Z 5 A 10.0.0.2"]),
        ("ns.dns AAAA", ["ns.dns.Z 5 AAAA fd00::2"]),
        ("dns-version TXT", ["dns-version.Z 28800 TXT b'\\x051.1.0'"]),
        ("96.10.in-addr.arpa. NS", ["96.10.in-addr.arpa. 5 NS ns.dns.Z"]),
        # RFC 8482.
        ("web.shop.svc ANY", ["web.shop.svc.Z 5 HINFO b'\\x07RFC8482\\x00'"]),
        ("out.shop.svc ANY", ["out.shop.svc.Z 5 HINFO b'\\x07RFC8482\\x00'"]),
    ],
)
def test_names_that_answer(question: str, answers: list[str]) -> None:
    assert found(question) == answers


@pytest.mark.parametrize(
    ("question", "outcome"),
    [
        ("none.shop.svc A", "NXDOMAIN Z"),  # headless, nobody ready
        ("10-244-0-5.db.shop.svc A", "NXDOMAIN Z"),  # not ready
        ("pending.shop.svc A", "NXDOMAIN Z"),  # has no ClusterIP yet
        ("nobody.shop.svc A", "NXDOMAIN Z"),
        ("_none._tcp.web.shop.svc SRV", "NXDOMAIN Z"),
        ("_http._udp.web.shop.svc SRV", "NXDOMAIN Z"),
        ("a.web.shop.svc A", "NXDOMAIN Z"),
        ("a.out.shop.svc A", "NXDOMAIN Z"),  # below an ExternalName
        ("a.b.c.d.e.shop.svc A", "NXDOMAIN Z"),
        ("unknown.svc A", "NXDOMAIN Z"),  # no such namespace
        ("web.unknown.svc A", "NXDOMAIN Z"),
        ("other A", "NXDOMAIN Z"),
        ("a.dns-version TXT", "NXDOMAIN Z"),
        (" A", "NODATA Z"),
        ("svc A", "NODATA Z"),
        ("pod A", "NODATA Z"),
        ("dns A", "NODATA Z"),
        ("shop.svc A", "NODATA Z"),
        ("empty.svc A", "NODATA Z"),
        ("lonely.shop.svc AAAA", "NODATA Z"),
        ("lonely.shop.svc TXT", "NODATA Z"),
        ("twins.shop.svc SRV", "NODATA Z"),
        ("_tcp.web.shop.svc SRV", "NODATA Z"),  # there is a name below it
        ("_tcp.web.shop.svc ANY", "NODATA Z"),
        ("_http._tcp.web.shop.svc A", "NODATA Z"),
        ("dns-version A", "NODATA Z"),
        ("1.0.100.10.in-addr.arpa. PTR", "NXDOMAIN 100.10.in-addr.arpa."),
        ("9.0.244.10.in-addr.arpa. PTR", "NXDOMAIN 0.244.10.in-addr.arpa."),  # an endpoint, but not a headless one
        ("junk.96.10.in-addr.arpa. PTR", "NXDOMAIN 96.10.in-addr.arpa."),
        ("0.96.10.in-addr.arpa. PTR", "NODATA 96.10.in-addr.arpa."),  # there may be names below it
        ("7.0.96.10.in-addr.arpa. A", "NODATA 96.10.in-addr.arpa."),
        # Names of pods, as long as they are disabled.
        ("10-244-0-9.shop.pod A", "NXDOMAIN Z"),
        ("shop.pod A", "NXDOMAIN Z"),
    ],
)
def test_names_that_do_not(question: str, outcome: str) -> None:
    assert denial(question) == outcome


@pytest.mark.parametrize(
    "question",
    [
        "example.com. A",
        "local. A",
        ". NS",
        "cluster.local.example. A",
        "1.1.168.192.in-addr.arpa. PTR",
        "8.8.8.8.in-addr.arpa. PTR",  # an endpoint, but nobody here speaks for the Internet's addresses
        "7.7.168.192.in-addr.arpa. A",
        "10.in-addr.arpa. SOA",
        "2.1.96.10.in-addr.arpa.example. PTR",
    ],
)
def test_names_that_are_not_ours_are_left_to_others(question: str) -> None:
    assert ask(question) is None


@pytest.mark.parametrize(
    ("question", "additional"),
    [
        ("_http._tcp.web.shop.svc SRV", ["web.shop.svc.Z 5 A 10.96.0.7", "web.shop.svc.Z 5 AAAA fd00:96::7"]),
        ("web.shop.svc SRV", ["web.shop.svc.Z 5 A 10.96.0.7", "web.shop.svc.Z 5 AAAA fd00:96::7"]),
        (
            "db.shop.svc SRV",
            [
                "10-244-0-4.db.shop.svc.Z 5 A 10.244.0.4",
                "db-0.db.shop.svc.Z 5 A 10.244.0.3",
                "db-0.db.shop.svc.Z 5 AAAA fd00:244::3",
            ],
        ),
        (" NS", ["ns.dns.Z 5 A 10.0.0.2", "ns.dns.Z 5 AAAA fd00::2"]),
        ("web.shop.svc A", []),
    ],
)
def test_addresses_of_targets_come_along(question: str, additional: list[str]) -> None:
    answer = ask(question)
    assert answer is not None
    assert lines(answer.additional) == additional


def test_an_external_name_outside_is_to_be_asked_upstream() -> None:
    answer = ask("out.shop.svc A")
    assert answer is not None
    assert answer.chase == parse_name("example.com")
    assert lines(answer.answers) == ["out.shop.svc.Z 5 CNAME example.com."]


def test_what_upstream_says_completes_the_chain() -> None:
    answer = ask("out.shop.svc A")
    assert answer is not None
    record = Record(parse_name("example.com"), Type.A, 300, b"\x01\x02\x03\x04")
    whole = append_chased(answer, Answer(answers=(record,), authoritative=False, authentic=True))
    assert [r.rtype for r in whole.answers] == [Type.CNAME, Type.A]
    assert (whole.rcode, whole.authoritative, whole.authentic, whole.chase) == (Rcode.NOERROR, True, False, None)
    assert append_chased(answer, Answer(Rcode.NXDOMAIN)).rcode == Rcode.NXDOMAIN


def test_an_external_name_that_leads_nowhere_in_the_zone() -> None:
    answer = ask("dangling.shop.svc A")
    assert answer is not None
    assert (answer.rcode, len(answer.answers), len(answer.authority)) == (Rcode.NXDOMAIN, 1, 1)


def test_external_names_in_a_circle() -> None:
    answer = ask("loop.shop.svc A")
    assert answer == Answer(Rcode.SERVFAIL, authoritative=False)


@pytest.mark.parametrize(("links", "rcode"), [(10, Rcode.NOERROR), (11, Rcode.SERVFAIL)])
def test_a_chain_has_at_most_ten_links(links: int, rcode: Rcode) -> None:
    zone = make_zone()
    for link in range(links):
        target = "web" if link == 0 else f"link-{link - 1}"
        service = external(f"link-{link}", f"{target}.shop.svc.cluster.local")
        zone.index.put_service("shop", service.name, service)
    answer = ask(f"link-{links - 1}.shop.svc A", zone)
    assert answer is not None
    assert answer.rcode == rcode


@pytest.mark.parametrize("pods", ["insecure", "verified"])
@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ("10-244-0-9.shop.pod A", ["10-244-0-9.shop.pod.Z 5 A 10.244.0.9"]),
        ("fd00-244--9.shop.pod AAAA", ["fd00-244--9.shop.pod.Z 5 AAAA fd00:244::9"]),
    ],
)
def test_names_of_pods(pods: Literal["insecure", "verified"], question: str, answers: list[str]) -> None:
    assert found(question, make_zone(pods)) == answers


@pytest.mark.parametrize(
    ("question", "insecure", "verified"),
    [
        ("10-244-0-9.shop.pod AAAA", "NODATA Z", "NODATA Z"),
        ("shop.pod A", "NODATA Z", "NODATA Z"),
        ("unknown.pod A", "NXDOMAIN Z", "NXDOMAIN Z"),
        ("10-244-0-9.unknown.pod A", "NXDOMAIN Z", "NXDOMAIN Z"),
        ("web.shop.pod A", "NXDOMAIN Z", "NXDOMAIN Z"),
        ("1-2-3-4.shop.pod AAAA", "NODATA Z", "NXDOMAIN Z"),
        ("10-244-0-9.empty.pod AAAA", "NODATA Z", "NXDOMAIN Z"),
        ("a.10-244-0-9.shop.pod A", "NXDOMAIN Z", "NXDOMAIN Z"),
    ],
)
def test_names_of_pods_that_do_not_answer(question: str, insecure: str, verified: str) -> None:
    assert denial(question, make_zone("insecure")) == insecure
    assert denial(question, make_zone("verified")) == verified


@pytest.mark.parametrize(
    "question", ["web.shop.svc A", "nobody.shop.svc A", "7.0.96.10.in-addr.arpa. PTR", "shop.svc A"]
)
def test_before_the_first_sync_nothing_is_denied(question: str) -> None:
    zone = make_zone()
    zone.synced = False
    assert ask(question, zone) == Answer(Rcode.SERVFAIL, authoritative=False, reason=Reason(14, "not yet synced"))


def test_what_needs_no_sync_answers_before_it() -> None:
    zone = Zone(SETTINGS, Index(DOMAIN, ttl=5))
    assert found("dns-version TXT", zone)
    assert found(" SOA", zone)
    assert found("96.10.in-addr.arpa. SOA", zone)
    assert denial("svc A", zone) == "NODATA Z"
    assert ask("example.com. A", zone) is None
    assert ask("7.7.168.192.in-addr.arpa. PTR", zone) is None


@pytest.mark.parametrize("qclass", [3, 4, 255])
def test_other_classes_are_refused_for_names_of_ours(qclass: int) -> None:
    zone, name = make_zone(), parse_name("web.shop.svc.cluster.local")
    assert zone.answer(Question(name, Type.A, qclass)) == Answer(Rcode.REFUSED, authoritative=False)
    assert zone.answer(Question(parse_name("version.bind"), Type.TXT, qclass)) is None
    assert zone.answer(Question(parse_name("7.7.168.192.in-addr.arpa"), Type.PTR, qclass)) is None


@pytest.mark.parametrize("qtype", [Type.AXFR, Type.IXFR])
def test_zone_transfers_are_refused(qtype: Type) -> None:
    assert ZONE.answer(Question(DOMAIN, qtype)) == Answer(Rcode.REFUSED, authoritative=False)


def test_a_dot_inside_a_label_separates_nothing() -> None:
    name: Name = (b"web.shop", b"svc", *DOMAIN)
    answer = ZONE.answer(Question(name, Type.A))
    assert answer is not None
    assert answer.rcode == Rcode.NXDOMAIN


def test_there_are_no_wildcards() -> None:
    for name in ("*.shop.svc", "*.web.shop.svc", "*.*.web.shop.svc"):
        assert denial(f"{name} A") == "NXDOMAIN Z"


def test_the_soa() -> None:
    answer = ask(" SOA")
    assert answer is not None
    soa = answer.answers[0].data
    serial = ZONE.index.serial
    assert soa == Soa(
        parse_name("ns.dns.cluster.local"), parse_name("hostmaster.cluster.local"), serial, 7200, 1800, 86400, 5
    )


def test_an_apex_that_is_a_whole_address() -> None:
    zone = make_zone()
    zone.settings = replace(zone.settings, networks=(ip_network("10.96.0.7/32"),))
    assert found("7.0.96.10.in-addr.arpa. PTR", zone) == ["7.0.96.10.in-addr.arpa. 5 PTR web.shop.svc.Z"]
    assert found("7.0.96.10.in-addr.arpa. SOA", zone) == ["7.0.96.10.in-addr.arpa. 5 SOA soa"]
