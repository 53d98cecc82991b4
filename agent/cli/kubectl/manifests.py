"""``-f``: files, folders, standard input; each object with the place it came from, for error messages."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.objects import Obj

SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object and its source: a file's path, or STDIN."""

    obj: Obj
    source: str


def read_manifests(names: Sequence[str], *, recursive: bool = False) -> list[Manifest]:
    """All objects of all ``-f`` arguments, in order; a List stands for its items. Raises KubectlError."""
    return [manifest for name in names for source, text in _texts(name, recursive) for manifest in _parse(source, text)]


def _texts(name: str, recursive: bool) -> Iterator[tuple[str, str]]:
    if name == "-":
        yield "STDIN", sys.stdin.read()
        return
    if name.startswith(("http://", "https://")):
        raise client_error(
            f"cannot read {name}: podwire fetches no manifests from the network; download it and pass the file"
        )
    path = Path(name)
    if not path.exists():
        raise client_error(f'the path "{name}" does not exist')
    for file in _files(path, recursive):
        try:
            yield str(file), file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise client_error(f"cannot read {file}: {error}") from error


def _files(path: Path, recursive: bool) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = path.rglob("*") if recursive else path.iterdir()
    files = sorted(file for file in found if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise client_error(f"error reading {[str(path)]}: recognized file extensions are {list(SUFFIXES)}")
    return files


def _parse(source: str, text: str) -> Iterator[Manifest]:
    from agent.cli.kubectl.yamltext import YamlError, load_documents

    try:
        documents = load_documents(text)
    except YamlError as error:
        raise client_error(f"error parsing {source}: error converting YAML to JSON: yaml: {error}") from error
    for document in documents:
        yield from _objects(document, source)


def _objects(document: Any, source: str) -> Iterator[Manifest]:
    if not isinstance(document, dict):
        raise client_error(f'unable to decode "{source}": expected an object, got {type(document).__name__}')
    for field, label in (("kind", "Kind"), ("apiVersion", "apiVersion")):
        if not isinstance(document.get(field), str) or not document[field]:
            raise client_error(f"unable to decode \"{source}\": Object '{label}' is missing in {_short(document)}")
    if document["kind"].endswith("List") and isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _objects(item, source)
    else:
        yield Manifest(document, source)


def _short(document: Obj) -> str:
    from agent.cli.kubectl.objects import go_json

    text = go_json(document)
    return f"'{text}'" if len(text) <= 200 else f"'{text[:200]}...'"
