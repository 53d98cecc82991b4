"""Whether a stop is the machine's shutdown. ``systemctl`` is a script here; the real one is asked in tests/vm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.supervisor import shutdown


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """Say what ``systemctl is-system-running`` does, as a shell's command."""
    script = tmp_path / "systemctl"
    script.write_text(f'#!/bin/sh\n[ "$*" = is-system-running ] && exec 2>/dev/null && . {tmp_path}/answer\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return (tmp_path / "answer").write_text


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        ("echo stopping; exit 1", True),
        ("echo stopping", True),
        ("echo running", False),
        ("echo degraded; exit 1", False),
        ("echo offline; exit 1", False),
        ("exit 1", False),
    ],
)
async def test_the_state_of_the_service_manager(answer: Callable[[str], object], how: str, ends: bool) -> None:
    answer(how)
    assert await shutdown.machine_shuts_down("podwire.service") is ends


async def test_without_a_unit_nobody_is_asked(answer: Callable[[str], object]) -> None:
    answer("echo stopping")
    assert not await shutdown.machine_shuts_down("")


async def test_no_answer_is_told_and_is_no_shutdown(
    answer: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutdown, "ASK", 0.2)
    answer("exec sleep 30")
    assert not await shutdown.machine_shuts_down("podwire.service")
    assert "systemctl is-system-running: not finished: no answer within 0.2 s" in caplog.text
    monkeypatch.setenv("PATH", "")
    assert not await shutdown.machine_shuts_down("podwire.service")
    assert "no such program" in caplog.text
