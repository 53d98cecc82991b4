"""Sandboxes and containers together: pods as the kubelet makes them, with the stand-ins in them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.kubelet.containers import Launch, Runtime
from agent.kubelet.images import Image, load_catalogue, resolve_argv, resolve_image
from agent.kubelet.sandbox import HostAlias, Resolv, Sandbox, SandboxError, Sandboxes, SandboxSpec, link_name
from netns import attach, host, ipam, namespaces
from netns.links import Links
from tests.contract.conftest import BRIDGE, GATEWAY, TAG, Network


def new_spec(name: str = "web-1", **more: object) -> SandboxSpec:
    uid = f"{TAG}-0000-4000-8000-{secrets.token_hex(6)}"
    return replace(SandboxSpec(uid=uid, namespace="default", name=name, hostname=name), **more)  # type: ignore[arg-type]


@dataclass
class Node:
    home: Path
    namespace: str
    sandboxes: Sandboxes
    runtime: Runtime

    def fresh_sandboxes(self, cidr: str = "10.244.0.0/24", *, boot_file: Path = host.BOOT_ID) -> Sandboxes:
        return Sandboxes(
            self.home / "pods", self.home / "ipam.json", bridge=BRIDGE, pod_cidr=cidr, gateway=GATEWAY,
            node_ip="192.0.2.1", netns=self.namespace, boot_file=boot_file,
        )  # fmt: skip

    async def run(self, sandbox: Sandbox, name: str, image: str, *args: str, **env: str) -> str:
        """Start a container of an image; its id."""
        resolved = resolve_image(image, load_catalogue(self.home / "images"))
        assert isinstance(resolved, Image)
        launch = Launch(
            id=f"{sandbox.uid}-{name}-0",
            pod_uid=sandbox.uid,
            namespace=sandbox.namespace,
            pod=sandbox.name,
            container=name,
            attempt=0,
            image=resolved,
            argv=resolve_argv(resolved, (), args),
            env=(*resolved.env, *env.items()),
            hostname=sandbox.name,
            netns_path=sandbox.netns_path,
            mounts=sandbox.etc_mounts(),
            log_path=self.home / "pods" / sandbox.uid / f"{name}.log",
        )
        return (await self.runtime.start(launch)).id

    async def sh(self, container: str, script: str) -> str:
        process = await self.runtime.exec(container, ["sh", "-c", script])
        assert process.stderr is not None
        out, _ = await asyncio.gather(process.stdout.read(), process.stderr.read())
        await process.wait()
        return out.decode()


@pytest.fixture
async def node(network: Network, tmp_path: Path) -> AsyncIterator[Node]:
    runtime = Runtime(tmp_path / "containers", tmp_path / "run", cgroup_parent=f"podwire-{TAG}")
    node = Node(tmp_path, network.node, Sandboxes(tmp_path, tmp_path, bridge="", pod_cidr="", gateway=""), runtime)
    node.sandboxes = node.fresh_sandboxes()
    try:
        yield node
    finally:
        await runtime.clean()
        await node.sandboxes.clean()
        node.sandboxes.close()


def ports(namespace: str) -> set[str]:
    def look() -> set[str]:
        with Links() as links:
            return {name for name in links.names() if name.startswith("pw")}

    return namespaces.inside(namespace, look)


async def test_a_sandbox_is_made_once(node: Node) -> None:
    spec = new_spec()
    first, second = await node.sandboxes.ensure(spec), await node.sandboxes.ensure(spec)
    assert first == second
    assert (first.ip, first.ready) == ("10.244.0.2", True)
    assert first.netns_path == f"/run/netns/podwire-{spec.uid[:8]}-web-1"
    assert ports(node.namespace) == {link_name(spec.uid)}
    assert await node.sandboxes.list() == (first,)


async def test_removing_a_sandbox_removes_all_of_it(node: Node) -> None:
    spec = new_spec()
    sandbox = await node.sandboxes.ensure(spec)
    await node.sandboxes.remove(spec.uid)
    await node.sandboxes.remove(spec.uid)
    assert not namespaces.exists(sandbox.netns_path)
    assert ports(node.namespace) == set()
    assert await node.sandboxes.list() == ()
    assert os.listdir(node.home / "pods") == []


async def test_addresses_are_not_reused_soon_even_after_a_restart(node: Node) -> None:
    first = await node.sandboxes.ensure(new_spec())
    await node.sandboxes.remove(first.uid)
    fresh = node.fresh_sandboxes()
    with contextlib.closing(fresh):
        assert (await fresh.ensure(new_spec())).ip != first.ip


async def test_a_full_pod_cidr(node: Node) -> None:
    small = node.fresh_sandboxes("10.244.0.0/30")
    with contextlib.closing(small):
        only = await small.ensure(new_spec("a"))
        assert only.ip == "10.244.0.2"
        with pytest.raises(SandboxError, match=r"cannot make sandbox of pod default/b: .* all 1 of 10\.244\.0\.0/30"):
            await small.ensure(new_spec("b"))
        await small.clean()


async def test_a_fresh_object_adopts_sandboxes(node: Node) -> None:
    sandbox = await node.sandboxes.ensure(new_spec())
    fresh = node.fresh_sandboxes()
    with contextlib.closing(fresh):
        assert await fresh.list() == (sandbox,)


@pytest.mark.parametrize("lost", ["namespace", "link"])
async def test_what_is_lost_is_made_again_with_the_same_address(node: Node, lost: str) -> None:
    """After a reboot there is no namespace; somebody may have deleted a link."""
    spec = new_spec()
    before = await node.sandboxes.ensure(spec)
    if lost == "namespace":
        namespaces.remove(Path(before.netns_path).name)
    else:
        namespaces.inside(node.namespace, lambda: attach.detach(link_name(spec.uid)))
    assert [sandbox.ready for sandbox in await node.sandboxes.list()] == [False]
    again = await node.sandboxes.ensure(spec)
    assert replace(again, id=before.id) == before
    assert (again.id == before.id) == (lost == "link"), "another namespace is another sandbox"
    assert await node.sandboxes.ensure(spec) == again


async def test_other_settings_do_not_make_another_sandbox(node: Node) -> None:
    spec = new_spec()
    before = await node.sandboxes.ensure(spec)
    assert await node.sandboxes.ensure(replace(spec, subdomain="web")) == before
    assert "web-1.web.default" in (before.etc_dir / "hosts").read_text()


@pytest.mark.parametrize("host_network", [False, True])
async def test_a_record_of_the_version_before_is_of_the_sandbox_that_is_there(node: Node, host_network: bool) -> None:
    """It tells neither id nor boot. After the next reboot the sandbox is another one."""
    spec = new_spec(host_network=host_network)
    before = replace(await node.sandboxes.ensure(spec), id="")
    file = node.home / "pods" / spec.uid / "sandbox.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({"spec": record["spec"], "ip": record["ip"]}))
    fresh = node.fresh_sandboxes()
    with contextlib.closing(fresh):
        assert await fresh.list() == (before,)
        assert await fresh.ensure(spec) == before
    if not host_network:
        namespaces.remove(Path(before.netns_path).name)
    await reboot(node)
    assert await node.sandboxes.list() == (replace(before, ready=False),)
    assert (await node.sandboxes.ensure(spec)).id != ""


async def reboot(node: Node) -> None:
    """As far as the kernel's boot_id tells."""
    (node.home / "boot_id").write_text("the next\n")
    node.sandboxes.close()
    node.sandboxes = node.fresh_sandboxes(boot_file=node.home / "boot_id")


async def test_the_sandbox_of_a_host_network_pod_is_another_one_after_a_reboot(node: Node) -> None:
    spec = new_spec(host_network=True)
    before = await node.sandboxes.ensure(spec)
    (before.etc_dir / "hosts").write_bytes(b"")
    assert await node.sandboxes.ensure(spec) == before
    await reboot(node)
    assert await node.sandboxes.list() == (replace(before, ready=False),)
    again = await node.sandboxes.ensure(spec)
    assert again.id != before.id
    assert again == replace(before, id=again.id)
    assert (before.etc_dir / "hosts").read_text() != "", "what containers see is written again"
    assert await node.sandboxes.list() == (again,)


@pytest.mark.parametrize("then", ["ensure", "remove", "clean"])
async def test_a_damaged_record_is_no_obstacle_and_leaves_nothing(node: Node, then: str) -> None:
    spec = new_spec()
    before = await node.sandboxes.ensure(spec)
    (node.home / "pods" / spec.uid / "sandbox.json").write_bytes(b"\xff{")
    fresh = node.fresh_sandboxes()
    with contextlib.closing(fresh):
        if then == "ensure":
            again = await fresh.ensure(spec)
            assert _addresses(again.netns_path) == {again.ip, "127.0.0.1"}
            await fresh.remove(spec.uid)
        elif then == "remove":
            await fresh.remove(spec.uid)
        else:
            await fresh.clean()
    assert not namespaces.exists(before.netns_path)
    assert not (node.home / "pods" / spec.uid).exists()


def _addresses(netns: str) -> set[str]:
    def look() -> set[str]:
        with Links() as links:
            return {str(address.ip) for _, address in links.addresses() if address.version == 4}

    return namespaces.inside(netns, look)


async def test_a_sandbox_that_cannot_be_made_leaves_no_namespace(node: Node) -> None:
    broken = Sandboxes(
        node.home / "pods", node.home / "ipam.json", bridge="nobridge", pod_cidr="10.244.0.0/24", gateway=GATEWAY,
        netns=node.namespace,
    )  # fmt: skip
    spec = new_spec()
    with contextlib.closing(broken):
        with pytest.raises(SandboxError, match="pod default/web-1: there is no link nobridge"):
            await broken.ensure(spec)
        assert [sandbox.ready for sandbox in await broken.list()] == [False]
        await broken.remove(spec.uid)


async def test_an_address_noted_just_before_a_crash_is_given_back(node: Node) -> None:
    pool, _ = ipam.allocate(ipam.Pool("10.244.0.0/24"), "nobody")
    ipam.save(node.home / "ipam.json", pool)
    sandbox = await node.sandboxes.ensure(new_spec())
    assert ipam.load(node.home / "ipam.json", "10.244.0.0/24").allocated == {sandbox.uid: "10.244.0.3"}


async def test_addresses_are_learnt_again_from_the_sandboxes(node: Node) -> None:
    first = await node.sandboxes.ensure(new_spec())
    (node.home / "ipam.json").unlink()
    fresh = node.fresh_sandboxes()
    with contextlib.closing(fresh):
        assert (await fresh.ensure(new_spec("web-2"))).ip != first.ip


async def test_a_host_network_pod_has_the_nodes_address_and_no_namespace(node: Node) -> None:
    spec = new_spec(host_network=True)
    sandbox = await node.sandboxes.ensure(spec)
    assert (sandbox.ip, sandbox.netns_path, sandbox.ready) == ("192.0.2.1", "", True)
    assert ports(node.namespace) == set()
    await node.sandboxes.remove(spec.uid)
    assert await node.sandboxes.list() == ()


async def test_containers_of_a_pod_share_its_network_and_files(node: Node) -> None:
    spec = new_spec(
        dns=Resolv(("10.96.0.10",), ("default.svc.cluster.local",), ("ndots:5",)),
        host_aliases=(HostAlias("192.0.2.7", ("db.example",)),),
        subdomain="web",
    )
    sandbox = await node.sandboxes.ensure(spec)
    db = await node.run(sandbox, "db", "mongo:3.3", "--rest", "--httpinterface")
    api = await node.run(sandbox, "api", "vfarcic/go-demo-2", DB="localhost")
    assert "10.96.0.10" in await node.sh(db, "cat /etc/resolv.conf")
    assert (
        await node.sh(api, "cat /etc/hostname; hostname; hostname -f")
        == "web-1\nweb-1\nweb-1.web.default.svc.cluster.local\n"
    )
    assert "192.0.2.7\tdb.example" in await node.sh(api, "getent hosts db.example | tr -s ' ' '\\t'")
    await http(sandbox, 8080, "/demo/person?name=Ada", method="PUT")
    assert await http(sandbox, 8080, "/demo/person") == (200, "Ada\n")
    assert await http(sandbox, 8080, "/demo/hello") == (200, "hello, world!\n")
    status, page = await http(sandbox, 28017, "/")
    assert (status, "mongod web-1" in page) == (200, True)


async def test_the_api_without_its_database(node: Node) -> None:
    sandbox = await node.sandboxes.ensure(new_spec())
    await node.run(sandbox, "api", "vfarcic/go-demo-2", DB="localhost")
    status, body = await http(sandbox, 8080, "/demo/person")
    assert status == 500
    assert "cannot use the database at localhost:27017" in body


async def test_a_pod_is_reached_from_another_and_from_the_node(node: Node) -> None:
    server, client = await node.sandboxes.ensure(new_spec("server")), await node.sandboxes.ensure(new_spec("client"))
    await node.run(server, "echo", "podwire/echo")
    assert (await http(server, 8080, "/hostname", place=client.netns_path))[1] == "server"
    assert (await http(server, 8080, "/clientip", place=client.netns_path))[1].startswith(f"{client.ip}:")
    assert (await http(server, 8080, "/clientip", place=node.namespace))[1].startswith(f"{GATEWAY}:")


async def test_stand_ins_end_well_when_told(node: Node) -> None:
    """As the first process of a container, for which the kernel drops signals that are not handled."""
    sandbox = await node.sandboxes.ensure(new_spec())
    for image in ("mongo", "vfarcic/go-demo-2", "podwire/echo"):
        container = await node.run(sandbox, image.rpartition("/")[2], image)
        log = node.home / "pods" / sandbox.uid / f"{image.rpartition('/')[2]}.log"
        async with asyncio.timeout(30):
            while b"stdout" not in log.read_bytes():  # noqa: ASYNC110 - written by conmon
                await asyncio.sleep(0.01)
        await node.runtime.kill(container)
        assert (await node.runtime.wait(container)).reason == "Completed"


async def http(
    sandbox: Sandbox, port: int, path: str, *, method: str = "GET", place: str | None = None
) -> tuple[int, str]:
    """Status and body of a request to a pod, from inside ``place`` (the pod itself). Waits until the port is open."""
    address = sandbox.ip if place else "127.0.0.1"

    def connect() -> socket.socket:
        return namespaces.inside(
            place or sandbox.netns_path, lambda: socket.create_connection((address, port), timeout=30)
        )

    async with asyncio.timeout(60):
        while True:
            try:
                connection = await asyncio.to_thread(connect)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body.decode()
