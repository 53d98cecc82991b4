"""The environment variables of a container."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet.environment import (
    ContainerConfigError,
    Facts,
    Sources,
    expand,
    referred_objects,
    resolve_environment,
    resolve_field,
    service_variables,
)
from agent.kubelet.spec import FieldRef, Pod, Service

FACTS = Facts(node_name="node-1", host_ip="192.0.2.1", pod_ip="10.244.0.7", hostname="p", cpu=2, memory=4 << 30)


def service(name: str, ip: str, *ports: dict[str, Any], namespace: str = "shop") -> Service:
    document = {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": ip, "ports": list(ports)},
    }
    return msgspec.convert(document, Service)


KUBERNETES = service("kubernetes", "10.96.0.1", {"port": 443, "name": "https"}, namespace="default")


def make_pod(container: dict[str, Any], **spec: Any) -> Pod:
    document = {
        "metadata": {
            "name": "p",
            "namespace": "shop",
            "uid": "u-1",
            "labels": {"app": "x", "a/b": 'say "hi"'},
            "annotations": {"note": "line\nbreak"},
        },
        "spec": {"containers": [{"name": "c", **container}], "serviceAccountName": "robot", **spec},
    }
    return msgspec.convert(document, Pod)


def resolve(container: dict[str, Any], sources: Sources | None = None, **spec: Any) -> dict[str, str]:
    pod = make_pod(container, **spec)
    return resolve_environment(pod, pod.spec.containers[0], sources or Sources(), FACTS)


def var(**source: Any) -> dict[str, Any]:
    """A container with one variable V."""
    return {"env": [{"name": "V", "valueFrom": source}]}


def test_the_document_s_variables_verbatim() -> None:
    db = service("go-demo-2-db", "10.0.0.250", {"port": 27017})
    assert service_variables([db], namespace="shop", links=True) == {
        "GO_DEMO_2_DB_PORT": "tcp://10.0.0.250:27017",
        "GO_DEMO_2_DB_PORT_27017_TCP_ADDR": "10.0.0.250",
        "GO_DEMO_2_DB_PORT_27017_TCP_PROTO": "tcp",
        "GO_DEMO_2_DB_PORT_27017_TCP_PORT": "27017",
        "GO_DEMO_2_DB_PORT_27017_TCP": "tcp://10.0.0.250:27017",
        "GO_DEMO_2_DB_SERVICE_HOST": "10.0.0.250",
        "GO_DEMO_2_DB_SERVICE_PORT": "27017",
    }


def test_several_ports_names_and_protocols() -> None:
    dns = service(
        "kube-dns", "fd00::a", {"port": 53, "name": "dns", "protocol": "UDP"}, {"port": 53, "name": "dns-tcp"}
    )
    variables = service_variables([dns], namespace="shop", links=True)
    assert variables["KUBE_DNS_SERVICE_PORT"] == "53"
    assert variables["KUBE_DNS_SERVICE_PORT_DNS_TCP"] == "53"
    assert variables["KUBE_DNS_PORT"] == "udp://[fd00::a]:53"
    assert variables["KUBE_DNS_PORT_53_TCP"] == "tcp://[fd00::a]:53"
    assert variables["KUBE_DNS_PORT_53_UDP_ADDR"] == "fd00::a"


@pytest.mark.parametrize(
    ("services", "links", "hosts"),
    [
        ([KUBERNETES, service("db", "10.0.0.1", {"port": 1})], True, {"KUBERNETES", "DB"}),
        ([KUBERNETES, service("db", "10.0.0.1", {"port": 1})], False, {"KUBERNETES"}),
        ([service("other", "10.0.0.1", {"port": 1}, namespace="elsewhere")], True, set()),
        ([service("other", "10.0.0.1", {"port": 1}, namespace="default")], True, set()),
        ([service("headless", "None", {"port": 1}), service("external", "", {"port": 1})], True, set()),
        ([service("portless", "10.0.0.1")], True, set()),
    ],
)
def test_which_services_a_pod_sees(services: list[Service], links: bool, hosts: set[str]) -> None:
    variables = service_variables(services, namespace="shop", links=links)
    assert {name.removesuffix("_SERVICE_HOST") for name in variables if name.endswith("_SERVICE_HOST")} == hosts


def test_a_service_of_its_own_called_kubernetes_wins() -> None:
    own = service("kubernetes", "10.0.0.9", {"port": 1})
    for order in ([own, KUBERNETES], [KUBERNETES, own]):
        assert service_variables(order, namespace="shop", links=True)["KUBERNETES_SERVICE_HOST"] == "10.0.0.9"


def test_layers_override_from_services_to_env_from_to_env() -> None:
    sources = Sources(
        services=(service("db", "10.0.0.1", {"port": 1}),),
        config_maps={"m": {"DB_SERVICE_PORT": b"2", "B": b"map"}},
        secrets={"s": {"B": b"secret", "C": b"c"}},
    )
    container = {
        "envFrom": [{"configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}, "prefix": ""}],
        "env": [
            {"name": "C", "value": "$(B)-$(DB_SERVICE_HOST)"},
            {"name": "D", "value": "$(C)/$(LATER)"},
            {"name": "LATER"},
        ],
    }
    variables = resolve(container, sources)
    assert variables["DB_SERVICE_HOST"] == "10.0.0.1"
    assert variables["DB_SERVICE_PORT"] == "2"
    assert variables["B"] == "secret"
    assert variables["C"] == "secret-10.0.0.1"
    assert variables["D"] == "secret-10.0.0.1/$(LATER)"
    assert variables["LATER"] == ""


def test_env_from_with_prefix_and_optional() -> None:
    container = {
        "envFrom": [
            {"prefix": "X_", "configMapRef": {"name": "m"}},
            {"configMapRef": {"name": "none", "optional": True}},
            {"secretRef": {"name": "none", "optional": True}},
        ]
    }
    assert resolve(container, Sources(config_maps={"m": {"a": b"1"}})) == {"X_a": "1"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "x"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "line\nbreak"),
        ("metadata.labels", 'a/b="say \\"hi\\""\napp="x"'),
        ("metadata.annotations", 'note="line\\nbreak"'),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "robot"),
        ("status.podIP", "10.244.0.7"),
        ("status.podIPs", "10.244.0.7"),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1"),
    ],
)
def test_field_refs(path: str, value: str) -> None:
    assert resolve(var(fieldRef={"fieldPath": path})) == {"V": value}
    assert resolve_field(FieldRef(field_path=path), make_pod({}), FACTS) == value


@pytest.mark.parametrize(
    ("ref", "value"),
    [
        ({"resource": "limits.cpu"}, "1"),
        ({"resource": "limits.cpu", "divisor": "1m"}, "500"),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "64"),
        ({"resource": "requests.cpu"}, "0"),
        ({"resource": "limits.memory", "containerName": "other"}, str(4 << 30)),
        ({"resource": "limits.cpu", "containerName": "other", "divisor": "0"}, "2"),
        ({"resource": "requests.memory", "containerName": "other"}, "0"),
    ],
)
def test_resource_refs(ref: dict[str, Any], value: str) -> None:
    container = {
        "env": [{"name": "V", "valueFrom": {"resourceFieldRef": ref}}],
        "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
    }
    assert resolve(container, initContainers=[{"name": "other"}]) == {"V": value}


def test_keys_of_config_maps_and_secrets() -> None:
    sources = Sources(config_maps={"m": {"k": b"1"}}, secrets={"s": {"k": "gr\u00fcn".encode()}})
    container = {
        "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "x", "optional": True}}},
            {"name": "D", "valueFrom": {"secretKeyRef": {"name": "x", "key": "x", "optional": True}}},
            {"name": "E", "valueFrom": {}},
        ]
    }
    assert resolve(container, sources) == {"A": "1", "B": "gr\u00fcn", "E": ""}


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"envFrom": [{"configMapRef": {"name": "x"}}]}, 'configmap "x" not found'),
        ({"envFrom": [{"secretRef": {"name": "x"}}]}, 'secret "x" not found'),
        (var(configMapKeyRef={"name": "x", "key": "k"}), 'configmap "x" not found'),
        (var(secretKeyRef={"name": "s", "key": "k"}), "couldn't find key k in Secret shop/s"),
        (var(fieldRef={"fieldPath": "spec.x"}), "unsupported fieldPath: spec.x"),
        (var(resourceFieldRef={"resource": "cpu"}), "unsupported resource: cpu"),
        (var(resourceFieldRef={"resource": "limits.cpu", "containerName": "x"}), "container x not found"),
        (var(resourceFieldRef={"resource": "limits.cpu", "divisor": "?"}), "cannot read limits.cpu"),
        (var(secretKeyRef={"name": "s", "key": "nul"}), "NUL"),
    ],
)  # fmt: skip
def test_what_is_missing_says_so(container: dict[str, Any], message: str) -> None:
    with pytest.raises(ContainerConfigError, match=message):
        resolve(container, Sources(secrets={"s": {"nul": b"a\0b"}}))


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)$(B)y", "x12y"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(NONE)", "$(NONE)"),
        ("$A $(A", "$A $(A"),
        ("$", "$"),
        ("$(A$(B)", "$(A$(B)"),
        ("$()", "$()"),
    ],
)
def test_expand(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expanded


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_expand_leaves_text_without_dollars_alone(text: str, variables: dict[str, str]) -> None:
    plain = text.replace("$", "")
    assert expand(plain, variables) == plain


def test_what_a_pod_refers_to() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "m1"}}, {"secretRef": {"name": "s1"}}],
        "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m2", "key": "k"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}},
            {"name": "C", "value": "x"},
        ],
    }
    volumes = [
        {"name": "a", "configMap": {"name": "m3"}},
        {"name": "b", "secret": {"secretName": "s3"}},
        {"name": "c", "projected": {"sources": [{"configMap": {"name": "m4"}}, {"secret": {"name": "s4"}}]}},
        {"name": "d", "emptyDir": {}},
    ]
    maps, secrets = referred_objects(make_pod(container, volumes=volumes))
    assert maps == {"m1", "m2", "m3", "m4"}
    assert secrets == {"s1", "s2", "s3", "s4"}
