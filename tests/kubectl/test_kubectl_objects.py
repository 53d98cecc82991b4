"""The user's own kubectl against the API server: what people do with objects, and what they are told."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from tests.harness.apiserver import ApiServer, Kubectl
from tests.harness.node import REPOSITORY

RS = (REPOSITORY / "examples" / "go-demo-2-rs.yml").read_text()
ALL = (REPOSITORY / "examples" / "go-demo-2.yml").read_text()


def lines(text: str) -> list[str]:
    return [re.sub(" +", " ", line.rstrip()) for line in text.splitlines()]


def get(kubectl: Kubectl, *what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("get", *what, "-o", "json"))
    return found


def test_create_get_and_delete(kubectl: Kubectl) -> None:
    assert kubectl("create", "-f", "-", stdin=RS) == "replicaset.apps/go-demo-2 created\n"
    header, row = lines(kubectl("get", "-f", "-", stdin=RS))
    assert header == "NAME DESIRED CURRENT READY AGE"
    assert re.fullmatch(r"go-demo-2 2 0 0 \d+s", row)
    assert "AlreadyExists" in kubectl.refused("create", "-f", "-", stdin=RS)
    assert kubectl("delete", "rs", "go-demo-2") == 'replicaset.apps "go-demo-2" deleted\n'
    assert 'replicasets.apps "go-demo-2" not found' in kubectl.refused("get", "rs", "go-demo-2")


def test_expose_takes_ports_and_selector_from_the_replicaset(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=RS)
    said = kubectl("expose", "rs", "go-demo-2", "--name=svc", "--target-port=28017", "--type=NodePort")
    assert said == "service/svc exposed\n"
    spec = get(kubectl, "svc", "svc")["spec"]
    assert spec["selector"] == {"type": "backend", "service": "go-demo-2"}
    assert 30000 <= spec["ports"][0]["nodePort"] <= 32767
    assert spec["ports"][0]["targetPort"] == 28017
    kubectl("delete", "svc", "svc")


def test_apply_again_and_again(kubectl: Kubectl) -> None:
    first = kubectl("apply", "-f", "-", stdin=ALL)
    assert first.count("created") == 4
    assert kubectl("apply", "-f", "-", stdin=ALL).count("unchanged") == 4
    changed = kubectl("apply", "-f", "-", stdin=ALL.replace("replicas: 3", "replicas: 5"))
    assert "replicaset.apps/go-demo-2-api configured" in changed
    assert get(kubectl, "rs", "go-demo-2-api")["spec"]["replicas"] == 5
    assert kubectl("apply", "--dry-run=server", "-f", "-", stdin=ALL).count("server dry run") == 4
    kubectl("delete", "-f", "-", stdin=ALL)


def test_apply_removes_what_is_no_longer_written(kubectl: Kubectl) -> None:
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  a: '1'\n  b: '2'\n"
    kubectl("apply", "-f", "-", stdin=config)
    kubectl("apply", "-f", "-", stdin=config.replace("  b: '2'\n", ""))
    assert get(kubectl, "cm", "x")["data"] == {"a": "1"}


def test_server_side_apply(kubectl: Kubectl) -> None:
    assert kubectl("apply", "--server-side", "-f", "-", stdin=RS) == "replicaset.apps/go-demo-2 serverside-applied\n"
    other = kubectl.refused(
        "apply", "--server-side", "--field-manager=other", "-f", "-", stdin=RS.replace("replicas: 2", "replicas: 4")
    )
    assert 'conflict with "kubectl"' in other
    assert ".spec.replicas" in other


def test_diff_sees_changes_and_nothing_else(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=RS)
    assert kubectl("diff", "-f", "-", stdin=RS) == ""
    assert "+  replicas: 5" in kubectl.refused("diff", "-f", "-", stdin=RS.replace("replicas: 2", "replicas: 5"))


def test_what_was_asked_of_a_list_is_said_once(kubectl: Kubectl) -> None:
    said = kubectl.refused("get", "pods", "--field-selector=spec.color=red")
    assert said.count("Unable to find") == 1
    assert said.endswith('field selector "spec.color=red": field label not supported: spec.color\n')


def test_scale(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=RS)
    assert kubectl("scale", "rs", "go-demo-2", "--replicas=4") == "replicaset.apps/go-demo-2 scaled\n"
    assert get(kubectl, "rs", "go-demo-2")["spec"]["replicas"] == 4
    assert "Expected replicas to be 9" in kubectl.refused(
        "scale", "rs", "go-demo-2", "--current-replicas=9", "--replicas=1"
    )


def test_label_annotate_and_patch(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "x", "--from-literal=a=1")
    assert kubectl("label", "cm", "x", "tier=front") == "configmap/x labeled\n"
    assert kubectl("annotate", "cm", "x", "why=because") == "configmap/x annotated\n"
    assert kubectl("get", "cm", "-l", "tier=front", "-o", "name") == "configmap/x\n"
    assert kubectl("get", "cm", "-l", "tier!=front", "-o", "name") == ""
    kubectl("patch", "cm", "x", "--type=json", "-p", '[{"op": "add", "path": "/data/b", "value": "2"}]')
    kubectl("patch", "cm", "x", "--type=merge", "-p", '{"data": {"a": null}}')
    found = get(kubectl, "cm", "x")
    assert (found["data"], found["metadata"]["annotations"]) == ({"b": "2"}, {"why": "because"})


def test_what_typed_clients_send(kubectl: Kubectl) -> None:
    """These commands speak protobuf."""
    assert kubectl("create", "configmap", "c", "--from-literal=a=ä").startswith("configmap/c")
    assert kubectl("create", "secret", "generic", "s", "--from-literal=p=q").startswith("secret/s")
    assert kubectl("create", "serviceaccount", "sa") == "serviceaccount/sa created\n"
    assert kubectl("create", "service", "clusterip", "svc", "--tcp=80:web").startswith("service/svc")
    assert kubectl("create", "service", "externalname", "ext", "--external-name=example.org").startswith("service/ext")
    assert get(kubectl, "cm", "c")["data"] == {"a": "ä"}
    assert get(kubectl, "secret", "s")["data"] == {"p": "cQ=="}
    assert get(kubectl, "svc", "svc")["spec"]["ports"][0]["targetPort"] == "web"
    assert get(kubectl, "svc", "ext")["spec"]["externalName"] == "example.org"
    assert kubectl("auth", "can-i", "delete", "pods") == "yes\n"
    assert "*.*" in kubectl("auth", "can-i", "--list")
    assert "system:masters" in kubectl("auth", "whoami")
    kubectl("delete", "svc", "svc", "ext")


def test_strict_validation_names_the_field(kubectl: Kubectl) -> None:
    said = kubectl.refused("create", "-f", "-", stdin=RS.replace("replicas:", "replicaz:"))
    assert 'unknown field "spec.replicaz"' in said
    spec = "{type: NodePort, ports: [{port: 80, nodePort: 80}]}"
    bad = f"apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\nspec: {spec}\n"
    said = kubectl.refused("create", "-f", "-", stdin=bad)
    assert "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range" in said


def test_describe_shows_events(kubectl: Kubectl) -> None:
    kubectl("run", "p", "--image=busybox")
    uid = get(kubectl, "pod", "p")["metadata"]["uid"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": kubectl.namespace, "uid": uid},
        "reason": "Started",
        "message": "it runs",
        "type": "Normal",
        "source": {"component": "test"},
        "count": 1,
    }
    kubectl("create", "-f", "-", stdin=json.dumps(event))
    assert "it runs" in kubectl("describe", "pod", "p")
    assert "it runs" in kubectl("get", "events")
    kubectl("delete", "pod", "p")


def test_watching_and_waiting(apiserver: ApiServer, kubectl: Kubectl) -> None:
    kubectl("run", "p", "--image=busybox")
    argv = ["kubectl", "--kubeconfig", str(apiserver.config.paths.kubeconfig), "-n", kubectl.namespace]
    with (
        subprocess.Popen([*argv, "get", "pods", "-w"], stdout=subprocess.PIPE, text=True) as watching,
        subprocess.Popen([*argv, "wait", "pod/p", "--for=delete", "--timeout=60s"], stdout=subprocess.PIPE) as waiting,
    ):
        assert watching.stdout is not None
        seen = [watching.stdout.readline() for _ in range(2)]
        assert [line.split()[0] for line in seen] == ["NAME", "p"]
        status = '{"status": {"phase": "Running"}}'
        kubectl("patch", "pod", "p", "--subresource=status", "--type=merge", "-p", status)
        assert watching.stdout.readline().split()[2] == "Running"
        kubectl("wait", "pod/p", "--for=jsonpath={.status.phase}=Running", "--timeout=30s")
        kubectl("delete", "pod", "p")
        assert waiting.wait(60) == 0
        watching.terminate()


def test_forms_of_output(kubectl: Kubectl) -> None:
    for name in ("a", "b"):
        kubectl("create", "configmap", name, f"--from-literal=name={name}")
    assert kubectl("get", "cm", "-o", "jsonpath={.items[*].data.name}") == "a b"
    assert lines(kubectl("get", "cm", "--no-headers", "-o", "custom-columns=N:.metadata.name")) == ["a", "b"]
    assert kubectl("get", "cm", "a", "b", "-o", "name") == "configmap/a\nconfigmap/b\n"
    assert "name: a" in kubectl("get", "cm", "a", "-o", "yaml")
    wide = lines(kubectl("get", "cm", "-A"))
    assert wide[0] == "NAMESPACE NAME DATA AGE"
    paged = kubectl("get", "cm", "--chunk-size=1", "-o", "name")
    assert paged == "configmap/a\nconfigmap/b\n"


def test_a_namespace_being_deleted_takes_nothing_in(apiserver: ApiServer, kubectl: Kubectl) -> None:
    apiserver.kubectl("delete", "namespace", kubectl.namespace, "--wait=false")
    assert "Terminating" in apiserver.kubectl("get", "namespace", kubectl.namespace)
    assert "because it is being terminated" in kubectl.refused("create", "configmap", "x")


def test_what_there_is_can_be_asked(apiserver: ApiServer) -> None:
    resources = apiserver.kubectl("api-resources", "-o", "name").split()
    assert {"pods", "services", "replicasets.apps", "endpointslices.discovery.k8s.io"} <= set(resources)
    assert "v1.33" in apiserver.kubectl("version")
    assert "ports" in apiserver.kubectl("explain", "service.spec")
    assert apiserver.kubectl("get", "--raw", "/readyz") == "ok"
