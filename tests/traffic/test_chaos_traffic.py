"""Chaos under load: the proxy killed, its rules tampered with, its engine failing, and what connections notice of it.

In a node in small, clients ask Services all the time: a pod and the node through ClusterIPs, a stranger through a
NodePort, and one UDP client whose flow must not move. Meanwhile another program rewrites rules of its own. What is
promised:

- no connection that has an endpoint fails while the proxy is killed and started, while its engine fails, or while
  somebody rewrites other rules;
- whatever is done to our rules is repaired, within 2 s as a rule (how long it took is measured and told); connections
  that begin meanwhile may fail, none that begin afterwards;
- at the end there are the rules that would be made from scratch, foreign rules are as they were, and after ``cleanup``
  so is everything.

``PODWIRE_CHAOS=full`` does much more of it, and takes half an hour.
"""

from __future__ import annotations

import os
import random
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent import proxy
from agent.config import Engine as EngineName
from agent.proxy.options import Options
from agent.proxy.snapshots import take_snapshot
from agent.shell import run
from rules.iptables.engines import Variant
from rules.iptables.engines.restore import RestoreEngine
from rules.iptables.lower import lower_frontends
from rules.iptables.ruleset import Ruleset
from rules.policy import resolve_frontends
from rules.snapshot import Family
from tests.harness.cluster import Away, Cluster, cluster_away
from tests.harness.load import Flow, Load, Window
from tests.harness.netfilter import NODE_IP, PODS, MiniNode, mini_node
from tests.harness.tampering import FOREIGN_RULES, Foreigner, Tamperer
from tests.leaks import assert_no_leaks

IS_FULL = os.environ.get("PODWIRE_CHAOS") == "full"
RESTARTS, TAMPERINGS, FAILURES = (100, 1000, 300) if IS_FULL else (6, 33, 12)
PAUSE = 0.3 if IS_FULL else 0.1  # seconds between two tamperings, at most: connections are judged in it
TAG = f"chaos-{secrets.token_hex(2)}"  # in the name of every namespace
SOON = 10.0  # seconds for a repair; what is measured is far less, but no test fails because a machine is slow
A, B, C = PODS.values()
WEB, UDP = "10.96.0.10", "10.96.0.11"


@dataclass
class Scene:
    """A node under load, with an API server; ``start`` starts the real proxy."""

    node: MiniNode
    away: Away
    folder: Path
    engine: EngineName
    variant: Variant
    loads: list[Load] = field(default_factory=list)
    path: str = os.environ["PATH"]

    def start(self) -> subprocess.Popen[str]:
        """The proxy, as soon as it has said that rules are in place."""
        process = self.spawn()
        assert process.stdout is not None
        assert process.stdout.readline() == "podwire: rules are in place\n", (self.folder / "proxy.log").read_text()
        return process

    def spawn(self) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "agent.cli.main", "proxy", "--node-netns", self.node.name("node")]
        argv += ["--kubeconfig", str(self.folder / "scripted.kubeconfig"), "--node-name", "here"]
        argv += ["--cluster-cidr", "10.244.0.0/16", "--engine", self.engine, "--iptables-variant", self.variant]
        with open(self.folder / "proxy.log", "a") as log:
            return subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "PATH": self.path}
            )

    def installed(self) -> Ruleset:
        """What is there of ours, by a reader that knows nothing of the proxy."""
        return self.node.inside("node", lambda: RestoreEngine(run, variant=self.variant).read())

    def from_scratch(self) -> Ruleset:
        """What should be there."""
        snapshot = self.away.ask(lambda client: take_snapshot(client, self.options))
        return lower_frontends(resolve_frontends(snapshot), Family.IPV4)

    @property
    def options(self) -> Options:
        return Options("here", cluster_cidrs=("10.244.0.0/16",))

    def until_right(self, wanted: Ruleset, seconds: float) -> float:
        """When (monotonic seconds) the rules were seen to be as wanted."""
        deadline = time.monotonic() + seconds
        while self.installed() != wanted:
            assert time.monotonic() < deadline, f"not repaired within {seconds:g} s\n{self._log()}"
        return time.monotonic()

    def faults(self, windows: list[Window]) -> str:
        found = [str(attempt) for load in self.loads for attempt in load.faults(windows)]
        return "\n".join([*found[:20], f"{len(found)} in all", self._log()]) if found else ""

    def judged(self, windows: list[Window]) -> int:
        return sum(not attempt.is_excused(windows) for load in self.loads for attempt in load.attempts)

    def count(self, text: str) -> int:
        """How often the proxy logged this."""
        return (self.folder / "proxy.log").read_text().count(text)

    def _log(self) -> str:
        return (self.folder / "proxy.log").read_text()[-4000:]


def publish(cluster: Cluster) -> None:
    cluster.put_service("web", WEB, ports=[{"port": 80, "nodePort": 30001}], type="NodePort")
    cluster.put_slice(A, B, name="web")
    cluster.put_service("udp", UDP, ports=[{"port": 80, "protocol": "UDP"}])
    cluster.put_slice(A, B, name="udp", protocol="UDP")
    cluster.put_service("sticky", "10.96.0.12", sessionAffinity="ClientIP")
    cluster.put_slice(A, B, C, name="sticky")
    cluster.put_service("empty", "10.96.0.13", ports=[{"port": 80, "nodePort": 30002}], type="NodePort")
    for number in range(8):
        cluster.put_service(f"more-{number}", f"10.96.1.{number}")
        cluster.put_slice(A, C, name=f"more-{number}")


def shuffle(scene: Scene, rng: random.Random) -> None:
    """Another set of endpoints for two Services: one always has some, one not always."""
    web = rng.sample((A, B, C), rng.randint(1, 3))
    scene.away.do(lambda cluster: cluster.put_slice(*web, name="web"))
    other = rng.sample((A, B, C), rng.randint(0, 2))
    scene.away.do(lambda cluster: cluster.put_slice(*other, name="more-0"))


@contextmanager
def scenery(folder: Path, engine: EngineName, variant: Variant) -> Iterator[tuple[Scene, Foreigner]]:
    """Load begins when the first proxy has made its rules, and that proxy is killed."""
    with ExitStack() as stack:
        node = stack.enter_context(mini_node(tag=f"{TAG}-{secrets.token_hex(2)}"))
        for name in ("time_wait", "syn_sent", "close"):  # many connections: do not fill the machine's table
            node.run("sysctl", "-qw", f"net.netfilter.nf_conntrack_tcp_timeout_{name}=5")
        node.run(f"iptables-{variant}-restore", "--noflush", "-w", stdin=FOREIGN_RULES)
        node.run("iptables-legacy", "-S")  # makes an empty table, for good
        before = node.saved()
        away = stack.enter_context(cluster_away(folder, node.name("node")))
        away.do(publish)
        scene = Scene(node, away, folder, engine, variant)
        with ending(scene.start()):
            pass
        with ExitStack() as busy:
            foreigner = busy.enter_context(Foreigner(node, variant))
            places = {"c": (WEB, 80), "node": (WEB, 80), "outside": (NODE_IP, 30001)}
            scene.loads = [busy.enter_context(Load(node, who, place)) for who, place in places.items()]
            flow = busy.enter_context(Flow(node, "c", (UDP, 80)))
            yield scene, foreigner
        assert not foreigner.surprises
        assert foreigner.rewritten > 0
        assert len(set(flow.answers)) == 1, "the UDP client's flow moved"
        node.inside("node", lambda: proxy.cleanup(scene.options))
        assert sorted(node.saved().splitlines()) == sorted(before.splitlines())


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """At the end it is killed the hard way."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    with assert_no_leaks(tag=TAG):
        yield


ENGINES: list[tuple[EngineName, Variant]] = [("restore", "nft"), ("libiptc", "legacy")]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("engine", "variant"), ENGINES)
def test_the_proxy_is_killed_again_and_again(tmp_path: Path, engine: EngineName, variant: Variant) -> None:
    """At any moment: while it starts, while it adopts, while it writes, while it does nothing."""
    rng = random.Random(1)
    with scenery(tmp_path, engine, variant) as (scene, _):
        for _ in range(RESTARTS):
            with ending(scene.spawn()):
                end = time.monotonic() + rng.uniform(0.3, 2.5)
                while time.monotonic() < end:
                    shuffle(scene, rng)
                    time.sleep(rng.uniform(0.0, 0.2))
            shuffle(scene, rng)
        with ending(scene.start()):
            scene.until_right(scene.from_scratch(), SOON)
    assert not scene.faults([])
    report(f"{engine}, {variant}: killed {RESTARTS} times, {scene.judged([])} connections, none failed")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("engine", "variant"), ENGINES)
def test_whatever_is_done_to_the_rules_is_repaired(tmp_path: Path, engine: EngineName, variant: Variant) -> None:
    rng = random.Random(2)
    windows: list[Window] = []
    took: dict[str, list[float]] = {}
    with scenery(tmp_path, engine, variant) as (scene, foreigner), ending(scene.start()):
        wanted = scene.from_scratch()
        scene.until_right(wanted, SOON)
        tamperer = Tamperer(scene.node, variant, wanted, foreigner, seed=3)
        for _ in range(TAMPERINGS):
            time.sleep(rng.uniform(0.0, PAUSE))
            began = time.monotonic()
            name = tamperer.act()
            done = time.monotonic()
            repaired = scene.until_right(wanted, SOON)
            took.setdefault(name, []).append(repaired - done)
            windows.append((began, repaired))
        time.sleep(0.5)
        assert scene.installed() == wanted == scene.from_scratch()
    assert not scene.faults(windows)
    failed = sum(bool(attempt.fault) for load in scene.loads for attempt in load.attempts)
    times = [seconds for some in took.values() for seconds in some]
    worst = ", ".join(f"{name} {max(some) * 1e3:.0f}" for name, some in sorted(took.items()))
    report(
        f"{engine}, {variant}: {len(times)} tamperings, repaired after {statistics.median(times) * 1e3:.0f} ms"
        f" (99 % {sorted(times)[int(len(times) * 0.99)] * 1e3:.0f}, max {max(times) * 1e3:.0f}); of"
        f" {scene.judged(windows)} connections begun while rules were right none failed, {failed} of others;"
        f" maxima in ms: {worst}; {scene.count('trying again')} errors of the proxy"
    )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_the_engine_fails_now_and_then(tmp_path: Path, variant: Variant) -> None:
    """Before it did anything, after the first table, or after all was done."""
    rng = random.Random(4)
    with scenery(tmp_path, "restore", variant) as (scene, _):
        count = put_failing_program(tmp_path / "bin", f"iptables-{variant}-restore")
        scene.path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        with ending(scene.start()):
            for _ in range(FAILURES):
                shuffle(scene, rng)
                time.sleep(rng.uniform(0.0, 0.3))
            scene.until_right(scene.from_scratch(), 60.0)  # a pause after a failure is up to 30 s
    failures = len(count.read_text())
    assert failures > 0
    assert not scene.faults([])
    report(f"restore, {variant}: the engine failed {failures} times, {scene.judged([])} connections, none failed")


FAILING = """\
import os, random, subprocess, sys
text = sys.stdin.buffer.read()
how = random.choice(["well", "well", "well", "not at all", "in part", "without saying so"])
if how == "in part":
    text = text[: text.index(b"COMMIT\\n") + len(b"COMMIT\\n")]
code = subprocess.run([{real!r}, *sys.argv[1:]], input=text).returncode if how != "not at all" else 1
if how != "well":
    with open({count!r}, "a") as file:
        file.write("x")
    print("chaos:", how, file=sys.stderr)
sys.exit(code if how == "well" else code or 1)
"""


def put_failing_program(folder: Path, name: str) -> Path:
    """A program of this name that does what the real one does, or less; the file's length is how often it failed."""
    folder.mkdir()
    real, count, program = run(("which", name)).decode().strip(), folder / "count", folder / name
    count.touch()
    program.write_text(f"#!{sys.executable} -SE\n" + FAILING.format(real=real, count=str(count)))
    program.chmod(0o755)
    return count


def report(text: str) -> None:
    """Shown by ``pytest -s``, and added to the file $PODWIRE_CHAOS_REPORT."""
    print(text)
    if path := os.environ.get("PODWIRE_CHAOS_REPORT"):
        with open(path, "a") as file:
            file.write(text + "\n")
