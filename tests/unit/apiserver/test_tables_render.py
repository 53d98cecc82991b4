"""Tables: kubectl's columns and words."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.apiserver.durations import human_duration, since
from agent.apiserver.pod_status import row_conditions, summarize
from agent.apiserver.registry import KINDS, find_kind
from agent.apiserver.tables import Include, format_selector, render_table

NOW = datetime(2024, 1, 1, 12, 0, 0, tzinfo=UTC)
Object = dict[str, Any]


def ago(**delta: float) -> str:
    return (NOW - timedelta(**delta)).strftime("%Y-%m-%dT%H:%M:%SZ")


def meta(name: str = "x", **delta: float) -> Object:
    return {"name": name, "namespace": "default", "creationTimestamp": ago(**(delta or {"minutes": 10}))}


def table(plural: str, *objects: Object, group: str = "", include: Include = "None") -> Object:
    kind = find_kind(group, "v1", plural)
    assert kind is not None
    return render_table(kind, objects, list_meta={"resourceVersion": "7"}, include_object=include, now=NOW)


def cells(plural: str, obj: Object, group: str = "") -> list[Any]:
    return table(plural, obj, group=group)["rows"][0]["cells"]  # type: ignore[no-any-return]


def columns(plural: str, group: str = "") -> list[str]:
    """Column names; those only shown with ``-o wide`` begin with ``+``."""
    definitions = table(plural, group=group)["columnDefinitions"]
    return ["+" * entry["priority"] + entry["name"] for entry in definitions]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (599, "9m59s"),
        (600, "10m"),
        (10799, "179m"),
        (10800, "3h"),
        (3 * 3600 + 61, "3h1m"),
        (8 * 3600 + 61, "8h"),
        (48 * 3600, "2d"),
        (50 * 3600, "2d2h"),
        (8 * 86400 + 3600, "8d"),
        (700 * 86400, "700d"),
        (730 * 86400, "2y"),
        (740 * 86400, "2y10d"),
        (9 * 365 * 86400 + 86400, "9y"),
    ],
)
def test_human_durations(seconds: int, text: str) -> None:
    assert human_duration(seconds) == text


def test_an_age_nobody_knows() -> None:
    assert since(None, NOW) == "<unknown>"
    assert since("2024-01-01T11:59:59.5+00:00", NOW) == "0s"


def test_the_table_itself() -> None:
    result = table("pods", {"metadata": meta("a")}, include="Metadata")
    assert (result["kind"], result["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert result["metadata"] == {"resourceVersion": "7"}
    first = result["columnDefinitions"][0]
    assert (first["name"], first["type"], first["format"], first["priority"]) == ("Name", "string", "name", 0)
    assert first["description"]
    assert result["rows"][0]["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta("a"),
    }


def test_rows_may_carry_the_object_or_nothing() -> None:
    pod = {"metadata": meta("a")}
    assert table("pods", pod, include="Object")["rows"][0]["object"] == pod
    assert table("pods", pod, include="None")["rows"][0]["object"] is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.resource)
def test_an_empty_object_of_any_kind_can_be_printed(kind: Any) -> None:
    result = render_table(kind, [{"metadata": {"name": "x"}}], list_meta={}, include_object="None", now=NOW)
    assert len(result["rows"][0]["cells"]) == len(result["columnDefinitions"])


@pytest.mark.parametrize(
    ("group", "plural", "names"),
    [
        ("", "pods", "Name Ready Status Restarts Age +IP +Node +Nominated Node +Readiness Gates"),
        ("", "services", "Name Type Cluster-IP External-IP Port(s) Age +Selector"),
        ("apps", "replicasets", "Name Desired Current Ready Age +Containers +Images +Selector"),
        ("", "endpoints", "Name Endpoints Age"),
        ("discovery.k8s.io", "endpointslices", "Name AddressType Ports Endpoints Age"),
        (
            "",
            "nodes",
            "Name Status Roles Age Version +Internal-IP +External-IP +OS-Image +Kernel-Version +Container-Runtime",
        ),
        ("", "namespaces", "Name Status Age"),
        ("", "configmaps", "Name Data Age"),
        ("", "secrets", "Name Type Data Age"),
        ("", "serviceaccounts", "Name Secrets Age"),
        ("coordination.k8s.io", "leases", "Name Holder Age"),
        (
            "",
            "events",
            "Last Seen,Type,Reason,Object,+Subobject,+Source,Message,+First Seen,+Count,+Name".replace(",", " "),
        ),
    ],
)
def test_columns(group: str, plural: str, names: str) -> None:
    assert " ".join(columns(plural, group)) == names


def service(**spec: Any) -> Object:
    return {"metadata": meta(), "spec": spec}


PORT: Object = {"port": 28017, "protocol": "TCP"}


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (
            service(
                type="NodePort",
                clusterIPs=["10.96.0.5"],
                ports=[{**PORT, "nodePort": 30001}],
                selector={"b": "2", "a": "1"},
            ),
            ["x", "NodePort", "10.96.0.5", "<none>", "28017:30001/TCP", "10m", "a=1,b=2"],
        ),
        (
            service(type="ClusterIP", clusterIP="None"),
            ["x", "ClusterIP", "None", "<none>", "<none>", "10m", "<none>"],
        ),
        (
            service(
                type="ClusterIP",
                clusterIPs=["10.96.0.5"],
                externalIPs=["1.1.1.1", "2.2.2.2"],
                ports=[PORT, {"port": 53, "protocol": "UDP"}],
            ),
            ["x", "ClusterIP", "10.96.0.5", "1.1.1.1,2.2.2.2", "28017/TCP,53/UDP", "10m", "<none>"],
        ),
        (
            service(type="ExternalName", externalName="example.org"),
            ["x", "ExternalName", "<none>", "example.org", "<none>", "10m", "<none>"],
        ),
        (
            service(type="LoadBalancer", clusterIPs=["10.96.0.5"], ports=[PORT]),
            ["x", "LoadBalancer", "10.96.0.5", "<pending>", "28017/TCP", "10m", "<none>"],
        ),
        (
            {
                **service(type="LoadBalancer", clusterIPs=["10.96.0.5"], externalIPs=["9.9.9.9"]),
                "status": {"loadBalancer": {"ingress": [{"ip": "3.3.3.3"}, {"hostname": "a.example"}]}},
            },
            ["x", "LoadBalancer", "10.96.0.5", "3.3.3.3,a.example,9.9.9.9", "<none>", "10m", "<none>"],
        ),
        (service(), ["x", "", "<none>", "<unknown>", "<none>", "10m", "<none>"]),
    ],
)
def test_services(obj: Object, expected: list[Any]) -> None:
    assert cells("services", obj) == expected


def test_replica_sets() -> None:
    containers = [{"name": "db", "image": "mongo:3.3"}, {"name": "api", "image": "vfarcic/go-demo-2"}]
    obj = {
        "metadata": meta("go-demo-2", seconds=90),
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"type": "backend", "service": "go-demo-2"}},
            "template": {"spec": {"containers": containers}},
        },
        "status": {"replicas": 2, "readyReplicas": 1},
    }
    expected = ["go-demo-2", 2, 2, 1, "90s", "db,api", "mongo:3.3,vfarcic/go-demo-2", "service=go-demo-2,type=backend"]
    assert cells("replicasets", obj, "apps") == expected


def test_selectors_with_expressions() -> None:
    expressions = [
        {"key": "d", "operator": "In", "values": ["y", "x"]},
        {"key": "c", "operator": "NotIn", "values": ["z"]},
        {"key": "b", "operator": "Exists"},
        {"key": "a", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"e": "1"}, "matchExpressions": expressions}
    assert format_selector(selector) == "!a,b,c notin (z),d in (x,y),e=1"
    assert format_selector({}) == "<none>"


def endpoints(*ips: str, port: int = 80) -> Object:
    return {"metadata": meta(), "subsets": [{"addresses": [{"ip": ip} for ip in ips], "ports": [{"port": port}]}]}


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        ({"metadata": meta()}, "<none>"),
        (endpoints("10.0.0.1", "10.0.0.2"), "10.0.0.1:80,10.0.0.2:80"),
        (endpoints("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"), "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 1 more..."),
        (endpoints("fd00::1"), "[fd00::1]:80"),
        ({"metadata": meta(), "subsets": [{"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}, ""),
    ],
)
def test_endpoints(obj: Object, text: str) -> None:
    assert cells("endpoints", obj) == ["x", text, "10m"]


def test_endpoint_slices() -> None:
    obj = {
        "metadata": meta(),
        "addressType": "IPv4",
        "ports": [{"port": 80}, {"name": "web"}, {}],
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
    }
    assert cells("endpointslices", obj, "discovery.k8s.io") == ["x", "IPv4", "80,web,*", "10.0.0.1,10.0.0.2", "10m"]
    empty = {"metadata": meta(), "addressType": "IPv4"}
    assert cells("endpointslices", empty, "discovery.k8s.io")[2:4] == ["<unset>", "<unset>"]


def test_nodes() -> None:
    obj = {
        "metadata": {
            **meta("n1"),
            "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge", "a": "b"},
        },
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "nodeInfo": {
                "kubeletVersion": "v1.33.0",
                "osImage": "Debian",
                "kernelVersion": "6.1",
                "containerRuntimeVersion": "runc://1.1",
            },
        },
    }
    expected = ["n1", "Ready,SchedulingDisabled", "control-plane,edge", "10m", "v1.33.0", "192.0.2.1", "<none>"]
    assert cells("nodes", obj) == [*expected, "Debian", "6.1", "runc://1.1"]
    down = {"metadata": meta("n2"), "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
    assert cells("nodes", down)[1:3] == ["NotReady", "<none>"]
    assert cells("nodes", {"metadata": meta("n3")})[1] == "Unknown"


def test_small_kinds() -> None:
    assert cells("namespaces", {"metadata": meta(), "status": {"phase": "Active"}}) == ["x", "Active", "10m"]
    assert cells("configmaps", {"metadata": meta(), "data": {"a": "1"}, "binaryData": {"b": ""}}) == ["x", 2, "10m"]
    assert cells("secrets", {"metadata": meta(), "type": "Opaque", "data": {"a": "1"}}) == ["x", "Opaque", 1, "10m"]
    assert cells("serviceaccounts", {"metadata": meta()}) == ["x", 0, "10m"]
    lease = {"metadata": meta(), "spec": {"holderIdentity": "n1"}}
    assert cells("leases", lease, "coordination.k8s.io") == ["x", "n1", "10m"]


def test_kinds_without_a_printer_show_when_they_were_made() -> None:
    kind = find_kind("", "v1", "configmaps")
    assert kind is not None
    from dataclasses import replace

    other = replace(kind, kind="Widget")
    result = render_table(other, [{"metadata": meta()}], list_meta={}, include_object="None", now=NOW)
    assert [column["name"] for column in result["columnDefinitions"]] == ["Name", "Created At"]
    assert result["rows"][0]["cells"] == ["x", ago(minutes=10)]


def test_the_scale_of_something() -> None:
    kind = find_kind("apps", "v1", "replicasets")
    assert kind is not None
    from dataclasses import replace

    scale = {"metadata": meta(), "spec": {"replicas": 3}, "status": {"replicas": 2}}
    result = render_table(replace(kind, kind="Scale"), [scale], list_meta={}, include_object="None", now=NOW)
    assert result["rows"][0]["cells"] == ["x", 3, 2, "10m"]


@pytest.mark.parametrize(
    ("obj", "group", "expected"),
    [
        (
            {
                "metadata": meta("web.1"),
                "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec.containers{db}"},
                "type": "Normal",
                "reason": "Started",
                "message": "Started container\n",
                "firstTimestamp": ago(minutes=5),
                "lastTimestamp": ago(seconds=10),
                "count": 3,
                "source": {"component": "kubelet", "host": "n1"},
            },
            "",
            [
                "10s",
                "Normal",
                "Started",
                "pod/web",
                "spec.containers{db}",
                "kubelet, n1",
                "Started container",
                "5m",
                3,
                "web.1",
            ],
        ),
        (
            {
                "metadata": meta("web.2"),
                "regarding": {"kind": "Node"},
                "type": "Warning",
                "reason": "Slow",
                "note": "n",
                "eventTime": ago(minutes=2),
                "series": {"count": 9, "lastObservedTime": ago(seconds=5)},
                "reportingController": "c",
            },
            "events.k8s.io",
            ["5s", "Warning", "Slow", "node", "", "c", "n", "2m", 9, "web.2"],
        ),
        (
            {
                "metadata": meta("web.3"),
                "involvedObject": {"kind": "Pod", "name": "a"},
                "firstTimestamp": ago(minutes=3),
            },
            "",
            ["3m", "", "", "pod/a", "", "", "", "3m", 1, "web.3"],
        ),
    ],
)
def test_events(obj: Object, group: str, expected: list[Any]) -> None:
    assert cells("events", obj, group) == expected


# Pods


def pod(*statuses: Object, init: list[Object] | None = None, **parts: Any) -> Object:
    """A pod whose containers have these statuses."""
    named = [{"name": f"c{index}", **status} for index, status in enumerate(statuses)]
    first = [{"name": f"i{index}", **status} for index, status in enumerate(init or [])]
    spec: Object = {"containers": [{"name": entry["name"]} for entry in named] or [{"name": "c0"}]}
    if first:
        spec["initContainers"] = [{"name": entry["name"], **entry.pop("spec", {})} for entry in first]
    status = {"phase": "Pending", "containerStatuses": named, "initContainerStatuses": first}
    return {
        "metadata": {**meta("p"), **parts.get("metadata", {})},
        "spec": {**spec, **parts.get("spec", {})},
        "status": {**status, **parts.get("status", {})},
    }


RUNNING = {"ready": True, "state": {"running": {}}}
STARTING = {"ready": False, "state": {"running": {}}}
DONE = {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
INITIALIZED = {"conditions": [{"type": "Initialized", "status": "True"}]}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def waiting(reason: str) -> Object:
    return {"state": {"waiting": {"reason": reason}}}


def ended(**why: Any) -> Object:
    return {"state": {"terminated": why}}


@pytest.mark.parametrize(
    ("obj", "reason", "ready"),
    [
        (pod(), "Pending", "0/1"),
        (pod(RUNNING, RUNNING, status={"phase": "Running"}), "Running", "2/2"),
        (pod(RUNNING, STARTING, status={"phase": "Running"}), "Running", "1/2"),
        (pod(waiting("ContainerCreating")), "ContainerCreating", "0/1"),
        (pod(waiting("CrashLoopBackOff"), status={"phase": "Running"}), "CrashLoopBackOff", "0/1"),
        (pod(waiting("ErrImageNeverPull")), "ErrImageNeverPull", "0/1"),
        (pod(waiting("A"), waiting("B")), "A", "0/2"),
        (pod(DONE, status={"phase": "Succeeded"}), "Completed", "0/1"),
        (pod(ended(exitCode=1, reason="Error"), status={"phase": "Failed"}), "Error", "0/1"),
        (pod(ended(exitCode=3)), "ExitCode:3", "0/1"),
        (pod(ended(exitCode=137, signal=9)), "Signal:9", "0/1"),
        (pod(DONE, RUNNING, status={"phase": "Running", **READY}), "Running", "1/2"),
        (pod(DONE, RUNNING, status={"phase": "Running"}), "NotReady", "1/2"),
        (pod(status={"reason": "Evicted", "phase": "Failed"}), "Evicted", "0/1"),
        (
            pod(status={"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            "SchedulingGated",
            "0/1",
        ),
        (
            pod(RUNNING, metadata={"deletionTimestamp": ago(seconds=1)}, status={"phase": "Running"}),
            "Terminating",
            "1/1",
        ),
        (
            pod(DONE, metadata={"deletionTimestamp": ago(seconds=1)}, status={"phase": "Succeeded"}),
            "Completed",
            "0/1",
        ),
        (
            pod(RUNNING, metadata={"deletionTimestamp": ago(seconds=1)}, status={"reason": "NodeLost"}),
            "Unknown",
            "1/1",
        ),
        (pod(init=[STARTING, waiting("PodInitializing")]), "Init:0/2", "0/1"),
        (pod(init=[DONE, waiting("PodInitializing")]), "Init:1/2", "0/1"),
        (pod(init=[waiting("CrashLoopBackOff")]), "Init:CrashLoopBackOff", "0/1"),
        (pod(init=[ended(exitCode=2)]), "Init:ExitCode:2", "0/1"),
        (pod(init=[ended(exitCode=137, signal=9)]), "Init:Signal:9", "0/1"),
        (pod(init=[ended(exitCode=1, reason="Error")]), "Init:Error", "0/1"),
        (pod(RUNNING, init=[DONE], status={"phase": "Running"}), "Running", "1/1"),
        (
            pod(
                RUNNING,
                init=[{**RUNNING, "started": True, "spec": {"restartPolicy": "Always"}}],
                status={"phase": "Running"},
            ),
            "Running",
            "2/2",
        ),
        (
            pod(
                RUNNING,
                init=[{**STARTING, "started": True, "spec": {"restartPolicy": "Always"}}],
                status={"phase": "Running"},
            ),
            "Running",
            "1/2",
        ),
        (pod(RUNNING, init=[STARTING], status={"phase": "Running", **INITIALIZED}), "Init:0/1", "1/1"),
    ],
)
def test_pod_status(obj: Object, reason: str, ready: str) -> None:
    summary = summarize(obj)
    assert (summary.reason, f"{summary.ready}/{summary.total}") == (reason, ready)


def restarted(count: int, **delta: float) -> Object:
    return {**RUNNING, "restartCount": count, "lastState": {"terminated": {"finishedAt": ago(**delta)}}}


def test_restarts_are_counted_and_dated() -> None:
    obj = pod(restarted(2, minutes=5), restarted(1, seconds=30), status={"phase": "Running"})
    assert cells("pods", obj)[1:4] == ["2/2", "Running", "3 (30s ago)"]
    assert cells("pods", pod(RUNNING))[3] == "0"


def test_init_containers_count_only_while_they_matter() -> None:
    initializing = pod(init=[{**waiting("CrashLoopBackOff"), "restartCount": 4}])
    assert summarize(initializing).restarts == 4
    over = pod(RUNNING, init=[{**DONE, "restartCount": 4}])
    assert summarize(over).restarts == 0
    sidecar = {**restarted(2, minutes=1), "started": True, "spec": {"restartPolicy": "Always"}}
    assert summarize(pod(RUNNING, init=[sidecar])).restarts == 2


def test_wide_pod_columns() -> None:
    gates = [{"conditionType": "a"}, {"conditionType": "b"}]
    status = {
        "phase": "Running",
        "podIPs": [{"ip": "10.244.0.2"}],
        "nominatedNodeName": "n2",
        "conditions": [{"type": "a", "status": "True"}, {"type": "b", "status": "False"}],
    }
    obj = pod(RUNNING, spec={"nodeName": "n1", "readinessGates": gates}, status=status)
    assert cells("pods", obj)[4:] == ["10m", "10.244.0.2", "n1", "n2", "1/2"]
    assert cells("pods", pod())[4:] == ["10m", "<none>", "<none>", "<none>", "<none>"]


@pytest.mark.parametrize(
    ("phase", "message"),
    [("Succeeded", "The pod has completed successfully."), ("Failed", "The pod failed.")],
)
def test_rows_of_finished_pods_say_so(phase: str, message: str) -> None:
    condition = {"type": "Completed", "status": "True", "reason": phase, "message": message}
    assert table("pods", pod(status={"phase": phase}))["rows"][0]["conditions"] == [condition]
    assert row_conditions(pod()) == []
    assert "conditions" not in table("pods", pod())["rows"][0]
