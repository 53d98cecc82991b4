"""What each kind of patch makes of an object."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.apiserver.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, merge_patch, patch_object
from agent.apiserver.registry import JSON, Kind, find_kind
from agent.apiserver.status import StatusError


def kind(plural: str, group: str = "") -> Kind:
    found = find_kind(group, "v1", plural)
    assert found is not None
    return found


PODS, SERVICES, REPLICASETS, CONFIGMAPS = (
    kind("pods"),
    kind("services"),
    kind("replicasets", "apps"),
    kind("configmaps"),
)


def pod(*containers: JSON, **spec: Any) -> JSON:
    return {"metadata": {"name": "x"}, "spec": {"containers": list(containers), **spec}}


A, B, C = ({"name": name, "image": f"{name}:1"} for name in "abc")

STRATEGIC: dict[str, tuple[Kind, JSON, JSON, JSON]] = {
    "an item is found by its key and merged": (
        PODS,
        pod(A, B),
        {"spec": {"containers": [{"name": "b", "image": "b:2"}]}},
        pod(A, {"name": "b", "image": "b:2"}),
    ),
    "an unknown key is appended": (PODS, pod(A), {"spec": {"containers": [B]}}, pod(A, B)),
    "an item is deleted by its key": (
        PODS,
        pod(A, B, C),
        {"spec": {"containers": [{"name": "b", "$patch": "delete"}]}},
        pod(A, C),
    ),
    "deleting what is not there is no error": (
        PODS,
        pod(A),
        {"spec": {"containers": [{"name": "z", "$patch": "delete"}]}},
        pod(A),
    ),
    "a list is replaced when it says so": (
        PODS,
        pod(A, B),
        {"spec": {"containers": [{"$patch": "replace"}, C]}},
        pod(C),
    ),
    "lists within items have keys of their own": (
        PODS,
        pod({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}),
        {"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "3"}]}]}},
        pod({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "3"}]}),
    ),
    "a list without a key is one value": (
        PODS,
        pod({"name": "a", "args": ["1", "2"]}, tolerations=[{"key": "k"}]),
        {"spec": {"containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "l"}]}},
        pod({"name": "a", "args": ["3"]}, tolerations=[{"key": "l"}]),
    ),
    "null deletes a field": (PODS, pod(A, nodeName="n"), {"spec": {"nodeName": None}}, pod(A)),
    "null deletes a field of an item": (
        PODS,
        pod({**A, "tty": True}),
        {"spec": {"containers": [{"name": "a", "tty": None}]}},
        pod(A),
    ),
    "nulls do not reach what is new": (
        PODS,
        pod(A),
        {"spec": {"securityContext": {"runAsUser": 1, "runAsGroup": None}}},
        pod(A, securityContext={"runAsUser": 1}),
    ),
    "an object is replaced when it says so": (
        SERVICES,
        {"spec": {"selector": {"a": "1", "b": "2"}}},
        {"spec": {"selector": {"$patch": "replace", "c": "3"}}},
        {"spec": {"selector": {"c": "3"}}},
    ),
    "an object is deleted when it says so": (
        SERVICES,
        {"spec": {"selector": {"a": "1"}, "type": "ClusterIP"}},
        {"spec": {"selector": {"$patch": "delete"}}},
        {"spec": {"type": "ClusterIP"}},
    ),
    "the ports of a Service are called by their port": (
        SERVICES,
        {"spec": {"ports": [{"port": 80, "nodePort": 30080}, {"port": 443}]}},
        {"spec": {"ports": [{"port": 80, "targetPort": 8080}]}},
        {"spec": {"ports": [{"port": 80, "nodePort": 30080, "targetPort": 8080}, {"port": 443}]}},
    ),
    "the pod template of a ReplicaSet is a pod": (
        REPLICASETS,
        {"spec": {"replicas": 2, "template": pod(A, B)}},
        {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "a:2"}]}}}},
        {"spec": {"replicas": 2, "template": pod({"name": "a", "image": "a:2"}, B)}},
    ),
    "finalizers are a set": (
        CONFIGMAPS,
        {"metadata": {"finalizers": ["a/x", "b/y"]}},
        {"metadata": {"finalizers": ["b/y", "c/z"]}},
        {"metadata": {"finalizers": ["a/x", "b/y", "c/z"]}},
    ),
    "values leave a set": (
        CONFIGMAPS,
        {"metadata": {"finalizers": ["a/x", "b/y"]}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/x"]}},
        {"metadata": {"finalizers": ["b/y"]}},
    ),
    "owners are called by their uid": (
        CONFIGMAPS,
        {"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}, {"uid": "2", "name": "b"}]}},
        {"metadata": {"ownerReferences": [{"uid": "1", "$patch": "delete"}]}},
        {"metadata": {"ownerReferences": [{"uid": "2", "name": "b"}]}},
    ),
    "the order is the one asked for": (
        PODS,
        pod(A, B),
        {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [C]}},
        pod(C, B, A),
    ),
    "what the order does not name stays where it was": (
        PODS,
        pod(A, B, C),
        {"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "c"}]}},
        pod(A, B, C),
    ),
    "an order of a set": (
        CONFIGMAPS,
        {"metadata": {"finalizers": ["a/x", "b/y"]}},
        {"metadata": {"$setElementOrder/finalizers": ["b/y", "a/x"]}},
        {"metadata": {"finalizers": ["b/y", "a/x"]}},
    ),
    "a union keeps only what is retained": (
        PODS,
        pod(A, volumes=[{"name": "v", "emptyDir": {}}]),
        {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}},
        pod(A, volumes=[{"name": "v", "hostPath": {"path": "/x"}}]),
    ),
    "what was no list becomes one": (
        SERVICES,
        {"spec": {"ports": "odd"}},
        {"spec": {"ports": [{"port": 1}]}},
        {"spec": {"ports": [{"port": 1}]}},
    ),
}


@pytest.mark.parametrize("name", STRATEGIC)
def test_strategic_merge(name: str) -> None:
    of, obj, patch, expected = STRATEGIC[name]
    before, asked = deepcopy(obj), deepcopy(patch)
    assert patch_object(of, STRATEGIC_PATCH, obj, patch) == expected
    assert (obj, patch) == (before, asked), "arguments are left alone"


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"spec": {"containers": [{"image": "x"}]}}, "an item of containers does not contain .* merge key: name"),
        ({"spec": {"containers": ["x"]}}, "merge key: name"),
        ({"spec": {"$patch": "smash"}}, "unknown patch directive: 'smash'"),
        ({"spec": {"$setElementOrder/containers": "a"}}, "must be a list"),
        ({"spec": {"$deleteFromPrimitiveList/x": 1}}, "must be a list"),
        ({"spec": {"$retainKeys": ["a"], "b": 1}}, "must list every field"),
        ("text", "must be an object"),
    ],
)
def test_strategic_merge_refuses(patch: Any, said: str) -> None:
    with pytest.raises(StatusError, match=said) as refused:
        patch_object(PODS, STRATEGIC_PATCH, pod(A), patch)
    assert refused.value.code == 400


# RFC 7386, appendix A, as far as objects go.
MERGES: list[tuple[JSON, JSON, JSON]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("obj", "patch", "expected"), MERGES)
def test_merge(obj: JSON, patch: JSON, expected: JSON) -> None:
    assert patch_object(PODS, MERGE_PATCH, obj, patch) == expected


names = st.sampled_from("abcd")
objects = st.recursive(
    st.dictionaries(names, st.integers() | st.lists(st.integers(), max_size=2), max_size=3),
    lambda inner: st.dictionaries(names, inner | st.integers(), max_size=3),
    max_leaves=8,
)


def difference(old: JSON, new: JSON) -> JSON:
    """The smallest merge patch from one object to the other."""
    patch: JSON = dict.fromkeys(old.keys() - new.keys())
    for name, value in new.items():
        if name not in old or not isinstance(value, dict) or not isinstance(old[name], dict):
            if old.get(name) != value or name not in old:
                patch[name] = value
        elif value != old[name]:
            patch[name] = difference(old[name], value)
    return patch


@given(objects, objects)
def test_a_merge_patch_leads_from_any_object_to_any_other(old: JSON, new: JSON) -> None:
    patched = merge_patch(old, difference(old, new))
    assert patched == new
    assert merge_patch(patched, difference(old, new)) == new


@given(objects, objects)
def test_without_named_lists_strategic_is_merge(old: JSON, patch: JSON) -> None:
    assert patch_object(CONFIGMAPS, STRATEGIC_PATCH, old, patch) == merge_patch(old, patch)


def test_json_patch() -> None:
    operations = [
        {"op": "test", "path": "/spec/containers/0/name", "value": "a"},
        {"op": "replace", "path": "/spec/containers/0/image", "value": "a:2"},
        {"op": "add", "path": "/metadata/labels", "value": {"x~y/z": "1"}},
        {"op": "remove", "path": "/metadata/labels/x~0y~1z"},
    ]
    patched = patch_object(PODS, JSON_PATCH, pod(A), operations)
    assert patched == {
        "metadata": {"name": "x", "labels": {}},
        "spec": {"containers": [{"name": "a", "image": "a:2"}]},
    }


@pytest.mark.parametrize(
    ("operations", "code", "said"),
    [
        ({"op": "add"}, 400, "must be a list"),
        ([3], 400, "cannot be read"),
        ([{"op": "dance", "path": "/x"}], 400, "cannot be read"),
        ([{"path": "/x"}], 400, "cannot be read"),
        ([{"op": "add", "path": "/x", "value": 1}] * 10_001, 400, "at most 10000"),
        ([{"op": "replace", "path": "", "value": 3}], 400, "leaves no object"),
        ([{"op": "test", "path": "/metadata/name", "value": "y"}], 422, "testing value /metadata/name failed"),
        ([{"op": "remove", "path": "/spec/none"}], 422, "remove operation does not apply: no such path: /spec/none"),
        ([{"op": "add", "path": "/a/b/c", "value": 1}], 422, "add operation does not apply: no such path: /a/b/c"),
        ([{"op": "move", "from": "/no", "path": "/x"}], 422, "move operation does not apply: no such path: /no"),
    ],
)
def test_json_patch_refuses(operations: Any, code: int, said: str) -> None:
    with pytest.raises(StatusError, match=said) as refused:
        patch_object(PODS, JSON_PATCH, pod(A), operations)
    assert refused.value.code == code


def test_a_json_patch_leaves_the_old_object_alone() -> None:
    old = pod(A)
    patch_object(PODS, JSON_PATCH, old, [{"op": "remove", "path": "/spec/containers/0"}])
    assert old == pod(A)
