"""Time as people read it: ``5m30s``, ``3d4h`` (apimachinery: util/duration)."""

from __future__ import annotations

from datetime import datetime

UNKNOWN = "<unknown>"
NONE = "<none>"
MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400


def since(timestamp: str | None, now: datetime) -> str:
    """How long ago an RFC 3339 time was, as a human duration."""
    return human_duration((now - datetime.fromisoformat(timestamp)).total_seconds()) if timestamp else UNKNOWN


def human_duration(seconds: float) -> str:
    """Two units at most, and the smaller one only while it matters. A clock may be two seconds ahead of ours."""
    whole = int(seconds)
    if whole < 0:
        return "0s" if whole >= -1 else "<invalid>"
    for limit, unit, smaller in _STEPS:
        if whole < limit:
            return _two(whole, unit, smaller)
    return _two(whole, "y", "")


_SIZES = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "y": YEAR}
# (below, unit, smaller unit shown as well)
_STEPS = (
    (2 * MINUTE, "s", ""),
    (10 * MINUTE, "m", "s"),
    (3 * HOUR, "m", ""),
    (8 * HOUR, "h", "m"),
    (2 * DAY, "h", ""),
    (8 * DAY, "d", "h"),
    (2 * YEAR, "d", ""),
    (8 * YEAR, "y", "d"),
)


def _two(seconds: int, unit: str, smaller: str) -> str:
    count, rest = divmod(seconds, _SIZES[unit])
    extra = rest // _SIZES[smaller] if smaller else 0
    return f"{count}{unit}" + (f"{extra}{smaller}" if extra else "")
