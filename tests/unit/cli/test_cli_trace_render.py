"""A trace as text and as JSON."""

from __future__ import annotations

from dataclasses import replace

from agent.cli.tracing.live import Sighting
from agent.cli.tracing.node import Installed
from agent.cli.tracing.render import Renderer, branch_json, common_sentences, sighting_json, sighting_lines
from rules.explain import Branch, explain
from rules.iptables.listing import parse_listing
from rules.iptables.lower import lower_frontends
from rules.policy import resolve_frontends
from rules.snapshot import Family
from rules.trace import Packet, trace_packet
from tests.harness.services import Made, make_service, make_snapshot


def trace(source: str, *made: Made, **packet: object) -> tuple[Installed, tuple[Branch, ...]]:
    snapshot = make_snapshot(*made)
    frontends = resolve_frontends(snapshot)
    ruleset = lower_frontends(frontends, Family.IPV4)
    text = str(ruleset).replace("\n-A ", "\n[3:180] -A ")
    found = replace(Packet(source, "10.96.0.10", 80), **packet)  # type: ignore[arg-type]
    branches = explain(found, trace_packet(ruleset, found), frontends=frontends, snapshot=snapshot)
    return Installed(Family.IPV4, "nft", ruleset, parse_listing(text)), branches


def text_of(source: str, *made: Made, verbose: bool = False, **packet: object) -> str:
    installed, branches = trace(source, *made, **packet)
    return "\n".join(Renderer(installed, verbose=verbose).lines(branches))


WEB = make_service("web", "10.244.0.1", "10.244.0.2", "10.244.0.3", port_name="http")


def test_branches_say_once_what_they_have_in_common() -> None:
    text = text_of("10.244.0.1", WEB)
    assert text.count("is the ClusterIP of default/web") == 1
    lines = text.splitlines()
    assert lines[0].startswith("1. 10.96.0.10:80/TCP is the ClusterIP of default/web, port http")
    assert lines[1].startswith("     (nat KUBE-SERVICES -> KUBE-SVC-")
    assert lines[1].endswith(", 3 packets)")
    assert "Branch 1 (66.7 %):" in lines
    assert "  2. One of 2 endpoints, 33.3 % each:" in lines
    assert "Branch 2 (33.3 %):" in lines
    assert lines[-1] == "  => the endpoint sees the node's address as the client"


def test_a_single_branch_has_no_heading() -> None:
    text = text_of("10.244.0.9", WEB)
    assert "Branch" not in text
    assert "\n2. One of 3 endpoints, 33.3 % each:\n     10.244.0.1:8080  (nat KUBE-SEP-" in text
    assert text.endswith("\n=> the endpoint sees 10.244.0.9 as the client")


def test_verbose_shows_every_rule() -> None:
    text = text_of("10.244.0.9", WEB, verbose=True)
    assert '     nat PREROUTING [3 packets] -m comment --comment "podwire: Services" -j KUBE-SERVICES' in text
    assert "DNAT --to-destination 10.244.0.3:8080" in text


def test_many_endpoints_are_counted() -> None:
    many = make_service("web", *(f"10.244.1.{number}" for number in range(1, 21)))
    assert "... and 13 more (-v shows them)" in text_of("10.244.0.9", many)
    assert "more" not in text_of("10.244.0.9", many, verbose=True)


def test_remembered_clients_are_a_branch_of_their_own() -> None:
    text = text_of("10.244.0.9", make_service("web", "10.244.0.1", "10.244.0.2", affinity_seconds=60), member_of=None)
    assert "Branch 1 (100 %):" in text
    assert "Branch 2 (if it is remembered):" in text


def test_sentences_begin_with_a_capital_names_do_not() -> None:
    made = make_service("web", "10.244.0.1", node_port=30080, external_traffic_policy="Local")
    installed, branches = trace("192.0.2.1", made, port=30080, destination="192.0.2.2", local=frozenset({"192.0.2.2"}))
    lines = list(Renderer(installed, verbose=False).lines(branches))
    assert any(line.startswith("2. externalTrafficPolicy is Local") for line in lines)
    assert any(line.startswith("5. Leaves with its own source address") for line in lines)


def test_refused() -> None:
    assert text_of("10.244.0.9", make_service("web")).endswith("=> the client is told at once: connection refused")


def test_common_sentences_end_where_branches_part() -> None:
    _, branches = trace("10.244.0.1", WEB)
    assert [sentence.text[:10] for sentence in common_sentences(branches)] == ["10.96.0.10"]


def test_sightings() -> None:
    _, branches = trace("10.244.0.1", WEB)
    outcome = branches[1].outcomes[0]
    (line,) = sighting_lines(1, Sighting("connected", (), outcome), branches, verbose=False)
    assert line == "packet 1: connected; the kernel went as predicted in branch 2, to 10.244.0.1:8080"
    (line,) = sighting_lines(2, Sighting("refused", (), None, "it went astray"), branches, verbose=True)
    assert line == "packet 2: refused; NOT as predicted: it went astray"
    assert sighting_json(Sighting("connected", (), outcome), branches)["branch"] == 1
    assert sighting_json(Sighting("refused", (), None, "x"), branches)["asPredicted"] is False


def test_json_has_counters() -> None:
    installed, branches = trace("10.244.0.9", WEB)
    found = branch_json(branches[0], installed)
    assert found["endpoints"][0]["endpoint"] == "10.244.0.1:8080"
    assert found["sentences"][0]["rules"][0] == {
        "table": "nat",
        "chain": "PREROUTING",
        "rule": '-m comment --comment "podwire: Services" -j KUBE-SERVICES',
        "packets": 3,
        "bytes": 180,
    }
