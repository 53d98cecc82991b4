"""``podwire demo``: a node of its own, the document from its first command to its last, and what really happened.

The node lives in one network namespace and a client outside it in another; nothing of the machine is touched. Each
command that is shown is run as it stands, by the same ``podwire`` that a person would type. The exit code is 0 only if
every step held.

Address plan::

    outside 192.0.2.1/24 --- veth --- 192.0.2.2/24 node, bridge 10.244.0.1/24 --- pods
"""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from agent import shell
from agent.cli.options import fail, need_root, state_dir_of

NODE, OUTSIDE = "podwire-demo", "podwire-demo-outside"
NODE_IP, OUTSIDE_IP = "192.0.2.2", "192.0.2.1"
STATE_DIR = state_dir_of(None, NODE)
REQUESTS = 1000
CLIENTS = 4  # threads
PATIENCE = 30.0  # seconds to wait for something that should take one


@click.command()
@click.option("--keep", is_flag=True, help="Leave the node running, and say how to use it.")
@click.option("--stop", is_flag=True, help="Stop and remove the node that --keep left running.")
def demo(keep: bool, stop: bool) -> None:
    """Play the Services document on a node of its own."""
    need_root("podwire demo")
    if stop:
        if not _take_away():
            sys.exit(1)
        click.echo(f"nothing of {NODE} is left")
        return
    story = Story()
    begin = time.monotonic()
    try:
        _boot(story)
        _replicaset_and_expose(story)
        _service_with_node_port(story)
        _discovery(story)
        story.tell(f"Played in {time.monotonic() - begin:.0f} s: " + story.verdict())
    finally:
        if keep:
            _say_how_to_go_on()
        else:
            _take_away()
    sys.exit(1 if story.failures else 0)


class Story:
    """Prints what happens, runs commands, and remembers what did not hold."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.checks = 0

    def title(self, text: str) -> None:
        click.secho(f"\n{text}\n{'=' * len(text)}", bold=True)

    def tell(self, text: str) -> None:
        click.echo(f"\n{text}")

    def run(self, command: str) -> str:
        """Show and run ``podwire ...``; its output, which is shown too."""
        click.secho(f"\n$ {command}", bold=True)
        done = _podwire(*shlex.split(command)[1:])
        click.echo((done.stdout + done.stderr).rstrip())
        if done.returncode != 0:
            self.failures.append(command)
        return done.stdout

    def ask(self, *words: str) -> str:
        """The output of a command that is not part of the story."""
        return _podwire(*words).stdout

    def check(self, holds: bool, sentence: str) -> None:
        self.checks += 1
        click.secho(f"  {'ok  ' if holds else 'FAIL'} {sentence}", fg="green" if holds else "red")
        if not holds:
            self.failures.append(sentence)

    def until(self, sentence: str, condition: Callable[[], bool]) -> None:
        """Wait for something that should be true soon, and say how long it took."""
        begin = time.monotonic()
        while not (holds := condition()) and time.monotonic() - begin < PATIENCE:
            time.sleep(0.1)
        self.check(holds, f"{sentence} ({time.monotonic() - begin:.1f} s)")

    def verdict(self) -> str:
        if self.failures:
            return f"{len(self.failures)} of {self.checks} steps did not hold:\n  " + "\n  ".join(self.failures)
        return f"all {self.checks} steps held."


def _podwire(*words: str) -> subprocess.CompletedProcess[str]:
    """The same program again, with the demo's kubeconfig."""
    argv = [sys.executable, "-m", "agent.cli.main", *words]
    environment = {**os.environ, "KUBECONFIG": str(STATE_DIR / "kubeconfig")}
    return subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)


def _boot(story: Story) -> None:
    story.title("A node in a network namespace of its own")
    _take_away()
    for command in _TOPOLOGY:
        shell.run(command.split())
    story.run(f"podwire up --node-netns {NODE} --node-name demo --detach")
    if story.failures:
        fail("the node did not start")
    story.run("podwire get nodes")


_TOPOLOGY = (
    f"ip netns add {NODE}",
    f"ip netns add {OUTSIDE}",
    f"ip -n {NODE} link add uplink type veth peer name eth0 netns {OUTSIDE}",
    f"ip -n {NODE} address add {NODE_IP}/24 dev uplink",
    f"ip -n {OUTSIDE} address add {OUTSIDE_IP}/24 dev eth0",
    f"ip -n {NODE} link set uplink up",
    f"ip -n {OUTSIDE} link set eth0 up",
    f"ip -n {OUTSIDE} link set lo up",
)


def _replicaset_and_expose(story: Story) -> None:
    story.title("Creating the ReplicaSet, and exposing it")
    manifest = _example("go-demo-2-rs.yml")
    story.run(f"podwire create -f {manifest}")
    story.until("both pods are ready", lambda: _field(story, "rs", "go-demo-2", ".status.readyReplicas") == "2")
    story.run(f"podwire get -f {manifest}")
    story.run("podwire get pods -o wide")
    story.run("podwire expose rs go-demo-2 --name=go-demo-2-svc --target-port=28017 --type=NodePort")
    port = _field(story, "svc", "go-demo-2-svc", ".spec.ports[0].nodePort")
    story.until("the NodePort answers from outside", lambda: _answers(OUTSIDE, NODE_IP, int(port), "/"))
    story.run("podwire describe svc go-demo-2-svc")
    story.tell("The Sequence: what the document's seven steps took, by the clock of each component.")
    said = story.run(f"podwire sequence go-demo-2-svc --node-netns {NODE}")
    story.check(said.count(" ms ") == 7, "all seven steps were reached")


def _service_with_node_port(story: Story) -> None:
    story.title("Creating the Service: ClusterIP and NodePort 30001")
    manifest = _example("go-demo-2-svc.yml")
    story.run(f"podwire create -f {manifest}")
    story.run(f"podwire get -f {manifest}")
    address = _field(story, "svc", "go-demo-2", ".spec.clusterIP")
    pods = _names(story, "service=go-demo-2,type=backend")
    story.until("NodePort 30001 answers", lambda: _answers(OUTSIDE, NODE_IP, 30001, "/"))
    for where, netns, target, port in (
        ("through the ClusterIP, from the node", NODE, address, 28017),
        ("through the NodePort, from outside", OUTSIDE, NODE_IP, 30001),
    ):
        counts = _who_answers(netns, target, port)
        story.tell(f"{REQUESTS} requests {where} ({target}:{port}):")
        click.echo(f"  {'POD':<24}{'REQUESTS':>10}")
        for pod, count in sorted(counts.items()):
            click.echo(f"  {pod:<24}{count:>10}")
        story.check(counts.total() == REQUESTS, f"all {REQUESTS} were answered")
        story.check(set(counts) == set(pods), f"by all {len(pods)} pods")


def _discovery(story: Story) -> None:
    story.title("Discovering Services: environment variables and DNS")
    story.run(f"podwire delete -f {_example('go-demo-2-svc.yml')} -f {_example('go-demo-2-rs.yml')}")
    story.run("podwire delete svc go-demo-2-svc")
    story.run(f"podwire create -f {_example('go-demo-2.yml')}")
    story.until(
        "three api pods are ready", lambda: _field(story, "rs", "go-demo-2-api", ".status.readyReplicas") == "3"
    )
    columns = "-o=custom-columns=NAME:.metadata.name"
    pod = story.run(f"podwire get pod --no-headers {columns} -l type=api,service=go-demo-2").split()[-1]
    said = story.run(f"podwire exec {pod} env")
    address = _field(story, "svc", "go-demo-2-db", ".spec.clusterIP")
    story.check(f"GO_DEMO_2_DB_SERVICE_HOST={address}" in said, "the pod knows the database by its environment")
    story.check(f"GO_DEMO_2_DB_PORT=tcp://{address}:27017" in said, "in the Docker format too")
    story.run("podwire describe svc go-demo-2-db")
    story.run(f"podwire exec {pod} -- cat /etc/resolv.conf")
    said = story.run(f"podwire exec {pod} -- getent hosts go-demo-2-db")
    story.check(said.split()[:1] == [address], "the name is the ClusterIP")
    port = int(_field(story, "svc", "go-demo-2-api", ".spec.ports[0].nodePort"))
    story.until("the api answers from outside", lambda: _answers(OUTSIDE, NODE_IP, port, "/demo/hello"))
    found = _answers(OUTSIDE, NODE_IP, port, "/demo/person")
    story.check(found, "and it finds its database by name (/demo/person)")


def _example(name: str) -> Path:
    """A manifest: beside the code in a checkout, inside the package where podwire is installed."""
    folders = (Path(__file__).parents[2] / "examples", Path(__file__).parent / "examples")
    folder = next((folder for folder in folders if (folder / name).exists()), None)
    if folder is None:
        fail(f"the example {name} is missing from this installation")
    here = Path.cwd()
    return (folder / name).relative_to(here) if folder.is_relative_to(here) else folder / name


def _field(story: Story, kind: str, name: str, path: str) -> str:
    return story.ask("get", kind, name, "-o", f"jsonpath={{{path}}}")


def _names(story: Story, selector: str) -> list[str]:
    return story.ask("get", "pods", "--no-headers", "-o=custom-columns=N:.metadata.name", "-l", selector).split()


def _get(address: str, port: int, path: str) -> tuple[int, str]:
    """Status, and which pod says it answered (the stand-ins' header X-Pod)."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        response.read()
        return response.status, response.headers.get("X-Pod", "?")
    finally:
        connection.close()


def _answers(netns: str, address: str, port: int, path: str) -> bool:
    from netns.namespaces import inside

    try:
        return inside(netns, lambda: _get(address, port, path))[0] == 200
    except OSError:
        return False


def _who_answers(netns: str, address: str, port: int) -> Counter[str]:
    from netns.namespaces import inside

    def some(count: int) -> Counter[str]:
        return inside(netns, lambda: Counter(_get(address, port, "/")[1] for _ in range(count)))

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(some, [REQUESTS // CLIENTS] * CLIENTS), Counter())


def _say_how_to_go_on() -> None:
    click.echo(
        f"""
The node goes on running. To use it, with podwire or with your own kubectl:
  export KUBECONFIG={STATE_DIR}/kubeconfig
  {Path(sys.argv[0]).absolute()} get pods -o wide
  ip netns exec {NODE} iptables-save -t nat    # its rules
  ip netns exec {OUTSIDE} bash            # a shell outside of it
To stop it and remove everything:
  {sys.argv[0]} demo --stop"""
    )


def _take_away() -> bool:
    """Remove the node and its namespaces; whether that went without an error."""
    from agent.config import Paths
    from agent.supervisor.clean import clean, stop
    from agent.supervisor.state import SupervisorError
    from netns import namespaces

    paths, good = Paths(STATE_DIR), True
    try:
        stop(paths)
        for _ in clean(paths, node_netns=NODE, keep_state=False):
            pass
    except SupervisorError as error:
        click.echo(f"podwire: {error}", err=True)
        good = False
    for name in (NODE, OUTSIDE):
        if namespaces.exists(name):
            namespaces.remove(name)
    shutil.rmtree(STATE_DIR, ignore_errors=True)
    return good
