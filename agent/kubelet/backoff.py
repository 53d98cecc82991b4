"""How long a container that keeps dying has to wait: 10 s, doubled with each death up to 300 s.

Upstream's rule (client-go util/flowcontrol Backoff as kuberuntime uses it): the first restart is immediate and notes a
delay of 10 s; each further death is followed by a wait of the noted delay, counted from the death, and doubles it; a
container that lived for more than twice the longest delay (10 minutes) since its last restart starts from scratch.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST, LONGEST = 10.0, 300.0  # seconds
FORGOTTEN_AFTER = 2 * LONGEST


@dataclass(frozen=True, slots=True)
class Backoff:
    """The next death is followed by ``delay`` seconds of waiting; ``since``: the last restart (epoch seconds)."""

    delay: float
    since: float


def remaining(backoff: Backoff | None, *, died_at: float, now: float) -> float:
    """Seconds until a container that died at ``died_at`` may start again; 0.0: at once."""
    if backoff is None or died_at - backoff.since > FORGOTTEN_AFTER:
        return 0.0
    return max(0.0, died_at + backoff.delay - now)


def after_restart(backoff: Backoff | None, *, died_at: float, now: float) -> Backoff:
    """The back-off to keep once the container that died at ``died_at`` is started again at ``now``."""
    if backoff is None or died_at - backoff.since > FORGOTTEN_AFTER:
        return Backoff(delay=FIRST, since=now)
    return Backoff(delay=min(backoff.delay * 2, LONGEST), since=now)
