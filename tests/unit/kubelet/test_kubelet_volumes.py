"""Volumes: what they hold, where they are seen, and how they are written."""

import os
from pathlib import Path
from typing import Any

import pytest

from agent.kubelet.containers import Mount
from agent.kubelet.environment import ContainerConfigError, Facts, Sources
from agent.kubelet.spec import Pod, parse_pod
from agent.kubelet.volumes import (
    Directory,
    File,
    Files,
    Host,
    Plan,
    VolumeError,
    ensure_sub_path,
    ensure_volume,
    resolve_mounts,
    resolve_volumes,
)

FACTS = Facts(node_name="n", host_ip="192.0.2.1", pod_ip="", hostname="p", cpu=2, memory=1 << 30)
SOURCES = Sources(config_maps={"m": {"a": b"1", "b": b"2"}}, secrets={"s": {"k": b"\xff\x00"}})


def pod_with(*volumes: dict[str, Any], mounts: tuple[dict[str, Any], ...] = ()) -> Pod:
    import json

    container = {"name": "c", "volumeMounts": list(mounts), "resources": {"limits": {"cpu": "1"}}}
    document = {
        "metadata": {"name": "p", "uid": "u", "labels": {"app": "x"}},
        "spec": {"containers": [container], "volumes": [{"name": "v", **v} for v in volumes]},
    }
    return parse_pod(json.dumps(document).encode())


def resolve(volume: dict[str, Any]) -> Plan:
    (plan,) = resolve_volumes(pod_with(volume), SOURCES, FACTS)
    return plan


@pytest.mark.parametrize(
    ("volume", "plan"),
    [
        ({}, Directory("v")),
        ({"emptyDir": {"medium": "Memory"}}, Directory("v")),
        ({"hostPath": {"path": "/srv", "type": "Directory"}}, Host("v", "/srv", "Directory")),
        ({"configMap": {"name": "m"}}, Files("v", {"a": File(b"1"), "b": File(b"2")})),
        (
            {"configMap": {"name": "m", "defaultMode": 0o400, "items": [{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o755}]}},
            Files("v", {"x/y": File(b"1", 0o400), "z": File(b"2", 0o755)}),
        ),
        ({"configMap": {"name": "none", "optional": True}}, Files("v", {})),
        ({"configMap": {"name": "m", "optional": True, "items": [{"key": "x", "path": "x"}]}}, Files("v", {})),
        ({"secret": {"secretName": "s", "defaultMode": 0o600}}, Files("v", {"k": File(b"\xff\x00", 0o600)})),
        ({"secret": {"secretName": "none", "optional": True}}, Files("v", {})),
        (
            {
                "downwardAPI": {
                    "items": [
                        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                        {"path": "cpu", "mode": 0o600, "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}},
                        {"path": "nothing"},
                    ]
                }
            },
            Files("v", {"labels": File(b'app="x"'), "cpu": File(b"1", 0o600), "nothing": File(b"")}),
        ),
        (
            {
                "projected": {
                    "defaultMode": 0o440,
                    "sources": [
                        {"configMap": {"name": "m", "items": [{"key": "a", "path": "a"}]}},
                        {"secret": {"name": "s"}},
                        {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                    ],
                }
            },
            Files("v", {"a": File(b"1", 0o440), "k": File(b"\xff\x00", 0o440), "n": File(b"p", 0o440)}),
        ),
    ],
)  # fmt: skip
def test_what_a_volume_is(volume: dict[str, Any], plan: Plan) -> None:
    assert resolve(volume) == plan


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"nfs": {"server": "x"}}, "volumes of kind nfs are not supported; podwire has configMap"),
        ({"persistentVolumeClaim": {"claimName": "x"}}, "volumes of kind persistentVolumeClaim are not supported"),
        ({"configMap": {"name": "none"}}, 'failed for volume "v" : configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        ({"configMap": {"name": "m", "items": [{"key": "x", "path": "x"}]}}, "references non-existent key: x"),
        ({"configMap": {"name": "m", "items": [{"key": "a", "path": "../x"}]}}, "leaves the volume"),
        ({"configMap": {"name": "m", "items": [{"key": "a", "path": "/x"}]}}, "leaves the volume"),
        ({"configMap": {"name": "m", "items": [{"key": "a", "path": "..x"}]}}, "leaves the volume"),
        ({"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}, "serviceAccountToken is not supported"),
        ({"downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "spec.y"}}]}}, "unsupported fieldPath"),
        ({"downwardAPI": {"items": [{"path": "x", "resourceFieldRef": {"resource": "limits.cpu"}}]}}, "container  not found"),
    ],
)  # fmt: skip
def test_what_cannot_be_had(volume: dict[str, Any], message: str) -> None:
    with pytest.raises(VolumeError, match=message) as caught:
        resolve(volume)
    assert caught.value.volume == "v"


@pytest.mark.parametrize(
    ("plan", "mount", "expected"),
    [
        (Directory("v"), {}, Mount("/pod/v", "/x", read_only=False)),
        (Directory("v"), {"readOnly": True}, Mount("/pod/v", "/x", read_only=True)),
        (Files("v"), {}, Mount("/pod/v", "/x", read_only=True)),
        (Host("v", "/srv"), {"subPath": "a/b"}, Mount("/srv/a/b", "/x", read_only=False)),
        (Directory("v"), {"subPathExpr": "$(A)"}, Mount("/pod/v/1", "/x", read_only=False)),
    ],
)
def test_where_it_is_seen(plan: Plan, mount: dict[str, Any], expected: Mount) -> None:
    pod = pod_with(mounts=({"name": "v", "mountPath": "/x", **mount},))
    assert resolve_mounts(pod.spec.containers[0], [plan], Path("/pod"), {"A": "1"}) == (expected,)


@pytest.mark.parametrize(
    ("mount", "message"),
    [({"name": "w"}, "no volume 'w'"), ({"subPath": "../x"}, "leaves"), ({"subPath": "/x"}, "leaves")],
)
def test_mounts_that_make_no_sense(mount: dict[str, Any], message: str) -> None:
    pod = pod_with(mounts=({"name": "v", "mountPath": "/x", **mount},))
    with pytest.raises(ContainerConfigError, match=message):
        resolve_mounts(pod.spec.containers[0], [Directory("v")], Path("/pod"), {})


def test_files_are_written_with_their_modes_and_replaced_as_a_whole(tmp_path: Path) -> None:
    ensure_volume(Files("v", {"a": File(b"1"), "dir/b": File(b"2", 0o600), "gone": File(b"")}), tmp_path)
    volume = tmp_path / "v"
    assert (volume / "a").read_bytes() == b"1"
    assert (volume / "dir/b").stat().st_mode & 0o777 == 0o600
    first = os.readlink(volume / "..data")
    ensure_volume(Files("v", {"a": File(b"9"), "dir/b": File(b"2", 0o600), "new": File(b"")}), tmp_path)
    assert (volume / "a").read_bytes() == b"9"
    assert sorted(p.name for p in volume.iterdir() if not p.name.startswith("..")) == ["a", "dir", "new"]
    assert os.readlink(volume / "..data") != first
    assert not (volume / first).exists()


def test_what_is_the_same_is_not_written_again(tmp_path: Path) -> None:
    plan = Files("v", {"a": File(b"1")})
    ensure_volume(plan, tmp_path)
    before = os.readlink(tmp_path / "v/..data")
    ensure_volume(plan, tmp_path)
    assert os.readlink(tmp_path / "v/..data") == before


def test_an_empty_set_of_files_is_an_empty_folder(tmp_path: Path) -> None:
    ensure_volume(Files("v", {}), tmp_path)
    assert [p.name for p in (tmp_path / "v").iterdir() if not p.name.startswith("..")] == []


def test_a_directory_is_everybody_s_and_keeps_its_content(tmp_path: Path) -> None:
    ensure_volume(Directory("v"), tmp_path)
    assert (tmp_path / "v").stat().st_mode & 0o777 == 0o777
    (tmp_path / "v/x").write_text("1")
    ensure_volume(Directory("v"), tmp_path)
    assert (tmp_path / "v/x").read_text() == "1"


@pytest.mark.parametrize(
    ("kind", "path", "good"),
    [
        ("", "file", True),
        ("", "none", False),
        ("File", "file", True),
        ("File", "dir", False),
        ("Directory", "dir", True),
        ("Directory", "file", False),
        ("DirectoryOrCreate", "new/dir", True),
        ("DirectoryOrCreate", "file", False),
        ("FileOrCreate", "new", True),
        ("FileOrCreate", "file", True),
        ("Socket", "file", False),
    ],
)
def test_host_paths(tmp_path: Path, kind: str, path: str, good: bool) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    plan = Host("v", str(tmp_path / path), kind)
    if good:
        ensure_volume(plan, tmp_path / "volumes")
        assert (tmp_path / path).exists()
    else:
        with pytest.raises(VolumeError):
            ensure_volume(plan, tmp_path / "volumes")


def test_a_disk_that_refuses_is_the_volume_s_trouble(tmp_path: Path) -> None:
    (tmp_path / "volumes").touch()
    with pytest.raises(VolumeError, match='volume "v"'):
        ensure_volume(Directory("v"), tmp_path / "volumes")


def test_sub_paths(tmp_path: Path) -> None:
    volume = tmp_path / "v"
    volume.mkdir()
    ensure_sub_path(Mount(str(volume / "a/b"), "/x"), volume)
    assert (volume / "a/b").is_dir()
    (volume / "out").symlink_to("/etc")
    with pytest.raises(ContainerConfigError, match="leads out of the volume"):
        ensure_sub_path(Mount(str(volume / "out"), "/x"), volume)
    (volume / "file").touch()
    ensure_sub_path(Mount(str(volume / "file"), "/x"), volume)
    assert (volume / "file").is_file()
