"""Other people's rules: what they mean for pods. One table per neighbour; the rules are cut down to what is looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from rules.iptables.engines import EngineError
from rules.iptables.neighbours import (
    Filter,
    ForeignTable,
    Neighbour,
    Surroundings,
    find_neighbours,
    look_around,
    parse_base_chains,
    parse_filter,
)

DOCKER = """\
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [7:420]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
"""
UFW = """\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
COMMIT
"""
EMPTY = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"


def found(text: str, *, variant: str = "nft") -> tuple[Neighbour, ...]:
    """Where the rules of ``text`` are in the ``variant`` tables and ours in the nft ones."""
    around = Surroundings({variant: parse_filter(text)})  # type: ignore[dict-item]
    return find_neighbours(around, variant="nft", bridge="podwire0")


def advice(neighbours: Sequence[Neighbour]) -> list[str]:
    return [neighbour.advice for neighbour in neighbours if neighbour.advice]


def test_a_filter_table_is_told_from_the_others() -> None:
    table = parse_filter(DOCKER)
    assert table.policies == {"INPUT": "ACCEPT", "FORWARD": "DROP", "OUTPUT": "ACCEPT"}
    assert table.rules == ("-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -j RETURN")
    assert parse_filter("*nat\nCOMMIT\n") == Filter()


def test_an_empty_machine_has_no_neighbours() -> None:
    assert found(EMPTY) == ()
    assert find_neighbours(Surroundings(), variant="nft", bridge="podwire0") == ()


def test_docker_in_our_own_tables_is_no_trouble() -> None:
    (docker,) = found(DOCKER)
    assert docker.who == "Docker"
    assert "podwire's rules there accept" in docker.what
    assert docker.advice == ""


def test_docker_in_the_other_variants_tables_is() -> None:
    (docker,) = found(DOCKER, variant="legacy")
    assert docker.what.startswith("FORWARD drops in the legacy tables")
    assert docker.advice == (
        "set iptables_variant: legacy, or: iptables-legacy -I FORWARD -i podwire0 -j ACCEPT; "
        "iptables-legacy -I FORWARD -o podwire0 -j ACCEPT"
    )


def test_advice_that_was_followed_is_not_given_again() -> None:
    rules = "-A FORWARD -i podwire0 -j ACCEPT\nCOMMIT"
    (docker,) = found(DOCKER.replace("COMMIT", rules), variant="legacy")
    assert docker == Neighbour("Docker", "the rules of Docker in the legacy tables do not concern pods")
    opened = UFW.replace("COMMIT", "-A ufw-user-input -i podwire0 -m comment --comment x -j ACCEPT\nCOMMIT")
    assert advice(found(opened)) == []
    other = UFW.replace("COMMIT", "-A ufw-user-input -i podwire01 -j ACCEPT\nCOMMIT")
    assert advice(found(other)) == ["ufw allow in on podwire0"]


def test_docker_that_drops_nothing() -> None:
    (docker,) = found(DOCKER.replace("FORWARD DROP", "FORWARD ACCEPT"))
    assert docker == Neighbour("Docker", "the rules of Docker in the nft tables do not concern pods")


def test_ufw_closes_the_node_to_pods() -> None:
    forward, closed = found(UFW)
    assert (forward.who, forward.advice) == ("ufw", "")
    assert closed.what == "INPUT drops what pods ask the node: DNS and the API server (ufw)"
    assert closed.advice == "ufw allow in on podwire0"


def test_ufw_switched_off_leaves_chains_behind_that_say_nothing() -> None:
    """What drops in FORWARD then is Docker's policy."""
    (docker,) = found(DOCKER.replace(":DOCKER-USER", ":ufw-user-input - [0:0]\n:DOCKER-USER"))
    assert docker.who == "Docker"
    both = found(
        UFW.replace(":ufw-user", ":DOCKER-USER - [0:0]\n:ufw-user").replace(
            "COMMIT", "-A DOCKER-USER -j RETURN\nCOMMIT"
        )
    )
    assert [neighbour.who for neighbour in both] == ["Docker and ufw"] * 2
    assert advice(both) == ["ufw allow in on podwire0"]


def test_a_closed_node_of_nobody_in_particular() -> None:
    (closed,) = found(EMPTY.replace("INPUT ACCEPT", "INPUT DROP"))
    assert closed.who == "iptables"
    assert closed.advice == "iptables-nft -I INPUT -i podwire0 -j ACCEPT"


def chains(*entries: dict[str, object]) -> str:
    return json.dumps({"nftables": [{"metainfo": {}}, *({"chain": entry} for entry in entries)]})


def base(family: str, table: str, name: str, hook: str, policy: str | None = "accept") -> dict[str, object]:
    return {"family": family, "table": table, "name": name, "hook": hook, "policy": policy}


def test_base_chains_that_judge_packets_of_pods() -> None:
    text = chains(
        base("ip", "filter", "FORWARD", "forward", "drop"),  # iptables-nft's
        base("ip", "filter", "forward", "forward", "drop"),  # somebody's own, in the same table
        base("inet", "filter", "input", "input", "drop"),
        base("inet", "filter", "late", "input"),
        base("inet", "filter", "output", "output", "drop"),
        base("ip6", "filter", "input", "input", "drop"),
        base("inet", "t", "forward", "forward", None),
        {"family": "inet", "table": "t", "name": "no-hook"},
    )
    assert parse_base_chains(text) == {
        ("ip", "filter"): {"forward": "drop"},
        ("inet", "filter"): {"input": "drop"},
        ("inet", "t"): {"forward": "accept"},
    }


def of_table(table: ForeignTable) -> tuple[Neighbour, ...]:
    return find_neighbours(Surroundings(tables=(table,)), variant="nft", bridge="podwire0")


def test_firewalld_rejects_in_a_table_of_its_own() -> None:
    (found,) = of_table(
        ForeignTable("inet", "firewalld", {"forward": "accept"}, 'iifname "eth0" goto filter_FWD_public')
    )
    assert found.who == "firewalld"
    assert found.advice.startswith("firewall-cmd --permanent --zone=trusted --add-interface=podwire0 && ")


@pytest.mark.parametrize("verdict", ["goto filter_IN_trusted", "jump filter_IN_trusted\n\tiifname podwire0 accept"])
def test_firewalld_that_trusts_the_bridge(verdict: str) -> None:
    """As versions 1 and 2 write it."""
    text = f'chain filter_INPUT_ZONES {{\n\tiifname "podwire0" {verdict}\n}}'
    (found,) = of_table(ForeignTable("inet", "firewalld", {"forward": "accept"}, text))
    assert found == Neighbour("firewalld", "firewalld has podwire0 in its zone trusted: it lets pods through")


@pytest.mark.parametrize(
    ("policies", "rules"),
    [
        ({"input": "drop"}, 'iifname "podwire0" accept'),
        ({"forward": "drop"}, 'iifname "podwire0" accept; oifname "podwire0" accept'),
        ({"forward": "drop", "input": "drop"}, 'iifname "podwire0" accept; oifname "podwire0" accept'),
    ],
)
def test_a_table_of_ones_own_that_drops(policies: dict[str, str], rules: str) -> None:
    (found,) = of_table(ForeignTable("inet", "filter", policies))  # type: ignore[arg-type]
    assert "table inet filter drops what it does not accept itself" in found.what
    assert found.advice == f"put into its chains, and its file: {rules}"


def test_a_table_of_ones_own_that_lets_pods_through() -> None:
    (open_,) = of_table(ForeignTable("inet", "filter", {"input": "accept", "forward": "accept"}))
    assert open_ == Neighbour("nft", "table inet filter has rules at input and forward; its policy is to accept")
    (told,) = of_table(ForeignTable("inet", "filter", {"input": "drop"}, 'iifname { "podwire0", "lo" } accept'))
    assert told == Neighbour(
        "nft", "table inet filter drops what it does not accept itself (input); it accepts podwire0"
    )


class Host:
    """Programs by their command line, and what they print."""

    def __init__(self, outputs: dict[str, str]) -> None:
        self.outputs = outputs

    def which(self, name: str) -> str | None:
        return name if any(line.split()[0] == name for line in self.outputs) else None

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> bytes:
        return self.outputs[" ".join(argv)].encode()


def test_looking_around() -> None:
    host = Host(
        {
            "iptables-nft-save -t filter": UFW,
            "iptables-legacy-save": DOCKER,
            "nft -j list chains": chains(base("inet", "mine", "in", "input", "drop")),
            "nft -t list table inet mine": "table inet mine {}",
        }
    )
    assert look_around(host.run, which=host.which) == Surroundings(
        {"nft": parse_filter(UFW), "legacy": parse_filter(DOCKER)},
        (ForeignTable("inet", "mine", {"input": "drop"}, "table inet mine {}"),),
    )


def test_looking_around_where_nothing_is_installed() -> None:
    host = Host({})
    assert look_around(host.run, which=host.which) == Surroundings()


def test_what_cannot_be_read_is_said() -> None:
    host = Host({"iptables-nft-save": "asked for in another way"})
    with pytest.raises(EngineError, match=r"cannot read which other rules there are \(is this run as root\?\)"):
        look_around(host.run, which=host.which)
