"""Stopping a node that a service manager keeps running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import Paths
from agent.supervisor.clean import stop
from agent.supervisor.state import Lock, NodeStatus, SupervisorError, write_status


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paths]:
    """A node that runs (it is this process) as podwire.service, and a systemctl that only notes what it is told."""
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/told\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    paths = Paths(tmp_path / "state")
    lock = Lock(paths)
    write_status(paths, NodeStatus(os.getpid(), "n", "192.0.2.2", None, "/k", 1.0, unit="podwire.service"))
    yield paths
    lock.release()


def test_a_service_is_stopped_by_its_manager(service: Paths, tmp_path: Path) -> None:
    """One that merely ends is started again (Restart=always)."""
    assert stop(service)
    assert (tmp_path / "told").read_text() == "stop podwire.service\n"


def test_a_manager_that_refuses_is_an_error(service: Paths, tmp_path: Path) -> None:
    (tmp_path / "bin/systemctl").write_text("#!/bin/sh\necho 'Access denied' >&2; exit 4\n")
    with pytest.raises(SupervisorError, match=r"which runs as podwire\.service: .*exit code 4: Access denied"):
        stop(service)
