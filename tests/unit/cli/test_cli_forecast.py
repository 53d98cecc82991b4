"""``--dry-run=dataplane``: an edit, what controllers make of it, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from agent.cli.kubectl import register
from agent.cli.kubectl.discovery import Resource
from agent.cli.kubectl.edits import Edit
from agent.cli.kubectl.errors import KubectlError
from agent.cli.kubectl.forecast import UNKNOWN_NETWORK, WRITTEN_BACK, Forecast, choose_node, read_config
from agent.cli.kubectl.prediction import Known, know
from agent.cli.kubectl.targets import Target
from agent.config import Config, dump_config
from agent.controllers.addresspool import Pool
from agent.controllers.endpointslices import MANAGER
from agent.kube.informer import Key
from rules.snapshot import Settings

Obj = dict[str, Any]
SETTINGS = Settings(cluster_cidrs=("10.244.0.0/16",))
VIP = "ClusterIP 10.96.0.10:80/TCP"


def metadata(name: str, **more: Any) -> Obj:
    return {"name": name, "namespace": "default", "uid": f"uid-{name}", **more}


def service(name: str = "web", vip: str = "10.96.0.10", *, ports: list[Obj] | None = None, **spec: Any) -> Obj:
    body: Obj = {"clusterIP": vip, "clusterIPs": [vip], "ipFamilies": ["IPv4"], "selector": {"app": "web"}}
    body["ports"] = ports or [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]
    return {"metadata": metadata(name), "spec": {**body, **spec}}


def pod(name: str, ip: str, *, node: str = "here", ready: bool = True, **more: Any) -> Obj:
    container = {"name": "c", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": metadata(name, labels=more.pop("labels", {"app": "web"}), **more),
        "spec": {"nodeName": node, "containers": [container]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions},
    }


def node(name: str, address: str) -> Obj:
    return {"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}}


def slice_of(name: str, *pods: Obj, port: int = 8080, manager: str = MANAGER) -> Obj:
    """A slice as its controller wrote it."""
    labels = {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": manager}
    endpoints = [
        {
            "addresses": [each["status"]["podIP"]],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": each["spec"]["nodeName"],
        }
        for each in pods
    ]
    return {
        "metadata": metadata(f"{name}-abcde", labels=labels),
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "", "port": port, "protocol": "TCP"}],
    }


HERE, AWAY, SLOW = pod("a", "10.244.0.2"), pod("b", "10.244.1.3", node="away"), pod("c", "10.244.0.9", ready=False)
NODES = [node("here", "192.0.2.2"), node("away", "192.0.2.3")]


def forecast(**objects: list[Obj]) -> Forecast:
    kinds = {"Node": NODES, "Pod": [HERE, AWAY, SLOW], **objects}
    known, problems = know(kinds)
    return Forecast(known, "here", SETTINGS, problems=problems)


def served(**spec: Any) -> Forecast:
    """A node on which ``web`` is served by two pods."""
    return forecast(Service=[service(**spec)], EndpointSlice=[slice_of("web", HERE, AWAY)])


def resource(kind: str) -> Resource:
    group = {"EndpointSlice": "discovery.k8s.io", "ReplicaSet": "apps", "Deployment": "apps"}.get(kind, "")
    return Resource(f"{kind.lower()}s", kind.lower(), kind, group, "v1", kind != "Node")


def edit(kind: str, before: Obj | None, after: Obj | None, manifest: Obj | None = None, done: str = "") -> Edit:
    name = (after or before or {})["metadata"]["name"]
    target = Target(resource(kind), None if kind == "Node" else "default", name)
    word = done or ("deleted" if after is None else "configured" if before else "created")
    return Edit(target, word, before, after, manifest or after or {})


def told(teller: Forecast, *edits: Edit) -> list[str]:
    return [line.strip() for each in edits for line in teller.tell(each).render().splitlines()]


# Services: their endpoints are those that the controller will find.


def test_a_new_service_finds_its_endpoints() -> None:
    assert told(forecast(), edit("Service", None, service())) == [
        f"+ {VIP} is new: connections are spread over 2 endpoints"
    ]


def test_named_target_ports_are_looked_up_in_the_pods() -> None:
    named = service(ports=[{"port": 80, "targetPort": "http", "protocol": "TCP"}])
    nameless = service(ports=[{"port": 80, "targetPort": "nope", "protocol": "TCP"}])
    assert told(forecast(), edit("Service", None, named)) == [
        f"+ {VIP} is new: connections are spread over 2 endpoints"
    ]
    assert told(served(), edit("Service", service(), nameless)) == [
        f"- {VIP}: new connections are refused: the Service has no endpoints; open connections go on (EndpointSlices)"
    ]


def test_another_target_port_and_another_selector() -> None:
    other = service(ports=[{"port": 80, "targetPort": 9090, "protocol": "TCP"}])
    elsewhere = service(selector={"app": "nobody"})
    assert told(served(), edit("Service", service(), other), edit("Service", other, elsewhere)) == [
        f"~ {VIP}: connections go to port 9090 of the endpoints instead of 8080; open connections go on "
        "(spec.ports[].targetPort)",
        f"- {VIP}: new connections are refused: the Service has no endpoints; open connections go on (EndpointSlices)",
    ]


def test_pods_that_are_not_ready_count_where_the_service_says_so() -> None:
    after = service(publishNotReadyAddresses=True)
    assert told(served(), edit("Service", service(), after)) == [
        f"+ {VIP}: 10.244.0.9:8080 gets connections from now on: 3 endpoints instead of 2 (EndpointSlices)"
    ]


def test_slices_stay_where_the_controller_would_write_the_same() -> None:
    """The slices that are there may be another cluster's controller's, which knows more than ours."""
    teller = forecast(Service=[service()], EndpointSlice=[slice_of("web", AWAY)])
    assert told(teller, edit("Service", service(), service(sessionAffinity="ClientIP"))) == [
        f"~ {VIP}: a client stays with its endpoint for 3 h after its last new connection (spec.sessionAffinity)"
    ]


def test_a_traffic_policy() -> None:
    ports = [{"port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 30080}]
    before = service(type="NodePort", ports=ports)
    after = service(type="NodePort", ports=ports, externalTrafficPolicy="Local")
    field = "(spec.externalTrafficPolicy: Cluster -> Local)"
    assert told(served(type="NodePort", ports=ports), edit("Service", before, after)) == [
        "~ NodePort 30080/TCP from outside: only this node's endpoints get connections from now on: "
        f"1 endpoint instead of 2; open connections go on {field}",
        f"~ NodePort 30080/TCP: endpoints see the client's address from now on {field}",
    ]


def test_what_the_server_chose_for_the_dry_run() -> None:
    ports = [{"port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 30123}]
    written = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "type": "LoadBalancer"}}
    stored = service(type="LoadBalancer", ports=ports, healthCheckNodePort=30124)
    assert told(forecast(), edit("Service", None, stored, written))[-2:] == [
        "chosen by the server for this dry run, and chosen anew when it is made: ClusterIP 10.96.0.10, NodePort 30123, "
        "health check port 30124",
        "its load balancer address is still to come from a controller, and not foretold",
    ]


def test_load_balancer_addresses_come_from_the_pool() -> None:
    """As its controller gives them away: to one Service after the other, until none is left."""
    pool = Pool.of_node(Config(node_name="here", node_ip="203.0.113.1", load_balancer_pool=("203.0.113.0/30",)))
    teller = served()
    teller.known = replace(teller.known, pool=pool)
    other = service("other", "10.96.0.11", type="LoadBalancer")
    third = service("third", "10.96.0.12", type="LoadBalancer", loadBalancerIP="203.0.113.1")
    lb, seen = "load balancer IP 203.0.113.{}:80/TCP is new: connections {}", "which do not see the client's address"
    assert told(
        teller, edit("Service", service(), service(type="LoadBalancer")), edit("Service", None, other, other)
    ) == [
        f"+ {lb.format(0, 'are spread over 2 endpoints, ' + seen)}",
        "+ ClusterIP 10.96.0.11:80/TCP is new: connections are spread over 2 endpoints",
        f"+ {lb.format(2, 'are spread over 2 endpoints, ' + seen)}",
    ]
    assert told(teller, edit("Service", None, third, third)) == [
        "+ ClusterIP 10.96.0.12:80/TCP is new: connections are spread over 2 endpoints",
        "loadBalancerIP 203.0.113.1 is this node's own",
    ]
    assert Pool.of_node(Config(node_name="here")) is None


def test_edits_build_upon_each_other_and_name_other_services() -> None:
    taken = service("other", "10.96.0.10", selector={"app": "nobody"})
    assert told(served(), edit("Service", service(), None), edit("Service", None, taken)) == [
        f"- {VIP} no longer exists: packets are not translated any more; open connections go on",
        f"~ {VIP} is new: connections are refused: the Service has no endpoints",
    ]
    assert told(served(), edit("Pod", AWAY, None)) == [
        f"~ default/web: {VIP}: 10.244.1.3:8080 gets no new connections: 1 endpoint instead of 2; "
        "open connections go on (EndpointSlices)",
    ]


def test_a_service_without_selector_is_served_by_endpoints_written_by_hand() -> None:
    by_hand = service(selector=None)
    subset = {"addresses": [{"ip": "198.51.100.7"}], "ports": [{"port": 8080, "protocol": "TCP"}]}
    endpoints = {"metadata": metadata("web"), "subsets": [subset]}
    skipped = {**endpoints, "metadata": metadata("web", labels={"endpointslice.kubernetes.io/skip-mirror": "true"})}
    assert told(forecast(), edit("Service", None, by_hand), edit("Endpoints", None, endpoints)) == [
        f"~ {VIP} is new: connections are refused: the Service has no endpoints",
        f"+ default/web: {VIP}: connections are no longer refused, they go to 1 endpoint (EndpointSlices)",
    ]
    assert told(forecast(), edit("Endpoints", None, endpoints), edit("Service", None, by_hand)) == [
        "no effect on traffic",
        f"+ {VIP} is new: connections go to 1 endpoint",
    ]
    assert told(forecast(Service=[by_hand]), edit("Endpoints", None, skipped)) == ["no effect on traffic"]


# Slices, pods, nodes.


def test_slices() -> None:
    own = {
        **slice_of("web", HERE, manager="me"),
        "metadata": metadata("mine", labels={"kubernetes.io/service-name": "web"}),
    }
    teller = forecast(Service=[service(selector=None)])
    assert told(teller, edit("EndpointSlice", None, own), edit("EndpointSlice", own, None)) == [
        f"+ default/web: {VIP}: connections are no longer refused, they go to 1 endpoint (EndpointSlices)",
        f"- default/web: {VIP}: new connections are refused: the Service has no endpoints; open connections go on "
        "(EndpointSlices)",
    ]
    kept = slice_of("web", HERE, AWAY)
    assert (
        told(served(), edit("EndpointSlice", kept, slice_of("web")), edit("EndpointSlice", kept, None))
        == [WRITTEN_BACK] * 2
    )
    orphan = {**own, "metadata": metadata("mine")}
    assert told(served(), edit("EndpointSlice", None, orphan)) == ["no effect on traffic"]


def test_pods() -> None:
    gone = {**HERE, "metadata": {**HERE["metadata"], "ownerReferences": [{"controller": True, "kind": "ReplicaSet", "name": "web", "uid": "u"}]}}  # fmt: skip
    hidden = {**HERE, "metadata": metadata("a", labels={"app": "other"})}
    young = {"metadata": metadata("young", labels={"app": "web"}), "spec": {"containers": []}}
    stranger = {"metadata": metadata("stranger"), "spec": {"containers": []}}
    lost = f"~ default/web: {VIP}: 10.244.0.2:8080 gets no new connections: 1 endpoint instead of 2; open connections go on (EndpointSlices)"
    assert told(served(), edit("Pod", HERE, hidden)) == [lost]
    assert told(served(), edit("Pod", gone, None)) == [
        lost,
        "its controller makes another pod in its place, which serves once it is ready",
    ]
    assert told(served(), edit("Pod", None, young), edit("Pod", None, stranger)) == [
        "it becomes an endpoint of Service web once it is ready",
        "no effect on traffic",
    ]


def test_nodes() -> None:
    """The zone of a node decides which endpoints are near."""
    near = service(trafficDistribution="PreferClose")
    pods = slice_of("web", HERE, AWAY)
    teller = forecast(Service=[near], EndpointSlice=[pods])
    zoned = [
        {**each, "metadata": {**each["metadata"], "labels": {"topology.kubernetes.io/zone": f"z{number}"}}}
        for number, each in enumerate(NODES)
    ]
    assert told(teller, *(edit("Node", before, after) for before, after in zip(NODES, zoned, strict=True))) == [
        "no effect on traffic",
        f"~ default/web: {VIP}: 10.244.1.3:8080 gets no new connections: 1 endpoint instead of 2; open connections go on (EndpointSlices)",
    ]


# What cannot be followed to a packet.


def replicaset(replicas: int | None, image: str = "i", **labels: str) -> Obj:
    template = {
        "metadata": {"labels": labels or {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }
    spec = {"template": template, **({} if replicas is None else {"replicas": replicas})}
    return {"metadata": metadata("web"), "spec": spec}


@pytest.mark.parametrize(
    ("before", "after", "sentences"),
    [
        (None, replicaset(None), ["replicas 0 -> 1: endpoints of Service web come as 1 more pod becomes ready"]),
        (replicaset(2), replicaset(5), ["replicas 2 -> 5: endpoints of Service web come as 3 more pods become ready"]),
        (replicaset(5), replicaset(4), ["replicas 5 -> 4: 1 pod ends, each with its endpoint of Service web and the connections to it"]),
        (replicaset(2), None, ["replicas 2 -> 0: 2 pods end, each with its endpoint of Service web and the connections to it"]),
        (replicaset(2, app="x"), None, ["replicas 2 -> 0: no Service selects its pods"]),
        (replicaset(2), replicaset(2, "j"), ["the template is for pods that are still to be made; those that run stay as they are"]),
    ],
)  # fmt: skip
def test_replicasets(before: Obj | None, after: Obj | None, sentences: list[str]) -> None:
    assert told(served(), edit("ReplicaSet", before, after)) == sentences


def test_other_kinds() -> None:
    obj = {"metadata": metadata("x")}
    assert told(served(), edit("ConfigMap", None, obj), edit("Deployment", None, obj)) == [
        "no effect on traffic",
        "not foretold: what a Deployment does to traffic, it does through its pods",
    ]
    assert told(served(), edit("ReplicaSet", replicaset(1), replicaset(1), done="unchanged")) == [
        "no effect on traffic"
    ]
    other_group = Target(replace(resource("Service"), group="serving.knative.dev"), "default", "web")
    assert told(served(), Edit(other_group, "deleted", service(), None)) == ["no effect on traffic"]


# What is not as it should be.


def test_unreadable_objects() -> None:
    broken = {"metadata": metadata("broken"), "spec": {"ports": [{"port": "eighty"}]}}
    teller = forecast(Service=[broken, service()])
    (problem,) = teller.assumptions
    assert problem.startswith("Service default/broken cannot be read, and is left out: ")
    with pytest.raises(KubectlError, match=r"^error: cannot foretell what service/broken does to traffic: "):
        teller.tell(edit("Service", None, broken))
    assert Key("default", "web") in teller.known.services


def test_the_pod_network_may_be_unknown() -> None:
    teller = Forecast(Known(), "here", Settings())
    assert (teller.heading, teller.assumptions) == ("on node here:", (UNKNOWN_NETWORK,))
    assert forecast().heading == "on node here (pod network 10.244.0.0/16):"


def test_which_node() -> None:
    assert choose_node("b", "a", ["a", "b"]) == "b"
    assert choose_node(None, "a", ["a", "b"]) == "a"
    assert choose_node(None, None, ["a"]) == "a"


@pytest.mark.parametrize(
    ("given", "names", "error"),
    [
        (None, ["b", "a"], "error: on which node? Name it with --node-name; there are: a, b"),
        (None, [], "error: on which node? Name it with --node-name; there are: none"),
        ("c", ["a"], 'error: there is no node "c" (--node-name); there are: a'),
    ],
)
def test_no_such_node(given: str | None, names: list[str], error: str) -> None:
    with pytest.raises(KubectlError) as caught:
        choose_node(given, None, names)
    assert str(caught.value) == error


def test_how_the_node_is_set_up(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    assert read_config(kubeconfig) is None
    config = Config(state_dir=tmp_path, node_name="here", pod_cidr="10.250.0.0/24")
    config.paths.run_dir.mkdir()
    config.paths.resolved_config.write_bytes(dump_config(config))
    found = read_config(kubeconfig)
    assert found is not None
    assert (found.node_name, found.pod_cidr) == ("here", "10.250.0.0/24")
    config.paths.resolved_config.write_text("{")
    with pytest.raises(KubectlError, match="cannot read how the node is set up, from "):
        read_config(kubeconfig)


def test_as_json() -> None:
    ports = [{"port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 30123}]
    change = edit("Service", service(), service(type="NodePort", ports=ports), service())
    assert served().tell(change).as_json() == {
        "object": "service/web",
        "namespace": "default",
        "done": "configured",
        "effects": [
            {
                "service": "default/web",
                "impact": "gain",
                "sentence": "NodePort 30123/TCP is new: connections are spread over 2 endpoints, "
                "which do not see the client's address",
                "field": "",
            }
        ],
        "notes": ["chosen by the server for this dry run, and chosen anew when it is made: NodePort 30123"],
    }


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["apply", "-f", "{file}", "--node-name", "x"], "error: --node-name and --cluster-cidr are for --dry-run=dataplane only\n"),
        (["delete", "-f", "{file}", "--cluster-cidr=10.0.0.0/8"], "error: --node-name and --cluster-cidr are for --dry-run=dataplane only\n"),
        (["apply", "-f", "{file}", "--dry-run=dataplane", "-o", "name"], "error: --dry-run=dataplane knows no output format 'name': json, yaml, or none\n"),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together(words: list[str], error: str, tmp_path: Path) -> None:
    group = click.Group("podwire")
    register(group)
    file, kubeconfig = tmp_path / "file.json", tmp_path / "kubeconfig"
    file.write_text('{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}')
    kubeconfig.write_text(
        "{clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], current-context: c, "
        "contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}]}"
    )
    cache = tmp_path / "cache"
    argv = [word.format(file=file) for word in words]
    result = CliRunner().invoke(group, argv, env={"KUBECONFIG": str(kubeconfig), "XDG_CACHE_HOME": str(cache)})
    assert (result.stderr.replace("\n(", "(")[: len(error)], result.exit_code) == (error, 1)
