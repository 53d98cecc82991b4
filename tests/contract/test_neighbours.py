"""Who else is on the machine: real listeners on port 53, real rules of the kind that Docker, ufw and firewalld make.

What is said about rules is held to what packets meet: a connection that is said to pass does, one that is said not to
pass is refused, and the advice mends it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.config import Config, Paths
from agent.shell import run
from agent.supervisor.neighbours import describe, look_at_firewalls, look_at_port_53
from agent.supervisor.state import Lock
from netns import namespaces
from netns.host import Finding
from netns.links import Links
from tests.contract.conftest import GATEWAY, Network
from tests.harness.drivers import driving, lowered, make
from tests.harness.netfilter import NODE_IP, PODS, MiniNode, mini_node
from tests.harness.services import make_service, make_snapshot
from tests.leaks import assert_no_leaks

BRIDGE = "to-a"  # the link of pod a: in this small node each pod has one of its own
SERVED = make_service("web", PODS["b"], node_port=30001)


@pytest.fixture
def mini(no_leaks: None) -> Iterator[MiniNode]:
    with assert_no_leaks(), mini_node() as made:
        yield made


def findings(node: MiniNode, **settings: object) -> tuple[Finding, ...]:
    config = Config(node_netns=node.name("node"), bridge=BRIDGE, **settings)  # type: ignore[arg-type]
    return look_at_firewalls(config)


def advice(found: tuple[Finding, ...]) -> list[str]:
    return [finding.hint for finding in found if finding.hint]


def reaches(node: MiniNode, who: str, address: str, port: int) -> bool:
    """A refusal comes as ICMP "administratively prohibited" or as silence; nobody waits for long."""

    def ask() -> bool:
        try:
            with socket.create_connection((address, port), timeout=0.7) as connection:
                return connection.recv(100) != b""
        except OSError:
            return False

    return node.inside(who, ask)


# --- rules ------------------------------------------------------------------------------------------------------------

DOCKER = """\
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-USER -j RETURN
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
COMMIT
"""
UFW = """\
*filter
:INPUT DROP [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-user-input
-A ufw-before-input -i lo -j ACCEPT
COMMIT
"""
FIREWALLD = """
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority 10; policy accept;
    ct state established,related accept
    ct status dnat accept
    jump filter_FORWARD_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_INPUT {
    type filter hook input priority 10; policy accept;
    ct state established,related accept
    ct status dnat accept
    iifname "lo" accept
    jump filter_FORWARD_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD_ZONES {
  }
  chain filter_FWD_trusted {
    accept
  }
}
"""


def test_on_an_empty_machine_nothing_is_found(mini: MiniNode) -> None:
    assert findings(mini) == ()


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_where_docker_drops_what_nobody_accepts_pods_get_through(mini: MiniNode, variant: str) -> None:
    mini.run(f"iptables-{variant}-restore", "--noflush", stdin=DOCKER)
    assert not reaches(mini, "a", PODS["b"], 8080)
    with driving(mini, make(f"restore-{variant}")) as driver:
        driver.bring(lowered(make_snapshot(SERVED)))
        found = findings(mini, iptables_variant=variant)
        assert reaches(mini, "a", PODS["b"], 8080)
        assert reaches(mini, "a", "10.96.0.10", 80)
        assert reaches(mini, "outside", NODE_IP, 30001)
    assert advice(found) == []
    assert [describe(f) for f in found] == [
        "firewall: FORWARD drops what nobody accepts; podwire's rules there accept what is to or from a pod (Docker)"
    ]


def test_docker_in_the_tables_that_podwire_does_not_use(mini: MiniNode) -> None:
    mini.run("iptables-legacy-restore", "--noflush", stdin=DOCKER)
    with driving(mini, make("restore-nft")) as driver:
        driver.bring(lowered(make_snapshot(SERVED)))
        (hint,) = advice(findings(mini, iptables_variant="nft"))
        assert not reaches(mini, "a", "10.96.0.10", 80)
        for command in hint.partition("or: ")[2].split("; "):
            mini.run(*command.split())
        assert reaches(mini, "a", "10.96.0.10", 80)
        assert advice(findings(mini, iptables_variant="nft")) == []


def test_ufw_closes_the_node_to_pods_until_it_is_told(mini: MiniNode) -> None:
    mini.run("iptables-nft-restore", "--noflush", stdin=UFW)
    server = mini.inside("node", lambda: socket.create_server((NODE_IP, 6443)))
    with server, driving(mini, make("restore-nft")) as driver:
        driver.bring(lowered(make_snapshot(SERVED)))
        assert advice(findings(mini)) == [f"ufw allow in on {BRIDGE}"]
        assert not mini.inside("a", lambda: connects(NODE_IP, 6443))
        mini.run("iptables-nft", "-A", "ufw-user-input", "-i", BRIDGE, "-j", "ACCEPT")  # as ufw does it
        assert mini.inside("a", lambda: connects(NODE_IP, 6443))
        assert advice(findings(mini)) == []


def connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=0.7).close()
    except OSError:
        return False
    return True


def test_firewalld_rejects_whatever_podwire_accepts(mini: MiniNode) -> None:
    """But for what was sent on to an endpoint."""
    mini.run("nft", "-f", "-", stdin=FIREWALLD)
    with driving(mini, make("restore-nft")) as driver:
        driver.bring(lowered(make_snapshot(SERVED)))
        (hint,) = advice(findings(mini))
        assert f"--add-interface={BRIDGE}" in hint
        assert reaches(mini, "outside", NODE_IP, 30001)
        assert reaches(mini, "a", "10.96.0.10", 80)
        assert not reaches(mini, "a", PODS["b"], 8080)
        rule = ("add", "rule", "inet", "firewalld", "filter_FORWARD_ZONES", "iifname", BRIDGE)
        mini.run("nft", *rule, "goto", "filter_FWD_trusted")  # what firewall-cmd makes of it
        assert reaches(mini, "a", PODS["b"], 8080)
        assert advice(findings(mini)) == []


def test_a_table_of_ones_own_that_drops(mini: MiniNode) -> None:
    """As in Debian's /usr/share/doc/nftables/examples/server.nft, with a policy."""
    chain = "type filter hook forward priority 0; policy drop; ct state established,related accept"
    mini.run("nft", "-f", "-", stdin=f"table inet filter {{ chain forward {{ {chain}\n }}\n }}")
    with driving(mini, make("restore-nft")) as driver:
        driver.bring(lowered(make_snapshot(SERVED)))
        (hint,) = advice(findings(mini))
        assert not reaches(mini, "a", "10.96.0.10", 80)
        for rule in re.findall(r'[io]ifname "to-a" accept', hint):
            mini.run("nft", "-f", "-", stdin=f"add rule inet filter forward {rule}")
        assert reaches(mini, "a", "10.96.0.10", 80)
        assert advice(findings(mini)) == []


# --- port 53 ----------------------------------------------------------------------------------------------------------


def listen(namespace: str, address: str, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
    def bind() -> socket.socket:
        with Links() as links:
            links.set("lo", state="up")
        made = socket.socket(socket.AF_INET, kind)
        made.bind((address, 53))
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made

    return namespaces.inside(namespace, bind)


def own_name() -> str:
    return f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"


def test_a_free_port_even_before_the_bridge_is_made(node_namespace: str) -> None:
    found = look_at_port_53(Config(node_netns=node_namespace))
    assert [(finding.ok, finding.what) for finding in found] == [(True, f"free on {GATEWAY}")] * 2


def test_a_stub_on_the_loopback_is_not_in_the_way(network: Network) -> None:
    """systemd-resolved's, and that of a dnsmasq which keeps to itself."""
    with ExitStack() as stack:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            stack.enter_context(listen(network.node, "127.0.0.53", kind))
        found = look_at_port_53(Config(node_netns=network.node))
    assert all(finding.ok for finding in found)
    assert found[0].what == f"{own_name()} has 127.0.0.53:53, which podwire does not need"


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
@pytest.mark.parametrize("address", ["0.0.0.0", GATEWAY])
def test_a_server_on_our_addresses_is_named(network: Network, address: str, kind: socket.SocketKind) -> None:
    proto = "udp" if kind == socket.SOCK_DGRAM else "tcp"
    with listen(network.node, address, kind):
        wrong = [finding for finding in look_at_port_53(Config(node_netns=network.node)) if not finding.ok]
    (taken,) = wrong
    assert taken.name == f"port 53/{proto}"
    assert taken.what == f"{own_name()} has {GATEWAY}:53, where podwire's DNS server belongs"
    assert "stop it, or let it listen on addresses of its own only" in taken.hint


# --- podwire check ----------------------------------------------------------------------------------------------------


def check(namespace: str, settings: Path, state_dir: Path) -> subprocess.CompletedProcess[str]:
    flags = ("--node-netns", namespace, "--state-dir", str(state_dir), "--config", str(settings))
    argv = [sys.executable, "-m", "agent.cli.main", "check", *flags]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_tells_it_all(network: Network, tmp_path: Path) -> None:
    """What keeps a node from running is a FAIL and the exit code; what keeps pods from something is a note."""
    settings = tmp_path / "config.yaml"
    settings.write_text("iptables_variant: nft\n")
    rules = UFW + DOCKER.replace(":FORWARD DROP", ":FORWARD ACCEPT")
    namespaces.inside(network.node, lambda: run(["iptables-nft-restore", "--noflush"], stdin=rules.encode()))
    with listen(network.node, "0.0.0.0"):
        taken = check(network.node, settings, tmp_path)
    assert taken.returncode == 1
    assert re.search(rf"^FAIL  port 53/udp +{re.escape(own_name())} has 10\.244\.0\.1:53, where", taken.stdout, re.M)
    assert taken.stdout.endswith("a node cannot run here yet\n")
    free = check(network.node, settings, tmp_path)
    assert free.returncode == 0
    assert re.search(r"^ok    port 53/udp +free on 10\.244\.0\.1$", free.stdout, re.M)
    assert re.search(r"^ok    iptables .*variant nft was asked for", free.stdout, re.M)
    assert re.search(
        r"^note  firewall .*INPUT drops .*\(Docker and ufw\)\n +-> ufw allow in on podwire0$", free.stdout, re.M
    )
    (tmp_path / "run").mkdir()
    lock = Lock(Paths(tmp_path))
    assert "this node runs; `podwire status` says" in check(network.node, settings, tmp_path).stdout
    lock.release()
