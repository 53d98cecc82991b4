"""What becomes of an object whose owners go."""

from __future__ import annotations

import pytest

from agent.controllers.discovery import Resource
from agent.controllers.garbage import FOREGROUND, ORPHAN, Fate, Graph, Node, OwnerState, resolve_fate
from agent.controllers.objects import Meta, OwnerReference
from tests.harness.controller_objects import NOW

PODS = Resource("/api/v1", "pods", "Pod", True, frozenset({"list"}))


@pytest.mark.parametrize(
    ("owners", "finalizers", "dependents", "fate"),
    [
        ({}, [], False, Fate("keep")),
        ({"a": "there"}, [], False, Fate("keep")),
        ({"a": "there", "b": "gone"}, [], False, Fate("unlink", frozenset({"b"}))),
        ({"a": "there", "b": "waiting", "c": "gone"}, [], True, Fate("unlink", frozenset({"b", "c"}))),
        ({"a": "gone"}, [], False, Fate("delete")),
        ({"a": "gone", "b": "gone"}, [], True, Fate("delete")),
        ({"a": "gone"}, [ORPHAN], False, Fate("delete", propagation="Orphan")),
        ({"a": "gone"}, [FOREGROUND], False, Fate("delete", propagation="Foreground")),
        ({"a": "waiting"}, [], True, Fate("delete", propagation="Foreground")),
        ({"a": "waiting"}, [], False, Fate("delete")),
        ({"a": "waiting", "b": "gone"}, [], True, Fate("delete", propagation="Foreground")),
    ],
)
def test_fates(owners: dict[str, OwnerState], finalizers: list[str], dependents: bool, fate: Fate) -> None:
    assert resolve_fate(Meta(finalizers=finalizers), owners, has_dependents=dependents) == fate


def thing(name: str, *owners: str, blocks: bool = False, finalizers: tuple[str, ...] = (), going: bool = False) -> Node:
    references = [OwnerReference(uid=owner, block_owner_deletion=blocks) for owner in owners]
    meta = Meta(
        name=name,
        namespace="default",
        uid=name,
        owner_references=references,
        finalizers=list(finalizers),
        deletion_timestamp=NOW if going else None,
    )
    return Node(PODS, meta)


def names(found: list[Node]) -> set[str]:
    return {node.meta.name for node in found}


def test_the_graph_follows_changes() -> None:
    graph = Graph()
    graph.put(thing("pod", "rs"))
    graph.put(thing("other", "rs", blocks=True))
    assert names(graph.dependents("rs")) == {"pod", "other"}, "dependents may be seen before their owner"
    assert names(graph.blocking("rs")) == {"other"}
    graph.put(thing("pod", "another"))
    assert names(graph.dependents("rs")) == {"other"}
    graph.remove("other")
    assert graph.dependents("rs") == []
    assert names(graph.dependents("another")) == {"pod"}
    graph.remove("never seen")


def test_who_waits_for_the_collector() -> None:
    assert thing("a", finalizers=(FOREGROUND,), going=True).leaving == FOREGROUND
    assert thing("a", finalizers=(FOREGROUND, ORPHAN), going=True).leaving == ORPHAN
    assert thing("a", finalizers=("mine/own",), going=True).leaving is None
    assert thing("a", finalizers=(FOREGROUND,)).leaving is None


def test_paths() -> None:
    assert thing("a").path == "/api/v1/namespaces/default/pods/a"
    node = Node(Resource("/apis/x/v1", "things", "Thing", False, frozenset()), Meta(name="a"))
    assert (node.path, node.resource.api_version) == ("/apis/x/v1/things/a", "x/v1")
    assert PODS.api_version == "v1"
    assert PODS.path("default") == "/api/v1/namespaces/default/pods"
