"""Which variant of iptables this host uses, and which engine fits: found out by looking, told as a sentence.

Linux keeps two sets of iptables rules, which do not see each other: *legacy* (ip_tables) and *nft* (nf_tables, spoken
by iptables-nft). A packet passes both. Rules belong where the host's other rules are: where there are more of them in
this network namespace, else in the variant that the command ``iptables`` stands for.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rules.iptables.engines import Engine, EngineError, Run, Variant
from rules.iptables.engines.libiptc import LibiptcEngine, why_unusable
from rules.iptables.engines.restore import RestoreEngine
from rules.snapshot import Family

EngineName = Literal["libiptc", "restore"]
_VARIANTS: tuple[Variant, ...] = ("nft", "legacy")


@dataclass(frozen=True, slots=True)
class Observed:
    """What a host has. ``rules``: how many rules each installed variant holds in this namespace."""

    rules: dict[Variant, int]
    default: Variant | None  # what the command ``iptables`` stands for
    libiptc: str = ""  # why python-iptables cannot be used; empty if it can
    nft: str | None = None  # the nft program


@dataclass(frozen=True, slots=True)
class Choice:
    """What to use, and ``why`` as a sentence. ``warnings``: what is odd about this host, a sentence each."""

    engine: EngineName
    variant: Variant
    why: str
    warnings: tuple[str, ...] = ()
    nft: str | None = None


def preflight(run: Run, *, engine: str = "auto", variant: str = "auto") -> Choice:
    """Look at this namespace and choose; ``engine`` and ``variant`` other than ``auto`` are wishes to be met.

    Raises EngineError if they cannot be, or if the host has no iptables.
    """
    return choose(observe(run), engine=engine, variant=variant)


def observe(
    run: Run, *, which: Callable[[str], str | None] = shutil.which, libiptc: Callable[[], str] = why_unusable
) -> Observed:
    """Read-only: legacy tables that do not exist yet are not made by looking."""
    present = [v for v in _VARIANTS if which(f"iptables-{v}-restore") and which(f"iptables-{v}-save")]
    rules = {variant: _count_rules(run, variant) for variant in present}
    return Observed(rules, default=_default(run, which), libiptc=libiptc(), nft=which("nft"))


def choose(host: Observed, *, engine: str, variant: str) -> Choice:
    """The pure part of ``preflight``."""
    if engine == "libiptc" and variant == "nft":
        raise EngineError("cannot use engine libiptc with variant nft: libiptc knows legacy tables only; use restore")
    if engine == "libiptc" and variant == "auto":
        chosen, why = _asked("legacy", host, "engine libiptc was asked for, which writes legacy tables")
    elif variant != "auto":
        chosen, why = _asked("nft" if variant == "nft" else "legacy", host, f"variant {variant} was asked for")
    else:
        chosen, why = _find_variant(host)
    name, reason = _find_engine(host, engine, chosen)
    return Choice(name, chosen, f"{why}; {reason}", _warnings(host, chosen), host.nft)


def make_engine(choice: Choice, run: Run, family: Family = Family.IPV4) -> Engine:
    """The chosen engine. python-iptables is used for IPv4 alone; IPv6 goes through restore in the same variant."""
    if choice.engine == "libiptc" and family is Family.IPV4:
        return LibiptcEngine(run)
    return RestoreEngine(run, variant=choice.variant, family=family, nft=choice.nft)


def _asked(variant: Variant, host: Observed, why: str) -> tuple[Variant, str]:
    if variant not in host.rules:
        raise EngineError(f"cannot use iptables variant {variant}: iptables-{variant}-restore is not installed")
    return variant, why


def _find_variant(host: Observed) -> tuple[Variant, str]:
    if not host.rules:
        raise EngineError(
            "cannot program Services: neither iptables-nft-restore nor iptables-legacy-restore is installed"
            " (Debian and Ubuntu: apt install iptables)"
        )
    most = max(host.rules, key=lambda variant: host.rules[variant])
    least = min(host.rules, key=lambda variant: host.rules[variant])
    if host.rules[most] > host.rules[least]:
        return most, f"most rules here are in {most} tables ({host.rules[most]} against {host.rules[least]})"
    if len(host.rules) == 1:
        return most, f"only the {most} variant of iptables is installed"
    if host.default in host.rules:
        return host.default, f"the command iptables stands for iptables-{host.default} on this host"
    return "nft", "nothing here speaks for either variant, and nft is today's default"


def _find_engine(host: Observed, engine: str, variant: Variant) -> tuple[EngineName, str]:
    if engine == "restore":
        return "restore", "engine restore was asked for"
    if engine == "libiptc" and host.libiptc:
        raise EngineError(f"cannot use engine libiptc: {host.libiptc}")
    if engine == "libiptc":
        return "libiptc", "engine libiptc was asked for"
    if variant == "nft":
        return "restore", "nft tables are written by iptables-restore (libiptc knows legacy tables only)"
    if host.libiptc:
        return "restore", f"legacy tables are written by iptables-restore ({host.libiptc})"
    return "libiptc", "legacy tables are written through libiptc, without starting a program"


def _warnings(host: Observed, chosen: Variant) -> tuple[str, ...]:
    other: Variant = "legacy" if chosen == "nft" else "nft"
    found = []
    if host.rules.get(other):
        found.append(
            f"there are {host.rules[other]} rules in {other} tables too: every packet passes both sets,"
            f" and `iptables-{chosen}` does not show them"
        )
    if host.default is not None and host.default != chosen:
        found.append(f"the command iptables shows {host.default} tables: look at podwire's with iptables-{chosen}-save")
    return tuple(found)


def _count_rules(run: Run, variant: Variant) -> int:
    try:
        text = run((f"iptables-{variant}-save",))
    except Exception as error:
        raise EngineError(f"cannot read {variant} rules (is this run as root?): {error}") from error
    return len(re.findall(rb"^-A ", text, re.MULTILINE))


def _default(run: Run, which: Callable[[str], str | None]) -> Variant | None:
    if not which("iptables"):
        return None
    try:
        version = run(("iptables", "-V")).decode()
    except Exception as error:
        raise EngineError(f"cannot ask iptables for its version: {error}") from error
    return "nft" if "nf_tables" in version else "legacy"
