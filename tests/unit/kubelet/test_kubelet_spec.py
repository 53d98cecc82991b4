"""Reading pods and Services from the API's JSON."""

import json
from typing import Any

import msgspec
import pytest

from agent.kubelet.spec import parse_pod, parse_service


def pod_json(spec: dict[str, Any], **metadata: Any) -> bytes:
    return json.dumps({"metadata": {"name": "p", "uid": "u", **metadata}, "spec": spec}).encode()


def test_defaults_are_those_of_the_api() -> None:
    pod = parse_pod(pod_json({"containers": [{"name": "c", "readinessProbe": {"httpGet": {"port": "web"}}}]}))
    assert (pod.spec.restart_policy, pod.spec.dns_policy) == ("Always", "ClusterFirst")
    assert pod.spec.termination_grace_period_seconds == 30
    assert pod.spec.enable_service_links
    probe = pod.spec.containers[0].readiness_probe
    assert probe is not None
    assert (probe.period_seconds, probe.timeout_seconds, probe.failure_threshold, probe.success_threshold) == (
        10,
        1,
        3,
        1,
    )
    assert probe.http_get is not None
    assert (probe.http_get.path, probe.http_get.port, probe.http_get.scheme) == ("/", "web", "HTTP")
    assert not pod.deleted
    assert str(pod) == "default/p"
    assert pod.uid == "u"


def test_null_is_absent_at_any_depth() -> None:
    pod = parse_pod(pod_json({"containers": [{"name": "c", "env": None, "args": ["a", None]}], "volumes": None}))
    assert pod.spec.containers[0].env == ()
    assert pod.spec.containers[0].args == ("a",)
    assert pod.spec.volumes == ()


def test_unknown_fields_do_not_matter() -> None:
    pod = parse_pod(pod_json({"containers": [{"name": "c", "novelty": {"x": 1}}], "other": 1}))
    assert pod.spec.containers[0].name == "c"


def test_a_deleted_pod() -> None:
    pod = parse_pod(
        pod_json({"containers": []}, deletionTimestamp="2024-01-01T00:00:00Z", deletionGracePeriodSeconds=5)
    )
    assert pod.deleted
    assert pod.metadata.deletion_grace_period_seconds == 5


def test_volume_kinds_are_noted_also_strange_ones() -> None:
    volumes = [{"name": "a"}, {"name": "b", "nfs": {"server": "x"}}, {"name": "c", "configMap": {"name": "m"}}]
    pod = parse_pod(pod_json({"containers": [], "volumes": volumes}))
    assert [v.kind for v in pod.spec.volumes] == ["emptyDir", "nfs", "configMap"]


def test_names_that_are_not_camel_case() -> None:
    raw = {
        "metadata": {"name": "p"},
        "spec": {"containers": [], "setHostnameAsFQDN": True, "volumes": [{"name": "d", "downwardAPI": {}}]},
        "status": {
            "podIP": "10.0.0.1",
            "hostIP": "10.0.0.2",
            "containerStatuses": [{"name": "c", "containerID": "r://x"}],
        },
    }
    pod = parse_pod(json.dumps(raw).encode())
    assert pod.spec.set_hostname_as_fqdn
    assert pod.spec.volumes[0].downward_api is not None
    assert (pod.status.pod_ip, pod.status.host_ip) == ("10.0.0.1", "10.0.0.2")
    assert pod.status.container_statuses[0].container_id == "r://x"


def test_containers_by_name() -> None:
    pod = parse_pod(pod_json({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}))
    assert pod.container("c") is pod.spec.containers[0]
    assert pod.container("i") is pod.spec.init_containers[0]
    assert pod.container("x") is None


@pytest.mark.parametrize(
    "raw",
    [b"[]", b"{", b'{"metadata":{}}', b'{"metadata":{"name":"p"},"spec":{"containers":7}}', b'{"spec":{"volumes":7}}',
     b'{"spec":{"volumes":[7]}}'],
)  # fmt: skip
def test_what_cannot_be_read_is_a_value_error(raw: bytes) -> None:
    with pytest.raises((ValueError, msgspec.DecodeError)):
        parse_pod(raw)


def test_a_service() -> None:
    raw = {"metadata": {"name": "s"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": "x"}]}}
    service = parse_service(json.dumps(raw).encode())
    assert service.spec.cluster_ip == "10.96.0.1"
    assert [(p.name, p.port, p.protocol) for p in service.spec.ports] == [("", 80, "TCP")]
