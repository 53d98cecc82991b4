"""The test of the virtual machine leaves nothing behind, however it is ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.leaks import assert_no_leaks

# A busy program: it mounts something, and has a child in a session of its own.
BUSY = "mkdir /mnt/a && mount -t tmpfs a /mnt/a && (setsid sleep 600 &) && echo ready && sleep 600"
OUTER = (
    "import sys; from tests.vm.apart import run_apart; sys.exit(run_apart(('sh', '-c', sys.argv[1]), limit={limit}))"
)


def start(script: str, *, limit: float) -> subprocess.Popen[str]:
    argv = (sys.executable, "-c", OUTER.format(limit=limit), script)
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_nothing_outlives_the_one_who_started_it(number: signal.Signals, code: int) -> None:
    with assert_no_leaks(tag="vm-test"), start(BUSY, limit=60) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "ready\n"
        outer.send_signal(number)
        assert outer.wait(10) == code


def test_what_hangs_is_ended() -> None:
    begin = time.monotonic()
    with assert_no_leaks(tag="vm-test"), start(BUSY, limit=1.5) as outer:
        said, complaint = outer.communicate(timeout=20)
    assert (outer.returncode, said) == (1, "ready\n")
    assert complaint == "vm: not done after 1.5 s, so it hangs: ended\n"
    assert time.monotonic() - begin < 15


def test_it_works_where_nobody_else_sees_it() -> None:
    """Its exit code is passed on, its files and processes are its own."""
    with (
        assert_no_leaks(tag="vm-test"),
        start("touch /mnt/file; echo $$; ps -e --no-headers | wc -l; exit 7", limit=60) as outer,
    ):
        said, _ = outer.communicate(timeout=20)
    assert outer.returncode == 7
    pid, processes = map(int, said.split())
    assert pid == 1
    assert processes <= 3
    assert not Path("/mnt/file").exists()
