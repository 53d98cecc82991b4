"""A pod's sandbox: its network namespace with an address, and the files that its containers see in ``/etc``.

What is true is kept on disk and in the kernel, so that a restarted or killed kubelet finds its pods again. The order of
the steps makes every crash recoverable: the address is noted first (a second allocation gives the same), then
``<pods>/<uid>/sandbox.json`` (from then on ``list`` shows the sandbox, so somebody will remove it), then the kernel's
part, each step of which may be done twice. Removing goes the other way round.

After a power cut what was written last may be missing, empty or old, each file for itself: nothing here is flushed to
the disk, as that would take longer than all else that makes a pod, and no pod runs any more. So records are taken for
what they say, wherever that can be true: two sandboxes with one address cannot, and one of them gets another; what
containers see in ``/etc`` is written again with the namespace.

A sandbox has an id, which is new whenever it is made anew, so that whoever started something in it can tell whether it
is still the same: not when it is adopted, nor when it only gets another link. It lives as long as its namespace. The id
is on disk before the namespace is there, and after a power cut no namespace is: so an old record that comes back cannot
pass for the present sandbox. Records of the version before have no id, which is an id as well.

The namespace is called ``podwire-<first 8 of the UID>-<pod name>``, for ``ip netns exec``. A hostNetwork pod has none:
its address is the node's, and its sandbox lives as long as the machine is up (``boot_id``, random(4)).

All kernel work happens in one thread of its own, which never leaves the node's namespace (``setns`` is per thread).
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.kubelet import procfs
from agent.kubelet.bundle import Mount
from netns import attach, host, ipam, links, namespaces
from netns.errors import NetnsError

log = logging.getLogger(__name__)
T = TypeVar("T")


class SandboxError(Exception):
    """A sandbox cannot be made or removed: "cannot make sandbox of pod ns/name: ..."."""


@dataclass(frozen=True, slots=True)
class Resolv:
    """The content of resolv.conf(5)."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostAlias:
    ip: str
    hostnames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a pod wants. ``hostname`` is the one to use (``spec.hostname``, else the pod's name; a node's own if
    hostNetwork); with a ``subdomain`` it also has the name ``hostname.subdomain.namespace.svc.cluster_domain``."""

    uid: str
    namespace: str
    name: str
    hostname: str
    host_network: bool = False
    dns: Resolv = field(default_factory=Resolv)
    host_aliases: tuple[HostAlias, ...] = ()
    subdomain: str = ""
    cluster_domain: str = "cluster.local"

    @property
    def fqdn(self) -> str:
        """ "" without a subdomain."""
        return f"{self.hostname}.{self.subdomain}.{self.namespace}.svc.{self.cluster_domain}" if self.subdomain else ""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that was asked for. ``netns_path`` is "" for hostNetwork; ``ready``: the kernel has all of it.

    After a reboot sandboxes are listed with ``ready`` false; ``ensure`` makes them again, with the same address and
    another ``id``.
    """

    uid: str
    namespace: str
    name: str
    ip: str
    netns_path: str
    etc_dir: Path
    host_network: bool = False
    ready: bool = True
    id: str = ""

    def etc_mounts(self) -> tuple[Mount, ...]:
        """For each container of the pod. Writable, as upstream: it is the pod's own copy."""
        return tuple(
            Mount(str(self.etc_dir / name), f"/etc/{name}", read_only=False)
            for name in ("hosts", "resolv.conf", "hostname")
        )


@dataclass(frozen=True, slots=True)
class _Record:
    """sandbox.json. ``boot``: of a hostNetwork pod, the boot in which it was made."""

    spec: SandboxSpec
    ip: str
    id: str = ""
    boot: str = ""


Uids = tuple[str, ...]  # a name for a type that Sandboxes.list would hide inside the class


class Sandboxes:
    """The sandboxes of one node. ``netns``: the node's namespace, if this process has not entered it itself."""

    def __init__(
        self,
        pods: Path,
        addresses: Path,
        *,
        bridge: str,
        pod_cidr: str,
        gateway: str,
        node_ip: str = "",
        service_cidr: str = "",
        mtu: int = attach.DEFAULT_MTU,
        netns: str | Path | None = None,
        hosts_file: Path = Path("/etc/hosts"),
        boot_file: Path = host.BOOT_ID,
    ) -> None:
        self._pods, self._addresses = pods, addresses
        self._bridge, self._cidr, self._gateway, self._node_ip, self._mtu = bridge, pod_cidr, gateway, node_ip, mtu
        self._service_cidr, self._hosts_file = service_cidr, hosts_file
        self._boot = boot_file.read_text().strip()
        self._pool: ipam.Pool | None = None
        enter = (namespaces.enter, (netns,)) if netns is not None else (None, ())
        self._thread = ThreadPoolExecutor(1, "netlink", *enter)

    async def ensure(self, spec: SandboxSpec) -> Sandbox:
        """Make the sandbox, or what is missing of it. Raises SandboxError (also if the pod CIDR is exhausted)."""
        return await self._run("make", f"pod {spec.namespace}/{spec.name}", lambda: self._ensure(spec))

    async def remove(self, uid: str) -> None:
        """Remove the sandbox; its containers must be gone. Nothing happens if there is none."""
        await self._run("remove", f"pod {uid}", lambda: self._remove(uid))

    async def repair(self) -> Uids:
        """Put back what somebody took away on the node's side: the bridge, a pod's link. Containers go on running.

        Returns the UIDs of sandboxes whose namespace is gone: only ``ensure`` helps them, and new containers.
        """
        return await self._run("repair", "all pods", self._repair)

    async def list(self) -> tuple[Sandbox, ...]:
        """Every sandbox that was made and not removed, also by an earlier podwire, by UID."""
        return await self._run("list", "all pods", self._list)

    async def clean(self) -> None:
        """Remove them all."""
        for uid in await self._run("list", "all pods", self._uids):
            await self.remove(uid)

    def close(self) -> None:
        """End the thread. Sandboxes stay."""
        self._thread.shutdown()

    async def _run(self, verb: str, whose: str, action: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, action)
        except (NetnsError, OSError) as error:
            raise SandboxError(f"cannot {verb} sandbox of {whose}: {error}") from error

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _ensure(self, spec: SandboxSpec) -> Sandbox:
        if not spec.host_network:
            self._loaded()  # for the first time, it may change records
        known = self._read(spec.uid)
        record = self._renewed(spec, known)
        if record != known:
            self._write(record)
        sandbox = self._sandbox(record)
        # What there is, if the record was damaged, may have another address.
        if not spec.host_network and (known is None or not sandbox.ready):
            self._connect(record)
        return self._sandbox(record)

    def _renewed(self, spec: SandboxSpec, known: _Record | None) -> _Record:
        """The record to go on with: the known one as far as its sandbox lives, else that of a new sandbox."""
        ip = self._node_ip if spec.host_network else self._allocate(spec.uid)
        if known is None or not self._lives(known):
            return self._new(spec, ip)
        return known if known.spec == spec else replace(known, spec=spec, ip=ip)

    def _new(self, spec: SandboxSpec, ip: str) -> _Record:
        return _Record(spec, ip, str(uuid.uuid4()), self._boot if spec.host_network else "")

    def _lives(self, record: _Record) -> bool:
        """Is it the sandbox that was made, or only a memory of one?"""
        if record.spec.host_network:
            return record.boot == self._boot
        return namespaces.exists(namespace_name(record.spec))

    def _connect(self, record: _Record) -> None:
        name = namespace_name(record.spec)
        namespaces.ensure(name)
        try:
            self._attach(record)
        except BaseException:
            namespaces.remove(name)
            raise

    def _attach(self, record: _Record) -> None:
        attach.attach(
            namespace_name(record.spec),
            bridge=self._bridge,
            address=f"{record.ip}/32",
            gateway=self._gateway,
            host_ifname=link_name(record.spec.uid),
            mtu=self._mtu,
        )

    def _repair(self) -> Uids:
        new_bridge = self._ensure_bridge()
        lost = []
        for record in self._records():
            spec = record.spec
            if spec.host_network:
                continue
            if not namespaces.exists(namespace_name(spec)):
                lost.append(spec.uid)
            elif new_bridge or links.index_of(link_name(spec.uid)) is None:
                self._attach_again(record)
        return tuple(lost)

    def _ensure_bridge(self) -> bool:
        """False if it is there, as nearly always."""
        if links.index_of(self._bridge) is not None:
            return False
        log.warning("bridge %s is gone; it is made again", self._bridge)
        prefix = ipaddress.ip_network(self._cidr).prefixlen
        host.prepare_node(self._bridge, f"{self._gateway}/{prefix}", mtu=self._mtu)
        if self._service_cidr:
            host.ensure_service_route(self._bridge, self._service_cidr, source=self._node_ip)
        return True

    def _attach_again(self, record: _Record) -> None:
        """One that cannot be attached does not keep the others from it."""
        pod = f"{record.spec.namespace}/{record.spec.name}"
        try:
            self._attach(record)
            log.warning("pod %s had lost its link; it has a new one", pod)
        except NetnsError as error:
            log.warning("pod %s has lost its link, trying again: %s", pod, error)

    def _remove(self, uid: str) -> None:
        folder = self._pods / uid
        if not (folder / "sandbox.json").exists():
            return
        record = self._read(uid)
        if record is None or not record.spec.host_network:
            attach.detach(link_name(uid))
            for name in _names_of(uid) if record is None else [namespace_name(record.spec)]:
                namespaces.remove(name)
            self._keep(ipam.release(self._loaded(), uid, now=time.time()))
        if (folder / "etc").exists():
            procfs.remove_tree(folder / "etc")
        (folder / "sandbox.json").unlink()
        if not any(folder.iterdir()):
            folder.rmdir()

    def _list(self) -> tuple[Sandbox, ...]:
        self._note_boot()
        return tuple(self._sandbox(record) for record in self._records())

    def _note_boot(self) -> None:
        """A record of the version before tells no boot: the one in which it is found must do."""
        for record in self._records():
            if record.spec.host_network and not record.boot:
                self._save(replace(record, boot=self._boot))

    def _sandbox(self, record: _Record) -> Sandbox:
        spec = record.spec
        ready, path = self._lives(record), ""
        if not spec.host_network:
            path = str(namespaces.path_of(namespace_name(spec)))
            ready = ready and links.index_of(link_name(spec.uid)) is not None
        etc = self._pods / spec.uid / "etc"
        return Sandbox(spec.uid, spec.namespace, spec.name, record.ip, path, etc, spec.host_network, ready, record.id)

    # --- on disk ------------------------------------------------------------------------------------------------------

    def _uids(self) -> Uids:
        return tuple(sorted(file.parent.name for file in self._pods.glob("*/sandbox.json")))

    def _records(self) -> Sequence[_Record]:
        return [record for record in map(self._read, self._uids()) if record is not None]

    def _read(self, uid: str) -> _Record | None:
        file = self._pods / uid / "sandbox.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=_Record)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            log.warning("%s is not a sandbox, it is made again: %s", file, error)
            return None

    def _write(self, record: _Record) -> None:
        spec = record.spec
        etc = self._pods / spec.uid / "etc"
        etc.mkdir(parents=True, exist_ok=True)
        node_hosts = self._hosts_file.read_text() if spec.host_network and self._hosts_file.exists() else ""
        (etc / "hosts").write_text(render_hosts(spec, record.ip, node_hosts))
        (etc / "resolv.conf").write_text(render_resolv(spec.dns))
        (etc / "hostname").write_text(spec.hostname + "\n")
        self._save(record)

    def _save(self, record: _Record) -> None:
        file = self._pods / record.spec.uid / "sandbox.json"
        fresh = file.with_name("sandbox.json.new")
        fresh.write_bytes(msgspec.json.encode(record))
        fresh.replace(file)

    def _allocate(self, uid: str) -> str:
        pool, address = ipam.allocate(self._loaded(), uid)
        self._keep(pool)
        return address

    def _load_pool(self) -> ipam.Pool:
        """What a damaged file loses is only which addresses were free a moment ago: the sandboxes know their own."""
        try:
            return ipam.load(self._addresses, self._cidr)
        except ipam.DamagedPool as error:
            log.warning("%s: made again from the pods that are there", error)
            return ipam.Pool(self._cidr)

    def _loaded(self) -> ipam.Pool:
        """The pool, at first from its file, corrected by the sandboxes: they are what the addresses are for."""
        if self._pool is None:
            records = [record for record in self._records() if not record.spec.host_network]
            holders = {record.spec.uid: record.ip for record in records}
            pool = loaded = self._load_pool()
            for uid, address in pool.allocated.items():
                if holders.get(uid) != address:
                    pool = ipam.release(pool, uid, now=time.time())  # noted, but the crash came before sandbox.json
            for record in sorted(records, key=lambda r: (not namespaces.exists(namespace_name(r.spec)), r.spec.uid)):
                pool = self._adopt(pool, record)
            if pool != loaded:
                ipam.save(self._addresses, pool)
            self._pool = pool
        return self._pool

    def _adopt(self, pool: ipam.Pool, record: _Record) -> ipam.Pool:
        """Note the address of a record; another one if it cannot be had: an older record has come back with it."""
        spec = record.spec
        try:
            return ipam.adopt(pool, spec.uid, record.ip)
        except NetnsError as error:
            pool, address = ipam.allocate(pool, spec.uid)
            log.warning("pod %s/%s gets the address %s: %s", spec.namespace, spec.name, address, error)
        attach.detach(link_name(spec.uid))  # from now on the sandbox is not ready, until it has the new address
        self._write(self._new(spec, address))
        return pool

    def _keep(self, pool: ipam.Pool) -> None:
        if pool != self._pool:
            ipam.save(self._addresses, pool)
            self._pool = pool


# --- pure -------------------------------------------------------------------------------------------------------------


def namespace_name(spec: SandboxSpec) -> str:
    return f"podwire-{spec.uid[:8]}-{spec.name}"[:100]


def _names_of(uid: str) -> list[str]:
    """The namespaces of a pod whose record is damaged, so that its name is not known."""
    return [name for name in namespaces.names() if name.startswith(f"podwire-{uid[:8]}-")]


def link_name(uid: str) -> str:
    """The node's end of the pod's veth pair: at most 15 characters, and the same for the same pod."""
    return "pw" + hashlib.sha256(uid.encode()).hexdigest()[:12]


def render_resolv(dns: Resolv) -> str:
    lines = [f"nameserver {server}" for server in dns.nameservers]
    if dns.searches:
        lines.append("search " + " ".join(dns.searches))
    if dns.options:
        lines.append("options " + " ".join(dns.options))
    return "".join(line + "\n" for line in lines)


def render_hosts(spec: SandboxSpec, ip: str, node_hosts: str = "") -> str:
    """As kubelet writes it (kubelet_pods.go): the node's own file for hostNetwork, else the pod's names."""
    if spec.host_network:
        text = "# Kubernetes-managed hosts file (host network).\n" + node_hosts
    else:
        names = "\t".join(name for name in (spec.fqdn, spec.hostname) if name)
        text = (
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
            "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            f"{ip}\t{names}\n"
        )
    return text + _aliases(spec.host_aliases)


def _aliases(aliases: Iterable[HostAlias]) -> str:
    lines = ["\t".join((alias.ip, *alias.hostnames)) for alias in aliases]
    return "\n# Entries added by HostAliases.\n" + "\n".join(lines) + "\n" if lines else ""
