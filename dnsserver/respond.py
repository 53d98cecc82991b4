"""Request bytes in, response bytes out, without a socket: the server's whole behaviour for names of ours.

``Responder.receive`` yields one of three things: nothing (the request deserves silence), a ``Reply``, or a ``Forward``:
something must be asked upstream first, and ``finish`` then makes the reply from what it said.

Answers are rendered once for each zone state: the cache is keyed by the question as it stands on the wire, lowered, and
forgotten as soon as the zone's serial moves, so that nothing in it can be stale.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnsserver import wire
from dnsserver.names import Name, render_name
from dnsserver.records import Type
from dnsserver.wire import Query, Refusal, Rendered
from dnsserver.zone import Answer, Question, Rcode, Zone, append_chased

KEPT = 8192  # rendered answers


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, and what to count it under. ``qtype`` is None for requests that could not be read that far."""

    data: bytes
    rcode: int
    qtype: int | None
    zone: str
    do: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    """``question`` must be asked upstream; ``chain`` is what the zone itself has to say before it."""

    query: Query
    question: Question
    chain: Answer | None = None


class Responder:
    """``recursion``: names that are not ours are forwarded (the RA bit); else they are refused."""

    def __init__(self, zone: Zone, *, recursion: bool = True) -> None:
        self._zone, self._recursion = zone, recursion
        self._rendered: dict[bytes, tuple[Rendered, str]] = {}
        self._state: tuple[int, bool] | None = None
        self._labels: dict[Name | None, str] = {}
        self._turn = 0

    def receive(self, data: bytes, *, udp: bool) -> Reply | Forward | None:
        """Answer one request. Never raises, whatever ``data`` holds."""
        query = wire.parse_query(data)
        if query is None:
            return None
        if isinstance(query, Refusal):
            return Reply(wire.assemble_refusal(query), query.rcode, None, ".")
        self._forget_stale()
        raw = query.raw
        key = raw[:-4].lower() + raw[-4:]  # types and classes have no letter case
        kept = self._rendered.get(key)
        if kept is not None:
            return self._reply(query, *kept, udp=udp)
        return self._answer(query, key, udp=udp)

    def finish(self, forward: Forward, answer: Answer, *, udp: bool) -> Reply:
        """The reply to a query for which ``answer`` came from upstream."""
        if forward.chain is not None:
            answer = append_chased(forward.chain, answer)
        rendered = wire.render(forward.query.question, answer)
        zone = self._label(self._zone.apex(forward.query.question.name))
        return self._reply(forward.query, rendered, zone, udp=udp)

    def _answer(self, query: Query, key: bytes, *, udp: bool) -> Reply | Forward:
        answer = self._zone.answer(query.question)
        if answer is None:
            if self._recursion and query.question.qtype not in (Type.AXFR, Type.IXFR):
                return Forward(query, query.question)
            answer = Answer(Rcode.REFUSED, authoritative=False)
        elif answer.chase is not None and self._recursion:
            return Forward(query, Question(answer.chase, query.question.qtype, query.question.qclass), answer)
        rendered = wire.render(query.question, answer)
        zone = self._label(self._zone.apex(query.question.name))
        if len(self._rendered) >= KEPT:
            self._rendered.clear()
        self._rendered[key] = (rendered, zone)
        return self._reply(query, rendered, zone, udp=udp)

    def _reply(self, query: Query, rendered: Rendered, zone: str, *, udp: bool) -> Reply:
        self._turn += 1
        limit = wire.udp_limit(query.edns) if udp else wire.MOST_TCP
        data = wire.assemble(query, rendered, limit=limit, turn=self._turn, recursion=self._recursion)
        do = query.edns is not None and query.edns.do
        return Reply(data, rendered.rcode, query.question.qtype, zone, do)

    def _forget_stale(self) -> None:
        state = (self._zone.index.serial, self._zone.synced)
        if state != self._state:
            self._rendered.clear()
            self._state = state

    def _label(self, apex: Name | None) -> str:
        """The zone's name for metrics; ``.`` for what is forwarded, as CoreDNS has it."""
        if apex not in self._labels:
            self._labels[apex] = "." if apex is None else render_name(apex)
        return self._labels[apex]
