"""``--dry-run=dataplane`` on a running node: what was said before an edit is what packets then meet."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from agent.cli.kubectl.connection import open_cluster
from agent.cli.kubectl.edits import Edit
from agent.cli.kubectl.forecast import open_forecast
from agent.cli.kubectl.targets import Target
from rules.snapshot import ServiceName
from tests.harness.client import http_get
from tests.harness.node import NODE_IP, OUTSIDE_IP, Node, eventually, inside
from tests.harness.objects import echo_replicaset, service

JSON = dict[str, Any]
NP = "NodePort 30085/TCP"
LOCAL = "(spec.externalTrafficPolicy: Cluster -> Local)"


def exposed(**spec: Any) -> JSON:
    port = {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30085}
    return service("foretold", port, **{"type": "NodePort", "clusterIP": "10.96.0.85", **spec})


def stdin_of(*objects: JSON) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


@pytest.fixture(scope="module")
def pods(node: Node) -> Iterator[Node]:
    """Two pods that are ready; no Service yet."""
    node.apply(echo_replicaset("foretold", 2))
    node.kubectl("wait", "--for=jsonpath={.status.readyReplicas}=2", "rs/foretold", "--timeout=60s")
    yield node
    node.kubectl("delete", "rs/foretold", "svc/foretold", "--ignore-not-found")


def foretell(node: Node, *objects: JSON, verb: str = "apply") -> list[str]:
    text = node.podwire(verb, "--dry-run=dataplane", "-f", "-", stdin=stdin_of(*objects))
    return [line.strip() for line in text.splitlines()]


def source(node: Node) -> str:
    """The client's address, as a pod sees a connection from outside; "" where there is no answer."""
    try:
        return inside(node.outside, lambda: http_get(NODE_IP, 30085, "/clientip", timeout=1)).split(":")[0]
    except OSError:
        return ""


def ask(node: Node, connection: http.client.HTTPConnection) -> str:
    """An answer over this very connection: it is never made anew."""

    def work() -> str:
        if connection.sock is None:
            connection.connect()
            connection.auto_open = 0
        connection.request("GET", "/hostname")
        return connection.getresponse().read().decode().strip()

    return inside(node.outside, work)


def test_what_is_said_is_what_happens(pods: Node) -> None:
    node = pods
    # A Service that does not exist: its endpoints are foretold from the pods, and nothing is made.
    heading, done, *sentences = foretell(node, exposed())
    assert heading == f"on node {node.name} (pod network 10.244.0.0/24):"
    assert done == "service/foretold created (dataplane dry run)"
    assert sentences == [
        "+ ClusterIP 10.96.0.85:80/TCP is new: connections are spread over 2 endpoints",
        f"+ {NP} is new: connections are spread over 2 endpoints, which do not see the client's address",
    ]
    assert "NotFound" in node.kubectl("get", "svc", "foretold", check=False)
    assert source(node) == ""
    node.apply(exposed())
    assert eventually(lambda: source(node)) != OUTSIDE_IP

    # Local: the client's address is seen.
    _, done, *sentences = foretell(node, exposed(externalTrafficPolicy="Local"))
    assert done == "service/foretold configured (dataplane dry run)"
    assert sentences == [
        f"{NP} from outside: only this node's endpoints get connections from now on: "
        f"the same 2 endpoints as before {LOCAL}",
        f"~ {NP}: endpoints see the client's address from now on {LOCAL}",
    ]
    assert source(node) != OUTSIDE_IP
    node.apply(exposed(externalTrafficPolicy="Local"))
    eventually(lambda: source(node) == OUTSIDE_IP)

    # A selector that chooses nobody: refused.
    nobody = exposed(externalTrafficPolicy="Local", selector={"app": "nobody"})
    _, _, *sentences = foretell(node, nobody)
    assert sentences == [
        f"- ClusterIP 10.96.0.85:80/TCP and {NP}: new connections are refused: the Service has no endpoints; "
        "open connections go on (EndpointSlices)"
    ]
    open_one = inside(node.outside, lambda: http.client.HTTPConnection(NODE_IP, 30085, timeout=5))
    assert ask(node, open_one)
    node.apply(nobody)

    def refused() -> bool:
        try:
            inside(node.outside, lambda: http_get(NODE_IP, 30085, "/hostname", timeout=1))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False

    eventually(refused)
    assert ask(node, open_one), "an open connection goes on"
    open_one.close()

    # Nothing to do; and away with it.
    assert foretell(node, nobody)[1:] == [
        "service/foretold unchanged (dataplane dry run)",
        "no effect on traffic",
    ]
    assert foretell(node, nobody, verb="delete")[1:] == [
        'service "foretold" deleted (dataplane dry run)',
        f"~ ClusterIP 10.96.0.85:80/TCP and {NP} no longer exist: packets are not refused any more, nor translated",
    ]


def test_endpoints_are_foretold_as_the_controllers_make_them(pods: Node) -> None:
    """Down to the answer of the policy: named and numbered ports, a pod that is not ready, a Service without pods."""
    ports = [
        {"name": "a", "port": 80, "targetPort": "http"},
        {"name": "b", "port": 81, "targetPort": 9, "protocol": "UDP"},
    ]
    found = [
        service("twin", *ports, app="foretold", clusterIP="10.96.0.86", externalIPs=["198.51.100.9"]),
        service("lonely", app="nobody", clusterIP="10.96.0.87", sessionAffinity="ClientIP"),
    ]
    names = [ServiceName("default", obj["metadata"]["name"]) for obj in found]
    with contextlib.closing(open_cluster(kubeconfig=str(pods.kubeconfig), context=None, namespace=None)) as cluster:
        forecast = open_forecast(cluster, node_name=None, cluster_cidrs=())
        services = cluster.find_resource("services")
        for obj in found:
            stored = cluster.create(services.path("default"), obj, params={"dryRun": "All"})
            target = Target(services, "default", obj["metadata"]["name"])
            assert forecast.tell(Edit(target, "created", None, stored, obj)).effects
        foretold = [forecast.frontends.services[name] for name in names]
        pods.apply(*found)

        def made() -> bool:
            now = open_forecast(cluster, node_name=None, cluster_cidrs=()).frontends.services
            return [now.get(name) for name in names] == foretold

        eventually(made)
    pods.kubectl("delete", "svc/twin", "svc/lonely")


def test_the_same_as_json_and_for_another_network(pods: Node) -> None:
    new = service("unborn", {"port": 80, "targetPort": 8080}, app="foretold")
    argv = ("--dry-run=dataplane", "-o", "json", "--cluster-cidr", "10.244.0.0/16", "-f", "-")
    told = json.loads(pods.podwire("apply", *argv, stdin=stdin_of(new, echo_replicaset("foretold", 3))))
    assert (told["node"], told["assumptions"]) == (pods.name, [])
    first, second = told["objects"]
    (effect,) = first["effects"]
    assert effect["impact"] == "gain"
    assert effect["sentence"].endswith("is new: connections are spread over 2 endpoints")
    assert first["notes"][0].startswith(
        "chosen by the server for this dry run, and chosen anew when it is made: ClusterIP"
    )
    assert second["object"] == "replicaset.apps/foretold"
    assert second["notes"] == ["replicas 2 -> 3: endpoints of Service unborn come as 1 more pod becomes ready"]


def test_errors(pods: Node) -> None:
    said = pods.podwire(
        "apply", "--dry-run=dataplane", "--node-name", "nowhere", "-f", "-", stdin=stdin_of(exposed()), check=False
    )
    assert said == f'error: there is no node "nowhere" (--node-name); there are: {pods.name}\n'
    bad = {**exposed(), "metadata": {}}
    mixed = pods.podwire("apply", "--dry-run=dataplane", "-f", "-", stdin=stdin_of(bad, exposed()), check=False)
    assert "service/foretold" in mixed
    assert "error when retrieving current configuration" in mixed
