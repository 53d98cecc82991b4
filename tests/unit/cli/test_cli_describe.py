"""``describe``, line for line: the document's pages, and the others in kubectl's layout."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from agent.cli.kubectl.describe import Related, describe, needs
from agent.cli.kubectl.describe.network import format_endpoints
from agent.cli.kubectl.describe.page import Page, format_selector
from agent.cli.kubectl.describe.pods import field_value, format_probe, tolerations, write_volumes
from agent.cli.kubectl.quantities import add_quantities, parse_quantity, percent

NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Times are shown in the reader's time zone; here that is UTC."""
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def endpoints(*addresses: str, port: int = 28017, name: str = "") -> dict[str, Any]:
    return {
        "addressType": "IPv4",
        "ports": [{"name": name, "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


EXPOSED = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "go-demo-2-svc",
        "namespace": "default",
        "labels": {"type": "backend", "service": "go-demo-2", "language": "go", "db": "mongo"},
    },
    "spec": {
        "selector": {"type": "backend", "service": "go-demo-2"},
        "type": "NodePort",
        "clusterIP": "10.0.0.194",
        "clusterIPs": ["10.0.0.194"],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"port": 28017, "targetPort": 28017, "nodePort": 31879, "protocol": "TCP"}],
        "sessionAffinity": "None",
        "externalTrafficPolicy": "Cluster",
        "internalTrafficPolicy": "Cluster",
    },
}

DOCUMENT = """\
Name:                     go-demo-2-svc
Namespace:                default
Labels:                   db=mongo
                          language=go
                          service=go-demo-2
                          type=backend
Annotations:              <none>
Selector:                 service=go-demo-2,type=backend
Type:                     NodePort
IP:                       10.0.0.194
Port:                     <unset>  28017/TCP
TargetPort:               28017/TCP
NodePort:                 <unset>  31879/TCP
Endpoints:                172.17.0.4:28017,172.17.0.5:28017
Session Affinity:         None
External Traffic Policy:  Cluster
Events:                   <none>
"""
NEWER = ("IP Family Policy:", "IP Families:", "IPs:", "Internal Traffic Policy:")  # lines the document predates


def test_the_documents_service() -> None:
    page = describe(EXPOSED, Related(slices=(endpoints("172.17.0.4", "172.17.0.5"),)), [], now=NOW)
    assert "".join(line for line in page.splitlines(keepends=True) if not line.startswith(NEWER)) == DOCUMENT
    assert "IP Family Policy:         SingleStack\nIP Families:              IPv4\n" in page


def test_the_documents_second_service() -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "go-demo-2-db", "namespace": "default"},
        "spec": {
            "selector": {"type": "db", "service": "go-demo-2"},
            "type": "ClusterIP",
            "clusterIP": "10.0.0.250",
            "ports": [{"port": 27017, "targetPort": 27017, "protocol": "TCP"}],
            "sessionAffinity": "None",
        },
    }
    page = describe(service, Related(slices=(endpoints("172.17.0.4", port=27017),)), [], now=NOW)
    assert page == (
        "Name:              go-demo-2-db\n"
        "Namespace:         default\n"
        "Labels:            <none>\n"
        "Annotations:       <none>\n"
        "Selector:          service=go-demo-2,type=db\n"
        "Type:              ClusterIP\n"
        "IP Families:       <none>\n"
        "IP:                10.0.0.250\n"
        "IPs:               <none>\n"
        "Port:              <unset>  27017/TCP\n"
        "TargetPort:        27017/TCP\n"
        "Endpoints:         172.17.0.4:27017\n"
        "Session Affinity:  None\n"
        "Events:            <none>\n"
    )


@pytest.mark.parametrize(
    ("slices", "text"),
    [
        ([], "<none>"),
        ([endpoints()], ""),
        ([endpoints("10.0.0.1")], "10.0.0.1:28017"),
        ([endpoints("10.0.0.1", "10.0.0.2"), endpoints("fd00::1")], "10.0.0.1:28017,10.0.0.2:28017,[fd00::1]:28017"),
        (
            [endpoints("1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5")],
            "1.1.1.1:28017,1.1.1.2:28017,1.1.1.3:28017 + 2 more...",
        ),
        ([endpoints("10.0.0.1", name="other")], ""),
        ([{"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {}}]}], "10.0.0.1"),
        ([{"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": False}}]}], ""),
    ],
)
def test_endpoints_of_a_port(slices: list[dict[str, Any]], text: str) -> None:
    assert format_endpoints(slices, "") == text


POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "go-demo-2-abcde",
        "namespace": "default",
        "labels": {"type": "backend"},
        "annotations": {"note": "two\nlines", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "go-demo-2", "uid": "u", "controller": True}],
    },
    "spec": {
        "nodeName": "n1",
        "serviceAccountName": "default",
        "containers": [
            {
                "name": "db",
                "image": "mongo:3.3",
                "command": ["mongod"],
                "args": ["--rest", "--httpinterface"],
                "ports": [{"containerPort": 28017, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "100m"}},
            },
            {
                "name": "api",
                "image": "vfarcic/go-demo-2",
                "env": [
                    {"name": "DB", "value": "localhost"},
                    {"name": "ME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                    {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                ],
                "ports": [{"containerPort": 80}, {"name": "alt", "containerPort": 8080}],
                "livenessProbe": {
                    "httpGet": {"path": "/demo/hello", "port": 8080, "scheme": "HTTP"},
                    "timeoutSeconds": 1,
                    "periodSeconds": 10,
                    "successThreshold": 1,
                    "failureThreshold": 3,
                },
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            },
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
    },
    "status": {
        "phase": "Running",
        "hostIP": "192.0.2.2",
        "podIP": "10.244.0.5",
        "podIPs": [{"ip": "10.244.0.5"}],
        "startTime": "2024-05-01T11:00:00Z",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [
            {"name": "db", "containerID": "runc://1", "imageID": "i", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": "2024-05-01T11:00:01Z"}}},
            {
                "name": "api",
                "ready": False,
                "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"reason": "Error", "exitCode": 3, "startedAt": "2024-05-01T11:00:01Z", "finishedAt": "2024-05-01T11:00:02Z"}},
            },
        ],
    },
}  # fmt: skip
EVENTS: list[dict[str, Any]] = [
    {"type": "Warning", "reason": "BackOff", "message": "back-off ", "count": 3, "firstTimestamp": "2024-05-01T11:00:00Z",
     "lastTimestamp": "2024-05-01T11:59:00Z", "source": {"component": "kubelet"}},
    {"type": "Normal", "reason": "Scheduled", "message": "assigned", "eventTime": "2024-05-01T10:58:30.000000Z",
     "reportingComponent": "default-scheduler"},
]  # fmt: skip

POD_PAGE = """\
Name:             go-demo-2-abcde
Namespace:        default
Service Account:  default
Node:             n1/192.0.2.2
Start Time:       Wed, 01 May 2024 11:00:00 +0000
Labels:           type=backend
Annotations:      note:
                    two
                    lines
Status:           Running
IP:               10.244.0.5
IPs:
  IP:           10.244.0.5
Controlled By:  ReplicaSet/go-demo-2
Containers:
  db:
    Container ID:  runc://1
    Image:         mongo:3.3
    Image ID:      i
    Port:          28017/TCP
    Host Port:     0/TCP
    Command:
      mongod
    Args:
      --rest
      --httpinterface
    State:          Running
      Started:      Wed, 01 May 2024 11:00:01 +0000
    Ready:          True
    Restart Count:  0
    Requests:
      cpu:        100m
    Environment:  <none>
    Mounts:       <none>
  api:
    Container ID:   
    Image:          vfarcic/go-demo-2
    Image ID:       
    Ports:          80/TCP, 8080/TCP (alt)
    Host Ports:     0/TCP, 0/TCP (alt)
    State:          Waiting
      Reason:       CrashLoopBackOff
    Last State:     Terminated
      Reason:       Error
      Exit Code:    3
      Started:      Wed, 01 May 2024 11:00:01 +0000
      Finished:     Wed, 01 May 2024 11:00:02 +0000
    Ready:          False
    Restart Count:  2
    Liveness:       http-get http://:8080/demo/hello delay=0s timeout=1s period=10s #success=1 #failure=3
    Environment:
      DB:   localhost
      ME:   go-demo-2-abcde (v1:metadata.name)
      KEY:  <set to the key 'k' in secret 's'>  Optional: false
    Mounts:
      /tmp from tmp (rw)
Conditions:
  Type    Status
  Ready   False 
Volumes:
  tmp:
    Type:        EmptyDir (a temporary directory that shares a pod's lifetime)
    Medium:      
    SizeLimit:   <unset>
QoS Class:       Burstable
Node-Selectors:  <none>
Tolerations:     node.kubernetes.io/not-ready:NoExecute op=Exists for 300s
Events:
  Type     Reason     Age                From               Message
  ----     ------     ----               ----               -------
  Normal   Scheduled  61m                default-scheduler  assigned
  Warning  BackOff    60s (x3 over 60m)  kubelet            back-off
"""  # noqa: W291


def test_a_pod() -> None:
    assert describe(POD, Related(), EVENTS, now=NOW) == POD_PAGE


def test_volumes_that_gather_what_is_elsewhere() -> None:
    labels = {"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}
    memory = {"path": "m", "resourceFieldRef": {"containerName": "c", "resource": "limits.memory"}}
    sources = [{"configMap": {"name": "c1"}}, {"secret": {"name": "s1", "optional": True}}, {"downwardAPI": {}}]
    volumes = [
        {"name": "d", "downwardAPI": {"items": [labels, memory]}},
        {"name": "p", "projected": {"sources": sources}},
    ]
    page = Page(datetime.now(UTC))
    write_volumes(page, volumes)
    assert (
        page.text()
        == """Volumes:
  d:
    Type:  DownwardAPI (a volume populated by information about the pod)
    Items:
      metadata.labels -> l
      limits.memory -> m
  p:
    Type:           Projected (a volume that contains injected data from multiple sources)
    ConfigMapName:  c1
    Optional:       false
    SecretName:     s1
    Optional:       true
    DownwardAPI:    true
"""
    )


def test_a_pod_that_is_going_away() -> None:
    leaving = {**POD, "metadata": {**POD["metadata"], "deletionTimestamp": "2024-05-01T11:59:50Z", "deletionGracePeriodSeconds": 30}}  # type: ignore[dict-item]  # fmt: skip
    page = describe(leaving, Related(), None, now=NOW)
    assert "Status:                    Terminating (lasts 10s)\nTermination Grace Period:  30s\n" in page
    assert "Events" not in page


def test_a_replicaset_counts_only_its_own_pods() -> None:
    replicaset = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "r", "namespace": "default", "uid": "u1"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
        "status": {
            "replicas": 2,
            "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}],
        },
    }
    own = [{"uid": "u1", "kind": "ReplicaSet", "name": "r", "controller": True}]
    pods = (
        {"metadata": {"ownerReferences": own}, "status": {"phase": "Running"}},
        {"metadata": {"ownerReferences": own}, "status": {"phase": "Pending"}},
        {"metadata": {}, "status": {"phase": "Running"}},
    )
    assert needs(replicaset) == {"pods"}
    assert describe(replicaset, Related(pods=pods), [], now=NOW) == (
        "Name:         r\n"
        "Namespace:    default\n"
        "Selector:     a=b\n"
        "Labels:       <none>\n"
        "Annotations:  <none>\n"
        "Replicas:     2 current / 2 desired\n"
        "Pods Status:  1 Running / 1 Waiting / 0 Succeeded / 0 Failed\n"
        "Pod Template:\n"
        "  Labels:  a=b\n"
        "  Containers:\n"
        "   c:\n"
        "    Image:         i\n"
        "    Port:          <none>\n"
        "    Host Port:     <none>\n"
        "    Environment:   <none>\n"
        "    Mounts:        <none>\n"
        "  Volumes:         <none>\n"
        "  Node-Selectors:  <none>\n"
        "  Tolerations:     <none>\n"
        "Conditions:\n"
        "  Type             Status  Reason\n"
        "  ----             ------  ------\n"
        "  ReplicaFailure   True    FailedCreate\n"
        "Events:            <none>\n"
    )


def test_endpoints_and_endpoint_slices() -> None:
    old = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "e", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}],
    }
    assert (
        "  Addresses:          10.0.0.1\n  NotReadyAddresses:  <none>\n  Ports:\n    Name     Port  Protocol\n"
        in describe(old, Related(), [], now=NOW)
    )
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "e-1", "namespace": "default"},
        **endpoints("10.0.0.1"),
    }
    piece["endpoints"][0] |= {"nodeName": "n1", "targetRef": {"kind": "Pod", "name": "p"}}
    page = describe(piece, Related(), [], now=NOW)
    assert page.endswith(
        "Endpoints:\n"
        "  - Addresses:  10.0.0.1\n"
        "    Conditions:\n"
        "      Ready:    true\n"
        "    Hostname:   <unset>\n"
        "    TargetRef:  Pod/p\n"
        "    NodeName:   n1\n"
        "    Zone:       <unset>\n"
        "Events:         <none>\n"
    )
    bare = {**piece, "endpoints": [], "ports": []}
    assert "Ports: <unset>\nEndpoints: <none>\n" in describe(bare, Related(), [], now=NOW)


def test_a_node() -> None:
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/worker": ""}, "creationTimestamp": "2024-05-01T11:00:00Z"},
        "spec": {"podCIDR": "10.244.0.0/24", "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.2"}],
            "capacity": {"cpu": "2", "memory": "4Gi"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "m", "lastHeartbeatTime": "2024-05-01T11:00:00Z"}],
            "nodeInfo": {"kernelVersion": "6.1", "kubeletVersion": "v1.33.0-podwire"},
        },
    }  # fmt: skip
    lease = {"spec": {"holderIdentity": "n1", "renewTime": "2024-05-01T11:59:50.000000Z"}}
    pods = tuple(
        {
            "metadata": {"name": f"p{number}", "namespace": "default", "creationTimestamp": "2024-05-01T11:30:00Z"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}}}]},
        }
        for number in range(2)
    )
    assert needs(node) == {"pods", "lease"}
    page = describe(node, Related(pods=pods, lease=lease), [], now=NOW)
    for part in (
        "Roles:              worker\n",
        "Taints:             k=v:NoSchedule\n",
        "Unschedulable:      false\n",
        "  HolderIdentity:  n1\n  AcquireTime:     <unset>\n",
        "  Ready   True    Wed, 01 May 2024 11:00:00 +0000   Mon, 01 Jan 0001 00:00:00 +0000   KubeletReady   m\n",
        "  InternalIP:  192.0.2.2\n",
        "  Kernel Version:             6.1\n",
        "Non-terminated Pods:          (2 in total)\n",
        "  default                     p1      250m (12%)    0 (0%)      1Gi (25%)        0 (0%)         30m\n",
        "  cpu                500m (25%)  0 (0%)\n  memory             2Gi (50%)   0 (0%)\n",
    ):
        assert part in page
    assert 'Failed to get lease: leases.coordination.k8s.io "n1" not found' in describe(node, Related(), [], now=NOW)


def test_data_is_shown_and_secrets_are_not() -> None:
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "d"}, "data": {"k": "v"}, "binaryData": {"b": "AAA="}}  # fmt: skip
    assert describe(config_map, Related(), [], now=NOW).endswith(
        "\nData\n====\nk:\n----\nv\n\n\nBinaryData\n====\nb: 2 bytes\n\nEvents:  <none>\n"
    )
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "type": "Opaque",
        "data": {"k": "aHVzaA=="},
    }
    page = describe(secret, Related(), [], now=NOW)
    assert page.endswith("\nType:  Opaque\n\nData\n====\nk:  4 bytes\n")
    assert "hush" not in page


def test_a_namespace_has_no_namespace() -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}, "status": {"phase": "Active"}}
    assert describe(namespace, Related(), [], now=NOW) == (
        "Name:         x\nLabels:       <none>\nAnnotations:  <none>\nStatus:       Active\n"
    )


def test_any_other_kind() -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "l", "namespace": "d", "resourceVersion": "7", "uid": "u", "managedFields": []},
        "spec": {"holderIdentity": "n1", "parts": ["a", {"b": 1}], "on": False},
    }
    assert describe(lease, Related(), [], now=NOW) == (
        "Name:         l\n"
        "Namespace:    d\n"
        "Labels:       <none>\n"
        "Annotations:  <none>\n"
        "API Version:  coordination.k8s.io/v1\n"
        "Kind:         Lease\n"
        "Metadata:\n"
        "  Resource Version:  7\n"
        "  UID:               u\n"
        "Spec:\n"
        "  Holder Identity:  n1\n"
        "  On:               false\n"
        "  Parts:\n"
        "    a\n"
        "    B:   1\n"
        "Events:  <none>\n"
    )


@pytest.mark.parametrize(
    ("probe", "text"),
    [
        ({"exec": {"command": ["sh", "-c", "true"]}}, "exec [sh -c true] "),
        ({"tcpSocket": {"port": "http"}}, "tcp-socket :http "),
        ({"grpc": {"port": 9, "service": "s"}}, "grpc <pod>:9 s "),
        ({"httpGet": {"host": "fd00::1", "port": 80, "path": "/a b", "scheme": "HTTPS"}}, "http-get https://[fd00::1]:80/a%20b "),
        ({}, "unknown "),
    ],
)  # fmt: skip
def test_probes(probe: dict[str, Any], text: str) -> None:
    assert format_probe(probe) == f"{text}delay=0s timeout=0s period=0s #success=0 #failure=0"


def test_selectors() -> None:
    expressions = [
        {"key": "a", "operator": "In", "values": ["y", "x"]},
        {"key": "b", "operator": "NotIn", "values": ["z"]},
        {"key": "c", "operator": "Exists"},
        {"key": "d", "operator": "DoesNotExist"},
    ]
    assert (
        format_selector({"matchLabels": {"l": "1"}, "matchExpressions": expressions})
        == "l=1,a in (x,y),b notin (z),c,!d"
    )
    assert format_selector(None) == format_selector({}) == "<none>"


def test_fields_of_the_downward_api() -> None:
    assert field_value(POD, "metadata.labels['type']") == "backend"
    assert field_value(POD, "status.podIPs") == "10.244.0.5"
    assert field_value(POD, "metadata.labels['none']") == ""


def test_tolerations_of_everything() -> None:
    assert tolerations([{"operator": "Exists"}, {"key": "k", "operator": "Equal", "value": "v"}]) == [
        "op=Exists",
        "k=v",
    ]


@pytest.mark.parametrize(
    ("texts", "total"),
    [([], "0"), (["100m"], "100m"), (["100m", "1"], "1100m"), (["500m", "500m"], "1"), (["1Gi", "512Mi"], "1536Mi")],
)
def test_adding_quantities(texts: list[str], total: str) -> None:
    assert add_quantities(texts) == total


def test_quantities() -> None:
    assert parse_quantity("1.5Ki") == 1536
    assert percent("250m", "2") == 12
    assert percent("1", "0") == 0
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity("1Qi")
