"""What systemd hears, and what it had told us."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

import pytest

from agent.supervisor.notify import ServiceManager, in_journal, meet_manager, parse_unit


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_arrive(tmp_path: Path, abstract: bool) -> None:
    address = f"@podwire-{secrets.token_hex(8)}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0", 1))
        ServiceManager(address).notify("READY=1", "STATUS=all is well")
        assert receiver.recv(1000) == b"READY=1\nSTATUS=all is well"


def test_without_a_manager_nothing_is_said() -> None:
    ServiceManager().notify("READY=1")


def test_a_manager_that_does_not_listen_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager(str(tmp_path / "nobody")).notify("READY=1", "STATUS=x")
    assert "cannot tell the service manager READY=1" in caplog.text


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        while "temporarily unavailable" not in caplog.text:
            ServiceManager(str(tmp_path / "notify")).notify("WATCHDOG=1")


def test_what_systemd_tells_is_for_us_alone() -> None:
    """runc must not see it: it would wait for the container to say READY=1."""
    environment = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7", "PATH": "/bin"}
    manager = meet_manager(environment, pid=7)
    assert (manager.address, manager.watchdog, manager.unit) == ("/run/n", 60.0, "")
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize("told", [{}, {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, {"WATCHDOG_USEC": "soon"}])
def test_nobody_wants_to_hear_from_us(told: dict[str, str]) -> None:
    assert meet_manager(dict(told), pid=7) == ServiceManager()


def test_the_unit_is_ours_only_if_systemd_started_this_process() -> None:
    """A CI runner is a service too, and must not be stopped by `podwire down`."""
    assert meet_manager({"SYSTEMD_EXEC_PID": "8"}, pid=7).unit == ""
    own = parse_unit(Path("/proc/self/cgroup").read_text())
    assert meet_manager({"SYSTEMD_EXEC_PID": "7"}, pid=7).unit == own


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/podwire.service\n", "podwire.service"),
        ("0::/system.slice/podwire.service/inner\n", "podwire.service"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.service\n", "user@0.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", ""),
        ("12:cpu:/other.service\n1:name=systemd:/system.slice/podwire.service\n0::/\n", "podwire.service"),
        ("", ""),
    ],
)
def test_units(cgroups: str, unit: str) -> None:
    assert parse_unit(cgroups) == unit


def test_the_journal_is_known_by_its_socket_not_by_the_variable_alone() -> None:
    reader, writer = os.pipe()
    found = os.fstat(writer)
    assert in_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, stream=writer)
    assert not in_journal({"JOURNAL_STREAM": "8:1"}, stream=writer)
    assert not in_journal({}, stream=writer)
    os.close(reader)
    os.close(writer)
    assert not in_journal({"JOURNAL_STREAM": "8:1"}, stream=writer)
