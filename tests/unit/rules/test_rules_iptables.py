"""Names, rules as text, parsing, plans."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.iptables import names
from rules.iptables.build import make_rule
from rules.iptables.diff import Plan, apply_plan, diff_rulesets
from rules.iptables.parse import ParseError, parse_chains, parse_rule, parse_ruleset, parse_save
from rules.iptables.ruleset import (
    MAX_COMMENT,
    Rule,
    Ruleset,
    Table,
    join_words,
    render_ruleset,
    shorten_comment,
    split_words,
)
from rules.iptables.transactions import render_plan
from rules.snapshot import Family

MAX_SET_NAME = 31  # IPSET_MAXNAMELEN is 32 with its final zero

# Names: what kube-proxy calls the same chains.


def test_known_chain_names() -> None:
    assert names.service_chain("ns1/svc1:p80", "tcp") == "KUBE-SVC-XPGD46QRK7WJZT7O"
    assert names.service_chain("ns4/svc4:p80", "TCP") == "KUBE-SVC-4SW47YFZTEDKD3PK"
    assert names.endpoint_chain("ns1/svc1:p80", "tcp", "10.180.0.1:80") == "KUBE-SEP-SXIVWICOYRO3J4NJ"
    assert names.local_chain("ns1/svc1:p80", "tcp") == "KUBE-SVL-XPGD46QRK7WJZT7O"
    assert names.external_chain("ns1/svc1:p80", "tcp") == "KUBE-EXT-XPGD46QRK7WJZT7O"
    assert names.firewall_chain("ns1/svc1:p80", "tcp") == "KUBE-FW-XPGD46QRK7WJZT7O"
    assert names.clients_set("ns1/svc1:p80", "tcp", "10.180.0.1:80", family=4) == "PODWIRE-4-SXIVWICOYRO3J4NJ"


PROTOCOLS = st.sampled_from(["TCP", "UDP", "SCTP"])


@given(st.text(max_size=300), PROTOCOLS, st.text(max_size=50))
def test_chain_names_fit(port: str, protocol: str, endpoint: str) -> None:
    made = [
        names.endpoint_chain(port, protocol, endpoint),
        names.branch_chain(port, protocol, endpoint),
        *(make(port, protocol) for make in (names.service_chain, names.local_chain)),
        *(make(port, protocol) for make in (names.external_chain, names.firewall_chain)),
    ]
    for name in made:
        assert len(name) <= names.MAX_CHAIN_NAME
        assert names.is_ours(name)
    assert len(set(made)) == len(made)


@given(st.ip_addresses(), st.integers(0, 32), PROTOCOLS, st.integers(0, 65535), st.integers(0, 65535))
def test_names_of_branches_fit(address: IPv4Address | IPv6Address, length: int, protocol: str, a: int, b: int) -> None:
    bits = length if address.version == 4 else 4 * length
    network = str(ip_network(f"{address}/{bits}", strict=False))
    for name in (names.address_chain("V", network), names.ports_chain("P", protocol.lower(), f"{a}-{b}")):
        assert len(name) <= names.MAX_CHAIN_NAME
        assert names.is_ours(name)


@given(st.text(max_size=300), PROTOCOLS, st.text(max_size=50), st.sampled_from(Family))
def test_names_of_sets_fit(port: str, protocol: str, endpoint: str, family: Family) -> None:
    name = names.clients_set(port, protocol, endpoint, family=family)
    assert len(name) <= MAX_SET_NAME
    assert name.startswith(names.set_prefix(family))
    others = (other for other in Family if other is not family)
    assert not any(name.startswith(names.set_prefix(other)) for other in others)


@given(st.text(max_size=300), PROTOCOLS, st.text(max_size=50))
def test_keys_of_endpoints_are_hexadecimal_digits(port: str, protocol: str, endpoint: str) -> None:
    assert re.fullmatch("[0-9a-f]{16}", names.endpoint_key(port, protocol, endpoint))


@pytest.mark.parametrize("name", ["KUBE-KUBELET-CANARY", "KUBE-FIREWALL", "KUBE-ROUTER-INPUT", "INPUT", "DOCKER", ""])
def test_foreign_chains(name: str) -> None:
    assert not names.is_ours(name)


# Values: random rulesets of ours.

CHAINS = ["KUBE-SERVICES", "KUBE-SVC-A", "KUBE-SVC-B", "KUBE-SEP-A", "KUBE-MARK-MASQ", "PODWIRE-EGRESS"]
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
made = [
    Rule(join_words((*condition, "-m", "comment", "--comment", comment, *target)))
    for condition in [(), ("-d", "10.0.0.1/32"), ("!", "-s", "10.0.0.0/8"), ("-p", "tcp"), ("-o", "eth+")]
    for comment in ["a/b:c -> 10.0.0.1:80", "plain", "", 'it\'s "quoted" \\ twice', "-j DROP", "! -A"]
    for target in [(), ("-j", "DROP"), ("-j", "KUBE-SVC-A"), ("-g", "KUBE-SEP-A"), ("-j", "DNAT", "--to", "[::1]:1")]
]
rules = st.sampled_from(made)
entries = st.sampled_from(sorted(names.ENTRIES))
jumps = entries.map(lambda entry: make_rule(f"podwire: {entry}", then=entry))
tables = st.builds(
    Table,
    chains=st.dictionaries(st.sampled_from(CHAINS), st.lists(rules, max_size=4).map(tuple), max_size=5),
    jumps=st.dictionaries(
        st.sampled_from(["INPUT", "OUTPUT", "DOCKER"]), st.lists(jumps, min_size=1, max_size=3).map(tuple), max_size=3
    ),
)
sets = st.frozensets(st.sampled_from(["PODWIRE-4-A", "PODWIRE-4-B", "PODWIRE-6-A"]))
rulesets = st.builds(Ruleset, filter=tables, nat=tables, sets=sets)


@given(rulesets)
def test_parse_is_the_inverse_of_render(ruleset: Ruleset) -> None:
    assert parse_save(render_ruleset(ruleset), sets=ruleset.sets).ruleset == ruleset


@given(rulesets, rulesets)
def test_a_plan_leads_where_it_should(installed: Ruleset, wanted: Ruleset) -> None:
    plan = diff_rulesets(installed, wanted)
    assert apply_plan(plan, installed) == wanted
    assert bool(plan) == (installed != wanted)
    assert bool(plan) == (str(plan) != "nothing to change")


@given(rulesets)
def test_nothing_to_do_is_nothing_to_do(ruleset: Ruleset) -> None:
    assert diff_rulesets(ruleset, ruleset) == Plan()
    assert render_plan(Plan()) == ""
    assert apply_plan(Plan(), ruleset) == ruleset


def test_no_packet_finds_neither_reject_nor_dnat() -> None:
    """The first endpoint comes: DNAT, then no REJECT. The last one goes: REJECT, then no DNAT."""
    chain = "KUBE-SERVICES"
    idle = Ruleset(filter=Table({chain: (parse_rule("-d 10.96.0.1/32 -j REJECT"),)}), nat=Table({chain: ()}))
    busy = Ruleset(filter=Table({chain: ()}), nat=Table({chain: (parse_rule("-d 10.96.0.1/32 -j KUBE-SVC-X"),)}))
    assert [plan.table for plan in diff_rulesets(idle, busy).tables] == ["nat", "filter"]
    assert [plan.table for plan in diff_rulesets(busy, idle).tables] == ["filter", "nat"]


# Rules: words, quoting, and where a rule leads.


@given(printable)
def test_words_survive_quoting(text: str) -> None:
    rule = make_rule(text, then="RETURN")
    assert parse_rule(str(rule)) == rule
    assert (rule.comment, rule.target) == (text, "RETURN")


@given(st.lists(printable))
def test_words_are_split_as_they_were_joined(words: list[str]) -> None:
    assert split_words(join_words(words)) == words


@given(st.sampled_from(made))
def test_a_rule_is_its_text(rule: Rule) -> None:
    assert parse_rule(str(rule)) == rule
    assert join_words(rule.words) == rule.text


def test_what_a_person_wrote_is_put_as_iptables_save_does() -> None:
    written = '-d 10.96.0.1/32   -m comment --comment "plain" -m comment --comment it\'s  -j  DROP'
    assert str(parse_rule(written)) == (
        '-d 10.96.0.1/32 -m comment --comment plain -m comment --comment "it\\\'s" -j DROP'
    )


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("", ""),
        ("-j DROP", "DROP"),
        ("-g KUBE-SEP-A", "KUBE-SEP-A"),
        ("-p tcp -m comment --comment plain -j KUBE-SVC-A", "KUBE-SVC-A"),
        ('-m comment --comment "to -j or not" -j ACCEPT', "ACCEPT"),
        ('-m comment --comment "ends in -j "', ""),
        ('-m comment --comment "says \\" -j DROP" -g KUBE-SVC-A', "KUBE-SVC-A"),
        ('-m comment --comment "x y" -j LOG --log-prefix "x -j y "', "LOG"),
        ('-j LOG --log-prefix "x y"', "LOG"),
        ('-j LOG --log-prefix "x y" --log-level 7', "LOG"),
        ('-g NOTED -m comment --comment "x y"', "NOTED"),
        ("-m comment --comment -j -j DROP", "DROP"),
        ("-m comment --comment -g -g KUBE-SVC-A", "KUBE-SVC-A"),
        ("-m comment --comment -j -m tcp", ""),
        ('-m comment --comment -j -j LOG --log-prefix "x y"', "LOG"),
        ("-m comment --comment x-j -j DROP", "DROP"),
        ("-j MARK --set-xmark 0x4000/0x4000", "MARK"),
    ],
)
def test_where_a_rule_leads(text: str, target: str) -> None:
    assert Rule(text).target == target


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ('-m comment --comment "podwire: Services" -j KUBE-SERVICES', True),
        ("-m comment --comment podwire -j KUBE-SERVICES", True),
        ('-m comment --comment "podwires: Services" -j KUBE-SERVICES', False),
        ('-m comment --comment "kubernetes service portals" -j KUBE-SERVICES', False),
        ("-j KUBE-SERVICES", False),
    ],
)
def test_whose_jump_it_is(text: str, ours: bool) -> None:
    assert Rule(text).is_jump_of_ours == ours


@given(st.text())
def test_comments_are_made_fit(text: str) -> None:
    short = shorten_comment(text)
    assert len(short.encode()) <= MAX_COMMENT
    assert short.isprintable()
    assert shorten_comment(short) == short


def test_long_comments_end_in_dots() -> None:
    assert shorten_comment("x" * 255) == "x" * 255
    assert shorten_comment("x" * 256) == "x" * 252 + "..."
    assert shorten_comment("a\nb\u00e9") == "a?b?"


# Parsing what real hosts print.

SAVED = """\
# Generated by iptables-save v1.8.9 on Mon Nov 23 05:53:00 2026
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j KUBE-SERVICES
COMMIT
*nat
:PREROUTING ACCEPT [10:600]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:PODWIRE-MADE-TABLE - [0:0]
:PODWIRE-MADE-PREROUTING - [0:0]
[3:180] -A PREROUTING -m comment --comment "podwire: Services" -j KUBE-SERVICES
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j DOCKER
-A DOCKER -d 172.17.0.1/32 -j KUBE-SVC-A
-A KUBE-SERVICES -m comment --comment "it\\'s \\"x\\" \\\\" -j KUBE-SVC-A
-A KUBE-SERVICES -p tcp -m comment --comment plain
COMMIT
# Completed
"""


def test_only_what_is_ours_is_kept() -> None:
    found = parse_save(SAVED)
    assert found.tables == {"mangle", "nat"}
    assert found.made == {"filter": frozenset(), "nat": {"TABLE", "PREROUTING"}}
    assert found.ruleset == Ruleset(
        nat=Table(
            chains={
                "KUBE-SERVICES": (
                    make_rule('it\'s "x" \\', then="KUBE-SVC-A"),
                    Rule("-p tcp -m comment --comment plain"),
                ),
                "KUBE-SVC-A": (),
            },
            jumps={"PREROUTING": (make_rule("podwire: Services", then="KUBE-SERVICES"),)},
        )
    )
    assert found.ruleset.nat.pinned == {"KUBE-SERVICES", "KUBE-SVC-A"}  # by kube-proxy's jump, and by DOCKER's
    assert found.ruleset.nat.chains["KUBE-SERVICES"][1].target == ""


def test_pinned_chains_are_emptied_not_deleted() -> None:
    installed = parse_ruleset(SAVED)
    plan = diff_rulesets(installed, Ruleset())
    left = apply_plan(plan, installed)
    assert left == Ruleset(nat=Table(chains={"KUBE-SERVICES": (), "KUBE-SVC-A": ()}))
    assert diff_rulesets(left, Ruleset()) == Plan()
    assert "-X" not in render_plan(plan)


@pytest.mark.parametrize("text", ["hello\n", "*nat\nhello\n", "*nat\n[1:2] -I X\n", "*nat\n-A \n", "*nat\n[1:2] \n"])
def test_what_is_not_iptables_save(text: str) -> None:
    with pytest.raises(ParseError, match="cannot read iptables-save"):
        parse_ruleset(text)


LISTED = """\
-P PREROUTING ACCEPT
-A PREROUTING -m comment --comment "podwire: Services" -j KUBE-SERVICES
-A PREROUTING -j DOCKER
-N KUBE-SVC-A
-N KUBE-SEP-A
-A KUBE-SEP-A -j DROP
-N DOCKER
"""


def test_some_chains_as_iptables_lists_them() -> None:
    assert parse_chains(LISTED) == Table(
        chains={"KUBE-SVC-A": (), "KUBE-SEP-A": (Rule("-j DROP"),)},
        jumps={"PREROUTING": (make_rule("podwire: Services", then="KUBE-SERVICES"),)},
    )
    assert parse_chains("\n") == Table()


@given(tables)
def test_parse_chains_is_the_inverse_of_listing_them(table: Table) -> None:
    found = [*table.chains.items(), *table.jumps.items()]
    lines = [f"-N {chain}" for chain in table.chains]
    lines += [f"-A {chain} {rule}" for chain, rules in found for rule in rules]
    assert parse_chains("\n".join(lines)) == table


@pytest.mark.parametrize("text", ["hello", "-A ", "-X KUBE-SVC-A"])
def test_what_is_not_a_list_of_chains(text: str) -> None:
    with pytest.raises(ParseError, match="cannot read iptables"):
        parse_chains(text)


# Plans as people and programs read them.


def ours(chain: str, *texts: str) -> dict[str, tuple[Rule, ...]]:
    return {chain: tuple(parse_rule(text) for text in texts)}


INSTALLED = Ruleset(
    nat=Table(
        chains=ours("KUBE-SVC-A", "-j KUBE-SEP-A", "-j KUBE-SEP-B")
        | ours("KUBE-SEP-B", "-j DROP")
        | ours("KUBE-SEP-A"),
        jumps=ours("OUTPUT", '-m comment --comment "podwire: old" -j KUBE-SERVICES'),
    ),
    sets=frozenset({"PODWIRE-4-OLD", "PODWIRE-4-BOTH"}),
)
WANTED = Ruleset(
    filter=Table(chains=ours("KUBE-FORWARD", "-j ACCEPT")),
    nat=Table(
        chains=ours("KUBE-SVC-A", "-j KUBE-SEP-A", "-j KUBE-SEP-C")
        | ours("KUBE-SEP-C", "-j DROP")
        | ours("KUBE-SEP-A"),
        jumps=ours(
            "OUTPUT", '-m comment --comment "podwire: one" -j KUBE-SERVICES', "-m comment --comment podwire -j X"
        ),
    ),
    sets=frozenset({"PODWIRE-4-NEW", "PODWIRE-4-BOTH"}),
)


def test_a_plan_for_people() -> None:
    assert (
        str(diff_rulesets(INSTALLED, WANTED))
        == """\
+ set PODWIRE-4-NEW
*filter
+ :KUBE-FORWARD
+ -A KUBE-FORWARD -j ACCEPT
*nat
- -A OUTPUT -m comment --comment "podwire: old" -j KUBE-SERVICES
+ -A OUTPUT -m comment --comment "podwire: one" -j KUBE-SERVICES
+ -A OUTPUT -m comment --comment podwire -j X
- -A KUBE-SVC-A -j KUBE-SEP-B
+ -A KUBE-SVC-A -j KUBE-SEP-C
+ :KUBE-SEP-C
+ -A KUBE-SEP-C -j DROP
- -A KUBE-SEP-B -j DROP
- :KUBE-SEP-B
- set PODWIRE-4-OLD"""
    )


def test_a_plan_for_iptables_restore() -> None:
    plan = diff_rulesets(INSTALLED, WANTED)
    assert (plan.rules, plan.size) == (6, 10)
    assert (
        render_plan(plan)
        == """\
*filter
:KUBE-FORWARD - [0:0]
-A KUBE-FORWARD -j ACCEPT
COMMIT
*nat
:KUBE-SVC-A - [0:0]
:KUBE-SEP-C - [0:0]
:KUBE-SEP-B - [0:0]
-D OUTPUT -m comment --comment "podwire: old" -j KUBE-SERVICES
-A KUBE-SVC-A -j KUBE-SEP-A
-A KUBE-SVC-A -j KUBE-SEP-C
-A KUBE-SEP-C -j DROP
-I OUTPUT 1 -m comment --comment podwire -j X
-I OUTPUT 1 -m comment --comment "podwire: one" -j KUBE-SERVICES
-X KUBE-SEP-B
COMMIT
"""
    )
