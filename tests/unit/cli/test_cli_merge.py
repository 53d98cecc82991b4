"""What ``apply`` changes, and what it leaves alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.kubectl.merge import last_applied, merge_key, three_way_patch, with_last_applied
from agent.cli.kubectl.objects import LAST_APPLIED

Json = dict[str, Any]


def service(*ports: Json, **spec: Any) -> Json:
    return {"metadata": {"name": "s"}, "spec": {"ports": list(ports), **spec}}


def pod(*containers: Json, **spec: Any) -> Json:
    return {"spec": {"template": {"spec": {"containers": list(containers), **spec}}}}


@pytest.mark.parametrize(
    ("original", "modified", "current", "patch"),
    [
        ({}, {"spec": {"replicas": 2}}, {"spec": {"replicas": 3}}, {"spec": {"replicas": 2}}),
        ({}, {"spec": {"replicas": 2}}, {"spec": {"replicas": 2, "paused": True}}, {}),
        ({"a": 1}, {}, {"a": 1, "b": 2}, {"a": None}),
        ({"a": 1}, {}, {"b": 2}, {}),
        ({"m": {"a": 1}}, {"m": {}}, {"m": {"a": 1, "b": 1}}, {"m": {"a": None}}),
        ({}, {"m": {"a": 1}}, {}, {"m": {"a": 1}}),
        ({}, {"m": {"a": 1}}, {"m": None}, {"m": {"a": 1}}),
        ({}, {"list": [1, 2]}, {"list": [1]}, {"list": [1, 2]}),
        ({}, {"list": [1]}, {"list": [1]}, {}),
    ],
)
def test_maps_and_plain_lists(original: Json, modified: Json, current: Json, patch: Json) -> None:
    assert three_way_patch(original, modified, current) == patch


def test_what_the_server_filled_in_is_no_change() -> None:
    applied = service({"port": 28017, "nodePort": 30001})
    current = service({"port": 28017, "nodePort": 30001, "protocol": "TCP", "targetPort": 28017}, clusterIP="10.96.0.7")
    assert three_way_patch(applied, applied, current) == {}


def test_items_are_merged_by_their_key() -> None:
    before = pod({"name": "db", "image": "mongo:3.3"}, {"name": "api", "image": "a"})
    after = pod({"name": "db", "image": "mongo:4"}, {"name": "new", "image": "n"})
    current = pod(
        {"name": "db", "image": "mongo:3.3", "pull": "Always"}, {"name": "api", "image": "a"}, {"name": "foreign"}
    )
    assert three_way_patch(before, after, current) == {
        "spec": {
            "template": {
                "spec": {
                    "$setElementOrder/containers": [{"name": "db"}, {"name": "new"}],
                    "containers": [
                        {"name": "db", "image": "mongo:4"},
                        {"name": "new", "image": "n"},
                        {"$patch": "delete", "name": "api"},
                    ],
                }
            }
        }
    }


def test_nested_items() -> None:
    before = pod({"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]})
    after = pod({"name": "c", "env": [{"name": "A", "value": "2"}]})
    (container,) = three_way_patch(before, after, before)["spec"]["template"]["spec"]["containers"]
    assert container == {
        "name": "c",
        "$setElementOrder/env": [{"name": "A"}],
        "env": [{"name": "A", "value": "2"}, {"$patch": "delete", "name": "B"}],
    }


def test_one_number_under_two_protocols_is_replaced_whole() -> None:
    tcp, udp = {"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}
    current = service({**tcp, "targetPort": 53}, {**udp, "targetPort": 53})
    assert three_way_patch(service(tcp, udp), service(tcp, udp), current) == {}
    changed = three_way_patch(service(tcp, udp), service(tcp, {**udp, "targetPort": 5353}), current)
    assert changed == {"spec": {"ports": [tcp, {**udp, "targetPort": 5353}, {"$patch": "replace"}]}}


def test_finalizers_are_a_set() -> None:
    def having(*finalizers: str) -> Json:
        return {"metadata": {"finalizers": list(finalizers)}}

    assert three_way_patch(having("a"), having("b"), having("a", "foreign")) == {
        "metadata": {"finalizers": ["b"], "$deleteFromPrimitiveList/finalizers": ["a"]}
    }


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (["spec", "ports"], "port"),
        (["spec", "template", "spec", "containers"], "name"),
        (["spec", "containers", "ports"], "containerPort"),
        (["subsets", "ports"], None),
        (["ports"], None),
        (["spec", "tolerations"], None),
    ],
)
def test_merge_keys(path: list[str], key: str | None) -> None:
    assert merge_key(path) == key


def test_the_annotation_remembers_what_was_sent_and_not_itself() -> None:
    obj = {"kind": "Service", "metadata": {"name": "s", "annotations": {"a": "<b>", LAST_APPLIED: "old"}}}
    sent = with_last_applied(obj, "default")
    remembered = sent["metadata"]["annotations"][LAST_APPLIED]
    assert remembered == (
        '{"kind":"Service","metadata":{"annotations":{"a":"\\u003cb\\u003e"},"name":"s","namespace":"default"}}\n'
    )
    assert last_applied(sent) == json.loads(remembered)
    assert last_applied({"metadata": {}}) is None


SCALARS = st.integers(0, 2) | st.sampled_from(["x", "y"]) | st.booleans()
KEYS = st.sampled_from(["a", "b", "c"])
ITEMS = st.lists(
    st.fixed_dictionaries({"name": KEYS}, optional={"v": SCALARS}), unique_by=lambda i: str(i["name"]), max_size=3
)
MAPS = st.recursive(
    st.dictionaries(KEYS, SCALARS, max_size=3),
    lambda inner: st.dictionaries(KEYS, SCALARS | inner, max_size=3) | st.fixed_dictionaries({"env": ITEMS}),
    max_leaves=6,
)


def apply_patch(target: Any, patch: Json) -> Any:
    """Strategic merge, the plain way, for lists named ``env`` only."""
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif key.startswith("$setElementOrder/"):
            continue
        elif key == "env" and isinstance(result.get(key), list):
            result[key] = apply_items(result[key], value)
        elif isinstance(value, dict):
            result[key] = apply_patch(result.get(key), value)
        else:
            result[key] = value
    return result


def apply_items(have: list[Json], changes: list[Json]) -> list[Json]:
    merged = {item["name"]: item for item in have}
    for change in changes:
        if change.get("$patch") == "delete":
            merged.pop(change["name"], None)
        else:
            merged[change["name"]] = apply_patch(merged.get(change["name"], {}), change)
    return list(merged.values())


def contains(have: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(have, dict) and all(key in have and contains(have[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        named = {item["name"]: item for item in have}
        return all(contains(named.get(item["name"]), item) for item in wanted)
    return bool(have == wanted)


@given(original=MAPS, modified=MAPS, current=MAPS)
def test_after_the_patch_all_that_is_wanted_is_there_and_nothing_is_left_to_do(
    original: Json, modified: Json, current: Json
) -> None:
    after = apply_patch(current, three_way_patch(original, modified, current))
    assert contains(after, modified)
    assert three_way_patch(modified, modified, after) == {}


@given(original=MAPS, current=MAPS)
def test_fields_that_are_no_more_applied_are_removed_and_foreign_ones_kept(original: Json, current: Json) -> None:
    after = apply_patch(current, three_way_patch(original, {}, current))
    assert after == {key: value for key, value in current.items() if key not in original}
