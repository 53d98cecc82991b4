"""Namespaces, links and routing on the real kernel."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from netns import attach, host, namespaces
from netns.errors import NetnsError
from netns.links import Links, read_sysctl, write_sysctl
from tests.contract.conftest import BRIDGE, GATEWAY, Network, new_name

ONE, TWO, VIP = "10.244.0.11", "10.244.0.12", "10.96.0.77"


# --- namespaces -------------------------------------------------------------------------------------------------------


def test_a_namespace_is_made_once_and_removed_once(no_leaks: None) -> None:
    name = new_name("once")
    try:
        assert namespaces.ensure(name) == namespaces.ensure(name) == Path("/run/netns", name)
        assert namespaces.exists(name)
        assert name in namespaces.names()
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert name in listed
    finally:
        namespaces.remove(name)
        namespaces.remove(name)
    assert not namespaces.exists(name)


def test_ip_netns_and_we_share_one_folder(no_leaks: None) -> None:
    name = new_name("foreign")
    subprocess.run(["ip", "netns", "add", name], check=True)
    assert namespaces.exists(name)
    namespaces.remove(name)
    assert not Path("/run/netns", name).exists()


def test_what_a_crash_left_behind_is_used(no_leaks: None) -> None:
    """`ip netns add` makes a file first and mounts on it then."""
    name = new_name("half")
    (namespaces.FOLDER / name).touch()
    try:
        assert not namespaces.exists(name)
        namespaces.ensure(name)
        assert namespaces.exists(name)
    finally:
        namespaces.remove(name)


def test_a_visitor_does_not_move_its_caller(node_namespace: str) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    there = namespaces.inside(node_namespace, lambda: os.stat("/proc/thread-self/ns/net").st_ino)
    assert there == os.stat(namespaces.path_of(node_namespace)).st_ino != before
    assert os.stat("/proc/thread-self/ns/net").st_ino == before
    assert namespaces.same(node_namespace, namespaces.path_of(node_namespace))


def test_a_visitors_exception_is_the_callers(node_namespace: str) -> None:
    def fail() -> None:
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        namespaces.inside(node_namespace, fail)


# --- the node ---------------------------------------------------------------------------------------------------------


def test_preparing_a_node_twice_and_putting_it_back(node_namespace: str, tmp_path: Path) -> None:
    memory = tmp_path / "sysctls.json"
    settings = ("net/ipv4/ip_forward", "net/ipv4/conf/all/send_redirects")

    def look() -> tuple[list[str | None], tuple[str, ...], tuple[str, ...]]:
        with Links() as links:
            return [read_sysctl(name) for name in settings], links.names(), host.node_addresses()

    before = namespaces.inside(node_namespace, look)
    for _ in range(2):
        namespaces.inside(node_namespace, lambda: host.prepare_node(BRIDGE, f"{GATEWAY}/24", memory=memory))
    values, names, addresses = namespaces.inside(node_namespace, look)
    assert values == ["1", "0"]
    assert BRIDGE in names
    assert addresses == (GATEWAY,)
    for _ in range(2):
        namespaces.inside(node_namespace, lambda: host.remove_node(BRIDGE, memory=memory))
    assert namespaces.inside(node_namespace, look) == before


@pytest.mark.parametrize("left", ["of an earlier boot", "empty after a power cut"])
def test_sysctls_are_remembered_anew_after_a_reboot(node_namespace: str, tmp_path: Path, left: str) -> None:
    """The machine's configuration may say something else today."""
    memory, setting = tmp_path / "sysctls.json", "net/ipv4/conf/all/send_redirects"
    old = json.dumps({"boot": "another", "sysctls": {setting: "0"}})
    memory.write_text(old if left == "of an earlier boot" else "")
    before = namespaces.inside(node_namespace, lambda: read_sysctl(setting))
    namespaces.inside(node_namespace, lambda: host.prepare_node(BRIDGE, f"{GATEWAY}/24", memory=memory))
    assert namespaces.inside(node_namespace, lambda: read_sysctl(setting)) == "0"
    namespaces.inside(node_namespace, lambda: host.remove_node(BRIDGE, memory=memory))
    assert namespaces.inside(node_namespace, lambda: read_sysctl(setting)) == before == "1"


def test_a_memory_of_an_earlier_version_is_understood(node_namespace: str, tmp_path: Path) -> None:
    memory, setting = tmp_path / "sysctls.json", "net/ipv4/ip_forward"
    memory.write_text(json.dumps({setting: "0"}))
    namespaces.inside(node_namespace, lambda: host.prepare_node(BRIDGE, f"{GATEWAY}/24", memory=memory))
    namespaces.inside(node_namespace, lambda: host.remove_node(BRIDGE, memory=memory))
    assert namespaces.inside(node_namespace, lambda: read_sysctl(setting)) == "0"


def test_a_pod_cidr_that_is_in_use_is_refused(node_namespace: str) -> None:
    def occupy() -> None:
        with Links() as links:
            links.ensure_bridge("other0", mac="0a:58:00:00:00:01", mtu=1500)
            links.ensure_address("other0", "10.244.0.200/16")

    namespaces.inside(node_namespace, occupy)
    with pytest.raises(NetnsError, match=r"other0 has 10\.244\.0\.200/16"):
        namespaces.inside(node_namespace, lambda: host.prepare_node(BRIDGE, f"{GATEWAY}/24"))


def test_preflight_finds_nothing_wrong_here(node_namespace: str) -> None:
    assert [finding for finding in host.preflight(netns=node_namespace) if not finding.ok] == []


# --- pods -------------------------------------------------------------------------------------------------------------


def test_pods_reach_each_other_and_their_gateway(network: Network) -> None:
    one, two = network.add_pod(ONE), network.add_pod(TWO)
    assert namespaces.inside(one, lambda: ping(TWO))
    assert namespaces.inside(two, lambda: ping(ONE))
    assert namespaces.inside(one, lambda: ping(GATEWAY))
    namespaces.inside(network.node, lambda: write_sysctl("net/ipv4/ping_group_range", "0\t2147483647"))
    assert namespaces.inside(network.node, lambda: ping(TWO))


def test_a_large_packet_fits(network: Network) -> None:
    one, _ = network.add_pod(ONE), network.add_pod(TWO)
    assert namespaces.inside(one, lambda: ping(TWO, size=1472, fragment=False))


def test_the_bridge_port_is_in_hairpin_mode(network: Network) -> None:
    network.add_pod(ONE)
    shown = subprocess.run(
        ["ip", "netns", "exec", network.node, "bridge", "-d", "link", "show"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "hairpin on" in shown


def test_pods_are_routed_so_the_node_sees_every_packet(network: Network) -> None:
    """A pod has no neighbour but its gateway."""
    one, _ = network.add_pod(ONE), network.add_pod(TWO)
    route = subprocess.run(
        ["ip", "netns", "exec", one, "ip", "route", "get", TWO], capture_output=True, text=True, check=True
    ).stdout
    assert f"via {GATEWAY} dev eth0" in route
    assert namespaces.inside(one, lambda: ping(TWO))
    neighbours = subprocess.run(
        ["ip", "netns", "exec", one, "ip", "neigh"], capture_output=True, text=True, check=True
    ).stdout
    assert TWO not in neighbours


@pytest.fixture(params=["0", "1"], ids=["bridge-nf off", "bridge-nf on"])
def bridge_nf(request: pytest.FixtureRequest, network: Network) -> str:
    """Whether bridged frames are handed to iptables in this namespace; without br_netfilter it is always off."""
    name = "net/bridge/bridge-nf-call-iptables"
    if namespaces.inside(network.node, lambda: read_sysctl(name)) is not None:
        namespaces.inside(network.node, lambda: write_sysctl(name, request.param))
    return str(request.param)


@pytest.mark.parametrize("client", [ONE, TWO], ids=["another pod", "itself (hairpin)"])
def test_a_rewritten_connection_finds_its_way_back(network: Network, bridge_nf: str, client: str) -> None:
    """pod -> VIP -> pod on the same bridge: the answer must pass the connection tracking that rewrote the request."""
    for address in (ONE, TWO):
        network.add_pod(address)
    rules = f"*nat\n-A PREROUTING -d {VIP}/32 -p tcp --dport 80 -j DNAT --to-destination {TWO}:8080\n"
    rules += f"-A POSTROUTING -s {TWO}/32 -d {TWO}/32 -j MASQUERADE\nCOMMIT\n"
    subprocess.run(["ip", "netns", "exec", network.node, "iptables-restore"], input=rules, text=True, check=True)
    with namespaces.inside(network.pods[TWO], lambda: socket.create_server((TWO, 8080))) as server:
        answer = threading.Thread(target=_greet, args=(server,))
        answer.start()
        with namespaces.inside(
            network.pods[client], lambda: socket.create_connection((VIP, 80), timeout=20)
        ) as connection:
            seen_as = connection.makefile().readline()
        answer.join()
    assert seen_as == (GATEWAY if client == TWO else ONE)


def test_attaching_again_replaces_and_detaching_removes(network: Network) -> None:
    pod = network.add_pod(ONE)

    def again() -> None:
        for _ in range(2):
            attach.attach(
                pod, bridge=BRIDGE, address=f"{TWO}/32", gateway=GATEWAY, ifname="eth1", host_ifname="pwtagain"
            )

    namespaces.inside(network.node, again)
    assert namespaces.inside(pod, _names) == ("lo", "eth0", "eth1")
    for _ in range(2):
        namespaces.inside(network.node, lambda: attach.detach("pwtagain"))
    assert namespaces.inside(pod, _names) == ("lo", "eth0")
    assert "pwtagain" not in namespaces.inside(network.node, _names)


def test_a_failed_attach_leaves_no_link(network: Network) -> None:
    pod = network.add_pod(ONE)
    before = namespaces.inside(network.node, _names)

    def fail() -> None:  # eth0 exists in the pod
        attach.attach(pod, bridge=BRIDGE, address=f"{TWO}/32", gateway=GATEWAY, host_ifname="pwtfail")

    with pytest.raises(NetnsError, match="File exists"):
        namespaces.inside(network.node, fail)
    assert namespaces.inside(network.node, _names) == before


def test_a_failure_inside_the_pod_is_rolled_back(network: Network) -> None:
    name = new_name("rollback")
    namespaces.ensure(name)
    try:
        before = namespaces.inside(network.node, _names)

        def fail() -> None:  # the gateway is none
            attach.attach(name, bridge=BRIDGE, address=f"{ONE}/32", gateway="224.0.0.1", host_ifname="pwtfail")

        with pytest.raises(NetnsError, match="cannot route"):
            namespaces.inside(network.node, fail)
        assert namespaces.inside(network.node, _names) == before
        assert namespaces.inside(name, _names) == ("lo",)
    finally:
        namespaces.remove(name)


def test_errors_say_what_is_missing(network: Network) -> None:
    def attach_to(pod: str, bridge: str) -> None:
        attach.attach(pod, bridge=bridge, address=f"{ONE}/32", gateway=GATEWAY, host_ifname="pwterr")

    with pytest.raises(NetnsError, match="there is no link nobridge"):
        namespaces.inside(network.node, lambda: attach_to(network.node, "nobridge"))
    with pytest.raises(NetnsError, match="/run/netns/pwt-nopod: No such file"):
        namespaces.inside(network.node, lambda: attach_to("pwt-nopod", BRIDGE))


# --- helpers ----------------------------------------------------------------------------------------------------------


def _names() -> tuple[str, ...]:
    with Links() as links:
        return links.names()


def _greet(server: socket.socket) -> None:
    server.settimeout(20)
    connection, peer = server.accept()
    with connection:
        connection.sendall(peer[0].encode())


def ping(address: str, *, size: int = 8, fragment: bool = True) -> bool:
    """Whether an ICMP echo request comes back, from the current namespace (an unprivileged ping socket, icmp(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(20)
        if not fragment:
            sock.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        payload = bytes(size)
        sock.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 1) + payload, (address, 0))
        return sock.recv(65535)[8:] == payload


def test_a_node_without_default_route_can_still_reach_cluster_ips(network: Network) -> None:
    def connect() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("10.96.0.1", 443))
            return str(sock.getsockname()[0])

    with pytest.raises(OSError, match="Network is unreachable"):
        namespaces.inside(network.node, connect)
    for _ in range(2):
        namespaces.inside(network.node, lambda: host.ensure_service_route(BRIDGE, "10.96.0.0/12", source=GATEWAY))
    assert namespaces.inside(network.node, connect) == GATEWAY


def test_a_damaged_memory_of_sysctls_is_said_and_set_aside(node_namespace: str, tmp_path: Path) -> None:
    """So that the next ``clean`` does not stumble over it again."""
    memory = tmp_path / "sysctls.json"
    memory.write_text("{")
    with pytest.raises(NetnsError, match=r"sysctls\.json is damaged; it is set aside"):
        namespaces.inside(node_namespace, lambda: host.remove_node(BRIDGE, memory=memory))
    namespaces.inside(node_namespace, lambda: host.remove_node(BRIDGE, memory=memory))
