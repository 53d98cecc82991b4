"""podwire's verbs beside the real kubectl: the same commands on the same server, the same words.

Each transcript runs twice, by kubectl in one namespace and by podwire in another. What cannot be the same (ages,
addresses, ports and UIDs the server chose, the namespaces' names) is made so before the comparison. No pods run here.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from agent.cli.kubectl import register
from tests.harness.control_plane import ApiServer

EXAMPLES = Path(__file__).parents[2] / "examples"
RS, SVC, ALL = (str(EXAMPLES / name) for name in ("go-demo-2-rs.yml", "go-demo-2-svc.yml", "go-demo-2.yml"))


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    out: str
    err: str
    code: int


@dataclass(frozen=True)
class Clients:
    """Both programs against one server."""

    kubeconfig: Path
    home: Path

    def kubectl(self, *args: str, stdin: str = "") -> Said:
        env = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home), "TZ": "UTC"}
        argv = [shutil.which("kubectl") or "kubectl", *args]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=env, timeout=60, check=False)
        return Said(done.stdout, done.stderr, done.returncode)

    def podwire(self, *args: str, stdin: str = "") -> Said:
        group = click.Group("podwire")
        register(group)
        env = {"KUBECONFIG": str(self.kubeconfig), "XDG_CACHE_HOME": str(self.home / "cache"), "TZ": "UTC"}
        result = CliRunner().invoke(group, list(args), input=stdin, env=env, catch_exceptions=False)
        return Said(result.stdout, result.stderr, result.exit_code)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    folder = tmp_path_factory.mktemp("api")
    server = ApiServer(folder)
    with asyncio.Runner() as runner:
        try:
            runner.run(server.start())
            yield Clients(server.config.paths.kubeconfig, tmp_path_factory.mktemp("home"))
        finally:
            runner.run(server.stop())
            server.close()


@pytest.fixture
def namespaces(clients: Clients) -> tuple[str, str]:
    """Two namespaces with names of one length, so that layouts stay comparable."""
    number = next(_NUMBERS)
    left, right = f"kubectl-{number}", f"podwire-{number}"
    for name in (left, right):
        assert clients.kubectl("create", "namespace", name).code == 0
    return left, right


_NUMBERS = itertools.count(10)

CHANGING = (
    (r"\b(?:kubectl|podwire) (?=(?:get|apply) )", "PROGRAM "),
    (r"\b(?:kubectl|podwire)-\d\d\b", "NAMESPACE"),
    (r"\b10\.(?:9[6-9]|1[01]\d)\.\d+\.\d+\b", "CLUSTER-IP"),
    (r"\b3[0-2]\d{3}\b", "NODE-PORT"),
    (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UID"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r'(resourceVersion"?: )"\d+"', r'\1"VERSION"'),
    (r"\b(?:\d+[smhd]){1,2}\b", "AGE"),
)


def normal(text: str) -> str:
    """The text without what differs from run to run; blanks are squeezed where that changed the layout."""
    replaced = text
    for pattern, name in CHANGING:
        replaced = re.sub(pattern, name, replaced)
    return re.sub(" +", " ", replaced) if re.search("AGE|CLUSTER-IP", replaced) else replaced


def compare(clients: Clients, namespaces: tuple[str, str], args: tuple[str, ...], stdin: str = "") -> None:
    theirs = clients.kubectl("-n", namespaces[0], *args, stdin=stdin)
    ours = clients.podwire("-n", namespaces[1], *args, stdin=stdin)
    command = " ".join(args)
    assert normal(ours.out) == normal(theirs.out), command
    assert normal(ours.err) == normal(theirs.err), command
    assert ours.code == theirs.code, command


Step = tuple[str, ...] | str  # a command's words, or one line of words without blanks in them

TRANSCRIPTS: dict[str, list[Step]] = {
    "the document": [
        f"create -f {RS}",
        f"create -f {RS}",
        f"get -f {RS}",
        "get rs go-demo-2 -o wide",
        "expose rs go-demo-2 --name=go-demo-2-svc --target-port=28017 --type=NodePort",
        "expose rs go-demo-2 --name=go-demo-2-svc --target-port=28017 --type=NodePort",
        "describe svc go-demo-2-svc",
        "describe rs go-demo-2",
        f"delete -f {RS}",
        f"delete -f {RS}",
        f"create -f {ALL}",
        f"get -f {ALL}",
        "describe svc go-demo-2-db",
        "get all",
    ],
    "get": [
        f"create -f {ALL}",
        "get svc,rs",
        "get rs/go-demo-2-db svc/go-demo-2-db",
        "get svc go-demo-2-db go-demo-2-api",
        "get svc go-demo-2-db nope",
        "get svc/go-demo-2-db rs/nope",
        "get svc nope --ignore-not-found",
        "get svc --no-headers",
        "get svc --show-labels",
        "get rs -L service,example.com/type",
        "get svc -o name",
        "get all -o name",
        "get svc -o wide",
        "get svc --sort-by=.spec.ports[0].port",
        "get svc --sort-by=.metadata.name -o name",
        "get svc go-demo-2-db -o yaml",
        "get svc go-demo-2-db -o=json",
        "get svc,rs -o yaml",
        "get svc -l a=b",
        "get svc -l a=b -o yaml",
        "get svc --field-selector metadata.name=go-demo-2-db",
        "get pods",
        "get pods -o json",
        "get nope",
        "get pods a/b/c",
        ("get", "pods", "-l", "a in (b"),
        "get svc -o=custom-columns=NAME:.metadata.name,PORTS:.spec.ports[*].port",
        "get svc --no-headers -o custom-columns=NAME:.metadata.name,TYPE:spec.type,NONE:.spec.nothing",
        "get svc -o jsonpath={.items[*].metadata.name}",
        ("get", "svc", "-o", 'jsonpath={range .items[*]}{.metadata.name}{"\\t"}{.spec.ports}{"\\n"}{end}'),
        ("get", "svc", "-o", 'jsonpath={.items[?(@.spec.type=="NodePort")].metadata.name}'),
        "get svc go-demo-2-db -o jsonpath={.spec.ports[0].port}",
        "get namespaces -o name",
        "get nodes",
        "get configmaps -A",
    ],
    "apply": [
        f"apply -f {ALL}",
        f"apply -f {ALL}",
        "get svc go-demo-2-db -o yaml",
        f"apply -f {SVC} --dry-run=server",
        f"apply -f {SVC} --dry-run=client",
        "get svc go-demo-2",
        f"delete -f {ALL}",
        f"apply -f {ALL} -o name",
    ],
    "scale": [
        f"create -f {ALL}",
        "scale rs go-demo-2-api --replicas=2",
        "scale --replicas=5 rs/go-demo-2-api rs/go-demo-2-db",
        "scale rs go-demo-2-api --replicas=2 --current-replicas=9",
        "get rs",
    ],
    "label": [
        "create service clusterip go-demo-2 --tcp=80",
        "label svc go-demo-2 x=1",
        "label svc go-demo-2 x=1",
        "label svc go-demo-2 x=2",
        "label svc go-demo-2 x=2 --overwrite",
        "label svc go-demo-2 x=3 y=4 --overwrite=true",
        "label svc go-demo-2 x-",
        "label svc go-demo-2 x-",
        "label svc nope x=1",
        "label svc --all team=a",
        "label svc go-demo-2",
        ("annotate", "svc", "go-demo-2", "note=hello world"),
        ("annotate", "svc", "go-demo-2", "note=hello world"),
        "annotate svc go-demo-2 note-",
    ],
    "patch": [
        f"create -f {ALL}",
        ("patch", "svc", "go-demo-2-api", "-p", '{"spec":{"sessionAffinity":"ClientIP"}}'),
        ("patch", "svc", "go-demo-2-api", "-p", '{"spec":{"sessionAffinity":"ClientIP"}}'),
        ("patch", "svc/go-demo-2-api", "--type=json", "-p", '[{"op":"remove","path":"/spec/selector/type"}]'),
        ("patch", "svc", "go-demo-2-api", "--type=merge", "-p", "spec: {sessionAffinity: Sticky}"),
        ("patch", "svc", "nope", "-p", "{}"),
        "get svc go-demo-2-api -o yaml",
    ],
    "run and delete": [
        "run web --image=podwire/echo --port=80 --env=A=b -- x y",
        "run web --image=podwire/echo",
        "get pod web -o jsonpath={.spec.containers[0]}",
        "describe pod web",
        "describe pods we",
        "run other --image=podwire/echo --command --labels=a=b -- sh -c true",
        "get pods --show-labels",
        "expose pod web --port=8080 --name=front",
        "describe svc front",
        "describe svc",
        "delete svc front nope",
        "delete pod web --dry-run=client",
        "delete pod web --dry-run=server",
        "delete pod web --force --grace-period=0",
        "delete pods -l a=b --wait=false",
        "delete pods -l a=c",
        "delete svc nope --ignore-not-found",
        "delete svc",
        "delete",
        "wait --for=delete pod/web --timeout=1s",
        "wait --for=condition=Ready pod/nope --timeout=1s",
        "wait --for=create pod/nope --timeout=1s",
    ],
    "create from flags": [
        "create service clusterip c1 --tcp=80:8080",
        "create service clusterip c1 --tcp=80:8080",
        "create service nodeport c2 --tcp=80",
        "create service clusterip c3",
        "create service clusterip c4 --clusterip=None",
        "create service externalname c5 --external-name=example.com",
        "get svc",
        "create configmap m --from-literal=a=b --from-literal=c=d",
        "get configmap m -o yaml",
        "create configmap one --from-literal=a=b",
        "describe configmap one",  # with more than one value kubectl's order is that of a Go map: random
        "create secret generic s --from-literal=a=b",
        "describe secret s",
        "get secret s -o yaml",
        "get cm,secret",
        "create -f /nonexistent",
        "delete cm/m secret/s",
    ],
    "what the server is": [
        "api-resources",
        "api-resources -o wide",
        "api-resources -o name --namespaced=false",
        "api-versions",
    ],
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(clients: Clients, namespaces: tuple[str, str], name: str) -> None:
    for step in TRANSCRIPTS[name]:
        compare(clients, namespaces, tuple(step.split()) if isinstance(step, str) else step)


def service(**spec: Any) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec})


@pytest.mark.parametrize(
    "manifest",
    [
        service(prts=[{"port": 1}]),
        service(ports=[{"port": "x"}]),
        service(ports=[{"port": 0}, {"port": 70000}]),
        service(ports=[{"port": 1}], type="Nonsense"),
        '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "BAD_name"}, "spec": {"ports": [{"port": 1}]}}',
        "",
    ],
)
@pytest.mark.parametrize("verb", ["create", "apply"])
def test_refusals(clients: Clients, namespaces: tuple[str, str], verb: str, manifest: str) -> None:
    compare(clients, namespaces, (verb, "-f", "-"), stdin=manifest)


def test_changes_by_apply(clients: Clients, namespaces: tuple[str, str]) -> None:
    """A sequence of manifests of one object: what is set, removed, kept and merged."""
    versions = [
        service(ports=[{"name": "a", "port": 80}], selector={"x": "1"}),
        service(ports=[{"name": "a", "port": 80, "targetPort": 8080}, {"name": "b", "port": 81}], selector={"x": "1"}),
        service(ports=[{"name": "b", "port": 81}], selector={"x": "1", "y": "2"}, sessionAffinity="ClientIP"),
        service(ports=[{"name": "b", "port": 81}], selector={"y": "2"}, type="NodePort"),
        service(ports=[{"name": "c", "port": 82}, {"name": "b", "port": 81}, {"name": "a", "port": 80}]),
    ]
    for version in versions:
        compare(clients, namespaces, ("apply", "-f", "-"), stdin=version)
        compare(clients, namespaces, ("get", "svc", "s", "-o", "yaml"))


def test_one_port_number_under_two_protocols(clients: Clients, namespaces: tuple[str, str]) -> None:
    """kubectl merges the two into one, for ports are merged by their number alone; podwire keeps both."""
    both = [{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]
    for manifest in (service(ports=[{"name": "b", "port": 81}]), service(ports=both), service(ports=both)):
        said = clients.podwire("-n", namespaces[1], "apply", "-f", "-", stdin=manifest)
    assert said == Said("service/s unchanged\n", "", 0)
    found = json.loads(clients.podwire("-n", namespaces[1], "get", "svc", "s", "-o", "json").out)["spec"]["ports"]
    assert [(port["name"], port["port"], port["protocol"]) for port in found] == [("t", 53, "TCP"), ("u", 53, "UDP")]


def test_a_namespace_that_is_not_there(clients: Clients) -> None:
    for args in (
        ("get", "pods"),
        ("get", "pod", "x"),
        ("describe", "svc", "x"),
        ("delete", "pod", "x"),
        ("run", "x", "--image=i"),
    ):
        compare(clients, ("kubectl-99", "podwire-99"), args)


def test_what_one_applied_the_other_leaves_alone(clients: Clients, namespaces: tuple[str, str]) -> None:
    """Both remember what was applied in the same annotation, written in the same way."""
    _, namespace = namespaces
    for program in (clients.kubectl, clients.podwire, clients.kubectl):
        said = program("-n", namespace, "apply", "-f", ALL)
        words = {line.split()[-1] for line in said.out.splitlines()}
        assert (said.err, words) == (
            "",
            {"created"} if program == clients.kubectl and words == {"created"} else {"unchanged"},
        )
