"""Following a packet where the rules are not ours."""

from __future__ import annotations

import pytest

from rules.iptables.lower import lower_frontends
from rules.iptables.parse import parse_ruleset
from rules.policy import resolve_frontends
from rules.snapshot import Family
from rules.trace import Packet, TraceError, trace_packet
from tests.harness.services import make_service, make_snapshot

PACKET = Packet("192.0.2.1", "10.0.0.1", 80)


def rules(*lines: str) -> str:
    body = "\n".join(f"-A KUBE-SERVICES {line}" for line in lines)
    jump = '-A PREROUTING -m comment --comment "podwire: x" -j KUBE-SERVICES'
    return f"*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n{jump}\n{body}\nCOMMIT\n"


def test_every_step_is_told() -> None:
    ruleset = parse_ruleset(rules("-d 10.0.0.0/8 -j KUBE-SVC-A", "-s 10.0.0.0/8 -j DROP", "-p tcp -j DROP"))
    (outcome,) = trace_packet(ruleset, PACKET)
    assert [(step.chain, step.rule.target) for step in outcome.steps] == [
        ("PREROUTING", "KUBE-SERVICES"),
        ("KUBE-SERVICES", "KUBE-SVC-A"),
        ("KUBE-SERVICES", "DROP"),
    ]
    assert outcome.verdict == "DROP"


def test_a_rule_without_target_only_counts() -> None:
    (outcome,) = trace_packet(parse_ruleset(rules("-p tcp")), PACKET)
    assert (outcome.verdict, len(outcome.steps)) == ("ACCEPT", 2)


def test_return_goes_back_to_the_calling_chain() -> None:
    (outcome,) = trace_packet(parse_ruleset(rules("-j RETURN", "-j DROP")), PACKET)
    assert outcome.verdict == "ACCEPT"


def test_dice_that_leave_a_remainder() -> None:
    line = "-m statistic --mode random --probability 0.25000000000 -j DROP"
    outcomes = trace_packet(parse_ruleset(rules(line)), PACKET)
    assert [(outcome.verdict, outcome.probability) for outcome in outcomes] == [("ACCEPT", 0.75), ("DROP", 0.25)]


def test_nobody_is_remembered_on_a_first_connection() -> None:
    made = make_service("web", "10.244.0.1", "10.244.0.2", affinity_seconds=60)
    ruleset = lower_frontends(resolve_frontends(make_snapshot(made)), Family.IPV4)
    outcomes = trace_packet(ruleset, Packet("10.244.0.9", "10.96.0.10", 80))
    assert [outcome.probability for outcome in outcomes] == [0.5, 0.5]


def test_long_chains() -> None:
    ruleset = parse_ruleset(rules(*["-d 10.9.9.9/32 -j DROP"] * 5000, "-j KUBE-SVC-A"))
    (outcome,) = trace_packet(ruleset, PACKET)
    assert len(outcome.steps) == 2


@pytest.mark.parametrize("line", ["-j LOG", "-m length --length 5 -j DROP"])
def test_what_is_not_understood_is_not_guessed(line: str) -> None:
    with pytest.raises(TraceError, match="cannot follow"):
        trace_packet(parse_ruleset(rules(line)), PACKET)
