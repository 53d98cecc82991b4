"""What a command is about: ``pods``, ``pod a b``, ``svc/x``, ``rs,svc``, ``all``, or the objects of files.

``parse_words`` is pure, given a way to look words up; ``Target`` is one object, or a collection when it has no name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.cli.kubectl.discovery import Resource
from agent.cli.kubectl.errors import ApiError, client_error
from agent.cli.kubectl.manifests import Manifest, read_manifests
from agent.cli.kubectl.objects import Obj, meta, name_of

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster, Params

Lookup = Callable[[str], tuple[Resource, ...]]  # a word to its resource, or to those of a category


@dataclass(frozen=True, slots=True)
class Target:
    """An object (or all of a kind, where ``name`` is empty) in a namespace (``None``: all, or not namespaced)."""

    resource: Resource
    namespace: str | None
    name: str = ""
    source: str = ""  # the file it came from

    @property
    def path(self) -> str:
        return self.resource.path(self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.resource.qualified_kind}/{self.name}"


def parse_words(words: Sequence[str], lookup: Lookup) -> list[tuple[Resource, str]]:
    """``TYPE[,TYPE] [NAME...]`` or ``TYPE/NAME...``; an empty name means all of the type. Raises KubectlError."""
    if any("/" in word for word in words):
        return [pair for word in words for pair in _slashed(word, lookup)]
    if not words:
        return []
    types = [resource for word in words[0].split(",") if word for resource in lookup(word)]
    names = words[1:]
    if not names:
        return [(resource, "") for resource in types]
    return [(resource, name) for resource in types for name in names]


def _slashed(word: str, lookup: Lookup) -> list[tuple[Resource, str]]:
    kind, slash, name = word.partition("/")
    if not slash:
        raise client_error(
            "there is no need to specify a resource type as a separate argument when passing arguments in "
            "resource/name form (e.g. 'podwire get resource/<resource_name>' instead of "
            "'podwire get resource resource/<resource_name>'"
        )
    if not kind or not name or "/" in name:
        raise client_error("arguments in resource/name form must have a single resource and name")
    return [(resource, name) for resource in lookup(kind)]


def words_to_targets(
    cluster: Cluster, words: Sequence[str], *, all_namespaces: bool = False, selecting: bool = False
) -> list[Target]:
    """Targets of words on the command line. ``selecting``: a selector was given, so names may not be."""

    def lookup(word: str) -> tuple[Resource, ...]:
        return cluster.catalog().in_category(word) or (cluster.find_resource(word),)

    pairs = parse_words(words, lookup)
    if selecting and any(name for _, name in pairs):
        raise client_error("name cannot be provided when a selector is specified")
    if all_namespaces and any(name and resource.namespaced for resource, name in pairs):
        raise client_error("a resource cannot be retrieved by name across all namespaces")
    namespace = None if all_namespaces else cluster.namespace
    return [Target(resource, namespace if resource.namespaced else None, name) for resource, name in pairs]


def manifest_target(cluster: Cluster, manifest: Manifest) -> Target:
    """Where a manifest's object lives. Raises KubectlError for an unknown kind or a contradicting namespace."""
    obj = manifest.obj
    resource = cluster.find_kind(obj["apiVersion"], obj["kind"])
    if resource is None:
        raise client_error(
            f'resource mapping not found for name: "{name_of(obj)}" namespace: "{meta(obj).get("namespace", "")}" from '
            f'"{manifest.source}": no matches for kind "{obj["kind"]}" in version "{obj["apiVersion"]}"'
        )
    if not resource.namespaced:
        return Target(resource, None, name_of(obj), manifest.source)
    own = meta(obj).get("namespace")
    if own and cluster.namespace_given and own != cluster.namespace:
        raise client_error(
            f'the namespace from the provided object "{own}" does not match the namespace "{cluster.namespace}". '
            f"You must pass '--namespace={own}' to perform this operation."
        )
    return Target(resource, own or cluster.namespace, name_of(obj), manifest.source)


def targets_of(
    cluster: Cluster,
    words: Sequence[str],
    files: Sequence[str],
    *,
    recursive: bool = False,
    all_namespaces: bool = False,
    selecting: bool = False,
) -> list[Target]:
    """From words or from files, not both."""
    if files and words:
        raise client_error(
            "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well"
        )
    if files:
        return [manifest_target(cluster, manifest) for manifest in read_manifests(files, recursive=recursive)]
    return words_to_targets(cluster, words, all_namespaces=all_namespaces, selecting=selecting)


def fetch(cluster: Cluster, target: Target, *, params: Params | None = None, accept: str = "application/json") -> Obj:
    """The target's object or list. A failure says what matters: that the namespace is missing, or what was asked."""
    try:
        return cluster.get(target.path, params=params, accept=accept)
    except ApiError as error:
        if not target.name and error.reason in ("BadRequest", "NotFound"):
            raise error.while_doing(_listing(target, params or {})) from error
        if error.not_found and target.namespace not in (None, "default"):
            cluster.get(f"/api/v1/namespaces/{target.namespace}")  # raises where it is the namespace that is missing
        raise


def _listing(target: Target, params: Params) -> str:
    what = f"/{target.resource.version}, Resource={target.resource.name}"
    if target.resource.group:
        what = f"{target.resource.group}{what}"
    labels, fields = params.get("labelSelector", ""), params.get("fieldSelector", "")
    if not labels and not fields:
        return f'Unable to list "{what}"'
    return f'Unable to find "{what}" that match label selector "{labels}", field selector "{fields}"'


def one_target(cluster: Cluster, word: str, *, default: str) -> Target:
    """``NAME`` of the default type, or ``TYPE/NAME``."""
    pairs = [word] if "/" in word else [default, word]
    return words_to_targets(cluster, pairs)[0]
