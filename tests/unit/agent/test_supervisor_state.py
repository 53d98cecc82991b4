import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import Paths
from agent.shell import CommandError, run
from agent.supervisor.state import (
    ChildStatus,
    Lock,
    NodeStatus,
    SupervisorError,
    read_status,
    running_pid,
    write_status,
)

STATUS = NodeStatus(1, "n", "192.0.2.2", None, "/k", 1.0, (ChildStatus("dns", "ready", 2, 0, 1.0),))


def test_the_second_supervisor_of_a_state_directory_is_refused(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    lock = Lock(paths)
    with pytest.raises(SupervisorError, match=f"already runs .*pid {os.getpid()}"):
        Lock(paths)
    assert running_pid(paths) == os.getpid()
    lock.release()
    assert running_pid(paths) is None
    Lock(paths).release()


def test_status_is_there_only_while_somebody_holds_the_lock(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert read_status(paths) is None
    lock = Lock(paths)
    assert read_status(paths) is None
    write_status(paths, STATUS)
    assert read_status(paths) is None, "it is another supervisor's"
    mine = replace(STATUS, pid=os.getpid())
    write_status(paths, mine)
    assert read_status(paths) == mine
    (paths.run_dir / "status.json").write_bytes(b"\xff{")
    assert read_status(paths) is None
    lock.release()
    assert read_status(paths) is None


def test_a_killed_supervisor_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        f"from agent.supervisor.state import *; from pathlib import Path; l = Lock(Paths(Path({str(tmp_path)!r}))); "
    )
    program += "print('held', flush=True); import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert running_pid(Paths(tmp_path)) == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 10
    while running_pid(Paths(tmp_path)) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_node_is_ready_when_all_its_children_are() -> None:
    assert STATUS.ready
    waiting = ChildStatus("node", "waiting", None, 1, 1.0, "killed by SIGKILL")
    assert not NodeStatus(1, "n", "", None, "/k", 1.0, (*STATUS.children, waiting)).ready
    assert not NodeStatus(1, "n", "", None, "/k", 1.0).ready


def test_a_status_is_a_sentence() -> None:
    assert str(STATUS) == "node n (192.0.2.2) is ready"
    children = (
        ChildStatus("dns", "waiting", None, 1, 1.0, "exit code 1: no"),
        ChildStatus("node", "starting", 2, 0, 1.0),
    )
    assert str(replace(STATUS, children=children)) == "node n (192.0.2.2): dns waiting (exit code 1: no); node starting"


def test_a_failed_command_can_be_pasted() -> None:
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "echo 'no luck' >&2; exit 3"])
    assert str(caught.value) == """sh -c 'echo '"'"'no luck'"'"' >&2; exit 3': exit code 3: no luck"""


def test_a_missing_program_is_named() -> None:
    with pytest.raises(CommandError, match="podwire-no-such-program: no such program"):
        run(["podwire-no-such-program"])


def test_a_command_gets_its_input_and_a_bound() -> None:
    assert run(["cat"], stdin=b"hello") == b"hello"
    with pytest.raises(CommandError, match=r"killed after 0\.05 s"):
        run(["sleep", "5"], timeout=0.05)
