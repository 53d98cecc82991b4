"""Whose rules are here besides ours, and what that means for pods and Services: Docker, ufw, firewalld, a table of nft.

Found out by looking at the rules, not at which programs are installed. What matters is where a packet is judged:

- In *one* table the first verdict counts. KUBE-FORWARD accepts what goes to a pod or comes from one, so a policy of
  DROP (Docker, ufw) does not concern it, and what they refuse by rules they refuse after ours (ufw) or of packets that
  are not ours (Docker, which puts its rules before). Nothing needs to be done.
- *Another* table at the same hook judges again, and there our ACCEPT is not known (nft(8): a packet must be accepted
  by every base chain): rules of the other variant of iptables, ``table inet firewalld``, a table of one's own. Only its
  owner can let pods through.
- What pods ask the node itself, DNS and the API server, passes INPUT, where nothing of ours accepts: that a node is
  closed to some is its owner's will. So a closed INPUT is told, with the rule that opens it to pods.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rules.iptables.engines import EngineError, Run, Variant

Hook = Literal["input", "forward"]

_HOOKS: tuple[Hook, ...] = ("input", "forward")
_BUILT_IN = frozenset({"INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"})  # chains of iptables-nft
_FIREWALLD = "firewalld"
_TOOLS = {"docker": "Docker", "ufw": "ufw"}


@dataclass(frozen=True, slots=True)
class Filter:
    """The filter table of one variant of iptables: the policies of its built-in chains, all rules."""

    policies: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ForeignTable:
    """A table of nft that is not iptables': where it judges (``policies`` by hook) and all that it says (``text``)."""

    family: str
    name: str
    policies: Mapping[Hook, str]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is in a network namespace."""

    filters: Mapping[Variant, Filter] = field(default_factory=dict)
    tables: tuple[ForeignTable, ...] = ()


@dataclass(frozen=True, slots=True)
class Neighbour:
    """``who`` (Docker, ufw, firewalld, iptables, nft), what was found and means, and what to do (if anything)."""

    who: str
    what: str
    advice: str = ""


def look_around(run: Run, *, which: Callable[[str], str | None] = shutil.which) -> Surroundings:
    """Read-only. Raises EngineError if something cannot be read."""
    try:
        filters = {variant: parse_filter(_save(run, variant)) for variant in _installed(which)}
        tables = tuple(_foreign_tables(run)) if which("nft") else ()
    except Exception as error:
        raise EngineError(f"cannot read which other rules there are (is this run as root?): {error}") from error
    return Surroundings(filters, tables)


def _installed(which: Callable[[str], str | None]) -> Iterator[Variant]:
    variants: tuple[Variant, ...] = ("nft", "legacy")
    yield from (variant for variant in variants if which(f"iptables-{variant}-save"))


def _save(run: Run, variant: Variant) -> str:
    """Asked for one table, iptables-legacy-save would make it; with nft our own nat table is left out: it is long."""
    return run((f"iptables-{variant}-save", *(("-t", "filter") if variant == "nft" else ()))).decode()


def _foreign_tables(run: Run) -> Iterator[ForeignTable]:
    for (family, name), policies in parse_base_chains(run(("nft", "-j", "list", "chains")).decode()).items():
        text = run(("nft", "-t", "list", "table", family, name)).decode()  # -t: without the elements of sets
        yield ForeignTable(family, name, policies, text)


def parse_filter(text: str) -> Filter:
    """The filter table of what iptables-save prints."""
    table = re.search(r"^\*filter$(.*?)^COMMIT$", text, re.MULTILINE | re.DOTALL)
    lines = table[1].splitlines() if table else []
    policies = {line.split()[0][1:]: line.split()[1] for line in lines if line.startswith(":")}
    return Filter(
        policies={chain: policy for chain, policy in policies.items() if policy != "-"},
        rules=tuple(line for line in lines if line.startswith("-A ")),
    )


def parse_base_chains(text: str) -> dict[tuple[str, str], dict[Hook, str]]:
    """(family, table) -> hook -> policy: IPv4's chains at input and forward that are not iptables', of what
    ``nft -j list chains`` prints (libnftables-json(5)). Of two chains at one hook, one that drops counts.
    """
    found: dict[tuple[str, str], dict[Hook, str]] = {}
    for item in json.loads(text)["nftables"]:
        chain = item.get("chain", {})
        hook = next((name for name in _HOOKS if name == chain.get("hook")), None)
        if hook is None or chain["family"] not in ("ip", "inet") or _is_iptables(chain):
            continue
        policies = found.setdefault((chain["family"], chain["table"]), {})
        policies[hook] = "drop" if "drop" in (chain.get("policy"), policies.get(hook)) else "accept"
    return found


def _is_iptables(chain: Mapping[str, object]) -> bool:
    return chain["family"] == "ip" and chain["name"] in _BUILT_IN


def find_neighbours(around: Surroundings, *, variant: Variant, bridge: str) -> tuple[Neighbour, ...]:
    """Whom we share this namespace with. ``variant``: whose tables have our rules; ``bridge``: the pods'. Pure."""
    found: list[Neighbour] = []
    for name, table in around.filters.items():
        found += _of_iptables(name, table, ours=name == variant, bridge=bridge)
    for foreign in around.tables:
        found += _firewalld(foreign, bridge) if foreign.name == _FIREWALLD else _of_nft(foreign, bridge)
    return tuple(found)


def _of_iptables(variant: Variant, table: Filter, *, ours: bool, bridge: str) -> Iterator[Neighbour]:
    owners = _owners(table)
    who, command = " and ".join(owners) or "iptables", f"iptables-{variant}"
    if table.policies.get("FORWARD") == "DROP" and ours:
        what = "FORWARD drops what nobody accepts; podwire's rules there accept what is to or from a pod"
        yield Neighbour(who, f"{what} ({who})")
    elif table.policies.get("FORWARD") == "DROP" and not _lets_in(table, bridge):
        what = f"FORWARD drops in the {variant} tables what nobody accepts there; podwire's rules are in the others"
        advice = f"set iptables_variant: {variant}, or: {command} -I FORWARD -i {bridge} -j ACCEPT; "
        yield Neighbour(who, f"{what} ({who})", f"{advice}{command} -I FORWARD -o {bridge} -j ACCEPT")
    elif owners:
        yield Neighbour(who, f"the rules of {who} in the {variant} tables do not concern pods")
    if table.policies.get("INPUT") == "DROP" and not _lets_in(table, bridge):
        rule = f"ufw allow in on {bridge}" if "ufw" in owners else f"{command} -I INPUT -i {bridge} -j ACCEPT"
        yield Neighbour(who, f"INPUT drops what pods ask the node: DNS and the API server ({who})", rule)


def _owners(table: Filter) -> tuple[str, ...]:
    """By the names of chains that hold rules: Docker's are DOCKER, DOCKER-USER, ..., ufw's ufw-before-forward and the
    like. Chains alone prove nothing: ufw leaves them behind, empty, when it is switched off.
    """
    prefixes = {re.split(r"[-_]", rule.split()[1].lower())[0] for rule in table.rules}
    return tuple(tool for prefix, tool in _TOOLS.items() if prefix in prefixes)


def _lets_in(table: Filter, bridge: str) -> bool:
    """Somebody has followed the advice, in whatever chain."""
    wanted = re.compile(rf"-i {re.escape(bridge)}( .*)? -j ACCEPT( |$)")
    return any(wanted.search(rule) for rule in table.rules)


def _firewalld(table: ForeignTable, bridge: str) -> Iterator[Neighbour]:
    """It accepts what was sent on to an endpoint (``ct status dnat`` at input and forward, unless StrictForwardPorts is
    set), and rejects all else that a pod begins, unless its zone is one that accepts.
    """
    # goto in firewalld 1, jump and a verdict after it in firewalld 2
    if re.search(rf'iifname "?{re.escape(bridge)}"? (goto|jump) \w+_trusted', table.text):
        yield Neighbour("firewalld", f"firewalld has {bridge} in its zone trusted: it lets pods through")
        return
    what = "firewalld rejects in a table of its own what pods begin to other pods, the node and the outside"
    passing = "what goes through a Service passes, DNS and the API server too"
    commands = f"firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
    yield Neighbour("firewalld", f"{what}; {passing}", commands)


def _of_nft(table: ForeignTable, bridge: str) -> Iterator[Neighbour]:
    place = f"table {table.family} {table.name}"
    dropping = [hook for hook in _HOOKS if table.policies.get(hook) == "drop"]
    if not dropping:
        yield Neighbour("nft", f"{place} has rules at {' and '.join(table.policies)}; its policy is to accept")
        return
    what = f"{place} drops what it does not accept itself ({' and '.join(dropping)})"
    if re.search(rf'"{re.escape(bridge)}".* accept', table.text):
        yield Neighbour("nft", f"{what}; it accepts {bridge}")
        return
    directions = {"input": ("iifname",), "forward": ("iifname", "oifname")}
    rules = (f'{key} "{bridge}" accept' for hook in dropping for key in directions[hook])
    advice = f"put into its chains, and its file: {'; '.join(dict.fromkeys(rules))}"
    yield Neighbour("nft", f"{what}, whatever podwire accepts", advice)
