"""``podwire top svc``: the table, its notes, and what is said when nobody counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from agent.cli.main import main
from agent.cli.top import render_bytes, render_notes, render_report
from agent.proxy.traffic import EndpointRow, PortRow, Report, Tally

A = EndpointRow("10.244.0.2", 28017, True, Tally(512, 2, 120_000, 5_400_000))
B = EndpointRow("10.244.0.3", 28017, False, Tally(488, 1, 110_000, 5_300_000))
WEB = PortRow(
    "default",
    "go-demo-2",
    "http",
    28017,
    "TCP",
    True,
    Tally(1010, 3, 231_000, 10_800_000),
    (A, B),
    Tally(10, 0, 1000, 100_000),
)
DNS = PortRow(
    "kube-system", "kube-dns", "", 53, "UDP", False, Tally(), (EndpointRow("fd00::2", 53, True, Tally()),), Tally()
)
REPORT = Report(since=1000.0, at=2000.0, ports=(WEB, DNS))


def test_a_table() -> None:
    assert (
        render_report(replace(REPORT, ports=(WEB,)))
        == """\
SERVICE                        PORT             CONNECTIONS   OPEN   BYTES IN   BYTES OUT
go-demo-2                      http:28017/TCP   1010          3      226KiB     10MiB
  10.244.0.2:28017                              512           2      117KiB     5.1MiB
  10.244.0.3:28017 (leaving)                    488           1      107KiB     5.1MiB
  (gone endpoints)                              10            0      1000B      98KiB
"""
    )


def test_all_namespaces() -> None:
    lines = render_report(REPORT, namespaces=True).splitlines()
    assert lines[0].split()[:2] == ["NAMESPACE", "SERVICE"]
    assert [line.split()[0] for line in lines[1:]] == ["default"] * 4 + ["kube-system"] * 2
    assert lines[5].split()[1:4] == ["kube-dns", "(deleted)", "53/UDP"]
    assert "[fd00::2]:53" in lines[6]


def test_rates() -> None:
    later = replace(WEB, total=Tally(1030, 3, 231_000 + 20_480, 10_800_000), endpoints=(A,))
    lines = render_report(replace(REPORT, at=2010.0, ports=(later, DNS)), REPORT, rates=True).splitlines()
    assert lines[0].split()[-3:] == ["CONN/S", "IN/S", "OUT/S"]
    assert lines[1].split()[-3:] == ["2.0", "2.0KiB", "0B"]
    assert lines[2].split()[-3:] == ["0.0", "0B", "0B"]


def test_rates_are_unknown_at_first_and_after_a_restart() -> None:
    assert render_report(REPORT, rates=True).splitlines()[1].split()[-3:] == ["-", "-", "-"]
    fewer = replace(WEB, total=Tally(3, 3, 3, 3))
    lines = render_report(replace(REPORT, at=2001.0, ports=(fewer,)), REPORT, rates=True).splitlines()
    assert lines[1].split()[-3:] == ["-", "-", "-"]


def test_no_services() -> None:
    assert render_report(Report(since=0.0, at=1.0)) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.0KiB"), (10_137, "9.9KiB"), (10_190, "10KiB"), (1_048_000, "1023KiB"), (1_048_576, "1.0MiB"), (2**62, "4096PiB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert render_bytes(count) == text


def test_notes() -> None:
    assert list(render_notes(REPORT)) == []
    told = list(
        render_notes(
            replace(
                REPORT, problems=("cannot count bytes per Service: why",), lost=7, forgotten=Tally(5, 0, 1024, 2048)
            )
        )
    )
    assert told[0] == "cannot count bytes per Service: why"
    assert told[1].startswith("7 connections ended uncounted")
    assert told[2] == "5 more connections (1.0KiB in, 2.0KiB out) were to Services deleted long ago"


def test_a_report_survives_the_wire() -> None:
    assert msgspec.json.decode(msgspec.json.encode(REPORT), type=Report) == REPORT


def test_no_node(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["top", "svc", "--state-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert f"no node runs with the state directory {tmp_path}; start one with 'podwire up'" in done.stderr


def test_only_services() -> None:
    assert CliRunner().invoke(main, ["top", "pods"]).exit_code == 2
