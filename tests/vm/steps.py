"""What is asked of the machine, in order; each step finds the node ready and the workload served, and leaves it so.

Each says what a person relies on, not how podwire does it: what is in the kernel, what the API answers, what
connections experience.
"""

from __future__ import annotations

import time

from tests.vm import root
from tests.vm.guest import Knocks
from tests.vm.neighbours import OTHERS, docker, firewalls, port_53
from tests.vm.node import CORE, GATEWAY, NODE_IP, NODE_PORT, OUTSIDE, OUTSIDE_IP, PATIENCE, UNIT, Object, eventually
from tests.vm.progress import require
from tests.vm.scene import Extent, Scene, Step

IMPATIENT = 15  # seconds: WatchdogSec= for the step that needs it
FINAL_KILL = 80.0  # seconds; systemd waits 90 for processes that are deaf to SIGTERM (DefaultTimeoutStopSec=)
BURST, CUT_AFTER = 60, 20  # Services that a client wants to create; acknowledgements after which the power goes
CONFIG = "/etc/podwire/config.yaml"
SHOW_ADDRESSES = "import json; print(*json.load(open('/var/lib/podwire/ipam.json'))['allocated'].values())"
CHECK_STORE = (
    "import sqlite3; store = sqlite3.connect('/var/lib/podwire/store.db');"
    " print(*store.execute('pragma integrity_check').fetchone())"
)


def service_is_ready(scene: Scene) -> None:
    """systemd is process 1, has started podwire, and been told by it that it is ready."""
    require(scene.run("cat /proc/1/comm").strip() == "systemd", "process 1 is not systemd")
    scene.node.await_ready()
    require(scene.node.property("Type") == "notify", f"{UNIT} is not Type=notify")
    since = float(scene.node.property("ActiveEnterTimestampMonotonic")) / 1e6
    begun = float(scene.node.property("InactiveExitTimestampMonotonic")) / 1e6
    scene.progress.note(f"ready {since:.0f} s after the machine's start, {since - begun:.0f} s after podwire's")
    mode, owner = scene.run("stat -c '%a %U' /etc/podwire/kubeconfig").split()
    require((mode, owner) == ("600", "root"), f"/etc/podwire/kubeconfig is {mode}, of {owner}")
    scene.node.create_workload()
    scene.node.await_workload()


def smoke_test(scene: Scene) -> None:
    """The document's objects, on the node, with podwire's own commands."""
    said = scene.run(f"/{root.CHECKOUT}/vagrant/smoke.sh", timeout=420)
    require("smoke: all steps held" in said, f"smoke.sh did not finish:\n{said}")


def cgroups(scene: Scene) -> None:
    """Pure cgroup v2; each container in a cgroup of its own, with its limits, outside the service's."""
    kind = scene.run("stat -f -c %T /sys/fs/cgroup").strip()
    require(kind == "cgroup2fs", f"/sys/fs/cgroup is {kind}")
    for _, container, _ in scene.node.containers():
        name = container.rpartition("//")[2]
        script = f"cd $(find /sys/fs/cgroup -type d -name '*{name}*' | head -1) && pwd && cat memory.max cgroup.procs"
        folder, limit, *processes = scene.run(script).split()
        require(limit == str(96 << 20), f"{folder}: memory.max is {limit}")
        require(processes, f"{folder} has no processes")
        require("podwire.service" not in folder, f"container {name} lives in the service's cgroup: {folder}")


def traffic(scene: Scene) -> None:
    """What policies promise, on this kernel: affinity, the client's address kept or hidden, a Service without pods."""
    policies: dict[str, Object] = {
        "sticky": {"sessionAffinity": "ClientIP"},
        "local": {"type": "NodePort", "externalTrafficPolicy": "Local"},
        "cluster": {"type": "NodePort"},
        "empty": {"type": "NodePort", "selector": {"app": "nobody"}},
    }
    made = {name: scene.node.create_service(name, **fields) for name, fields in policies.items()}
    addresses = {name: made[name]["spec"]["clusterIP"] for name in made}
    ports = {name: made[name]["spec"]["ports"][0].get("nodePort", 0) for name in made}
    guest = scene.machine.guest
    for name in ("sticky", "local", "cluster"):
        scene.node.await_served(addresses[name])
    pods = {answer.pod for answer in guest.fetch(addresses["sticky"], 80, times=12)}
    require(len(pods) == 1, f"a client with affinity came to {pods}")
    for name, client in (("local", OUTSIDE_IP), ("cluster", GATEWAY)):
        seen = {answer.text for answer in guest.fetch(NODE_IP, ports[name], "/clientip", netns=OUTSIDE, times=6)}
        found = {text.strip().rpartition(":")[0] or text for text in seen}
        require(found == {client}, f"externalTrafficPolicy {name}: pods saw clients {seen}, not {client}")
    refused = guest.fetch(addresses["empty"], 80) + guest.fetch(NODE_IP, ports["empty"], netns=OUTSIDE)
    require(all("refused" in answer.text for answer in refused), f"a Service without pods does not refuse: {refused}")
    for name in made:
        scene.node.request("DELETE", f"{CORE}/services/{name}")


def stop_and_start(scene: Scene) -> None:
    """A stopped service leaves pods and rules; a started one adopts them."""
    before = scene.node.containers()
    address = scene.node.services()["web"]["spec"]["clusterIP"]
    with scene.machine.guest.knocking(NODE_IP, NODE_PORT, netns=OUTSIDE) as knocks:
        scene.node.systemctl("stop")
        require(scene.run("pgrep -fc 'agent[.]supervisor' || true").strip() == "0", "podwire's processes still run")
        answers = scene.machine.guest.fetch(address, 80, times=10)
        require(all(answer.status == 200 for answer in answers), f"while podwire is stopped: {answers}")
        _be_impatient(scene)
        scene.node.systemctl("start")
        scene.node.await_ready()
        scene.node.await_workload()
    _nobody_noticed(scene, knocks, before)


def _be_impatient(scene: Scene) -> None:
    """From the next start on systemd's watchdog wants to hear from podwire more often, for the step ``hang``."""
    folder = f"/run/systemd/system/{UNIT}.d"
    scene.run(f"mkdir {folder} && printf '[Service]\\nWatchdogSec={IMPATIENT}\\n' >{folder}/impatient.conf")
    scene.run("systemctl daemon-reload")


def _nobody_noticed(scene: Scene, knocks: Knocks, before: set[tuple[str, str, int]]) -> None:
    """``before``: the containers."""
    require(not knocks.failures, f"connections failed meanwhile: {knocks.failures}")
    scene.progress.note(f"{knocks.answered} requests meanwhile, all answered")
    require(scene.node.containers() == before, f"pods were not adopted: {before} became {scene.node.containers()}")


def hang(scene: Scene) -> None:
    """systemd ends a supervisor that hangs, and starts it again; pods and connections know nothing of it. It comes back
    with the configuration as it is then: Services move into the other kind of iptables' tables, and leave these.
    """
    before = scene.node.containers()
    _choose_variant(scene, "legacy")
    with scene.guest.knocking(NODE_IP, NODE_PORT, netns=OUTSIDE) as knocks:
        scene.run(f"kill -STOP {scene.node.property('MainPID')}")
        eventually(lambda: scene.node.property("NRestarts") == "1", what="systemd has noticed", seconds=IMPATIENT * 6)
        scene.node.await_ready(restarts=1)
        scene.node.await_workload()
    _nobody_noticed(scene, knocks, before)
    _check_variant(scene, "legacy", empty="nft")
    scene.run(f"rm -r /run/systemd/system/{UNIT}.d && systemctl daemon-reload")


def _choose_variant(scene: Scene, variant: str) -> None:
    """From the next start on."""
    scene.run(f"sed -i '/^iptables_variant:/d' {CONFIG}; echo 'iptables_variant: {variant}' >>{CONFIG}")


def _check_variant(scene: Scene, variant: str, *, empty: str) -> None:
    scene.node.await_workload()
    for kind, expected in ((variant, True), (empty, False)):
        found = int(scene.run(f"iptables-{kind}-save 2>/dev/null | grep -c -e KUBE- -e PODWIRE || true"))
        require(bool(found) == expected, f"with {variant}, there are {found} rules of podwire in iptables-{kind}")


# What a person runs: `sh` as process 1 of a container is deaf to SIGTERM; the hook shows that podwire speaks first.
DEAF: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "deaf"},
    "spec": {
        "terminationGracePeriodSeconds": 5,
        "volumes": [{"name": "out", "hostPath": {"path": "/srv"}}],
        "containers": [
            {
                "name": "deaf",
                "image": "sh",
                "command": ["sh", "-c", "while :; do sleep 1; done"],
                "volumeMounts": [{"name": "out", "mountPath": "/out"}],
                "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo bye >/out/hook"]}}},
            }
        ],
    },
}


def reboot(scene: Scene) -> None:
    """Pods are ended in their own time, and no later. Objects, addresses and ports are what they were; pods are started
    again and served.
    """
    scene.node.request("POST", f"{CORE}/pods", DEAF, expect=201)
    eventually(lambda: _is_ready(scene, "deaf"), what="pod deaf is ready")
    before = _identities(scene.node.services())
    pods = {pod["metadata"]["name"] for pod in scene.node.pods()}
    begin = time.monotonic()
    scene.machine.reboot()
    seconds = time.monotonic() - begin
    scene.progress.note(
        f"down and up again in {seconds:.0f} s, of which {scene.machine.boot_seconds:.0f} s are a start"
    )
    require(seconds < scene.machine.boot_seconds + FINAL_KILL, "a container has kept the machine from rebooting")
    require(scene.run("cat /srv/hook && rm /srv/hook") == "bye\n", "a preStop hook was not run")
    scene.node.await_ready()
    eventually(lambda: _is_ready(scene, "deaf"), what="pod deaf is ready again")
    scene.node.request("DELETE", f"{CORE}/pods/deaf")
    require(_identities(scene.node.services()) == before, "Services differ from those before the reboot")
    require({pod["metadata"]["name"] for pod in scene.node.pods()} == pods, "pods differ from those before the reboot")
    scene.node.await_workload()
    scene.node.check_discovery()


def _is_ready(scene: Scene, pod: str) -> bool:
    conditions = scene.node.request("GET", f"{CORE}/pods/{pod}")["status"].get("conditions", [])
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def power_cut(scene: Scene) -> None:
    """The machine goes off amid a client's requests: what was acknowledged is there, whole, and works."""
    before = _identities(scene.node.services())
    for stored in scene.machine.guest.create_all(f"{CORE}/services", [_burst(number) for number in range(BURST)]):
        before |= _identities({stored["metadata"]["name"]: stored})
        if len(before) > CUT_AFTER:
            break
    scene.machine.cut_power()
    scene.progress.note(f"off, {len(before)} Services after; on again")
    scene.machine.power_on()
    scene.node.await_ready()
    after = _identities(scene.node.services())
    lost = {name: value for name, value in before.items() if after.get(name) != value}
    require(not lost, f"acknowledged, and lost or changed: {lost}")
    require(scene.run(f'python3 -c "{CHECK_STORE}"').strip() == "ok", "the store is damaged")
    scene.node.await_workload()
    _check_leases(scene)
    for name in set(after) - {"web", "kubernetes"}:
        scene.node.request("DELETE", f"{CORE}/services/{name}")


def _burst(number: int) -> Object:
    spec = {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"burst-{number}"}, "spec": spec}


def _identities(services: dict[str, Object]) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """What must never change: uid, ClusterIP, NodePorts."""
    return {
        name: (
            each["metadata"]["uid"],
            each["spec"]["clusterIP"],
            tuple(port.get("nodePort", 0) for port in each["spec"]["ports"]),
        )
        for name, each in services.items()
    }


def _check_leases(scene: Scene) -> None:
    """Addresses are given to pods that exist, and to no others."""

    def settled() -> bool:
        pods = scene.node.request("GET", "/api/v1/pods")["items"]
        given = scene.run(f'python3 -c "{SHOW_ADDRESSES}"')
        return set(given.split()) == {pod["status"].get("podIP") for pod in pods}

    eventually(settled, what="exactly the pods' addresses are given away")


def upgrade(scene: Scene) -> None:
    """A newer version is installed while clients are served: none notices. Nor do they if the variant of iptables is
    another from then on.
    """
    _choose_variant(scene, "nft")
    before, old = scene.node.containers(), scene.run("/opt/podwire/bin/podwire version", timeout=PATIENCE)
    with scene.machine.guest.knocking(NODE_IP, NODE_PORT, netns=OUTSIDE) as knocks:
        said = scene.run(f"/{root.NEWER}/vagrant/provision.sh --offline /{root.OFFLINE}", timeout=600)
        scene.node.await_ready()
        scene.node.await_workload()
    _nobody_noticed(scene, knocks, before)
    new = scene.run("/opt/podwire/bin/podwire version", timeout=PATIENCE)
    require(new.count(".post1") > old.count(".post1"), f"this is not the newer version:\n{new}\n{said}")
    _check_variant(scene, "nft", empty="legacy")


def uninstall(scene: Scene) -> None:
    """Nothing is left of podwire: in the kernel, of processes, in the file system, of packages. What others need is."""
    said = scene.run(f"/{root.NEWER}/vagrant/uninstall.sh", timeout=300)
    for what, script in LEFTOVERS.items():
        found = scene.run(script)
        require(not found.strip(), f"left over, {what}:\n{found}\nuninstall.sh said:\n{said}")
    scene.run(OTHERS if scene.extent == Extent.NEIGHBOURS else "! dpkg-query -W runc 2>/dev/null | grep .")


# What each prints would be left over. The packages that these need stay, since the package vm-test needs them.
LEFTOVERS = {
    "rules": "for v in nft legacy; do iptables-$v-save; ip6tables-$v-save; done 2>/dev/null"
    " | grep -i -e kube -e podwire || true",
    "sets": "ipset list -n",
    "tables": "nft list tables | grep -i -e kube -e podwire || true",
    "links": "ls /sys/class/net | grep -v -x -e lo -e uplink || true",
    "network namespaces": "ls /run/netns | grep -v -x outside || true",
    "routes": "ip route | grep -v -e uplink || true",
    "mounts": "grep -e podwire /proc/mounts || true",
    "cgroups": "find /sys/fs/cgroup -name '*podwire*'",
    "processes": "pgrep -a -f 'podwire|conmon|agent[.]supervisor' | grep -v bash || true",
    "files": "find / -xdev -name '*podwire*' -not -path '/srv/*' -not -path '/proc/*'",
    "units": "systemctl list-unit-files --no-legend '*podwire*' || true"
    "; ls /etc/systemd/system/*/ | grep podwire || true",
    "packages": "dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' conmon conntrack python3-venv 2>/dev/null"
    " | grep ^ii || true; apt-get -s autoremove | grep ^Remv || true",
    "forwarding": "grep -v 0 /proc/sys/net/ipv4/ip_forward || true",
}

STEPS = (
    Step("podwire.service is active, its workload served", service_is_ready, Extent.QUICK),
    Step("containers in cgroup v2, with their limits", cgroups, Extent.QUICK),
    Step("smoke.sh: the document's Services, names, exec", smoke_test, Extent.QUICK),
    Step("policies: affinity, client addresses, no endpoints", traffic, Extent.QUICK),
    Step("dnsmasq has port 53: told, mended", port_53, Extent.NEIGHBOURS),
    Step("ufw, firewalld: what pods reach is what the check says", firewalls, Extent.NEIGHBOURS),
    Step("Docker: its containers and pods reach each other", docker, Extent.NEIGHBOURS),
    Step("stop leaves pods and rules, start adopts them", stop_and_start),
    Step("a supervisor that hangs is started again, with legacy tables", hang),
    Step("reboot: objects, addresses, pods, Services are back", reboot),
    Step("power cut: nothing acknowledged is lost", power_cut, Extent.QUICK),
    Step("upgrade in place, to nft tables: no connection fails", upgrade),
    Step("uninstall: nothing is left", uninstall),
)
