"""OpenAPI v3: what kubectl explain, create and apply look for."""

from collections.abc import Iterator
from typing import Any

import pytest

from agent.apiserver.openapi import openapi_v3, schema_name
from agent.apiserver.registry import KINDS
from agent.apiserver.shapes import Shape, shape_of


def get(path: str) -> dict[str, Any]:
    document = openapi_v3(path)
    assert document is not None
    return document


def test_the_index_lists_every_group_and_version_with_a_hash() -> None:
    paths = get("/openapi/v3")["paths"]
    assert {kind.root.strip("/") for kind in KINDS} <= paths.keys()
    assert paths["api/v1"]["serverRelativeURL"].startswith("/openapi/v3/api/v1?hash=")
    assert len({entry["serverRelativeURL"].partition("=")[2] for entry in paths.values()}) == len(paths)


@pytest.mark.parametrize("path", ["/openapi/v2", "/openapi/v3/apis/batch/v1", "/openapi/v3/api", "/api/v1"])
def test_other_paths_have_no_document(path: str) -> None:
    assert openapi_v3(path) is None


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "$ref":
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.parametrize("root", sorted({kind.root for kind in KINDS}))
def test_every_reference_leads_somewhere(root: str) -> None:
    document = get(f"/openapi/v3{root}")
    schemas = document["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in references(document)} <= schemas.keys()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.resource)
def test_patch_of_every_kind_takes_field_validation_and_dry_run(kind: Any) -> None:
    scope = "/namespaces/{namespace}" if kind.namespaced else ""
    item = get(f"/openapi/v3{kind.root}")["paths"][f"{kind.root}{scope}/{kind.plural}/{{name}}"]
    patch = item["patch"]
    assert patch["x-kubernetes-action"] == "patch"
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    assert patch["x-kubernetes-group-version-kind"] == gvk
    assert {"fieldValidation", "dryRun", "fieldManager"} <= {parameter["name"] for parameter in patch["parameters"]}
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]
    assert item["put"]["x-kubernetes-action"] == "put"


def test_operation_ids_are_unique() -> None:
    for root in {kind.root for kind in KINDS}:
        operations = [
            operation["operationId"]
            for item in get(f"/openapi/v3{root}")["paths"].values()
            for operation in item.values()
            if isinstance(operation, dict)
        ]
        assert len(operations) == len(set(operations))


def test_subresources_name_their_own_kind() -> None:
    core = get("/openapi/v3/api/v1")["paths"]
    eviction = core["/api/v1/namespaces/{namespace}/pods/{name}/eviction"]["post"]
    assert eviction["x-kubernetes-group-version-kind"] == {"group": "policy", "version": "v1", "kind": "Eviction"}
    scale = get("/openapi/v3/apis/apps/v1")["paths"]["/apis/apps/v1/namespaces/{namespace}/replicasets/{name}/scale"]
    assert scale["put"]["x-kubernetes-group-version-kind"]["kind"] == "Scale"


def test_schemas_say_how_lists_are_merged() -> None:
    schemas = get("/openapi/v3/api/v1")["components"]["schemas"]
    ports = schemas["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"]
    assert ports["x-kubernetes-patch-strategy"] == "merge"
    assert ports["x-kubernetes-patch-merge-key"] == "port"
    finalizers = schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]["finalizers"]
    assert finalizers["x-kubernetes-patch-strategy"] == "merge"
    assert "x-kubernetes-patch-merge-key" not in finalizers


def published_merges(name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """What a schema says about merging, field by field; fields below which nothing is merged are left out."""
    found: dict[str, Any] = {}
    for field, schema in schemas[name].get("properties", {}).items():
        key, strategy = schema.get("x-kubernetes-patch-merge-key", ""), schema.get("x-kubernetes-patch-strategy", "")
        below: dict[str, Any] = {}
        if field == "ephemeral":  # the metadata of volume claims, which are not served here
            continue
        if strategy or schema.get("type") != "array":
            for reference in references(schema):
                below = published_merges(reference.removeprefix("#/components/schemas/"), schemas)
        if strategy or below:
            found[field] = ("merge" in strategy and (key or "set"), below)
    return found


def merged_by_the_server(shape: Shape) -> dict[str, Any]:
    return {
        field: (below.key or (below.set and "set"), merged_by_the_server(below))
        for field, below in shape.fields.items()
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.resource)
def test_clients_are_told_to_merge_as_the_server_does(kind: Any) -> None:
    schemas = get(f"/openapi/v3{kind.root}")["components"]["schemas"]
    assert published_merges(schema_name(kind.model), schemas) == merged_by_the_server(shape_of(kind))


def test_schemas_carry_types_descriptions_and_kinds() -> None:
    schemas = get("/openapi/v3/api/v1")["components"]["schemas"]
    service = schemas["io.k8s.api.core.v1.Service"]
    assert service["x-kubernetes-group-version-kind"] == [{"group": "", "version": "v1", "kind": "Service"}]
    spec = schemas["io.k8s.api.core.v1.ServiceSpec"]["properties"]
    assert spec["type"]["type"] == "string"
    assert spec["type"]["description"].startswith("type determines how the Service is exposed.")
    assert spec["selector"]["additionalProperties"] == {"type": "string"}
    port = schemas["io.k8s.api.core.v1.ServicePort"]
    assert port["required"] == ["port"]
    reference = "#/components/schemas/io.k8s.apimachinery.pkg.util.intstr.IntOrString"
    assert port["properties"]["targetPort"]["allOf"] == [{"$ref": reference}]


def test_reviews_can_only_be_created() -> None:
    paths = get("/openapi/v3/apis/authorization.k8s.io/v1")["paths"]
    path = "/apis/authorization.k8s.io/v1/"
    assert paths.keys() == {f"{path}selfsubjectaccessreviews", f"{path}selfsubjectrulesreviews"}
    assert [item.keys() for item in paths.values()] == [{"post", "parameters"}] * 2
