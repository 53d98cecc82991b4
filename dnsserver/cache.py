"""What upstreams said, kept for as long as they allow, and a little longer for when they are gone.

RFC 1035 and RFC 2308: an answer lives for the least TTL of its records, a denial for the SOA's TTL or minimum,
whichever is less; both under a cap. RFC 8767: an expired answer is better than none while no upstream can be reached.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from dnsserver.records import Record, Type
from dnsserver.zone import STALE_ANSWER, Answer, Question, Rcode, Reason

SIZE = 10_000  # answers
MOST_POSITIVE = 3600  # seconds
MOST_NEGATIVE = 1800  # seconds
STALE_FOR = 3600  # seconds after its end that an answer may still be served
STALE_TTL = 30  # seconds (RFC 8767 section 5.2)


@dataclass(frozen=True, slots=True)
class Ask:
    """What distinguishes one upstream query from another. ``do`` and ``cd``: the client's DNSSEC bits."""

    question: Question
    do: bool = False
    cd: bool = False


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: Answer
    since: float
    until: float


def lifetime(answer: Answer) -> float:
    """Seconds for which ``answer`` may be kept; 0: not at all."""
    if answer.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
        return 0
    if answer.rcode == Rcode.NOERROR and any(record.rtype != Type.CNAME for record in answer.answers):
        return min(MOST_POSITIVE, *(record.ttl for record in answer.answers))
    proof = [min(record.ttl, _minimum(record)) for record in answer.authority if record.rtype == Type.SOA]
    return min(MOST_NEGATIVE, *proof, *(record.ttl for record in answer.answers)) if proof else 0


def _minimum(record: Record) -> int:
    """The last field of an SOA, which parsed responses hold as bytes."""
    assert isinstance(record.data, bytes)
    return int.from_bytes(record.data[-4:], "big")


class Cache:
    """Least recently used goes first. Times are the caller's monotonic seconds."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._kept: OrderedDict[Ask, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, ask: Ask, answer: Answer, now: float) -> None:
        seconds = lifetime(answer)
        if seconds <= 0:
            return
        self._kept[ask] = _Kept(answer, now, now + seconds)
        self._kept.move_to_end(ask)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def get(self, ask: Ask, now: float) -> Answer | None:
        """A live answer, its TTLs counted down."""
        kept = self._kept.get(ask)
        if kept is None or kept.until <= now:
            return None
        self._kept.move_to_end(ask)
        return _with_ttls(kept.answer, age=int(now - kept.since))

    def get_stale(self, ask: Ask, now: float) -> Answer | None:
        """An answer whose time is over, for when nobody else can be asked."""
        kept = self._kept.get(ask)
        if kept is None or kept.until + STALE_FOR <= now:
            return None
        stale = _with_ttls(kept.answer, age=0, cap=STALE_TTL)
        return replace(stale, reason=Reason(STALE_ANSWER, "upstreams do not answer"))


def _with_ttls(answer: Answer, *, age: int, cap: int = MOST_POSITIVE) -> Answer:
    def aged(records: tuple[Record, ...]) -> tuple[Record, ...]:
        return tuple(replace(record, ttl=max(0, min(record.ttl - age, cap))) for record in records)

    return replace(
        answer, answers=aged(answer.answers), authority=aged(answer.authority), additional=aged(answer.additional)
    )
