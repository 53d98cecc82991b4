"""Following a packet where the rules are not ours."""

from __future__ import annotations

import pytest

from rules.iptables.lower import lower_frontends
from rules.iptables.parse import parse_ruleset
from rules.policy import resolve_frontends
from rules.snapshot import Family
from rules.trace import Outcome, Packet, TraceError, trace_packet
from tests.harness.services import make_service, make_snapshot

NODE = "192.0.2.2"
PACKET = Packet("192.0.2.1", "10.0.0.1", 80)
HALF = "-m statistic --mode random --probability 0.50000000000"


def table(name: str, jumps: dict[str, str], chains: dict[str, tuple[str, ...]]) -> str:
    lines = [f":{chain} - [0:0]" for chain in chains]
    lines += [f'-A {hook} -m comment --comment "podwire: x" -j {entry}' for hook, entry in jumps.items()]
    lines += [f"-A {chain} {rule}" for chain, found in chains.items() for rule in found]
    return "\n".join([f"*{name}", *lines, "COMMIT", ""])


def follow(packet: Packet, *rules: str, **chains: tuple[str, ...]) -> tuple[Outcome, ...]:
    """``rules`` in KUBE-SERVICES, asked by whatever arrives or is sent; ``chains``: named KUBE-SEP-<key>."""
    others = {f"KUBE-SEP-{name}": found for name, found in chains.items()}
    jumps = {"PREROUTING": "KUBE-SERVICES", "OUTPUT": "KUBE-SERVICES"}
    return trace_packet(parse_ruleset(table("nat", jumps, {"KUBE-SERVICES": rules, **others})), packet)


def verdict(packet: Packet, match: str) -> str:
    """DROP if the match holds."""
    (outcome,) = follow(packet, f"{match} -j DROP")
    return outcome.verdict


def test_every_step_is_told() -> None:
    (outcome,) = follow(PACKET, "-d 10.0.0.0/8 -j KUBE-SEP-A", "-s 10.0.0.0/8 -j DROP", "-p tcp -j DROP", A=())
    assert [(step.table, step.hook, step.chain, step.rule.target) for step in outcome.steps] == [
        ("nat", "PREROUTING", "PREROUTING", "KUBE-SERVICES"),
        ("nat", "PREROUTING", "KUBE-SERVICES", "KUBE-SEP-A"),
        ("nat", "PREROUTING", "KUBE-SERVICES", "DROP"),
    ]
    assert outcome.verdict == "DROP"


def test_a_rule_without_target_only_counts() -> None:
    (outcome,) = follow(PACKET, "-p tcp")
    assert (outcome.verdict, len(outcome.steps)) == ("ACCEPT", 2)


def test_return_goes_back_to_the_calling_chain() -> None:
    (outcome,) = follow(PACKET, "-j RETURN", "-j DROP")
    assert outcome.verdict == "ACCEPT"
    (outcome,) = follow(PACKET, "-j KUBE-SEP-A", "-j DROP", A=("-j RETURN", "-j ACCEPT"))
    assert outcome.verdict == "DROP"


def test_goto_does_not_come_back() -> None:
    (outcome,) = follow(PACKET, "-g KUBE-SEP-A", "-j DROP", A=("-p udp -j ACCEPT",))
    assert (outcome.verdict, len(outcome.steps)) == ("ACCEPT", 2)
    (outcome,) = follow(PACKET, "-j KUBE-SEP-A", "-j DROP", A=("-g KUBE-SEP-B", "-j ACCEPT"), B=())
    assert outcome.verdict == "DROP"


def test_trees_of_chains() -> None:
    chains = {
        "KUBE-SERVICES": ("-d 10.0.0.0/24 -j PODWIRE-D-1", "-j DROP"),
        "PODWIRE-D-1": ("-d 10.0.0.0/25 -g PODWIRE-D-2",),
        "PODWIRE-D-2": ("-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.0.1:8080",),
    }
    ruleset = parse_ruleset(table("nat", {"PREROUTING": "KUBE-SERVICES"}, chains))
    (outcome,) = trace_packet(ruleset, PACKET)
    assert (outcome.verdict, outcome.endpoint) == ("ACCEPT", "10.244.0.1:8080")
    assert [step.chain for step in outcome.steps] == ["PREROUTING", "KUBE-SERVICES", "PODWIRE-D-1", "PODWIRE-D-2"]


def test_dice_that_leave_a_remainder() -> None:
    outcomes = follow(PACKET, "-m statistic --mode random --probability 0.25000000000 -j DROP")
    assert [(outcome.verdict, outcome.probability) for outcome in outcomes] == [("ACCEPT", 0.75), ("DROP", 0.25)]


def test_what_dice_left_open_goes_on() -> None:
    outcomes = follow(PACKET, f"{HALF} -p udp -j ACCEPT", f"{HALF} -j DROP")
    assert sum(outcome.probability for outcome in outcomes) == 1
    assert sum(outcome.probability for outcome in outcomes if outcome.verdict == "DROP") == 0.5


@pytest.mark.parametrize(
    ("match", "packet"),
    [
        ("-m tcp --dport 80:90", PACKET),
        ("-m tcp --dport 79:80", PACKET),
        ("-m tcp --dport 80", PACKET),
        ("-m tcp ! --dport 81:90", PACKET),
        ("-i eth0", Packet("192.0.2.1", "10.0.0.1", 80, came="eth0")),
        ("! -i eth0", Packet("192.0.2.1", "10.0.0.1", 80, came="eth1")),
        ("-o eth0", Packet("192.0.2.1", "10.0.0.1", 80, out="eth0")),
        ("-o eth0", Packet("192.0.2.1", "10.0.0.1", 80, out="eth1", leaves={"10.0.0.1": "eth0"})),
        ("! -s 192.0.2.2/32", PACKET),
        ("! -p udp", PACKET),
        ("-m addrtype --dst-type LOCAL", Packet("192.0.2.1", NODE, 80, local=frozenset({NODE}))),
        ("-m addrtype --dst-type LOCAL", Packet("127.0.0.1", "127.0.0.9", 80, from_node=True)),
        ("-m addrtype ! --dst-type LOCAL", PACKET),
        ("-m addrtype --src-type LOCAL", Packet(NODE, "10.0.0.1", 80, from_node=True)),
        ("-m mark ! --mark 0x4000/0x4000", PACKET),
        ("-m conntrack --ctstate RELATED,NEW", PACKET),
        ("-m conntrack ! --ctstate DNAT,ESTABLISHED", PACKET),
        ("-m set --match-set s src", Packet("192.0.2.1", "10.0.0.1", 80, member_of=frozenset({"s", "t"}))),
        ("-m set ! --match-set s src", PACKET),
    ],
)  # fmt: skip
def test_matches(match: str, packet: Packet) -> None:
    assert verdict(packet, match) == "DROP"
    opposite = match.replace("! ", "") if "!" in match else None
    if opposite:
        assert verdict(packet, opposite) == "ACCEPT"


def test_nobody_is_remembered_on_a_first_connection() -> None:
    made = make_service("web", "10.244.0.1", "10.244.0.2", affinity_seconds=60)
    ruleset = lower_frontends(resolve_frontends(make_snapshot(made)), Family.IPV4)
    outcomes = trace_packet(ruleset, Packet("10.244.0.9", "10.96.0.10", 80))
    assert [(outcome.assumed, outcome.probability) for outcome in outcomes] == [("", 0.5), ("", 0.5)]


def remember(name: str) -> str:
    return f"-m set --match-set {name} src -j KUBE-SEP-{name}"


def to(address: str, name: str) -> tuple[str, ...]:
    return (
        f"-j SET --add-set {name} src --exist --timeout 60",
        f"-p tcp -m tcp -j DNAT --to-destination {address}:8080",
    )


AFFINITY = (remember("A"), remember("B"), f"{HALF} -j KUBE-SEP-A", "-j KUBE-SEP-B")
ENDPOINTS = {"A": to("10.244.0.1", "A"), "B": to("10.244.0.2", "B")}


def test_a_remembered_client_goes_where_it_went() -> None:
    packet = Packet("192.0.2.1", "10.0.0.1", 80, member_of=frozenset({"B"}))
    (outcome,) = follow(packet, *AFFINITY, **ENDPOINTS)
    assert (outcome.endpoint, outcome.probability, outcome.assumed) == ("10.244.0.2:8080", 1, "")
    assert [step.rule.target for step in outcome.steps][-2:] == ["SET", "DNAT"]


def test_where_memory_is_not_known_every_answer_is_followed() -> None:
    packet = Packet("192.0.2.1", "10.0.0.1", 80, member_of=None)
    found = [(o.assumed, o.endpoint[:10], o.probability) for o in follow(packet, *AFFINITY, **ENDPOINTS)]
    assert found == [
        ("", "10.244.0.1", 0.5),
        ("", "10.244.0.2", 0.5),
        ("A", "10.244.0.1", 1),
        ("B", "10.244.0.2", 1),
    ]


def test_an_answer_about_memory_holds_for_the_rest_of_the_way() -> None:
    packet = Packet("192.0.2.1", "10.0.0.1", 80, member_of=None)
    rules = ("-m set --match-set A src", "-m set --match-set A src -j DROP", "-m set ! --match-set A src -j ACCEPT")
    assert [(o.assumed, o.verdict) for o in follow(packet, *rules)] == [("", "ACCEPT"), ("A", "DROP")]


DNAT_HERE = "-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.0.2.2:8080"


def hooks(*, from_node: bool) -> tuple[Outcome, ...]:
    """A Service whose endpoint is the node itself; each hook of the filter table has a rule of its own."""
    refuse = '-d 192.0.2.2/32 -m comment --comment "in the INPUT hook" -j REJECT --reject-with tcp-reset'
    text = table("nat", {"PREROUTING": "KUBE-SERVICES", "OUTPUT": "KUBE-SERVICES", "POSTROUTING": "KUBE-POSTROUTING"},
                 {"KUBE-SERVICES": (DNAT_HERE,), "KUBE-POSTROUTING": ("-j MASQUERADE",)})  # fmt: skip
    text += table("filter", {"INPUT": "KUBE-EXTERNAL-SERVICES", "FORWARD": "KUBE-FORWARD", "OUTPUT": "KUBE-FORWARD"},
                  {"KUBE-EXTERNAL-SERVICES": (refuse,), "KUBE-FORWARD": ("-j ACCEPT",)})  # fmt: skip
    packet = Packet(NODE, "10.0.0.1", 80, local=frozenset({NODE}), from_node=from_node)
    return trace_packet(parse_ruleset(text), packet)


def test_what_ends_at_the_node_is_asked_in_input_and_keeps_its_source() -> None:
    (outcome,) = hooks(from_node=False)
    assert (outcome.verdict, outcome.delivered, outcome.masqueraded) == ("REJECT", True, False)
    assert [step.hook for step in outcome.steps] == ["PREROUTING", "PREROUTING", "INPUT", "INPUT"]


def test_what_the_node_sends_to_itself_leaves_and_comes_back() -> None:
    (outcome,) = hooks(from_node=True)
    assert (outcome.verdict, outcome.delivered, outcome.masqueraded) == ("REJECT", True, True)
    order = ["nat OUTPUT", "filter OUTPUT", "nat POSTROUTING", "filter INPUT"]
    assert list(dict.fromkeys(f"{step.table} {step.hook}" for step in outcome.steps)) == order


def test_conntrack_knows_what_was_rewritten() -> None:
    drop = "-m conntrack --ctstate DNAT -j DROP"
    text = table("nat", {"PREROUTING": "KUBE-SERVICES"}, {"KUBE-SERVICES": (DNAT_HERE,)})
    text += table("filter", {"FORWARD": "KUBE-FORWARD"}, {"KUBE-FORWARD": (drop,)})
    assert [o.verdict for o in trace_packet(parse_ruleset(text), PACKET)] == ["DROP"]


def test_a_hairpin_is_masqueraded() -> None:
    made = make_service("web", "10.244.0.1", "10.244.0.2")
    ruleset = lower_frontends(resolve_frontends(make_snapshot(made)), Family.IPV4)
    outcomes = trace_packet(ruleset, Packet("10.244.0.1", "10.96.0.10", 80))
    assert {outcome.endpoint: outcome.masqueraded for outcome in outcomes} == {
        "10.244.0.1:8080": True,
        "10.244.0.2:8080": False,
    }


def test_long_chains() -> None:
    (outcome,) = follow(PACKET, *["-d 10.9.9.9/32 -j DROP"] * 5000, "-j KUBE-SEP-A", A=())
    assert len(outcome.steps) == 2


@pytest.mark.parametrize("line", ["-j LOG", "-m length --length 5 -j DROP"])
def test_what_is_not_understood_is_not_guessed(line: str) -> None:
    with pytest.raises(TraceError, match="cannot follow"):
        follow(PACKET, line)
