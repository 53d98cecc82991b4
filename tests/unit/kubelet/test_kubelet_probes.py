"""Probes: thresholds, times and ports as tables."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet.probes import Kind, Look, ProbeError, Tally, count, looks, resolve_port
from agent.kubelet.spec import Port, Probe


def probe(**fields: Any) -> Probe:
    return msgspec.convert(fields, Probe)


# Thresholds


def verdicts(results: str, **fields: int) -> list[bool | None]:
    tally, told = Tally(), []
    for result in results:
        tally = count(tally, result == "+", probe(**fields))
        told.append(tally.verdict)
    return told


@pytest.mark.parametrize(
    ("results", "fields", "expected"),
    [
        ("+", {}, [True]),
        ("--", {}, [None, None]),
        ("---", {}, [None, None, False]),
        ("--+--", {}, [None, None, True, True, True]),
        ("+---+", {}, [True, True, True, False, True]),
        ("++", {"successThreshold": 2}, [None, True]),
        ("+-++", {"successThreshold": 2}, [None, None, None, True]),
        ("-", {"failureThreshold": 1}, [False]),
    ],
)
def test_thresholds(results: str, fields: dict[str, int], expected: list[bool | None]) -> None:
    assert verdicts(results, **fields) == expected


@given(st.text("+-", min_size=1), st.integers(1, 4), st.integers(1, 4))
def test_a_verdict_changes_only_after_its_threshold_in_a_row(results: str, success: int, failure: int) -> None:
    told: list[bool | None] = [None, *verdicts(results, successThreshold=success, failureThreshold=failure)]
    for i, (before, after) in enumerate(itertools.pairwise(told), start=1):
        if after is not before:
            needed = success if after else failure
            assert results[:i].endswith(("+" if after else "-") * needed)


# Times


def first(kind: Kind, number: int, **fields: int) -> list[Look]:
    return list(itertools.islice(looks(kind, probe(**fields)), number))


def test_readiness_looks_at_once_and_often_until_its_period_is_over() -> None:
    told = first("readiness", 8, periodSeconds=1)
    assert [look.pause for look in told[:5]] == [0.0, 0.05, 0.1, 0.2, 0.4]
    assert all(look.early for look in told[:5])
    assert told[5] == Look(pytest.approx(0.25), early=False)  # type: ignore[arg-type]
    assert told[6:] == [Look(1.0, early=False)] * 2


@given(st.sampled_from(["readiness", "startup"]), st.integers(0, 60), st.integers(0, 60))
def test_counted_looks_are_a_period_apart(kind: Kind, delay: int, period: int) -> None:
    at, counted = 0.0, []
    for look in first(kind, 25, initialDelaySeconds=delay, periodSeconds=period):
        at += look.pause
        counted += [] if look.early else [at]
    assert first(kind, 1, initialDelaySeconds=delay, periodSeconds=period)[0].pause == delay
    expected = [delay + max(1, period) * (i + 1) for i in range(len(counted))]
    assert counted == pytest.approx(expected)


def test_liveness_waits_for_its_delay_or_a_period() -> None:
    assert first("liveness", 2, periodSeconds=7) == [Look(7.0, early=False)] * 2
    assert first("liveness", 2, periodSeconds=7, initialDelaySeconds=3)[0] == Look(3.0, early=False)


# Ports

PORTS = (Port(container_port=8080, name="web"), Port(container_port=9090))


@pytest.mark.parametrize(("port", "number"), [(80, 80), ("81", 81), ("web", 8080)])
def test_ports(port: int | str, number: int) -> None:
    assert resolve_port(port, PORTS) == number


@pytest.mark.parametrize("port", ["none", 0, 70000, "-1", ""])
def test_ports_that_are_none(port: int | str) -> None:
    with pytest.raises(ProbeError, match="no port"):
        resolve_port(port, PORTS)
