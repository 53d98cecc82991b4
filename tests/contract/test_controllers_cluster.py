"""All controllers against a real API server, as a user and a kubelet meet them. Pods do not run, they only say so.

One server and one set of controllers for all tests of this file; each test has a namespace or names of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agent.controllers import lifecycle
from agent.controllers.replicasets import DELETION_COST
from agent.kube import rest
from agent.telemetry import ENDPOINTS_SAW, REQUEST_ACCEPTED, SLICE_WRITTEN, read_timeline
from tests.harness.control_plane import (
    NODE_IP,
    POD_SPEC,
    Cluster,
    Json,
    api_server,
    eventually,
    pod_path,
    rs_path,
    running_controllers,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster_(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lifecycle, "GRACE", 3600.0)  # no kubelet renews a Lease here
        async with api_server(folder) as made, running_controllers(made):
            await made.make_node("n1")
            yield made


@pytest.fixture
def cluster(cluster_: Cluster) -> Cluster:
    return cluster_


def names(found: list[Json]) -> set[str]:
    return {each["metadata"]["name"] for each in found}


async def exactly(cluster: Cluster, app: str, count: int) -> list[Json]:
    """The pods of an app, once there are exactly so many that are not going and all of them have a node."""

    async def look() -> list[Json]:
        found = [p for p in await cluster.pods(app) if not p["metadata"].get("deletionTimestamp")]
        assert len(found) == count, f"{len(found)} pods, wanted {count}"
        assert all(p["spec"].get("nodeName") for p in found), "not all are scheduled"
        return found or [{}]

    return [each for each in await eventually(look) if each]


async def serving(cluster: Cluster, app: str, count: int, *, third: int) -> list[Json]:
    """``count`` ready pods of a ReplicaSet and a Service of the same name."""
    await cluster.make_replicaset(app, count)
    await cluster.make_service(app, selector={"app": app})
    pods = await exactly(cluster, app, count)
    for number, pod in enumerate(pods):
        await cluster.run_pod(pod, f"10.244.{third}.{number + 1}")
    return pods


async def addresses(cluster: Cluster, service: str) -> dict[str, bool]:
    """Addresses of a Service's slices, and whether they are ready."""
    return {
        endpoint["addresses"][0]: endpoint["conditions"]["ready"]
        for found in await cluster.slices(service)
        for endpoint in found["endpoints"] or []
    }


# The base.


async def test_the_base_services_are_there_when_controllers_are_ready(cluster: Cluster) -> None:
    kubernetes = await cluster.get("/api/v1/namespaces/default/services/kubernetes")
    dns = await cluster.get("/api/v1/namespaces/kube-system/services/kube-dns")
    assert kubernetes
    assert dns
    assert kubernetes["spec"]["clusterIP"] == "10.96.0.1"
    assert dns["spec"]["clusterIP"] == "10.96.0.10"
    (found,) = await cluster.slices("kube-dns", "kube-system")
    assert found["endpoints"][0]["addresses"] == [NODE_IP]
    (found,) = await cluster.slices("kubernetes")
    assert [port["port"] for port in found["ports"]] == [cluster.config.api_port]
    endpoints = await cluster.get("/api/v1/namespaces/default/endpoints/kubernetes")
    assert endpoints
    assert endpoints["subsets"][0]["addresses"][0]["ip"] == NODE_IP


async def test_base_objects_are_repaired(cluster: Cluster) -> None:
    service = "/api/v1/namespaces/kube-system/services/kube-dns"
    found = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns"
    await cluster.patch(found, endpoints=[])
    await eventually(lambda: addresses_in(cluster, found))
    await cluster.delete(service)

    async def back() -> bool:
        again = await cluster.get(service)
        return again is not None and again["spec"]["clusterIP"] == "10.96.0.10" and await addresses_in(cluster, found)

    await eventually(back)
    await cluster.patch(service, spec={"selector": {"k8s-app": "mine"}})

    async def without_selector() -> bool:
        again = await cluster.get(service)
        return again is not None and not again["spec"].get("selector")

    await eventually(without_selector)


async def addresses_in(cluster: Cluster, path: str) -> bool:
    found = await cluster.get(path)
    return found is not None and [e["addresses"] for e in found.get("endpoints") or []] == [[NODE_IP]]


async def test_every_namespace_is_furnished(cluster: Cluster) -> None:
    await cluster.create("Namespace", "furnished")
    root = "/api/v1/namespaces/furnished/configmaps/kube-root-ca.crt"
    account = "/api/v1/namespaces/furnished/serviceaccounts/default"
    certificate = await eventually(lambda: cluster.get(root))
    assert "BEGIN CERTIFICATE" in certificate["data"]["ca.crt"]
    first = await eventually(lambda: cluster.get(account))
    await cluster.delete(account)

    async def another() -> bool:
        found = await cluster.get(account)
        return found is not None and found["metadata"]["uid"] != first["metadata"]["uid"]

    await eventually(another)


# ReplicaSets.


async def test_a_replicaset_has_exactly_its_replicas(cluster: Cluster) -> None:
    await cluster.make_replicaset("exact", 3)
    pods = await exactly(cluster, "exact", 3)
    assert all(pod["metadata"]["name"].startswith("exact-") for pod in pods)
    owner = pods[0]["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["controller"], owner["blockOwnerDeletion"]) == ("ReplicaSet", True, True)
    for number, pod in enumerate(pods):
        await cluster.run_pod(pod, f"10.244.1.{number + 1}")

    async def reported() -> bool:
        found = await cluster.get(rs_path("exact"))
        assert found
        status = found["status"]
        counts = [status.get(n, 0) for n in ("replicas", "readyReplicas", "availableReplicas", "fullyLabeledReplicas")]
        return counts == [3, 3, 3, 3] and status["observedGeneration"] == found["metadata"]["generation"]

    await eventually(reported)
    await cluster.patch(rs_path("exact"), spec={"replicas": 20})
    await exactly(cluster, "exact", 20)
    await cluster.patch(rs_path("exact"), spec={"replicas": 1})
    (left,) = await exactly(cluster, "exact", 1)
    assert left["metadata"]["name"] in names(pods), "ready pods outlive those that are not"


async def test_events_tell_what_a_replicaset_did(cluster: Cluster) -> None:
    await cluster.make_replicaset("eventful", 1)
    (pod,) = await exactly(cluster, "eventful", 1)
    name = pod["metadata"]["name"]

    async def told() -> set[tuple[str, str, str]]:
        found = await cluster.items("/api/v1/namespaces/default/events")
        said = {(e["reason"], e["message"], e["source"]["component"]) for e in found}
        wanted = {
            ("SuccessfulCreate", f"Created pod: {name}", "replicaset-controller"),
            ("Scheduled", f"Successfully assigned default/{name} to n1", "default-scheduler"),
        }
        return wanted if wanted <= said else set()

    await eventually(told)


async def test_deleted_and_failed_pods_are_replaced(cluster: Cluster) -> None:
    await cluster.make_replicaset("healed", 2)
    first, second = await exactly(cluster, "healed", 2)
    await cluster.delete(pod_path(first))
    replaced = await exactly(cluster, "healed", 2)
    assert first["metadata"]["name"] not in names(replaced)
    await cluster.end_pod(first)
    await rest.patch(cluster.client, f"{pod_path(second)}/status", {"status": {"phase": "Failed"}})

    async def three() -> bool:
        found = await cluster.pods("healed")
        active = [p for p in found if p["status"].get("phase") != "Failed"]
        return len(active) == 2 and second["metadata"]["name"] in names(found)

    await eventually(three)


async def test_orphans_are_adopted_and_the_relabelled_let_go(cluster: Cluster) -> None:
    labels = {"app": "adopting"}
    await cluster.create("Pod", "foundling", meta={"labels": labels}, spec=POD_SPEC)
    await cluster.make_replicaset("adopting", 2)
    pods = await exactly(cluster, "adopting", 2)
    assert "foundling" in names(pods)

    async def adopted() -> bool:
        found = await cluster.get("/api/v1/namespaces/default/pods/foundling")
        owners = (found or {})["metadata"].get("ownerReferences") or []
        return [(o["name"], o["controller"]) for o in owners] == [("adopting", True)]

    await eventually(adopted)
    await cluster.patch("/api/v1/namespaces/default/pods/foundling", metadata={"labels": {"app": "free"}})
    await exactly(cluster, "adopting", 2)

    async def free() -> bool:
        found = await cluster.get("/api/v1/namespaces/default/pods/foundling")
        assert found, "it must not be deleted"
        return not found["metadata"].get("ownerReferences")

    await eventually(free)


async def test_the_cheapest_pod_goes_first(cluster: Cluster) -> None:
    await cluster.make_replicaset("costs", 3)
    pods = await exactly(cluster, "costs", 3)
    for number, pod in enumerate(pods):
        await cluster.run_pod(pod, f"10.244.2.{number + 1}")
        await cluster.patch(pod_path(pod), metadata={"annotations": {DELETION_COST: str(100 - number)}})
    await cluster.patch(rs_path("costs"), spec={"replicas": 2})
    left = await exactly(cluster, "costs", 2)
    assert names(left) == names(pods[:2])


async def test_pods_that_cannot_be_made_are_a_condition_and_an_event(cluster: Cluster) -> None:
    template = {"metadata": {"labels": {"app": "refused"}, "finalizers": ["not a finalizer"]}, "spec": POD_SPEC}
    await cluster.make_replicaset("refused", 2, template=template)

    async def failing() -> bool:
        found = await cluster.get(rs_path("refused"))
        conditions = (found or {}).get("status", {}).get("conditions") or []
        return [(c["type"], c["reason"]) for c in conditions] == [("ReplicaFailure", "FailedCreate")]

    await eventually(failing)


async def test_min_ready_seconds_delay_available(cluster: Cluster) -> None:
    await cluster.make_replicaset("patient", 1, minReadySeconds=3600)
    (pod,) = await exactly(cluster, "patient", 1)
    now = pod["metadata"]["creationTimestamp"]
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}
    await rest.patch_listed(cluster.client, f"{pod_path(pod)}/status", {"status": status})

    async def ready() -> bool:
        found = await cluster.get(rs_path("patient"))
        return bool(found and found["status"].get("readyReplicas") == 1)

    await eventually(ready)
    found = await cluster.get(rs_path("patient"))
    assert found
    assert found["status"].get("availableReplicas", 0) == 0


# Garbage.


async def test_background_deletion_takes_the_pods_along(cluster: Cluster) -> None:
    await cluster.make_replicaset("doomed", 2)
    pods = await exactly(cluster, "doomed", 2)
    await cluster.delete(rs_path("doomed"), propagation="Background")

    async def marked() -> bool:
        return all(p["metadata"].get("deletionTimestamp") for p in await cluster.pods("doomed"))

    await eventually(marked)
    for pod in pods:
        await cluster.end_pod(pod)
    assert await cluster.pods("doomed") == []


async def test_orphaned_pods_stay_and_forget(cluster: Cluster) -> None:
    await cluster.make_replicaset("parent", 2)
    await exactly(cluster, "parent", 2)
    await cluster.delete(rs_path("parent"), propagation="Orphan")

    async def gone() -> bool:
        return await cluster.get(rs_path("parent")) is None

    await eventually(gone)
    left = await exactly(cluster, "parent", 2)
    assert [p["metadata"].get("ownerReferences") or [] for p in left] == [[], []]


async def test_foreground_deletion_waits_for_the_pods(cluster: Cluster) -> None:
    await cluster.make_replicaset("waiting", 1)
    (pod,) = await exactly(cluster, "waiting", 1)
    await cluster.delete(rs_path("waiting"), propagation="Foreground")

    async def going() -> bool:
        return all(p["metadata"].get("deletionTimestamp") for p in await cluster.pods("waiting"))

    await eventually(going)
    owner = await cluster.get(rs_path("waiting"))
    assert owner
    assert owner["metadata"]["finalizers"] == ["foregroundDeletion"]
    await cluster.end_pod(pod)

    async def gone() -> bool:
        return await cluster.get(rs_path("waiting")) is None

    await eventually(gone)


async def test_one_owner_that_stays_is_enough(cluster: Cluster) -> None:
    owners = [await cluster.create("ConfigMap", name) for name in ("stays", "goes")]
    references = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": o["metadata"]["name"], "uid": o["metadata"]["uid"]}
        for o in owners
    ]
    await cluster.create("ConfigMap", "shared", meta={"ownerReferences": references})
    await cluster.create("ConfigMap", "single", meta={"ownerReferences": references[1:]})
    gone = {**references[1], "name": "never-was", "uid": "00000000-0000-0000-0000-000000000000"}
    await cluster.create("ConfigMap", "of-nobody", meta={"ownerReferences": [gone]})
    path = "/api/v1/namespaces/default/configmaps"
    await cluster.delete(f"{path}/goes")

    async def settled() -> bool:
        left = names(await cluster.items(path))
        shared = await cluster.get(f"{path}/shared")
        assert shared, "it still has an owner"
        return not left & {"single", "of-nobody"} and names_of_owners(shared) == ["stays"]

    await eventually(settled)


def names_of_owners(obj: Json) -> list[str]:
    return [owner["name"] for owner in obj["metadata"].get("ownerReferences") or []]


# Endpoints.


async def test_ready_pods_become_endpoints(cluster: Cluster) -> None:
    pods = await serving(cluster, "shop", 3, third=10)
    wanted = {f"10.244.10.{number}": True for number in (1, 2, 3)}

    async def all_ready() -> bool:
        return await addresses(cluster, "shop") == wanted

    await eventually(all_ready)
    (found,) = await cluster.slices("shop")
    meta = found["metadata"]
    assert meta["labels"]["endpointslice.kubernetes.io/managed-by"] == "endpointslice-controller.k8s.io"
    assert meta["name"].startswith("shop-")
    assert names_of_owners(found) == ["shop"]
    assert found["ports"] == [{"name": "", "port": 8080, "protocol": "TCP"}]
    first = next(e for e in found["endpoints"] if e["addresses"] == ["10.244.10.1"])
    assert (first["nodeName"], first["targetRef"]["name"]) == ("n1", pods[0]["metadata"]["name"])

    async def endpoints() -> list[str]:
        found = await cluster.get("/api/v1/namespaces/default/endpoints/shop")
        return [a["ip"] for s in (found or {}).get("subsets") or [] for a in s.get("addresses") or []]

    async def old_form() -> bool:
        return await endpoints() == sorted(wanted)

    await eventually(old_form)

    await cluster.run_pod(pods[0], "10.244.10.1", ready=False)

    async def one_less() -> bool:
        return await addresses(cluster, "shop") == {**wanted, "10.244.10.1": False}

    await eventually(one_less)
    await cluster.delete(pod_path(pods[1]))

    async def terminating() -> Any:
        everyone = (await cluster.slices("shop"))[0]["endpoints"]
        return [e for e in everyone if e["conditions"] == {"ready": False, "serving": True, "terminating": True}]

    (going,) = await eventually(terminating)
    assert going["addresses"] == ["10.244.10.2"]
    assert len(await cluster.slices("shop")) == 1, "still the one slice"
    marks = [mark for mark in read_timeline(cluster.config.paths.timeline) if mark.name == "shop"]
    marks.sort(key=lambda mark: mark.at)  # each process notes when it comes to it
    assert [mark.step for mark in marks] == [REQUEST_ACCEPTED, ENDPOINTS_SAW, SLICE_WRITTEN]


async def test_scaling_to_nothing_and_back_keeps_the_slice(cluster: Cluster) -> None:
    pods = await serving(cluster, "tide", 1, third=11)

    async def up() -> bool:
        return await addresses(cluster, "tide") == {"10.244.11.1": True}

    await eventually(up)
    (before,) = await cluster.slices("tide")
    await cluster.patch(rs_path("tide"), spec={"replicas": 0})
    await eventually(lambda: marked_all(cluster, "tide"))
    await cluster.end_pod(pods[0])

    async def nobody() -> bool:
        return len(await cluster.slices("tide")) == 1 and await addresses(cluster, "tide") == {}

    await eventually(nobody)
    await cluster.patch(rs_path("tide"), spec={"replicas": 1})
    (pod,) = await exactly(cluster, "tide", 1)
    await cluster.run_pod(pod, "10.244.11.1")
    await eventually(up)
    (after,) = await cluster.slices("tide")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


async def marked_all(cluster: Cluster, app: str) -> bool:
    return all(p["metadata"].get("deletionTimestamp") for p in await cluster.pods(app))


async def test_more_than_a_hundred_endpoints_take_two_slices(cluster: Cluster) -> None:
    await serving(cluster, "crowd", 120, third=12)

    async def everyone() -> bool:
        return len(await addresses(cluster, "crowd")) == 120

    await eventually(everyone, seconds=60)
    sizes = sorted(len(found["endpoints"]) for found in await cluster.slices("crowd"))
    assert sum(sizes) == 120, "nobody is in two slices"
    assert max(sizes) <= 100
    await cluster.delete("/api/v1/namespaces/default/services/crowd")
    await cluster.delete(rs_path("crowd"))

    async def gone() -> bool:
        return await cluster.slices("crowd") == []

    await eventually(gone)


async def test_a_deleted_service_takes_slices_and_endpoints_along(cluster: Cluster) -> None:
    await serving(cluster, "short", 1, third=13)
    await eventually(lambda: cluster.slices("short"))
    await eventually(lambda: cluster.get("/api/v1/namespaces/default/endpoints/short"))
    await cluster.delete("/api/v1/namespaces/default/services/short")

    async def gone() -> bool:
        endpoints = await cluster.get("/api/v1/namespaces/default/endpoints/short")
        return await cluster.slices("short") == [] and endpoints is None

    await eventually(gone)


async def test_a_slice_that_somebody_deletes_or_edits_comes_back(cluster: Cluster) -> None:
    await serving(cluster, "stubborn", 1, third=14)

    async def right() -> bool:
        return await addresses(cluster, "stubborn") == {"10.244.14.1": True}

    await eventually(right)
    root = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    (found,) = await cluster.slices("stubborn")
    await cluster.delete(f"{root}/{found['metadata']['name']}")
    await eventually(right)
    (found,) = await cluster.slices("stubborn")
    await cluster.patch(f"{root}/{found['metadata']['name']}", endpoints=[])
    await eventually(right)


async def test_hand_made_endpoints_are_mirrored(cluster: Cluster) -> None:
    await cluster.make_service("legacy-db", selector=None)
    subset = {"addresses": [{"ip": "192.0.2.77"}], "ports": [{"port": 5432}]}
    await cluster.create("Endpoints", "legacy-db", subsets=[subset])

    async def mirrored() -> Any:
        return await cluster.slices("legacy-db")

    (found,) = await eventually(mirrored)
    assert found["endpoints"][0]["addresses"] == ["192.0.2.77"]
    assert found["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == (
        "endpointslicemirroring-controller.k8s.io"
    )
    left = await cluster.get("/api/v1/namespaces/default/endpoints/legacy-db")
    assert left
    assert left["subsets"][0]["addresses"] == [{"ip": "192.0.2.77"}], "left as it was made"
    await cluster.delete("/api/v1/namespaces/default/services/legacy-db")

    async def gone() -> bool:
        return await cluster.slices("legacy-db") == []

    await eventually(gone)


async def test_a_service_without_selector_is_left_alone(cluster: Cluster) -> None:
    await cluster.make_service("bare", selector=None)
    meta = {"labels": {"kubernetes.io/service-name": "bare", "endpointslice.kubernetes.io/managed-by": "me"}}
    endpoints = [{"addresses": ["192.0.2.9"]}]
    await cluster.create("EndpointSlice", "mine", meta=meta, addressType="IPv4", endpoints=endpoints, ports=[])
    await serving(cluster, "bystander", 1, third=15)

    async def later() -> bool:
        return bool(await addresses(cluster, "bystander"))

    await eventually(later)
    assert names(await cluster.slices("bare")) == {"mine"}
    assert await cluster.get("/api/v1/namespaces/default/endpoints/bare") is None


async def test_headless_with_names_and_publishing_early(cluster: Cluster) -> None:
    spec = {**POD_SPEC, "hostname": "db-0", "subdomain": "nameless"}
    pod = await cluster.create("Pod", "db-0", meta={"labels": {"app": "nameless"}}, spec=spec)
    await cluster.make_service(
        "nameless",
        selector={"app": "nameless"},
        clusterIP="None",
        publishNotReadyAddresses=True,
        ports=[{"name": "web", "port": 80, "targetPort": "http"}],
    )
    await exactly(cluster, "nameless", 1)
    await cluster.run_pod(pod, "10.244.16.1", ready=False)

    async def published() -> bool:
        return await addresses(cluster, "nameless") == {"10.244.16.1": True}

    await eventually(published)
    (found,) = await cluster.slices("nameless")
    assert found["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
    assert found["endpoints"][0]["hostname"] == "db-0"
    assert found["endpoints"][0]["conditions"]["serving"] is False
    assert [(port["name"], port["port"]) for port in found["ports"]] == [("web", 8080)]


# Namespaces.


async def test_a_deleted_namespace_takes_everything_along(cluster: Cluster) -> None:
    await cluster.create("Namespace", "brief")
    await eventually(lambda: cluster.get("/api/v1/namespaces/brief/serviceaccounts/default"))
    await cluster.make_replicaset("web", 2, namespace="brief")
    await cluster.make_service("web", selector={"app": "web"}, namespace="brief")
    await cluster.create("ConfigMap", "settings", namespace="brief", data={"a": "b"})

    async def two() -> Any:
        found = await cluster.pods("web", "brief")
        return found if len(found) == 2 and all(p["spec"].get("nodeName") for p in found) else None

    await eventually(two)
    await cluster.delete("/api/v1/namespaces/brief")

    async def going() -> Any:
        found = await cluster.pods("web", "brief")
        return [p for p in found if p["metadata"].get("deletionTimestamp")] == found

    await eventually(going)
    assert await cluster.get("/api/v1/namespaces/brief"), "its pods still have a word"

    async def swept() -> bool:
        for pod in await cluster.pods("web", "brief"):
            try:
                await cluster.end_pod(pod)
            except rest.ApiError as error:
                assert error.not_found, str(error)  # noqa: PT017
        return await cluster.get("/api/v1/namespaces/brief") is None

    await eventually(swept, seconds=60)
    await cluster.create("Namespace", "brief")
    assert await cluster.items("/api/v1/namespaces/brief/services") == []


async def test_a_namespace_says_what_keeps_it(cluster: Cluster) -> None:
    await cluster.create("Namespace", "held")
    await cluster.create("ConfigMap", "keeper", namespace="held", meta={"finalizers": ["example.com/hold"]})
    await cluster.delete("/api/v1/namespaces/held")

    async def told() -> str:
        found = await cluster.get("/api/v1/namespaces/held")
        assert found, "it must not go before the ConfigMap does"
        conditions = {c["type"]: c for c in found["status"].get("conditions") or []}
        return str(conditions.get("NamespaceContentRemaining", {}).get("message", ""))

    assert await eventually(told) == "Some resources are remaining: configmaps has 1 resource instances"
    await cluster.patch("/api/v1/namespaces/held/configmaps/keeper", metadata={"finalizers": None})

    async def gone() -> bool:
        return await cluster.get("/api/v1/namespaces/held") is None

    await eventually(gone)


# The scheduler.


async def test_a_pod_that_fits_nowhere_says_so_until_it_fits(cluster: Cluster) -> None:
    spec = {**POD_SPEC, "nodeSelector": {"disk": "ssd"}}
    await cluster.create("Pod", "picky", meta={"labels": {"app": "picky"}}, spec=spec)

    async def refused() -> Any:
        found = await cluster.get("/api/v1/namespaces/default/pods/picky")
        assert found
        conditions = {c["type"]: c for c in found.get("status", {}).get("conditions") or []}
        return conditions.get("PodScheduled")

    condition = await eventually(refused)
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    assert condition["message"] == "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    await cluster.patch("/api/v1/nodes/n1", metadata={"labels": {"disk": "ssd"}})
    await exactly(cluster, "picky", 1)


async def test_another_scheduler_s_pods_are_left_alone(cluster: Cluster) -> None:
    await cluster.create("Pod", "theirs", spec={**POD_SPEC, "schedulerName": "mine"})
    await cluster.make_replicaset("ours", 1)
    await exactly(cluster, "ours", 1)
    found = await cluster.get("/api/v1/namespaces/default/pods/theirs")
    assert found
    assert not found["spec"].get("nodeName")
