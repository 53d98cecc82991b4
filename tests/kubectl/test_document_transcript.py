"""The document, line by line, with the user's own kubectl and with podwire's verbs: same commands, same output."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.harness.node import REPOSITORY, Node, command, eventually

EXAMPLES = REPOSITORY / "examples"
ADDRESS = r"\d+\.\d+\.\d+\.\d+"
Program = Callable[..., str]


@pytest.fixture(params=["kubectl", "podwire"])
def program(request: pytest.FixtureRequest, node: Node) -> Iterator[Program]:
    yield node.kubectl if request.param == "kubectl" else node.podwire
    manifests = [f"-f={EXAMPLES / name}" for name in ("go-demo-2-rs.yml", "go-demo-2-svc.yml", "go-demo-2.yml")]
    node.kubectl("delete", "--ignore-not-found", *manifests)
    node.kubectl("delete", "--ignore-not-found", "svc", "go-demo-2-svc")
    node.kubectl("wait", "--for=delete", "pods", "--all")  # the next test counts its own


def assert_lines(said: str, *patterns: str) -> None:
    """Each pattern matches one line from end to end, in this order, and there are no other lines but blank ones."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    assert len(lines) == len(patterns), said
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r} in:\n{said}"


def wait_ready(node: Node, name: str, count: int) -> None:
    eventually(lambda: node.get("rs", name)["status"].get("readyReplicas") == count)


def test_creating_the_replicaset_and_exposing_it(node: Node, program: Program) -> None:
    manifest = f"{EXAMPLES / 'go-demo-2-rs.yml'}"
    assert_lines(program("create", "-f", manifest), "replicaset.apps/go-demo-2 created")
    wait_ready(node, "go-demo-2", 2)
    assert_lines(program("get", "-f", manifest), r"NAME +DESIRED +CURRENT +READY +AGE", r"go-demo-2 +2 +2 +2 +\d+s")
    said = program("expose", "rs", "go-demo-2", "--name=go-demo-2-svc", "--target-port=28017", "--type=NodePort")
    assert_lines(said, "service/go-demo-2-svc exposed")
    eventually(lambda: "Endpoints:  <none>" not in re.sub(" +", "  ", program("describe", "svc", "go-demo-2-svc")))
    said = program("describe", "svc", "go-demo-2-svc")
    expected = (
        r"Name: +go-demo-2-svc",
        r"Namespace: +default",
        r"Labels: +db=mongo",
        r" +language=go",
        r" +service=go-demo-2",
        r" +type=backend",
        r"Annotations: +<none>",
        r"Selector: +service=go-demo-2,type=backend",
        r"Type: +NodePort",
        rf"IP: +{ADDRESS}",
        r"Port: +<unset> +28017/TCP",
        r"TargetPort: +28017/TCP",
        r"NodePort: +<unset> +3\d{4}/TCP",
        rf"Endpoints: +{ADDRESS}:28017,{ADDRESS}:28017",
        r"Session Affinity: +None",
        r"External Traffic Policy: +Cluster",
        r"Events: +<none>",
    )
    newer = ("IP Family Policy:", "IP Families:", "IPs:", "Internal Traffic Policy:")  # lines the document predates
    kept = "\n".join(line for line in said.splitlines() if not line.startswith(newer))
    assert_lines(kept, *expected)


def test_creating_the_service(node: Node, program: Program) -> None:
    program("create", "-f", str(EXAMPLES / "go-demo-2-rs.yml"))
    manifest = str(EXAMPLES / "go-demo-2-svc.yml")
    assert_lines(program("create", "-f", manifest), "service/go-demo-2 created")
    assert_lines(
        program("get", "-f", manifest),
        r"NAME +TYPE +CLUSTER-IP +EXTERNAL-IP +PORT\(S\) +AGE",
        rf"go-demo-2 +NodePort +{ADDRESS} +<none> +28017:30001/TCP +\d+s",
    )


def test_discovering_services(node: Node, program: Program) -> None:
    program("create", "-f", str(EXAMPLES / "go-demo-2.yml"))
    wait_ready(node, "go-demo-2-api", 3)
    columns = "-o=custom-columns=NAME:.metadata.name"
    names = program("get", "pod", "--no-headers", columns, "-l", "type=api,service=go-demo-2").split()
    assert len(names) == 3
    address = node.get("svc", "go-demo-2-db")["spec"]["clusterIP"]
    variables = eventually(lambda: program("exec", names[-1], "--", "env")).splitlines()
    assert [line for line in variables if line.startswith("GO_DEMO_2_DB_")] != []
    assert {
        f"GO_DEMO_2_DB_PORT=tcp://{address}:27017",
        f"GO_DEMO_2_DB_PORT_27017_TCP_ADDR={address}",
        "GO_DEMO_2_DB_PORT_27017_TCP_PROTO=tcp",
        "GO_DEMO_2_DB_PORT_27017_TCP_PORT=27017",
        f"GO_DEMO_2_DB_PORT_27017_TCP=tcp://{address}:27017",
        f"GO_DEMO_2_DB_SERVICE_HOST={address}",
        "GO_DEMO_2_DB_SERVICE_PORT=27017",
    } <= set(variables)
    wait_ready(node, "go-demo-2-db", 1)
    eventually(lambda: re.search(r"Endpoints: +[0-9.]+:27017", program("describe", "svc", "go-demo-2-db")))
    said = program("describe", "svc", "go-demo-2-db")
    for pattern in (r"Type: +ClusterIP", rf"IP: +{address}", r"TargetPort: +27017/TCP", r"Session Affinity: +None"):
        assert re.search(rf"(?m)^{pattern}$", said), said


def test_the_documents_own_exec_without_a_dash(node: Node) -> None:
    """``kubectl exec POD env``: kubectl itself has dropped this form; podwire takes it as the document writes it."""
    node.podwire("create", "-f", str(EXAMPLES / "go-demo-2.yml"))
    try:
        wait_ready(node, "go-demo-2-db", 1)
        columns = "custom-columns=NAME:.metadata.name"
        (name,) = node.podwire("get", "pod", "--no-headers", "-o", columns, "-l", "type=db").split()
        assert "PATH=" in node.podwire("exec", name, "env")
    finally:
        node.kubectl("delete", "-f", str(EXAMPLES / "go-demo-2.yml"))


def test_the_pipeline_of_the_document_in_a_shell(node: Node) -> None:
    node.podwire("create", "-f", str(EXAMPLES / "go-demo-2.yml"))
    try:
        wait_ready(node, "go-demo-2-api", 3)
        script = (
            f'kubectl() {{ {sys.executable} -m agent.cli.main "$@"; }}\n'
            "POD_NAME=$(kubectl get pod --no-headers -o=custom-columns=NAME:.metadata.name "
            "-l type=api,service=go-demo-2 | tail -1)\n"
            "kubectl exec $POD_NAME env | grep ^GO_DEMO_2_DB_SERVICE\n"
        )
        said = command("bash", "-euc", script, env={"KUBECONFIG": str(node.kubeconfig)})
        assert "GO_DEMO_2_DB_SERVICE_PORT=27017" in said.splitlines()
    finally:
        node.kubectl("delete", "-f", str(EXAMPLES / "go-demo-2.yml"))
