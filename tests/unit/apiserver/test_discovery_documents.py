"""Discovery, in both forms."""

from typing import Any

import pytest

from agent.apiserver.discovery import content_type, discovery, version

AGGREGATED = (
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
)
BETA = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"


def get(path: str, accept: str = "application/json") -> dict[str, Any]:
    document = discovery(path, accept)
    assert document is not None
    return document


def test_core_versions() -> None:
    assert get("/api")["versions"] == ["v1"]
    assert get("/api/")["kind"] == "APIVersions"


def test_groups() -> None:
    groups = {group["name"]: group for group in get("/apis")["groups"]}
    assert set(groups) == {
        "apps",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "events.k8s.io",
    }
    assert groups["apps"]["preferredVersion"] == {"groupVersion": "apps/v1", "version": "v1"}
    assert get("/apis/apps")["versions"] == [{"groupVersion": "apps/v1", "version": "v1"}]


def test_resources_of_core() -> None:
    document = get("/api/v1")
    assert document["groupVersion"] == "v1"
    resources = {entry["name"]: entry for entry in document["resources"]}
    assert resources["services"] == {
        "name": "services",
        "singularName": "service",
        "namespaced": True,
        "kind": "Service",
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        "shortNames": ["svc"],
        "categories": ["all"],
    }
    assert resources["pods/eviction"]["group"] == "policy"
    assert resources["pods/eviction"]["kind"] == "Eviction"
    assert resources["pods/exec"]["kind"] == "PodExecOptions"
    assert resources["pods/log"]["kind"] == "Pod"
    assert resources["namespaces"]["namespaced"] is False
    assert "deletecollection" not in resources["namespaces"]["verbs"]


def test_scale_belongs_to_another_group() -> None:
    resources = {entry["name"]: entry for entry in get("/apis/apps/v1")["resources"]}
    assert (resources["replicasets/scale"]["group"], resources["replicasets/scale"]["kind"]) == ("autoscaling", "Scale")


@pytest.mark.parametrize("path", ["/", "/api/v2", "/apis/batch", "/apis/apps/v2", "/api/v1/pods", "/healthz"])
def test_other_paths_are_not_discovery(path: str) -> None:
    assert discovery(path, "application/json") is None


@pytest.mark.parametrize(("accept", "wanted"), [(AGGREGATED, "v2"), (BETA, "v2beta1")])
def test_aggregated_discovery(accept: str, wanted: str) -> None:
    document = get("/api", accept)
    assert (document["kind"], document["apiVersion"]) == ("APIGroupDiscoveryList", f"apidiscovery.k8s.io/{wanted}")
    assert content_type("/api", accept) == f"application/json;g=apidiscovery.k8s.io;v={wanted};as=APIGroupDiscoveryList"
    [core] = document["items"]
    pods = next(entry for entry in core["versions"][0]["resources"] if entry["resource"] == "pods")
    assert pods["scope"] == "Namespaced"
    assert pods["shortNames"] == ["po"]
    subresources = {entry["subresource"]: entry["responseKind"] for entry in pods["subresources"]}
    assert subresources["status"] == {"group": "", "version": "v1", "kind": "Pod"}
    assert subresources["eviction"] == {"group": "policy", "version": "v1", "kind": "Eviction"}


def test_aggregated_discovery_has_the_same_groups() -> None:
    names = [item["metadata"]["name"] for item in get("/apis", AGGREGATED)["items"]]
    assert names == [group["name"] for group in get("/apis")["groups"]]
    configmaps = next(
        r for r in get("/api", AGGREGATED)["items"][0]["versions"][0]["resources"] if r["resource"] == "configmaps"
    )
    assert "subresources" not in configmaps


def test_deeper_paths_are_never_aggregated() -> None:
    assert get("/api/v1", AGGREGATED)["kind"] == "APIResourceList"
    assert content_type("/api/v1", AGGREGATED) == "application/json"
    assert content_type("/api", "application/json") == "application/json"


def test_version() -> None:
    assert (version()["major"], version()["minor"]) == ("1", "33")
    assert version()["gitVersion"].startswith("v1.33.")
