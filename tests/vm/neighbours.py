"""Who else may be on a machine, for real: ufw, firewalld, Docker, dnsmasq, systemd-resolved (``root.NEIGHBOURS``).

What ``podwire check`` says of them is held to what connections meet, and its advice is followed to the letter. Each is
switched off again at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.vm.node import GATEWAY, NODE_IP, NODE_PORT, OUTSIDE, OUTSIDE_IP, PATIENCE, UNIT, eventually
from tests.vm.progress import require
from tests.vm.scene import Scene

# What must be there when podwire has been removed.
OTHERS = "docker --version && runc --version && ufw version && firewall-offline-cmd --version && dnsmasq --version"
CHECK = "podwire check --config /etc/podwire/config.yaml || true"
OUTSIDE_PORT, DOCKER_PORT = 8000, 8088
SERVED = frozenset({"DNS", "API", "a Service", "a NodePort"})  # through a Service
BEYOND = frozenset({"another pod", "outside"})


@dataclass(frozen=True, slots=True)
class Firewall:
    """``reached``: what pods reach before the advice is followed; after it they reach everything."""

    name: str
    on: str
    off: str
    said: str
    reached: frozenset[str]


FIREWALLS = (
    Firewall(
        "ufw",
        on="ufw --force enable",
        off="ufw --force disable",
        said="INPUT drops what pods ask the node: DNS and the API server (ufw)",
        reached=frozenset({"a Service", "a NodePort", *BEYOND}),
    ),
    Firewall(
        "firewalld",
        on="systemctl start firewalld",
        off="systemctl stop firewalld",
        said="firewalld rejects in a table of its own what pods begin to other pods, the node and the outside",
        reached=SERVED,
    ),
)


def firewalls(scene: Scene) -> None:
    """Services are reached from everywhere; what pods cannot reach is told, and the advice mends it."""
    with _server_outside(scene):
        everything = _reached_by_pods(scene, all_of_it := _targets(scene))
        require(everything == set(all_of_it), f"without a firewall, pods do not reach {set(all_of_it) - everything}")
        for firewall in FIREWALLS:
            scene.progress.note(firewall.name)
            scene.run(firewall.on, timeout=PATIENCE)
            _check_firewall(scene, firewall)
            scene.run(firewall.off, timeout=PATIENCE)


def _check_firewall(scene: Scene, firewall: Firewall) -> None:
    targets = _targets(scene)
    said, advice = _notes(scene)
    require(firewall.said in said, f"podwire check does not say {firewall.said!r} but:\n{said}")
    reached = _reached_by_pods(scene, targets)
    require(reached == firewall.reached, f"with {firewall.name}, pods reach {reached}, not {set(firewall.reached)}")
    scene.node.check_served()
    for command in advice:
        scene.run(command, timeout=PATIENCE)
    reached = _reached_by_pods(scene, targets)
    require(reached == set(targets), f"{advice} was done; still, pods do not reach {set(targets) - reached}")
    said, advice = _notes(scene)
    require(not advice, f"{firewall.name} lets everything pass, and podwire check still advises {advice}:\n{said}")
    scene.node.check_discovery()


def docker(scene: Scene) -> None:
    """Pods and Docker's containers reach each other, and both are reached from outside, where Docker lets drop what
    nobody accepts in FORWARD (as it does if it was the one to switch forwarding on).
    """
    scene.run("systemctl start docker", timeout=PATIENCE)
    container = _run_container(scene)
    scene.run("iptables -P FORWARD DROP")
    said, advice = _notes(scene)
    require("podwire's rules there accept what is to or from a pod (Docker)" in said, f"podwire check says:\n{said}")
    require(not advice, f"podwire check advises {advice}:\n{said}")
    with _server_outside(scene):
        targets = _targets(scene) | {"Docker's port": (NODE_IP, DOCKER_PORT), "its container": (container, 80)}
        for netns in (scene.node.netns_of(scene.node.pods()[0]), "docker"):
            reached = scene.guest.reach(targets, netns=netns)
            require(reached == set(targets), f"from {netns}, these are not reached: {set(targets) - reached}")
    scene.node.check_served()
    answer = scene.guest.fetch(NODE_IP, DOCKER_PORT, netns=OUTSIDE)[0]
    require(answer.status == 200, f"from outside, Docker's port does not answer: {answer}")
    scene.run("docker rm --force served && systemctl stop docker docker.socket containerd && rm /run/netns/docker"
              " && iptables -P FORWARD ACCEPT", timeout=PATIENCE)  # fmt: skip


def _run_container(scene: Scene) -> str:
    """A web server in a container of Docker's, its network namespace named ``docker``; its address."""
    serve = "echo hello >/index.html && /bin/busybox httpd -f -p 80 -h /"
    scene.run(
        "mkdir -p /tmp/image/bin && cp /bin/busybox /tmp/image/bin && tar -C /tmp/image -c . | docker import - busybox"
        f" && docker run --detach --name served --publish {DOCKER_PORT}:80 busybox /bin/busybox sh -c '{serve}'"
        " && ln -sf $(docker inspect --format '{{.NetworkSettings.SandboxKey}}' served) /run/netns/docker",
        timeout=PATIENCE,
    )
    return scene.run("docker inspect --format '{{.NetworkSettings.IPAddress}}' served").strip()


@contextmanager
def _server_outside(scene: Scene) -> Iterator[None]:
    place = f"--property=NetworkNamespacePath=/run/netns/{OUTSIDE}"
    scene.run(f"systemd-run --quiet --unit=server {place} busybox httpd -f -p {OUTSIDE_IP}:{OUTSIDE_PORT}")
    try:
        yield
    finally:
        scene.run("systemctl stop server")


def _targets(scene: Scene) -> dict[str, tuple[str, int]]:
    """What the first pod may want to reach; see SERVED and BEYOND; the rest is the node's own."""
    return {
        "DNS": ("10.96.0.10", 53),
        "API": ("10.96.0.1", 443),
        "DNS at the node": (GATEWAY, 53),
        "API at the node": (NODE_IP, 6443),
        "a Service": (scene.node.services()["web"]["spec"]["clusterIP"], 80),
        "a NodePort": (NODE_IP, NODE_PORT),
        "another pod": (scene.node.pods()[1]["status"]["podIP"], 8080),
        "outside": (OUTSIDE_IP, OUTSIDE_PORT),
    }


def _reached_by_pods(scene: Scene, targets: dict[str, tuple[str, int]]) -> set[str]:
    return scene.guest.reach(targets, netns=scene.node.netns_of(scene.node.pods()[0]))


def _notes(scene: Scene) -> tuple[str, list[str]]:
    """What ``podwire check`` says, and the commands that it advises."""
    said = scene.run(CHECK, timeout=PATIENCE)
    return said, re.findall(r"^ +-> (.*)$", said, re.MULTILINE)


def port_53(scene: Scene) -> None:
    """dnsmasq, as it comes, takes port 53 on all addresses while podwire is stopped. The check names it; podwire,
    started all the same, serves what it can and says what it lacks; dnsmasq is told what the check said, and podwire is
    ready. Beside a dnsmasq that keeps to itself, systemd-resolved has room too.
    """
    scene.node.systemctl("stop")
    scene.run("systemctl start dnsmasq", timeout=PATIENCE)
    _check_port_is_taken(scene)
    scene.node.systemctl("start --no-block")
    eventually(lambda: "dnsmasq" in scene.node.property("StatusText"), what=f"the status of {UNIT} names dnsmasq")
    scene.progress.note(f"status: {scene.node.property('StatusText')}")
    require(scene.node.property("ActiveState") == "activating", f"{UNIT} counts as ready without its DNS server")
    scene.node.check_served()
    remedy = r"printf 'bind-interfaces\nlisten-address=127.0.0.1\n' >/etc/dnsmasq.d/podwire.conf"
    scene.run(f"{remedy} && systemctl restart dnsmasq && systemctl start systemd-resolved", timeout=PATIENCE)
    scene.node.await_ready()
    listeners = scene.run("ss -Hlnu sport = :53")
    require("127.0.0.1:53" in listeners and "127.0.0.53" in listeners, f"on port 53 are only:\n{listeners}")
    scene.node.check_discovery()
    scene.run("systemctl stop dnsmasq systemd-resolved && rm /etc/dnsmasq.d/podwire.conf", timeout=PATIENCE)


def _check_port_is_taken(scene: Scene) -> None:
    said = scene.run(CHECK, timeout=PATIENCE)
    require(re.search(r"^FAIL  port 53/udp +dnsmasq \(pid \d+\) has ", said, re.MULTILINE), f"check says:\n{said}")
    require("bind-interfaces and listen-address=127.0.0.1" in said, f"podwire check does not say what to do:\n{said}")
    require("a node cannot run here yet" in said, f"podwire check says:\n{said}")
