"""Question -> answer: everything a name means, and nothing about bytes or sockets.

The Kubernetes DNS specification 1.1.0 and the habits of CoreDNS's kubernetes plugin. Four outcomes look alike to a
hurried client and must not be confused:

    NOERROR with records   the name exists and has this type
    NODATA                 the name exists and has not: NOERROR, no answer, the SOA as proof (RFC 2308)
    NXDOMAIN               there is no such name, nor any below it (RFC 8020); the SOA as proof
    SERVFAIL               not known *yet*: before the first sync; a denial would be remembered

``answer`` returns None for names that are somebody else's: those are forwarded. A CNAME that leads out of the zone is
answered with ``chase``: the target that must be asked upstream. There are no wildcards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Literal

from dnsserver.names import (
    Address,
    Name,
    Network,
    is_below,
    is_partial_reverse,
    parse_dashed,
    reverse_address,
    reverse_apex,
)
from dnsserver.records import IN, Index, Node, Record, Soa, Type

VERSION = b"1.1.0"  # of the specification
VERSION_TTL = 28800  # seconds; the specification's own example
MOST_LINKS = 10  # of a CNAME chain
LONGEST_DOMAIN = (
    50  # characters: with it the longest name (endpoint, Service, namespace of 63 each) fits into 255 octets
)
REFRESH, RETRY, EXPIRE = 7200, 1800, 86400  # seconds; nobody transfers this zone, they are CoreDNS's

_EXISTS: Node = {}


class Rcode(IntEnum):
    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


@dataclass(frozen=True, slots=True)
class Question:
    name: Name
    qtype: int
    qclass: int = IN


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an answer is not what the client hoped for: an extended DNS error (RFC 8914), which ``dig`` shows."""

    code: int
    text: str


NOT_READY = 14
NO_REACHABLE_AUTHORITY = 22
STALE_ANSWER = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """A response without its envelope. ``chase``: a name still to be asked upstream, whose answer is to be appended."""

    rcode: int = Rcode.NOERROR
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    authoritative: bool = True
    authentic: bool = False  # the AD bit of an upstream that validates
    chase: Name | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """``networks``: whose reverse names are ours. ``nameservers``: what ``ns.dns.Z`` resolves to. ``ttl``: seconds."""

    domain: Name
    ttl: int = 5
    pods: Literal["disabled", "insecure", "verified"] = "disabled"
    networks: tuple[Network, ...] = ()
    nameservers: tuple[Address, ...] = ()


class Zone:
    """The cluster's zone and its reverse zones, over an Index that others keep true. ``synced`` is set by its owner."""

    def __init__(self, settings: Settings, index: Index) -> None:
        self.settings, self.index, self.synced = settings, index, False
        domain = settings.domain
        self._ns_name: Name = (b"ns", b"dns", *domain)
        self._rname: Name = (b"hostmaster", *domain)
        self._fixed: dict[Name, Node] = {
            (b"svc", *domain): _EXISTS,
            (b"pod", *domain): _EXISTS,
            (b"dns", *domain): _EXISTS,
            self._ns_name: self._addresses(self._ns_name, settings.nameservers),
            (b"dns-version", *domain): {Type.TXT: (self._version(),)},
        }

    def answer(self, question: Question) -> Answer | None:
        """The answer to ``question``; None if the name is not ours."""
        apex = self.apex(question.name)
        if apex is None:
            return self._foreign_pointer(question)
        if question.qclass != IN or question.qtype in (Type.AXFR, Type.IXFR):
            return Answer(Rcode.REFUSED, authoritative=False)
        return self._resolve(question, apex)

    def apex(self, name: Name) -> Name | None:
        """The apex of the zone of ours that ``name`` lies in."""
        if is_below(name, self.settings.domain):
            return self.settings.domain
        for network in self.settings.networks:
            apex = reverse_apex(name, network)
            if apex is not None:
                return apex
        return None

    def node(self, name: Name, apex: Name) -> Node | None:
        """The records of a name in the zone of ``apex``; empty: it merely exists; None: it does not."""
        if name == apex:
            ns = Record(apex, Type.NS, self.settings.ttl, self._ns_name)
            below = self._reverse_node(name) if apex != self.settings.domain else None
            return {Type.SOA: (self._soa(apex),), Type.NS: (ns,), **(below or _EXISTS)}
        if apex != self.settings.domain:
            return self._reverse_node(name)
        fixed = self._fixed.get(name)
        return self._cluster_node(name, name[: -len(apex)]) if fixed is None else fixed

    def _resolve(self, question: Question, apex: Name) -> Answer:
        """Follow CNAMEs inside the zone, then answer; what a target outside adds is the caller's to ask for."""
        chain: list[Record] = []
        name = question.name
        while True:
            if not self.synced and name != apex and name not in self._fixed:
                return Answer(Rcode.SERVFAIL, authoritative=False, reason=Reason(NOT_READY, "not yet synced"))
            node = self.node(name, apex)
            alias = () if node is None or question.qtype in (Type.CNAME, Type.ANY) else node.get(Type.CNAME, ())
            if not alias:
                return self._final(question, node, name=name, apex=apex, chain=tuple(chain))
            chain.extend(alias)
            target = alias[0].data
            assert isinstance(target, tuple)
            if len(chain) > MOST_LINKS or any(record.name == target for record in chain):
                return Answer(Rcode.SERVFAIL, authoritative=False)
            outside = self.apex(target)
            if outside is None:
                return Answer(answers=tuple(chain), chase=target)
            name, apex = target, outside

    def _final(
        self, question: Question, node: Node | None, *, name: Name, apex: Name, chain: tuple[Record, ...]
    ) -> Answer:
        if node is None:
            return Answer(Rcode.NXDOMAIN, answers=chain, authority=(self._soa(apex),))
        if question.qtype == Type.ANY and node:
            # RFC 8482 section 4.2: a synthesized HINFO spares everybody the large answer nobody needs.
            return Answer(answers=(Record(name, Type.HINFO, self.settings.ttl, b"\x07RFC8482\x00"),))
        records = node.get(question.qtype, ())
        if not records:
            return Answer(answers=chain, authority=(self._soa(apex),))
        return Answer(answers=chain + records, additional=self._targets(records))

    def _targets(self, records: Iterable[Record]) -> tuple[Record, ...]:
        """Addresses of what SRV and NS records point to, so that the client need not ask again."""
        names: dict[Name, None] = {}
        for record in records:
            if record.rtype == Type.NS:
                names[self._ns_name] = None
            elif record.rtype == Type.SRV:
                names[record.data.target] = None  # type: ignore[union-attr]
        nodes = [self._fixed.get(name) or self.index.nodes.get(name, _EXISTS) for name in names]
        return tuple(record for node in nodes for rtype in (Type.A, Type.AAAA) for record in node.get(rtype, ()))

    def _cluster_node(self, name: Name, labels: Name) -> Node | None:
        """A name below the cluster domain; ``labels``: what is left of the domain."""
        match labels:
            case (namespace, b"svc"):
                return _EXISTS if self.index.has_namespace(namespace) else None
            case (*_, b"svc"):
                return self.index.nodes.get(name)
            case (namespace, b"pod"):
                known = self.settings.pods != "disabled" and self.index.has_namespace(namespace)
                return _EXISTS if known else None
            case (pod, namespace, b"pod"):
                return self._pod_node(name, pod, namespace)
        return None

    def _pod_node(self, name: Name, pod: bytes, namespace: bytes) -> Node | None:
        address = parse_dashed(pod)
        if address is None or self.settings.pods == "disabled" or not self.index.has_namespace(namespace):
            return None
        if self.settings.pods == "verified" and not self.index.has_pod(namespace, address):
            return None
        return self._addresses(name, (address,))

    def _reverse_node(self, name: Name) -> Node | None:
        address = reverse_address(name)
        if address is None:
            return _EXISTS if is_partial_reverse(name) else None
        return self._pointer_node(name, address)

    def _pointer_node(self, name: Name, address: Address) -> Node | None:
        targets = self.index.pointers(address)
        records = tuple(Record(name, Type.PTR, self.settings.ttl, target) for target in targets)
        return {Type.PTR: records} if records else None

    def _foreign_pointer(self, question: Question) -> Answer | None:
        """PTR of an address that is not in our ranges but is an endpoint here: another node's pod, a manual endpoint.

        Private addresses only: whoever may write a Service must not thereby name the Internet's addresses.
        """
        if (question.qtype, question.qclass) != (Type.PTR, IN) or not self.synced:
            return None
        address = reverse_address(question.name)
        node = self._pointer_node(question.name, address) if address is not None and address.is_private else None
        return Answer(answers=node[Type.PTR]) if node else None

    def _addresses(self, name: Name, addresses: Iterable[Address]) -> Node:
        node: dict[int, tuple[Record, ...]] = {}
        for address in addresses:
            rtype = Type.A if isinstance(address, IPv4Address) else Type.AAAA
            node[rtype] = (*node.get(rtype, ()), Record(name, rtype, self.settings.ttl, address))
        return node

    def _version(self) -> Record:
        text = bytes([len(VERSION)]) + VERSION
        return Record((b"dns-version", *self.settings.domain), Type.TXT, VERSION_TTL, text)

    def _soa(self, apex: Name) -> Record:
        ttl = self.settings.ttl
        soa = Soa(self._ns_name, self._rname, self.index.serial, REFRESH, RETRY, EXPIRE, minimum=ttl)
        return Record(apex, Type.SOA, ttl, soa)


def append_chased(answer: Answer, chased: Answer) -> Answer:
    """The CNAME chain of ``answer``, completed by what its target answered upstream."""
    return replace(chased, answers=answer.answers + chased.answers, authoritative=True, authentic=False, additional=())
