"""What an image reference means."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.kubelet.images import (
    Catalogue,
    Folder,
    HostRoot,
    Image,
    ImageError,
    Reference,
    load_catalogue,
    parse_reference,
    resolve_argv,
    resolve_image,
    shipped_images,
)

SHIPPED = Catalogue(
    shipped_images("/usr/bin/python3"), "/images", host_has=lambda program: program in ("sh", "/bin/sh")
)


@pytest.mark.parametrize(
    ("text", "name", "tag"),
    [
        ("mongo", "mongo", "latest"),
        ("mongo:3.3", "mongo", "3.3"),
        ("docker.io/library/mongo:3.3", "mongo", "3.3"),
        ("library/mongo", "mongo", "latest"),
        ("docker.io/vfarcic/go-demo-2", "vfarcic/go-demo-2", "latest"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b", "c"),
        ("mongo@sha256:" + "0" * 64, "mongo", "latest"),
        ("mongo:3.3@sha256:" + "0" * 64, "mongo", "3.3"),
    ],
)
def test_references_have_one_canonical_form(text: str, name: str, tag: str) -> None:
    assert parse_reference(text) == Reference(name, tag)


@pytest.mark.parametrize("text", ["", "UPPER", "a b", "a:", ":a", "a//b", "-a", "a@sha256:short"])
def test_what_is_no_reference(text: str) -> None:
    assert parse_reference(text) is None
    refused = resolve_image(text, SHIPPED)
    assert isinstance(refused, ImageError)
    assert refused.reason == "InvalidImageName"


@pytest.mark.parametrize(
    "reference", ["mongo:3.3", "mongo", "docker.io/library/mongo:7", "vfarcic/go-demo-2:1.0", "podwire/echo"]
)
def test_stand_ins_stand_for_every_tag_and_say_so(reference: str) -> None:
    image = resolve_image(reference, SHIPPED)
    assert isinstance(image, Image)
    assert isinstance(image.rootfs, HostRoot)
    assert image.entrypoint[0] in [f"/podwire/bin/{name}" for name, _ in image.rootfs.programs]
    assert image.note


def test_the_documents_command_runs_the_stand_in() -> None:
    image = resolve_image("mongo:3.3", SHIPPED, command=["mongod"])
    assert isinstance(image, Image)
    assert resolve_argv(image, ["mongod"], ["--rest", "--httpinterface"]) == ("mongod", "--rest", "--httpinterface")
    assert isinstance(image.rootfs, HostRoot)
    assert "mongod" in dict(image.rootfs.programs)
    assert dict(image.env)["PATH"].startswith("/podwire/bin:")


def test_any_image_whose_command_the_host_has_runs_that() -> None:
    image = resolve_image("example.com/any:1", SHIPPED, command=["sh", "-c", "true"])
    assert isinstance(image, Image)
    assert image.rootfs == HostRoot()


@pytest.mark.parametrize(
    ("command", "why"),
    [((), "it has no command"), (("no-such-program",), "its command 'no-such-program' is not on the host")],
)
def test_everything_else_is_never_pulled_and_the_message_helps(command: tuple[str, ...], why: str) -> None:
    refused = resolve_image("nginx:1.25", SHIPPED, command=command)
    assert isinstance(refused, ImageError)
    assert refused.reason == "ErrImageNeverPull"
    assert why in refused.message
    assert "/images/nginx:1.25/rootfs" in refused.message
    assert "/images/catalogue.yaml" in refused.message


@pytest.mark.parametrize(
    ("command", "args", "argv"),
    [
        ((), (), ("entry", "point", "cmd")),
        ((), ("a",), ("entry", "point", "a")),
        (("c",), (), ("c",)),
        (("c",), ("a",), ("c", "a")),
    ],
)
def test_command_and_args_as_kubernetes_has_them(
    command: tuple[str, ...], args: tuple[str, ...], argv: tuple[str, ...]
) -> None:
    image = Image("x", HostRoot(), entrypoint=("entry", "point"), cmd=("cmd",))
    assert resolve_argv(image, command, args) == argv


def test_a_folder_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "my/app:1.0/rootfs/inner/rootfs").mkdir(parents=True)
    (tmp_path / "my/app:1.0/image.yaml").write_text("entrypoint: [/bin/app]\nenv: {A: 1}\nuser: 1000\ngroup: 50\n")
    catalogue = load_catalogue(tmp_path)
    image = resolve_image("docker.io/my/app:1.0", catalogue)
    assert isinstance(image, Image)
    assert image.rootfs == Folder(str(tmp_path / "my/app:1.0/rootfs"))
    assert (image.entrypoint, image.user, image.group, dict(image.env)["A"]) == (("/bin/app",), 1000, 50, "1")
    assert isinstance(resolve_image("my/app:2.0", catalogue), ImageError)
    assert catalogue.problems == ()


def test_a_file_maps_references_and_wins_over_stand_ins(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "catalogue.yaml").write_text(
        "my/db: {folder: root, cmd: [db]}\nmongo: {host: true, entrypoint: [cat]}\n"
    )
    catalogue = load_catalogue(tmp_path)
    ours, mongo = resolve_image("my/db:any", catalogue), resolve_image("mongo:3.3", catalogue)
    assert isinstance(ours, Image)
    assert isinstance(mongo, Image)
    assert (ours.rootfs, ours.cmd) == (Folder(str(tmp_path / "root")), ("db",))
    assert (mongo.rootfs, mongo.entrypoint) == (HostRoot(), ("cat",))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{}", "either `folder: PATH` or `host: true`"),
        ("{folder: root, host: true}", "either `folder: PATH` or `host: true`"),
        ("{folder: nowhere}", "does not exist"),
        ("{host: true, entrypoint: sh}", "entrypoint: expected a list"),
        ("{host: true, comand: [sh]}", "unknown fields comand"),
        ("{host: true, env: [A]}", "env: expected a mapping"),
        ("{host: true, user: root}", "invalid literal"),
        ("3", "expected a mapping"),
    ],
)
def test_a_bad_entry_is_left_out_and_named(tmp_path: Path, entry: str, problem: str) -> None:
    (tmp_path / "catalogue.yaml").write_text(f"bad: {entry}\ngood: {{host: true}}\n")
    catalogue = load_catalogue(tmp_path)
    assert isinstance(resolve_image("good", catalogue), Image)
    refused = resolve_image("bad", catalogue)
    assert isinstance(refused, ImageError)
    assert problem in refused.message


@pytest.mark.parametrize("text", ["[1]", "{", "\0"])
def test_a_bad_file_does_not_hide_the_stand_ins(tmp_path: Path, text: str) -> None:
    (tmp_path / "catalogue.yaml").write_text(text)
    catalogue = load_catalogue(tmp_path)
    assert len(catalogue.problems) == 1
    assert isinstance(resolve_image("mongo", catalogue), Image)


def test_no_folder_is_no_problem(tmp_path: Path) -> None:
    assert load_catalogue(tmp_path / "none").problems == ()
