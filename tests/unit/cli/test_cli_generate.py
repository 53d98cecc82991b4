"""Objects from flags: run, expose, create."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cli.kubectl import generate
from agent.cli.kubectl.errors import KubectlError
from agent.cli.kubectl.generate import Data, ExposeFlags, PodFlags, ServiceFlags, exposing_service


def replicaset(*ports: dict[str, Any], labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "kind": "ReplicaSet",
        "metadata": {"name": "go-demo-2", **({"labels": labels} if labels else {})},
        "spec": {
            "selector": {"matchLabels": {"type": "backend"}},
            "template": {"spec": {"containers": [{"name": "db", "ports": list(ports)}, {"name": "api"}]}},
        },
    }


def test_the_documents_expose() -> None:
    flags = ExposeFlags(name="go-demo-2-svc", target_port="28017", type="NodePort")
    assert exposing_service(replicaset({"containerPort": 28017, "protocol": "TCP"}, labels={"db": "mongo"}), flags) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "go-demo-2-svc", "labels": {"db": "mongo"}},
        "spec": {
            "type": "NodePort",
            "selector": {"type": "backend"},
            "ports": [{"port": 28017, "protocol": "TCP", "targetPort": 28017}],
        },
    }


@pytest.mark.parametrize(
    ("ports", "flags", "expected"),
    [
        ([], {"port": "80"}, [{"port": 80, "protocol": "TCP", "targetPort": 80}]),
        ([], {"port": "80", "target_port": "http"}, [{"port": 80, "protocol": "TCP", "targetPort": "http"}]),
        ([], {"port": "53", "protocol": "UDP"}, [{"port": 53, "protocol": "UDP", "targetPort": 53}]),
        (
            [{"containerPort": 80}, {"containerPort": 443}],
            {},
            [
                {"name": "port-1", "port": 80, "protocol": "TCP", "targetPort": 80},
                {"name": "port-2", "port": 443, "protocol": "TCP", "targetPort": 443},
            ],
        ),
        (
            [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}],
            {},
            [
                {"name": "port-1", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "port-2", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        ),
    ],
)
def test_ports(ports: list[Any], flags: dict[str, str], expected: list[Any]) -> None:
    assert exposing_service(replicaset(*ports), ExposeFlags(**flags))["spec"]["ports"] == expected


def test_exposing_a_service_and_a_pod() -> None:
    service = {"kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}}
    assert exposing_service(service, ExposeFlags(name="t"))["spec"]["selector"] == {"a": "b"}
    pod = {"kind": "Pod", "metadata": {"name": "x" * 70, "labels": {"run": "p"}}, "spec": {"containers": [{}]}}
    made = exposing_service(pod, ExposeFlags(port="80", labels="l=1", cluster_ip="None", external_ip="192.0.2.9", session_affinity="ClientIP"))  # fmt: skip
    assert made["metadata"] == {"name": "x" * 63, "labels": {"l": "1"}}
    assert made["spec"]["selector"] == {"run": "p"}
    assert (made["spec"]["clusterIP"], made["spec"]["externalIPs"], made["spec"]["sessionAffinity"]) == ("None", ["192.0.2.9"], "ClientIP")  # fmt: skip


@pytest.mark.parametrize(
    ("obj", "flags", "complaint"),
    [
        (replicaset(), ExposeFlags(), "couldn't find port via --port flag or introspection"),
        (replicaset(), ExposeFlags(port="http"), 'invalid port "http"'),
        ({"kind": "Node", "metadata": {}}, ExposeFlags(), "cannot expose a Node"),
        ({"kind": "Pod", "metadata": {}}, ExposeFlags(port="80"), "the pod has no labels"),
        ({"kind": "Service", "metadata": {}, "spec": {}}, ExposeFlags(port="80"), "no pod selector"),
        (
            {"kind": "ReplicaSet", "metadata": {}, "spec": {"selector": {"matchExpressions": [{}]}}},
            ExposeFlags(port="80"),
            "couldn't convert expressions",
        ),
        ({"kind": "ReplicaSet", "metadata": {}, "spec": {"selector": {}}}, ExposeFlags(port="80"), "no label selector"),
        (replicaset(), ExposeFlags(port="80", selector="a"), "unexpected selector 'a': expected name=value"),
    ],
)
def test_what_cannot_be_exposed(obj: dict[str, Any], flags: ExposeFlags, complaint: str) -> None:
    with pytest.raises(KubectlError, match=complaint):
        exposing_service(obj, flags)


def test_run() -> None:
    assert generate.pod("web", PodFlags("podwire/echo", port=80)) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "labels": {"run": "web"}},
        "spec": {
            "containers": [{"name": "web", "image": "podwire/echo", "ports": [{"containerPort": 80}]}],
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
        },
    }
    flags = PodFlags("i", args=("sh", "-c", "x"), command=True, env=("A=b=c",), labels="l=1", restart="Never", stdin=True, tty=True)  # fmt: skip
    made = generate.pod("web", flags)
    assert made["metadata"]["labels"] == {"l": "1"}
    assert made["spec"]["containers"] == [
        {"name": "web", "image": "i", "command": ["sh", "-c", "x"], "env": [{"name": "A", "value": "b=c"}],
         "stdin": True, "stdinOnce": True, "tty": True}
    ]  # fmt: skip
    assert generate.pod("web", PodFlags("i", args=("-v",)))["spec"]["containers"][0]["args"] == ["-v"]


def test_create_service() -> None:
    made = generate.service("web", ServiceFlags("NodePort", tcp=("80:8080", "443:https"), node_port=30080))
    assert made["metadata"] == {"name": "web", "labels": {"app": "web"}}
    assert made["spec"] == {
        "type": "NodePort",
        "selector": {"app": "web"},
        "ports": [
            {"name": "80-8080", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30080},
            {"name": "443-https", "port": 443, "protocol": "TCP", "targetPort": "https", "nodePort": 30080},
        ],
    }
    headless = generate.service("web", ServiceFlags("ClusterIP", cluster_ip="None"))["spec"]
    assert headless == {"type": "ClusterIP", "selector": {"app": "web"}, "clusterIP": "None"}
    alias = generate.service("web", ServiceFlags("ExternalName", external_name="example.com"))["spec"]
    assert alias["externalName"] == "example.com"
    with pytest.raises(KubectlError, match="at least one tcp port"):
        generate.service("web", ServiceFlags("ClusterIP"))


def test_create_config_map_and_secret() -> None:
    data = generate.data_from(["a=1"], [("file", b"text"), ("binary", b"\xff")])
    assert data == Data({"a": "1", "file": "text"}, {"binary": b"\xff"})
    assert generate.config_map("c", data) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c"},
        "data": {"a": "1", "file": "text"},
        "binaryData": {"binary": "/w=="},
    }
    assert generate.secret("s", data)["data"] == {"a": "MQ==", "file": "dGV4dA==", "binary": "/w=="}
    with pytest.raises(KubectlError, match='cannot add key "a"'):
        generate.data_from(["a=1", "a=2"], [])
    assert generate.namespace("n") == {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
