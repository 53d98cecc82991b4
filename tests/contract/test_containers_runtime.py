"""runc under conmon on the real kernel: what a kubelet relies on, and that nothing is ever left behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.kubelet import procfs
from agent.kubelet.containers import Container, ContainerError, ExecProcess, Launch, Mount, Runtime
from agent.kubelet.images import DEFAULT_PATH, Folder, HostRoot, Image
from tests.contract.conftest import TAG

HOST = Image("host", HostRoot())
FOREVER = ("sh", "-c", "trap 'exit 0' TERM; echo started; while :; do sleep 3600 & wait; done")


class Bench:
    """A Runtime on a folder of its own, and how to order containers from it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.parent = f"podwire-{TAG}"
        self.runtime = self.fresh_runtime()

    def fresh_runtime(self) -> Runtime:
        """What a restarted kubelet has: the same folders, nothing in memory."""
        return Runtime(
            self.home / "containers", self.home / "run", state_dir_to_mask=self.home, cgroup_parent=self.parent
        )

    def launch(self, name: str, *argv: str, image: Image = HOST, **more: object) -> Launch:
        values: dict[str, object] = {
            "id": name, "pod_uid": "uid", "namespace": "default", "pod": "pod", "container": name, "attempt": 0,
            "image": image, "argv": argv, "env": (("PATH", DEFAULT_PATH),), "hostname": "pod-1",
            "log_path": self.home / "logs" / f"{name}.log",
        }  # fmt: skip
        return Launch(**{**values, **more})  # type: ignore[arg-type]

    async def run(self, name: str, *argv: str, image: Image = HOST, **more: object) -> tuple[Container, str]:
        """Run a container to its end; what became of it and what it said."""
        await self.runtime.start(self.launch(name, *argv, image=image, **more))
        container = await self.runtime.wait(name)
        return container, self.said(name)

    async def until_said(self, name: str, text: str) -> None:
        async with asyncio.timeout(30):
            while text not in self.said(name):  # noqa: ASYNC110 - a file that another process writes
                await asyncio.sleep(0.01)

    def said(self, name: str) -> str:
        lines = (self.home / "logs" / f"{name}.log").read_text().splitlines()
        return "".join(line.split(" ", 3)[3] + "\n" for line in lines)


@pytest.fixture
async def bench(no_leaks: None, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    try:
        yield bench
    finally:
        await bench.fresh_runtime().clean()


async def finish(process: ExecProcess) -> tuple[int, bytes, bytes]:
    """Exit code, output, errors."""
    errors = process.stderr.read() if process.stderr is not None else asyncio.sleep(0, b"")
    out, err = await asyncio.gather(process.stdout.read(), errors)
    return await process.wait(), out, err


# --- a container's life -----------------------------------------------------------------------------------------------


async def test_a_container_runs_and_its_end_is_known(bench: Bench) -> None:
    started = await bench.runtime.start(bench.launch("a", "sh", "-c", "sleep 0.2; exit 7"))
    assert started.state == "running"
    assert started.pid is not None
    ended = await bench.runtime.wait("a")
    assert (ended.state, ended.exit_code, ended.reason, ended.pid) == ("exited", 7, "Error", None)
    assert ended.finished_at is not None
    assert ended.started_at == started.started_at <= ended.finished_at
    assert await bench.runtime.list() == (ended,)


async def test_success_is_completed(bench: Bench) -> None:
    container, _ = await bench.run("a", "true")
    assert (container.exit_code, container.reason) == (0, "Completed")


async def test_the_log_is_in_kubernetes_format(bench: Bench) -> None:
    await bench.run("a", "sh", "-c", "echo out; echo err >&2; printf unfinished")
    lines = (bench.home / "logs/a.log").read_text().splitlines()
    form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}[+-]\d\d:\d\d (stdout|stderr) ([FP]) (.*)")
    parsed = [match.groups() for line in lines if (match := form.fullmatch(line))]
    assert len(parsed) == len(lines)
    assert ("stdout", "F", "out") in parsed
    assert ("stderr", "F", "err") in parsed
    assert ("stdout", "P", "unfinished") in parsed


async def test_many_may_wait(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", "sh", "-c", "sleep 0.3; exit 3"))
    ended = await asyncio.gather(*(bench.runtime.wait("a") for _ in range(5)))
    assert {container.exit_code for container in ended} == {3}


async def test_waiting_can_be_given_up(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bench.runtime.wait("a"), 0.1)
    await bench.runtime.kill("a", signal.SIGKILL)
    assert (await bench.runtime.wait("a")).exit_code == 137


async def test_a_signal_reaches_the_first_process(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    await bench.until_said("a", "started")
    await bench.runtime.kill("a")
    assert (await bench.runtime.wait("a")).reason == "Completed"
    await bench.runtime.kill("a")  # nothing happens


async def test_an_interruption_is_remembered_of_what_ran_then(bench: Bench) -> None:
    await bench.run("done", "true")
    await bench.runtime.start(bench.launch("a", *FOREVER))
    await bench.until_said("a", "started")
    for name in ("done", "a", "nobody"):
        await bench.runtime.note_interruption(name)
    assert not (await bench.runtime.list())[-1].interrupted, "it still runs"
    await bench.runtime.kill("a")
    await bench.runtime.wait("a")
    found = {container.id: container for container in await bench.fresh_runtime().list()}
    assert {name: container.interrupted for name, container in found.items()} == {"done": False, "a": True}
    assert found["a"].exit_code == 0


async def test_a_container_knows_its_sandbox_unless_the_version_before_started_it(bench: Bench) -> None:
    await bench.run("a", "true", sandbox="s-1")
    assert [container.sandbox for container in await bench.fresh_runtime().list()] == ["s-1"]
    file = bench.home / "containers/a/launch.json"
    launch = json.loads(file.read_text())
    assert launch.pop("sandbox") == "s-1"
    file.write_text(json.dumps(launch))
    assert [container.sandbox for container in await bench.fresh_runtime().list()] == [""]


async def test_removing_kills_and_forgets_but_keeps_the_log(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    await bench.runtime.remove("a")
    await bench.runtime.remove("a")
    assert await bench.runtime.list() == ()
    assert list((bench.home / "containers").iterdir()) == []
    assert (bench.home / "logs/a.log").exists()
    assert list(procfs.cgroups(f"{bench.parent}/a")) == []
    with pytest.raises(ContainerError, match="there is no container a"):
        await bench.runtime.wait("a")


async def test_several_start_at_once(bench: Bench) -> None:
    names = [f"c{i}" for i in range(6)]
    await asyncio.gather(*(bench.runtime.start(bench.launch(name, *FOREVER)) for name in names))
    assert sorted(c.id for c in await bench.runtime.list()) == names
    assert {c.state for c in await bench.runtime.list()} == {"running"}


async def test_a_process_over_its_memory_limit(bench: Bench) -> None:
    container, _ = await bench.run("a", sys_python(), "-c", "x = b'x' * (200 << 20)", memory_limit=20 << 20)
    assert (container.exit_code, container.reason) == (137, "OOMKilled")


async def test_what_conmon_notes_stays_in_the_containers_folder(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes a file ``oom`` into its current directory, which must not be the caller's."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    await bench.run("a", sys_python(), "-c", "x = b'x' * (200 << 20)", memory_limit=20 << 20)
    assert (bench.home / "containers/a/oom").exists()
    assert os.listdir(elsewhere) == []


# --- what cannot start ------------------------------------------------------------------------------------------------


async def test_a_program_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(ContainerError, match='"no-such-program": executable file not found') as caught:
        await bench.runtime.start(bench.launch("a", "no-such-program"))
    assert caught.value.reason == "StartError"
    assert await bench.runtime.list() == ()
    assert list((bench.home / "containers").iterdir()) == []


async def test_a_volume_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(ContainerError, match="no such file or directory"):
        await bench.runtime.start(bench.launch("a", "true", mounts=(Mount("/no/such/source", "/data"),)))


async def test_an_image_folder_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(
        ContainerError, match="cannot start container a of pod default/pod: the image's folder /no/such/image"
    ):
        await bench.runtime.start(bench.launch("a", "true", image=Image("x", Folder("/no/such/image"))))


async def test_an_id_is_used_once(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    with pytest.raises(ContainerError, match="there is a container a already"):
        await bench.runtime.start(bench.launch("a", "true"))
    assert [c.state for c in await bench.runtime.list()] == ["running"]


@pytest.mark.parametrize("name", ["", "..", "a/b"])
async def test_an_id_is_a_file_name(bench: Bench, name: str) -> None:
    with pytest.raises(ContainerError, match="no container can be called"):
        await bench.runtime.remove(name)


# --- what it sees -----------------------------------------------------------------------------------------------------


async def test_the_hosts_root_is_read_only_with_fresh_tmp_and_run(bench: Bench) -> None:
    script = (
        "touch /usr/x /etc/x 2>&1; ls -A /tmp /run; touch /tmp/x /run/x && echo written; cat /proc/1/comm; hostname"
    )
    _, said = await bench.run("a", "sh", "-c", script)
    assert said.count("Read-only file system") == 2
    assert "/run:\n\n/tmp:\nwritten" in said.replace("/tmp:\n\n/run:\n", "/run:\n\n/tmp:\n")
    assert said.endswith("sh\npod-1\n")


async def test_podwires_state_is_hidden(bench: Bench) -> None:
    home = Path("/var/lib", f"podwire-test-{secrets.token_hex(4)}")
    await asyncio.to_thread(home.mkdir)
    try:
        (home / "token").write_text("secret")
        runtime = Runtime(home / "containers", home / "run", state_dir_to_mask=home, cgroup_parent=bench.parent)
        await runtime.start(bench.launch("a", "sh", "-c", f"ls -A {home} | wc -l"))
        await runtime.wait("a")
        await runtime.clean()
        assert bench.said("a") == "0\n"
    finally:
        shutil.rmtree(home)


async def test_volumes_wherever_they_are_wanted(bench: Bench) -> None:
    (bench.home / "value").write_text("content\n")
    (bench.home / "folder").mkdir()
    mounts = (
        Mount(str(bench.home / "folder"), "/data", read_only=False),
        Mount(str(bench.home / "value"), "/data/file"),
        Mount(str(bench.home / "value"), "/etc/no-such-folder/file"),
        Mount(str(bench.home / "folder"), "/var/run/secrets/here"),
        Mount(str(bench.home / "value"), "/etc/hosts"),
    )
    script = "cat /data/file /etc/no-such-folder/file /etc/hosts; touch /data/new; touch /var/run/secrets/here/x"
    container, said = await bench.run("a", "sh", "-c", script, mounts=mounts)
    assert said.startswith("content\n" * 3)
    assert "Read-only file system" in said
    assert container.exit_code == 1
    assert sorted(os.listdir(bench.home / "folder")) == ["file", "new"]
    assert "no-such-folder" not in os.listdir("/etc")


async def test_a_stand_ins_program_has_its_name(bench: Bench) -> None:
    image = Image("x", HostRoot(programs=(("mongod", ("sh", "-c", 'echo "$0 $@"', "stand-in")),)))
    env = (("PATH", f"/podwire/bin:{DEFAULT_PATH}"),)
    _, said = await bench.run("a", "mongod", "--rest", "a b", image=image, env=env)
    assert said == "stand-in --rest a b\n"


async def test_a_folder_image_is_writable_and_stays_as_it_was(bench: Bench) -> None:
    root = make_rootfs(bench.home / "image: one, two")
    await bench.runtime.start(
        bench.launch(
            "a",
            "sh",
            "-c",
            "echo hello >/new; read x </new; echo $x /*; read y",
            image=Image("x", Folder(str(root))),
            stdin=True,
        )
    )
    await bench.until_said("a", "hello")
    assert procfs.mounts_below(bench.home) == []
    await bench.runtime.remove("a")
    assert bench.said("a") == "hello /bin /dev /etc /lib /lib64 /new /proc /sys /usr\n"
    assert not (root / "new").exists()


async def test_users_and_capabilities(bench: Bench) -> None:
    script = "id -u; id -g; id -G; grep CapEff /proc/self/status; grep CapBnd /proc/self/status"
    _, said = await bench.run("a", "sh", "-c", script, user=1234, group=99, groups=(7,), capabilities_drop=("ALL",))
    assert said.split() == ["1234", "99", "99", "7", "CapEff:", "0" * 16, "CapBnd:", "0" * 16]


async def test_a_terminal(bench: Bench) -> None:
    _, said = await bench.run("a", "sh", "-c", "tty", tty=True)
    assert said.strip() == "/dev/pts/0"


# --- exec -------------------------------------------------------------------------------------------------------------


async def test_exec_has_the_containers_world_and_its_own_streams(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER, env=(("PATH", DEFAULT_PATH), ("A", "1"))))
    process = await bench.runtime.exec(
        "a", ["sh", "-c", "cat; echo $A$B; hostname; echo bad >&2; exit 5"], stdin=True, env=[("B", "2")]
    )
    assert process.stdin is not None
    await process.stdin.write(b"given\n")
    process.stdin.close()
    assert await finish(process) == (5, b"given\n12\npod-1\n", b"bad\n")
    assert not list((bench.home / "containers/a").glob("exec-*"))


async def test_exec_without_input_ends_at_once(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    assert await finish(await bench.runtime.exec("a", ["cat"])) == (0, b"", b"")


async def test_exec_moves_a_lot_of_data(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    process = await bench.runtime.exec("a", ["cat"], stdin=True)
    assert process.stdin is not None
    data = secrets.token_bytes(1 << 20) * 3

    async def feed(stdin: object) -> None:
        assert process.stdin is not None
        await process.stdin.write(data)
        process.stdin.close()

    _, (code, out, _) = await asyncio.gather(feed(process.stdin), finish(process))
    assert (code, out) == (0, data)


async def test_exec_in_a_terminal(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    process = await bench.runtime.exec("a", ["sh", "-c", "tty; read x; stty size; echo got $x"], tty=True, stdin=True)
    assert process.stdin is not None
    assert process.stderr is None
    first = await process.stdout.readuntil(b"\n")
    process.resize(91, 33)
    await asyncio.sleep(0.2)  # the new size travels as a signal
    await process.stdin.write(b"this\n")
    code, rest, _ = await finish(process)
    assert first.startswith(b"/dev/pts/")
    assert rest == b"this\r\n33 91\r\ngot this\r\n"
    assert code == 0


async def test_the_end_of_input_in_a_terminal(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    process = await bench.runtime.exec("a", ["sh", "-c", "echo ready; cat; echo over"], tty=True, stdin=True)
    assert process.stdin is not None
    # (The very first output may get a second carriage return, before runc has told the inner terminal to add none.)
    assert (await process.stdout.readuntil(b"\n")).split() == [b"ready"]
    process.stdin.close()
    code, rest, _ = await finish(process)
    assert (code, rest.replace(b"^D\x08\x08", b"").split()) == (0, [b"over"])


@pytest.mark.parametrize("tty", [False, True], ids=["pipes", "terminal"])
async def test_an_exec_can_be_killed(bench: Bench, tty: bool) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    process = await bench.runtime.exec("a", ["sh", "-c", "echo ready; sleep 3600"], tty=tty)
    await process.stdout.readuntil(b"\n")
    assert await process.kill() == 137


async def test_exec_of_what_is_not_there(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    code, _, errors = await finish(await bench.runtime.exec("a", ["no-such-program"]))
    assert code == 126
    assert b"executable file not found" in errors


async def test_exec_needs_a_running_container(bench: Bench) -> None:
    with pytest.raises(ContainerError, match="there is no container a"):
        await bench.runtime.exec("a", ["true"])
    await bench.run("a", "true")
    with pytest.raises(ContainerError, match="it has exited"):
        await bench.runtime.exec("a", ["true"])


# --- restarts and crashes ---------------------------------------------------------------------------------------------


async def test_a_fresh_runtime_adopts_what_runs_and_what_ended(bench: Bench) -> None:
    before = await bench.runtime.start(bench.launch("runs", *FOREVER))
    ended, _ = await bench.run("ended", "sh", "-c", "exit 4")
    adopted = bench.fresh_runtime()
    assert {c.id: c for c in await adopted.list()} == {"runs": before, "ended": ended}
    assert (await finish(await adopted.exec("runs", ["echo", "hi"])))[1] == b"hi\n"
    waiting = asyncio.create_task(adopted.wait("runs"))
    await adopted.kill("runs", signal.SIGKILL)
    assert (await waiting).exit_code == 137


CRASHING = """
import asyncio, json, os, signal, sys
from pathlib import Path
import msgspec
from agent.kubelet.bundle import Launch
from agent.kubelet.containers import Runtime
home, parent, launch = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
launch = msgspec.json.decode(launch, type=Launch, dec_hook=lambda kind, value: Path(value))
async def main():
    await Runtime(home / "containers", home / "run", cgroup_parent=parent).start(launch)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_containers_outlive_the_kubelet_that_is_killed(bench: Bench) -> None:
    order = msgspec.json.encode(bench.launch("a", *FOREVER), enc_hook=str).decode()
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CRASHING, str(bench.home), bench.parent, order), cwd=Path(__file__).parents[2]
    )
    assert await killed.wait() == -signal.SIGKILL
    (container,) = await bench.runtime.list()
    assert (container.id, container.state) == ("a", "running")
    assert (await finish(await bench.runtime.exec("a", ["echo", "alive"])))[1] == b"alive\n"
    await bench.runtime.kill("a")
    assert (await bench.runtime.wait("a")).reason == "Completed"


async def test_conmon_is_in_a_session_of_its_own(bench: Bench) -> None:
    await bench.runtime.start(bench.launch("a", *FOREVER))
    conmon = procfs.read_pid(bench.home / "containers/a/conmon.pid")
    assert conmon is not None
    assert os.getsid(conmon) != os.getsid(0)
    assert os.getpgid(conmon) != os.getpgid(0)


async def test_a_container_whose_conmon_was_killed_is_still_seen_and_ended(bench: Bench) -> None:
    started = await bench.runtime.start(bench.launch("a", *FOREVER))
    conmon = procfs.read_pid(bench.home / "containers/a/conmon.pid")
    assert conmon is not None
    os.kill(conmon, signal.SIGKILL)
    await procfs.ended(conmon)
    (seen,) = await bench.runtime.list()
    assert (seen.state, seen.pid) == ("running", started.pid)
    waiting = asyncio.create_task(bench.runtime.wait("a"))
    await bench.runtime.kill("a", signal.SIGKILL)
    ended = await waiting
    assert (ended.exit_code, ended.reason) == (137, "ContainerStatusUnknown")


async def test_a_start_that_was_cut_short(bench: Bench) -> None:
    """Created by conmon, and then podwire died before it said start."""
    launch = bench.launch("a", *FOREVER)
    folder = bench.home / "containers/a"
    bench.runtime._prepare(launch, folder)
    await bench.runtime._create(launch, folder)
    (container,) = await bench.fresh_runtime().list()
    assert (container.state, container.exit_code, container.reason) == ("exited", 128, "StartError")
    await bench.fresh_runtime().remove("a")
    assert await bench.runtime.list() == ()


async def test_a_folder_from_a_start_cut_even_shorter_is_no_obstacle(bench: Bench) -> None:
    folder = bench.home / "containers/a"
    (folder / "rootfs").mkdir(parents=True)
    assert await bench.runtime.list() == ()
    container, _ = await bench.run("a", "true")
    assert container.reason == "Completed"


async def test_after_a_reboot(bench: Bench) -> None:
    """run_dir is gone, no process lives, the folders are there."""
    await bench.runtime.start(bench.launch("a", *FOREVER))
    await bench.runtime.kill("a", signal.SIGKILL)
    await bench.runtime.wait("a")
    shutil.rmtree(bench.home / "run")
    (bench.home / "containers/a/exit/a").unlink()
    (container,) = await bench.fresh_runtime().list()
    assert (container.state, container.reason) == ("exited", "ContainerStatusUnknown")
    await bench.fresh_runtime().remove("a")
    assert await bench.runtime.list() == ()


async def test_a_number_in_a_pid_file_proves_nothing(bench: Bench) -> None:
    await bench.run("a", "true")
    folder = bench.home / "containers/a"
    (folder / "exit/a").unlink()
    for name in ("pid", "conmon.pid"):
        (folder / name).write_text(str(os.getpid()))
    state = json.loads((bench.home / "run/runc/a/state.json").read_text())
    (bench.home / "run/runc/a/state.json").write_text(json.dumps({**state, "init_process_pid": os.getpid()}))
    (container,) = await bench.runtime.list()
    assert container.state == "exited"
    await bench.runtime.kill("a", signal.SIGKILL)  # would be the end of this test


def test_nothing_that_is_mounted_is_ever_deleted(no_leaks: None, tmp_path: Path) -> None:
    bench, precious = Bench(tmp_path), tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    inside = bench.home / "containers/a/rootfs"
    inside.mkdir(parents=True)
    subprocess.run(["mount", "--bind", precious, inside], check=True)
    try:
        with pytest.raises(OSError, match="something is mounted there"):
            asyncio.run(bench.runtime.remove("a"))
    finally:
        subprocess.run(["umount", inside], check=True)
    assert (precious / "file").exists()


def sys_python() -> str:
    """An interpreter that is on the host's root."""
    return shutil.which("python3", path=DEFAULT_PATH) or sys.executable


def make_rootfs(root: Path) -> Path:
    """A root file system with a shell and the libraries that it needs."""
    shell = Path(shutil.which("dash") or "/bin/sh").resolve()
    listed = subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout
    wanted = [Path(path) for path in re.findall(r"(/\S+) \(0x", listed)]
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc").mkdir()
    shutil.copy(shell, root / "bin/sh")
    for library in wanted:
        place = root / str(library).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    return root


async def test_what_has_no_record_any_more_does_not_run_on(bench: Bench) -> None:
    """A damaged or half-written folder; what is sound goes on, and strange files are no containers."""
    for name in ("sound", "damaged", "bare", "forgotten"):
        await bench.runtime.start(bench.launch(name, *FOREVER))
    damaged = next(c for c in await bench.runtime.list() if c.id == "damaged")
    (bench.home / "containers/damaged/launch.json").write_text("{")
    shutil.rmtree(bench.home / "containers/bare")
    shutil.rmtree(bench.home / "containers/forgotten")
    (bench.home / "run/runc/forgotten/state.json").write_text("{")
    (bench.home / "containers/half").mkdir()
    (bench.home / "containers/file").touch()
    runtime = bench.fresh_runtime()
    assert [c.id for c in await runtime.list()] == ["sound"]
    await runtime.remove_remains()
    assert damaged.pid is not None
    assert procfs.start_time(damaged.pid) is None
    assert sorted(os.listdir(bench.home / "containers")) == ["file", "sound"]
    assert os.listdir(bench.home / "run/runc") == ["sound"]
    assert [c.id for c in await runtime.list()] == ["sound"]
