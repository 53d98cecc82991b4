"""A child process that cannot do its work says why, and none outlives its supervisor."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.lifetime import resolve_reason
from agent.supervisor import process
from agent.supervisor.child import SHUTDOWN, Child, command
from agent.supervisor.predecessors import await_predecessors, find_children

LINGER = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)

PATIENCE = 20
# A child that says it is ready, and then beats or does not.
BEATING = """
import os, sys, time
say = lambda line: os.write(int(os.environ["PODWIRE_STATUS_FD"]), line)
say(b"alive\\n" + (b"ready\\n" if sys.argv[2] == "ready" else b""))
while True:
    time.sleep(0.01)
    sys.argv[1] == "True" and say(b"alive\\n")
"""


async def until(child: Child, check: Callable[[], bool]) -> None:
    running = asyncio.create_task(child.run())
    try:
        async with asyncio.timeout(30):
            while not check():  # noqa: ASYNC110 - it polls a status that nobody announces
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_child_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it import anything from where podwire happens to be started."""
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent/__init__.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.json"
    config.write_text("{")
    child = Child("dns", config_file=config, log_file=tmp_path / "dns.log", changed=lambda: None)
    await until(child, lambda: bool(child.status.why))
    assert child.status.why == "exit code 1: Input data was truncated"
    assert "Traceback" in (tmp_path / "dns.log").read_text()


async def test_a_child_that_is_killed_has_said_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    child = Child("control", config_file=tmp_path / "config.json", log_file=tmp_path / "log", changed=lambda: None)

    killed: list[int] = []

    def kill() -> bool:
        if not killed and child.status.pid is not None:
            killed.append(child.status.pid)
            os.kill(child.status.pid, signal.SIGKILL)
        return bool(child.status.why)

    await until(child, kill)
    assert child.status.why == "killed by SIGKILL"


@pytest.mark.parametrize("start", ["ready", "not ready yet"])
@pytest.mark.parametrize("lively", [True, False])
async def test_a_child_that_hangs_is_killed_and_one_that_answers_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lively: bool, start: str
) -> None:
    """Looks are counted, not seconds, so a machine that was paused condemns nobody."""
    monkeypatch.setattr(
        "agent.supervisor.child.command", lambda *_: (sys.executable, "-c", BEATING, str(lively), start)
    )
    child = Child("dns", config_file=tmp_path / "c", log_file=tmp_path / "log", changed=lambda: None)
    states: list[bool] = []
    begun = False

    def look() -> bool:
        """At a lively child whenever it has shown life, at one that hangs again and again once it has begun to."""
        nonlocal begun
        begun = begun or (child._heard and child.status.state == ("ready" if start == "ready" else "starting"))
        if child._heard or (begun and not lively):
            child.look()
            states.append(child.answering)
        return bool(child.status.why) or len(states) > 5 * PATIENCE

    monkeypatch.setattr("agent.supervisor.child.PATIENCE", PATIENCE)
    monkeypatch.setattr("agent.supervisor.child.PATIENCE_AT_START", 2 * PATIENCE)
    await until(child, look)
    if lively:
        assert all(states)
        assert child.status.why == ""
    else:
        seconds = PATIENCE * 2 if start == "ready" else PATIENCE * 4
        assert child.status.why == f"killed by SIGKILL: it had not answered for {seconds} s"
    assert child.answering, "a child that has died is being started again: it does not hang"


# A child that takes a while until it listens, and then does as it is told.
LISTENING = """
import os, signal, sys, time
time.sleep(0.3)
signal.signal(signal.SIGPWR, signal.SIG_IGN if sys.argv[1] == "deaf" else lambda *_: sys.exit(int(sys.argv[1])))
os.write(int(os.environ["PODWIRE_STATUS_FD"]), b"alive\\n")
time.sleep(60)
"""


def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> Child:
    monkeypatch.setattr("agent.supervisor.child.command", lambda *_: (sys.executable, "-c", LISTENING, how))
    return Child("node", config_file=tmp_path / "c", log_file=tmp_path / "log", changed=lambda: None)


@pytest.mark.parametrize("code", [0, 1])
async def test_a_child_finishes_when_it_listens_and_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The signal waits for its first sign of life: it would be killed before that."""
    monkeypatch.setattr("agent.supervisor.child.BACKOFF", (0.01, 0.01))
    child = listening(tmp_path, monkeypatch, str(code))
    running = asyncio.create_task(child.run())
    while child.status.pid is None:  # noqa: ASYNC110 - it polls a status that nobody announces
        await asyncio.sleep(0.01)
    child.run_no_more()
    assert await child.finish(SHUTDOWN, within=30)
    await running
    status = child.status
    assert (status.state, status.restarts, status.why) == ("stopped", 0, f"exit code {code}")
    assert await child.finish(SHUTDOWN, within=0), "it has ended"


async def test_a_child_that_does_not_finish_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = listening(tmp_path, monkeypatch, "deaf")
    finished: list[bool] = []

    async def finish() -> None:
        while child.status.pid is None or not child._heard:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        child.run_no_more()
        finished.append(await child.finish(SHUTDOWN, within=0.2))

    finishing = asyncio.create_task(finish())
    await until(child, lambda: bool(finished))
    await finishing
    assert finished == [False]
    assert (child.status.state, child.status.restarts) == ("stopped", 0)


async def test_a_child_that_was_to_be_started_again_is_not_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.supervisor.child.BACKOFF", (0.2, 0.2))
    monkeypatch.setattr("agent.supervisor.child.command", lambda *_: (sys.executable, "-c", "raise SystemExit(1)"))
    child = Child("node", config_file=tmp_path / "c", log_file=tmp_path / "log", changed=lambda: None)
    running = asyncio.create_task(child.run())
    while child.status.state != "waiting":  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    child.run_no_more()
    assert await child.finish(SHUTDOWN, within=0)
    await running
    assert child.status.why == "exit code 1"


async def test_a_component_shows_that_its_event_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it ends; a supervisor that is gone is no failure of it."""
    monkeypatch.setattr(process, "TICK", 0.01)
    read_end, write_end = os.pipe()
    monkeypatch.setenv("PODWIRE_STATUS_FD", str(write_end))
    reader = os.fdopen(read_end, "rb", buffering=0)

    async def work() -> None:
        for _ in range(3):
            assert await asyncio.to_thread(reader.read, 6) == b"alive\n"

    await process._show_life(work())
    os.set_blocking(read_end, False)
    while reader.read(600):
        continue
    await asyncio.sleep(0.1)
    assert reader.read(6) is None, "it has ended"
    reader.close()
    await process._show_life(asyncio.sleep(0.1))
    os.close(write_end)


def test_a_child_whose_supervisor_died_before_it_began_ends(tmp_path: Path) -> None:
    environment = {**os.environ, "PODWIRE_SUPERVISOR": str(os.getppid())}
    argv = command("dns", tmp_path / "missing.json")
    done = subprocess.run(argv, env=environment, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(98, "Address already in use"), "[Errno 98] Address already in use"),
        (ValueError(), "ValueError"),
        (ValueError("two\nlines"), "two lines"),
        (ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [ValueError("b"), ValueError("b")])]), "a; b"),
    ],
)
def test_reasons_are_one_line(error: Exception, reason: str) -> None:
    assert resolve_reason(error) == reason


@pytest.mark.parametrize("how", ["ends", "lingers"])
def test_what_an_earlier_supervisor_left_behind_is_waited_for(tmp_path: Path, how: str) -> None:
    """Recognised by its command line; one that does not end is killed."""
    config = tmp_path / "config.json"
    program = tmp_path / "agent/supervisor"
    program.mkdir(parents=True)
    for folder in (program, program.parent):
        (folder / "__init__.py").touch()
    (program / "process.py").write_text(LINGER if how == "lingers" else "print('up', flush=True)")
    argv = [sys.executable, "-B", *command("dns", config)[2:]]  # as a child is called, but for -P
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert find_children(tmp_path / "other.json") == ()
        assert how == "ends" or find_children(config) == (process.pid,)
        await_predecessors(config, grace=0.2 if how == "lingers" else 30)
        assert find_children(config) == ()
        assert process.wait() == (-signal.SIGKILL if how == "lingers" else 0)
