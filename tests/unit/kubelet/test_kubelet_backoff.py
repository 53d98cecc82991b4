"""The back-off of containers that keep dying."""

from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet.backoff import FIRST, FORGOTTEN_AFTER, LONGEST, Backoff, after_restart, remaining


def test_the_first_restart_is_immediate_then_10_20_40_up_to_300_seconds() -> None:
    now, backoff, waits = 1000.0, None, []
    for _ in range(8):
        wait = remaining(backoff, died_at=now, now=now)
        waits.append(wait)
        backoff = after_restart(backoff, died_at=now, now=now + wait)
        now += wait + 1
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]


def test_the_wait_is_counted_from_the_death() -> None:
    backoff = Backoff(delay=20.0, since=100.0)
    assert remaining(backoff, died_at=130.0, now=135.0) == 15.0
    assert remaining(backoff, died_at=130.0, now=150.0) == 0.0
    assert remaining(backoff, died_at=130.0, now=500.0) == 0.0


def test_who_lived_for_ten_minutes_starts_from_scratch() -> None:
    backoff = Backoff(delay=LONGEST, since=0.0)
    died_at = FORGOTTEN_AFTER + 1
    assert remaining(backoff, died_at=died_at, now=died_at) == 0.0
    assert after_restart(backoff, died_at=died_at, now=died_at) == Backoff(FIRST, died_at)


@given(st.floats(FIRST, LONGEST), st.floats(0, 1e9), st.floats(0, 1e4), st.floats(0, 1e4))
def test_a_wait_is_never_longer_than_the_longest(delay: float, since: float, lived: float, later: float) -> None:
    backoff, died_at = Backoff(delay, since), since + lived
    assert 0.0 <= remaining(backoff, died_at=died_at, now=died_at + later) <= LONGEST
    assert FIRST <= after_restart(backoff, died_at=died_at, now=died_at + later).delay <= LONGEST
