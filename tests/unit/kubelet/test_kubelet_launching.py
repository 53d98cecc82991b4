"""From a manifest to what the runtime is told."""

from pathlib import Path
from typing import Any

import pytest

from agent.kubelet.containers import Launch
from agent.kubelet.environment import ContainerConfigError
from agent.kubelet.images import HostRoot, Image
from agent.kubelet.launching import container_key, resolve_hostname, resolve_kernel_hostname, resolve_launch
from agent.kubelet.spec import Pod
from tests.unit.kubelet.kubelet_objects import make_pod

IMAGE = Image(
    "mongo:3.3", HostRoot(), entrypoint=("entry",), cmd=("cmd",), env=(("PATH", "/p"), ("A", "image")), workdir="/w"
)


def launch(pod: Pod, image: Image = IMAGE, **variables: str) -> Launch:
    return resolve_launch(
        pod,
        pod.spec.containers[0],
        attempt=2,
        image=image,
        variables=variables,
        mounts=(),
        hostname="host",
        netns_path="/run/netns/x",
        sandbox="s-1",
        folder=Path("/pods/u-1"),
    )


def test_identity_and_places() -> None:
    told = launch(make_pod())
    assert (told.id, told.pod_uid, told.namespace, told.pod, told.container, told.attempt) == (
        "u-1-c-2", "u-1", "shop", "p", "c", 2,
    )  # fmt: skip
    assert told.log_path == Path("/pods/u-1/logs/c/2.log")
    assert (told.netns_path, told.hostname, told.cwd, told.grace_seconds) == ("/run/netns/x", "host", "/w", 30.0)
    assert (told.id, told.sandbox) == (container_key(make_pod(), "c", 2), "s-1")


@pytest.mark.parametrize(
    ("spec", "argv"),
    [
        ({}, ("entry", "cmd")),
        ({"args": ["a"]}, ("entry", "a")),
        ({"command": ["c"]}, ("c",)),
        ({"command": ["c", "$(X)"], "args": ["$$(X)", "$(Y)"]}, ("c", "1", "$(X)", "$(Y)")),
    ],
)
def test_command_and_arguments(spec: dict[str, Any], argv: tuple[str, ...]) -> None:
    assert launch(make_pod(spec), X="1").argv == argv


def test_nothing_to_run() -> None:
    with pytest.raises(ContainerConfigError, match="neither the container nor its image mongo"):
        launch(make_pod({"image": "mongo:3.3"}), Image("mongo:3.3", HostRoot()))


def test_environment_image_then_hostname_then_manifest() -> None:
    assert launch(make_pod(), B="b", A="mine").env == (("PATH", "/p"), ("A", "mine"), ("HOSTNAME", "host"), ("B", "b"))
    assert ("TERM", "xterm") in launch(make_pod({"tty": True})).env


@pytest.mark.parametrize(
    ("own", "shared", "user", "group"),
    [
        ({}, {}, 0, 0),
        ({}, {"runAsUser": 7, "runAsGroup": 8}, 7, 8),
        ({"runAsUser": 1}, {"runAsUser": 7, "runAsGroup": 8}, 1, 8),
        ({"runAsUser": 1, "runAsNonRoot": True}, {}, 1, 0),
        ({"runAsNonRoot": False}, {"runAsNonRoot": True}, 0, 0),
    ],
)
def test_users(own: dict[str, Any], shared: dict[str, Any], user: int, group: int) -> None:
    told = launch(make_pod({"securityContext": own}, securityContext=shared))
    assert (told.user, told.group) == (user, group)


@pytest.mark.parametrize("where", ["container", "pod"])
def test_non_root_is_held(where: str) -> None:
    asked = {"runAsNonRoot": True}
    pod = make_pod({"securityContext": asked}) if where == "container" else make_pod(securityContext=asked)
    with pytest.raises(ContainerConfigError, match="runAsNonRoot"):
        launch(pod)


def test_security_and_resources() -> None:
    container = {
        "securityContext": {
            "privileged": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
        },
        "resources": {"limits": {"cpu": "1500m", "memory": "1Mi"}, "requests": {"cpu": "0.25"}},
        "workingDir": "/$(X)",
        "stdin": True,
    }
    told = launch(make_pod(container, securityContext={"supplementalGroups": [5], "fsGroup": 6}), X="dir")
    assert (told.privileged, told.read_only_root, told.no_new_privileges) == (True, True, True)
    assert (told.capabilities_add, told.capabilities_drop) == (("NET_ADMIN",), ("ALL",))
    assert (told.cpu_limit, told.cpu_request, told.memory_limit) == (1500, 250, 1 << 20)
    assert (told.groups, told.cwd, told.stdin) == ((5, 6), "/dir", True)
    assert launch(make_pod()).memory_limit is None


def test_resources_that_cannot_be_read() -> None:
    with pytest.raises(ContainerConfigError, match="cannot read memory of container c"):
        launch(make_pod({"resources": {"limits": {"memory": "much"}}}))


@pytest.mark.parametrize(
    ("pod", "name", "kernel"),
    [
        (make_pod(), "p", "p"),
        (make_pod(hostname="web-0"), "web-0", "web-0"),
        (make_pod(hostNetwork=True, hostname="x"), "node-1", "node-1"),
        (make_pod(meta={"name": "a" * 62 + "-bcd"}), "a" * 62, "a" * 62),
        (make_pod(hostname="h", subdomain="s"), "h", "h"),
        (make_pod(hostname="h", subdomain="s", setHostnameAsFQDN=True), "h", "h.s.shop.svc.cluster.local"),
    ],
)
def test_host_names(pod: Pod, name: str, kernel: str) -> None:
    assert resolve_hostname(pod, node="node-1") == name
    assert resolve_kernel_hostname(pod, node="node-1", domain="cluster.local") == kernel
