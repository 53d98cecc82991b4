"""Which engine on which host, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rules.iptables import preflight as module
from rules.iptables.engines import EngineError
from rules.iptables.preflight import Choice, Observed, choose, make_engine, observe, preflight
from rules.snapshot import Family

NFT, LEGACY = "nft", "legacy"


def host(nft: int | None = 0, legacy: int | None = 0, *, default: str | None = NFT, libiptc: str = "") -> Observed:
    rules = {name: count for name, count in ((NFT, nft), (LEGACY, legacy)) if count is not None}
    return Observed(rules, default=default, libiptc=libiptc)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("observed", "engine", "variant", "chosen", "why"),
    [
        (host(), "auto", "auto", ("restore", NFT), "the command iptables stands for iptables-nft on this host; nft"),
        (host(default=LEGACY), "auto", "auto", ("libiptc", LEGACY), "through libiptc"),
        (host(default=LEGACY, libiptc="no lib"), "auto", "auto", ("restore", LEGACY), "no lib"),
        (host(3, 90), "auto", "auto", ("libiptc", LEGACY), "most rules here are in legacy tables (90 against 3)"),
        (host(90, 3, default=LEGACY), "auto", "auto", ("restore", NFT), "most rules here are in nft tables"),
        (host(None, 0, default=None), "auto", "auto", ("libiptc", LEGACY), "only the legacy variant"),
        (host(default=None), "auto", "auto", ("restore", NFT), "nothing here speaks for either"),
        (
            host(),
            "restore",
            "legacy",
            ("restore", LEGACY),
            "variant legacy was asked for; engine restore was asked for",
        ),
        (host(), "restore", "nft", ("restore", NFT), "variant nft was asked for"),
        (host(), "libiptc", "auto", ("libiptc", LEGACY), "engine libiptc was asked for, which writes legacy tables"),
    ],
)
def test_choice(observed: Observed, engine: str, variant: str, chosen: tuple[str, str], why: str) -> None:
    choice = choose(observed, engine=engine, variant=variant)
    assert (choice.engine, choice.variant) == chosen
    assert why in choice.why


@pytest.mark.parametrize(
    ("observed", "engine", "variant", "message"),
    [
        (host(), "libiptc", "nft", "libiptc knows legacy tables only"),
        (host(None, None), "auto", "auto", "apt install iptables"),
        (host(None, 0), "auto", "nft", "iptables-nft-restore is not installed"),
        (host(0, None), "libiptc", "auto", "iptables-legacy-restore is not installed"),
        (host(libiptc="no lib"), "libiptc", "auto", "cannot use engine libiptc: no lib"),
    ],
)
def test_wishes_that_cannot_be_met(observed: Observed, engine: str, variant: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        choose(observed, engine=engine, variant=variant)


@pytest.mark.parametrize(
    ("observed", "variant", "warnings"),
    [
        (host(), "auto", []),
        (host(9, 2), "auto", ["there are 2 rules in legacy tables too"]),
        (host(), "legacy", ["the command iptables shows nft tables"]),
        (host(1, 0), "legacy", ["there are 1 rules in nft tables too", "the command iptables shows nft tables"]),
    ],
)
def test_warnings(observed: Observed, variant: str, warnings: list[str]) -> None:
    found = choose(observed, engine="auto", variant=variant).warnings
    assert len(found) == len(warnings)
    assert all(text in warning for text, warning in zip(warnings, found, strict=True))


class Programs:
    """A host with these programs, and what they print."""

    def __init__(self, **outputs: str) -> None:
        self.outputs = {name.replace("_", "-"): text for name, text in outputs.items()}

    def which(self, name: str) -> str | None:
        return f"/usr/sbin/{name}" if name in self.outputs else None

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> bytes:
        if self.outputs[argv[0]] == "fail":
            raise RuntimeError("permission denied")
        return self.outputs[argv[0]].encode()


def test_observing_a_host() -> None:
    programs = Programs(
        iptables="iptables v1.8.9 (nf_tables)",
        iptables_nft_restore="",
        iptables_nft_save="*nat\n-A X -j Y\n-A X -j Z\nCOMMIT\n",
        iptables_legacy_restore="",
        iptables_legacy_save="",
        nft="",
    )
    found = observe(programs.run, which=programs.which, libiptc=lambda: "")
    assert found == Observed({"nft": 2, "legacy": 0}, default="nft", libiptc="", nft="/usr/sbin/nft")


def test_observing_a_bare_host() -> None:
    programs = Programs(iptables_legacy_restore="", iptables_legacy_save="", iptables_nft_restore="")
    found = observe(programs.run, which=programs.which, libiptc=lambda: "none")
    assert found == Observed({"legacy": 0}, default=None, libiptc="none", nft=None)


def test_an_old_iptables_is_legacy() -> None:
    programs = Programs(iptables="iptables v1.6.1")
    assert observe(programs.run, which=programs.which, libiptc=lambda: "").default == "legacy"


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"iptables": "fail"}, "cannot ask iptables for its version"),
        ({"iptables_nft_save": "fail", "iptables_nft_restore": ""}, "run as root"),
    ],
)
def test_programs_that_fail(outputs: dict[str, str], message: str) -> None:
    programs = Programs(**outputs)
    with pytest.raises(EngineError, match=message):
        observe(programs.run, which=programs.which, libiptc=lambda: "")


def test_preflight_looks_and_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "observe", lambda run: host(default=LEGACY))
    assert preflight(Programs().run).variant == LEGACY
    assert preflight(Programs().run, engine="restore", variant="nft").variant == NFT


@pytest.mark.parametrize("family", list(Family))
def test_engines_as_chosen(family: Family) -> None:
    engine = make_engine(Choice("restore", "nft", "because"), Programs().run, family)
    assert (engine.name, engine.variant) == ("restore", "nft")
    legacy = make_engine(Choice("libiptc", "legacy", "because"), Programs().run, family)
    assert (legacy.name, legacy.variant) == ("libiptc" if family is Family.IPV4 else "restore", "legacy")
