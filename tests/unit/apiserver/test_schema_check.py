"""Strict field checking against the models."""

from typing import Any

import pytest

from agent.apiserver.models import PATCH_MERGES, describe, description_of, fields_of
from agent.apiserver.registry import KINDS, find_kind
from agent.apiserver.schema import FieldReport, check_fields


def check(plural: str, obj: dict[str, Any], group: str = "") -> FieldReport:
    kind = find_kind(group, "v1", plural)
    assert kind is not None
    return check_fields(kind, obj)


GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("", "services", {"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081}]}}),
    ("", "services", {"spec": None, "status": {}}),
    ("", "pods", {"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 1, "memory": "64Mi"}}}]}}),
    ("", "pods", {"metadata": {"creationTimestamp": "2024-01-01T00:00:00Z", "labels": {"a": None}}}),
    ("", "pods", {"metadata": {"managedFields": [{"fieldsV1": {"f:metadata": {".": {}}}}]}}),
    ("", "secrets", {"data": {"a": "YWI="}}),
    ("coordination.k8s.io", "leases", {"spec": {"renewTime": "2024-01-01T00:00:00.123456Z"}}),
]


@pytest.mark.parametrize(("group", "plural", "obj"), GOOD)
def test_good_objects_pass(group: str, plural: str, obj: dict[str, Any]) -> None:
    assert check(plural, obj, group) == FieldReport()


@pytest.mark.parametrize(
    ("obj", "unknown"),
    [
        ({"spec": {"portz": []}}, 'unknown field "spec.portz"'),
        ({"spec": {"ports": [{}, {"prt": 1}]}}, 'unknown field "spec.ports[1].prt"'),
        ({"metadata": {"lables": {}}}, 'unknown field "metadata.lables"'),
        ({"extra": 1}, 'unknown field "extra"'),
    ],
)
def test_unknown_fields_are_named(obj: dict[str, Any], unknown: str) -> None:
    assert check("services", obj) == FieldReport(unknown=(unknown,))


INTEGER = "into a field of type integer"
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("services", {"spec": []}, "spec: cannot unmarshal array into a field of type object"),
    ("services", {"spec": {"ports": {}}}, "spec.ports: cannot unmarshal object into a field of type array"),
    ("services", {"spec": {"ports": [None]}}, "spec.ports[0]: cannot unmarshal null into a field of type object"),
    ("services", {"spec": {"ports": [{"port": "80"}]}}, f"spec.ports[0].port: cannot unmarshal string {INTEGER}"),
    ("services", {"spec": {"ports": [{"port": 1.5}]}}, f"spec.ports[0].port: cannot unmarshal number 1.5 {INTEGER}"),
    ("services", {"spec": {"ports": [{"port": True}]}}, f"spec.ports[0].port: cannot unmarshal bool {INTEGER}"),
    (
        "services",
        {"spec": {"ports": [{"targetPort": []}]}},
        "spec.ports[0].targetPort: cannot unmarshal array into a field of type integer or string",
    ),
    ("services", {"spec": {"type": 1}}, "spec.type: cannot unmarshal number 1 into a field of type string"),
    (
        "services",
        {"spec": {"selector": {"a": 1}}},
        "spec.selector[a]: cannot unmarshal number 1 into a field of type string",
    ),
    (
        "pods",
        {"spec": {"hostNetwork": "yes"}},
        "spec.hostNetwork: cannot unmarshal string into a field of type boolean",
    ),
    (
        "pods",
        {"metadata": {"creationTimestamp": "today"}},
        'metadata.creationTimestamp: cannot parse "today" as an RFC 3339 time such as 2006-01-02T15:04:05Z',
    ),
    (
        "pods",
        {"metadata": {"creationTimestamp": 5}},
        "metadata.creationTimestamp: cannot unmarshal number 5 into a field of type time",
    ),
    (
        "pods",
        {"spec": {"overhead": {"cpu": "a lot"}}},
        "spec.overhead[cpu]: quantities must match the regular expression "
        "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    ),
    (
        "pods",
        {"spec": {"overhead": {"cpu": True}}},
        "spec.overhead[cpu]: cannot unmarshal bool into a field of type quantity",
    ),
    ("secrets", {"data": {"a": "?"}}, "data[a]: illegal base64 data: Only base64 data is allowed"),
    ("configmaps", {"data": "x"}, "data: cannot unmarshal string into a field of type object"),
]


@pytest.mark.parametrize(("plural", "obj", "error"), WRONG)
def test_wrong_types_are_refused_with_the_path(plural: str, obj: dict[str, Any], error: str) -> None:
    assert check(plural, obj) == FieldReport(errors=(error,))


def test_a_value_that_is_no_text_is_reported_once() -> None:
    report = check("secrets", {"data": {"a": 1}})
    assert report == FieldReport(errors=("data[a]: cannot unmarshal number 1 into a field of type string",))


def test_the_models_of_all_kinds_can_be_read() -> None:
    for kind in KINDS:
        assert {"apiVersion", "kind", "metadata"} <= fields_of(kind.model).keys()
        assert description_of(kind.model)


def test_descriptions_come_from_the_docstrings() -> None:
    services, pods = find_kind("", "v1", "services"), find_kind("", "v1", "pods")
    assert services is not None
    assert pods is not None
    spec = fields_of(services.model)["spec"].type.model
    assert spec is not None
    assert describe(spec, "type").startswith("type determines how the Service is exposed.")
    assert fields_of(spec)["selector"].type.shape == "map"


def test_a_field_whose_name_is_a_python_keyword_keeps_its_json_name() -> None:
    from lightkube.models import meta_v1

    assert "continue" in fields_of(meta_v1.ListMeta)


def test_merge_keys_name_fields_that_exist() -> None:
    from lightkube.models import apps_v1, core_v1, meta_v1

    for (model_name, field), merge in PATCH_MERGES.items():
        model = next(found for home in (core_v1, meta_v1, apps_v1) if (found := getattr(home, model_name, None)))
        kind = fields_of(model)[field].type
        assert kind.shape == "list"
        assert kind.item is not None
        if merge.key:
            assert kind.item.model is not None
            assert merge.key in fields_of(kind.item.model)
