"""Pods and ReplicaSets: defaults, rules with upstream's messages, what may change."""

from copy import deepcopy
from typing import Any

import pytest

from agent.apiserver.admission import Context, Invalid, admit_create, admit_update
from agent.apiserver.admission.quantity import parse_quantity
from agent.apiserver.admission.strategies.pod import MAY_CHANGE, qos_class
from agent.apiserver.admission.strategies.pod_defaults import pull_policy
from agent.apiserver.registry import Kind, find_kind
from agent.config import Config

Object = dict[str, Any]


def kind(plural: str, group: str = "") -> Kind:
    found = find_kind(group, "v1", plural)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def context() -> Context:
    return Context.load([], Config())


def container(**fields: Any) -> Object:
    return {"name": "db", "image": "mongo:3.3", **fields}


def pod(*containers: Object, **spec: Any) -> Object:
    listed = list(containers) or [container()]
    metadata = {"name": "web", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": listed, **spec}}


def create(context: Context, *containers: Object, **spec: Any) -> Object:
    return admit_create(kind("pods"), pod(*containers, **spec), context)


def causes(error: pytest.ExceptionInfo[Invalid]) -> list[str]:
    return [str(cause) for cause in error.value.causes]


# Defaults


def test_a_plain_pod(context: Context) -> None:
    obj = create(context)
    assert obj["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert obj["spec"] == {
        "containers": [
            {
                "name": "db",
                "image": "mongo:3.3",
                "imagePullPolicy": "IfNotPresent",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }
        ],
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
        "serviceAccount": "default",
        "serviceAccountName": "default",
    }


def test_the_status_a_client_sends_is_not_believed(context: Context) -> None:
    given = {**pod(), "status": {"phase": "Running"}}
    assert admit_create(kind("pods"), given, context)["status"]["phase"] == "Pending"


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("mongo", "Always"),
        ("mongo:latest", "Always"),
        ("mongo:3.3", "IfNotPresent"),
        ("registry:5000/mongo", "Always"),
        ("registry:5000/mongo:3", "IfNotPresent"),
        ("mongo@sha256:0123", "IfNotPresent"),
    ],
)
def test_pull_policy(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


def test_defaults_inside_a_container(context: Context) -> None:
    spec = create(
        context,
        container(
            ports=[{"containerPort": 80}],
            env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, {"name": "A", "value": "b"}],
            livenessProbe={"httpGet": {"port": 80}},
            readinessProbe={"tcpSocket": {"port": "http"}, "periodSeconds": 1},
            startupProbe={"grpc": {"port": 80}},
            lifecycle={"preStop": {"httpGet": {"port": 80}}},
            resources={"limits": {"cpu": 1, "memory": "64Mi"}},
        ),
        volumes=[
            {"name": "a"},
            {"name": "b", "configMap": {"name": "c"}},
            {"name": "c", "secret": {"secretName": "s"}},
            {"name": "d", "hostPath": {"path": "/x"}},
        ],
    )["spec"]
    [box] = spec["containers"]
    assert box["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert box["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    times = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    assert box["livenessProbe"] == {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, **times}
    assert box["readinessProbe"]["periodSeconds"] == 1
    assert box["startupProbe"]["grpc"]["service"] == ""
    assert box["lifecycle"]["preStop"]["httpGet"]["path"] == "/"
    assert box["resources"]["requests"] == {"cpu": "1", "memory": "64Mi"}
    assert spec["volumes"] == [
        {"name": "a", "emptyDir": {}},
        {"name": "b", "configMap": {"name": "c", "defaultMode": 420}},
        {"name": "c", "secret": {"secretName": "s", "defaultMode": 420}},
        {"name": "d", "hostPath": {"path": "/x", "type": ""}},
    ]


def test_on_the_nodes_network_container_ports_are_host_ports(context: Context) -> None:
    spec = create(context, container(ports=[{"containerPort": 80}]), hostNetwork=True)["spec"]
    assert spec["containers"][0]["ports"][0]["hostPort"] == 80


def test_the_old_name_of_the_service_account_still_works(context: Context) -> None:
    assert create(context, serviceAccount="robot")["spec"]["serviceAccountName"] == "robot"


def test_a_gated_pod_says_so(context: Context) -> None:
    [condition] = create(context, schedulingGates=[{"name": "example.com/wait"}])["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("PodScheduled", "SchedulingGated")


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "0"}}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources: Object, expected: str) -> None:
    assert qos_class({"containers": [{"resources": resources}]}) == expected


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("100m", "0.1"),
        ("1.5", "1.5"),
        ("1Ki", "1024"),
        ("2e3", "2000"),
        ("3k", "3000"),
        (2, "2"),
        (".5Gi", "536870912"),
    ],
)
def test_quantities(written: str | int, number: str) -> None:
    from decimal import Decimal

    assert parse_quantity(written) == Decimal(number)
    assert parse_quantity("a lot") is None


# Rules

LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
C = "spec.containers[0]"
PORT_LIMIT = "must be between 1 and 65535, inclusive"
ONE_SOURCE = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
KEY_RULE = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    "'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)


def source(**kinds: Any) -> Object:
    return container(env=[{"name": "A", "valueFrom": kinds}])


BAD_CONTAINERS: list[tuple[Object, list[str]]] = [
    ({"image": "a"}, [f"{C}.name: Required value"]),
    ({"name": "Db", "image": "a"}, [f'{C}.name: Invalid value: "Db": {LABEL}']),
    ({"name": "db"}, [f"{C}.image: Required value"]),
    (container(image=" a:1"), [f'{C}.image: Invalid value: " a:1": must not have leading or trailing whitespace']),
    (
        container(imagePullPolicy="Sometimes"),
        [f'{C}.imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"'],
    ),
    (container(ports=[{}]), [f"{C}.ports[0].containerPort: Required value"]),
    (
        container(ports=[{"containerPort": 65536}]),
        [f"{C}.ports[0].containerPort: Invalid value: 65536: {PORT_LIMIT}"],
    ),
    (
        container(ports=[{"containerPort": 80, "hostPort": 99999}]),
        [f"{C}.ports[0].hostPort: Invalid value: 99999: {PORT_LIMIT}"],
    ),
    (
        container(ports=[{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]),
        [f'{C}.ports[1].name: Duplicate value: "a"'],
    ),
    (
        container(ports=[{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]),
        [f'{C}.ports[1].hostPort: Duplicate value: "TCP//80"'],
    ),
    (
        container(ports=[{"containerPort": 80, "protocol": "tcp"}]),
        [f'{C}.ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"'],
    ),
    (container(env=[{"value": "x"}]), [f"{C}.env[0].name: Required value"]),
    (
        container(env=[{"name": "A=B"}]),
        [
            f'{C}.env[0].name: Invalid value: "A=B": a valid environment variable name must consist only of printable '
            "ASCII characters other than '='"
        ],
    ),
    (source(), [f'{C}.env[0].valueFrom: Invalid value: "": {ONE_SOURCE}']),
    (
        container(env=[{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
        [f'{C}.env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty'],
    ),
    (
        source(fieldRef={"fieldPath": "metadata.name"}, secretKeyRef={"name": "a", "key": "b"}),
        [f'{C}.env[0].valueFrom: Invalid value: "": may not have more than one field specified at a time'],
    ),
    (source(fieldRef={}), [f"{C}.env[0].valueFrom.fieldRef.fieldPath: Required value"]),
    (
        source(fieldRef={"fieldPath": "spec.image"}),
        [
            f'{C}.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "spec.image": supported values: "metadata.name", '
            '"metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", '
            '"status.hostIPs", "status.podIP", "status.podIPs"'
        ],
    ),
    (
        source(configMapKeyRef={"key": "a/b"}),
        [
            f"{C}.env[0].valueFrom.configMapKeyRef.name: Required value",
            f'{C}.env[0].valueFrom.configMapKeyRef.key: Invalid value: "a/b": {KEY_RULE}',
        ],
    ),
    (
        container(envFrom=[{"prefix": "="}]),
        [
            f'{C}.envFrom[0].prefix: Invalid value: "=": a valid environment variable name must consist only of printable '
            "ASCII characters other than '='",
            f'{C}.envFrom[0]: Invalid value: "": must specify one of: `configMapRef` or `secretRef`',
        ],
    ),
    (
        container(envFrom=[{"configMapRef": {"name": "a"}, "secretRef": {}}]),
        [
            f'{C}.envFrom[0]: Invalid value: "": may not have more than one field specified at a time',
            f"{C}.envFrom[0].secretRef.name: Required value",
        ],
    ),
    (
        container(volumeMounts=[{"name": "v", "mountPath": "/a"}]),
        [f'{C}.volumeMounts[0].name: Not found: "v"'],
    ),
    (
        container(volumeMounts=[{}]),
        [f"{C}.volumeMounts[0].name: Required value", f"{C}.volumeMounts[0].mountPath: Required value"],
    ),
    (
        container(volumeMounts=[{"name": "data", "mountPath": "/a"}, {"name": "data", "mountPath": "/a"}]),
        [f'{C}.volumeMounts[1].mountPath: Invalid value: "/a": must be unique'],
    ),
    (
        container(volumeMounts=[{"name": "data", "mountPath": "/a", "subPath": "/../b"}]),
        [
            f'{C}.volumeMounts[0].subPath: Invalid value: "/../b": must be a relative path',
            f"{C}.volumeMounts[0].subPath: Invalid value: \"/../b\": must not contain '..'",
        ],
    ),
    (
        container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "100m"}}),
        [f'{C}.resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 100m'],
    ),
    (
        container(resources={"limits": {"cpu": "-1"}, "requests": {"cpu": "-2"}}),
        [
            f'{C}.resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0',
            f'{C}.resources.requests[cpu]: Invalid value: "-2": must be greater than or equal to 0',
        ],
    ),
    (container(livenessProbe={}), [f"{C}.livenessProbe: Required value: must specify a handler type"]),
    (
        container(readinessProbe={"exec": {"command": ["a"]}, "tcpSocket": {"port": 80}}),
        [f"{C}.readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"],
    ),
    (container(startupProbe={"exec": {}}), [f"{C}.startupProbe.exec.command: Required value"]),
    (
        container(livenessProbe={"httpGet": {"port": 0, "scheme": "FTP"}, "successThreshold": 2}),
        [
            f'{C}.livenessProbe.httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS"',
            f"{C}.livenessProbe.httpGet.port: Invalid value: 0: {PORT_LIMIT}",
            f"{C}.livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ],
    ),
    (
        container(readinessProbe={"tcpSocket": {"port": 80}, "initialDelaySeconds": -1}),
        [f"{C}.readinessProbe.initialDelaySeconds: Invalid value: -1: must be greater than or equal to 0"],
    ),
    (container(lifecycle={"preStop": {}}), [f"{C}.lifecycle.preStop: Required value: must specify a handler type"]),
    (container(restartPolicy="Always"), [f"{C}.restartPolicy: Forbidden: may not be set for non-init containers"]),
]


@pytest.mark.parametrize(("box", "expected"), BAD_CONTAINERS)
def test_refused_containers(context: Context, box: Object, expected: list[str]) -> None:
    with pytest.raises(Invalid) as error:
        create(context, box, volumes=[{"name": "data"}])
    assert causes(error) == expected


NEVER: Object = {"name": "i", "image": "a:1"}
BAD_SPECS: list[tuple[Object, list[str]]] = [
    ({"containers": []}, ["spec.containers: Required value"]),
    ({"containers": [container(), container()]}, ['spec.containers[1].name: Duplicate value: "db"']),
    ({"initContainers": [container()]}, ['spec.initContainers[0].name: Duplicate value: "db"']),
    (
        {"initContainers": [{**NEVER, "restartPolicy": "Never"}]},
        ['spec.initContainers[0].restartPolicy: Unsupported value: "Never": supported values: "Always"'],
    ),
    (
        {"initContainers": [{**NEVER, "readinessProbe": {"tcpSocket": {"port": 80}}}]},
        [
            "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without "
            "restartPolicy=Always"
        ],
    ),
    ({"ephemeralContainers": [container(name="x")]}, ["spec.ephemeralContainers: Forbidden: cannot be set on create"]),
    (
        {"restartPolicy": "Sometimes"},
        ['spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"'],
    ),
    (
        {"dnsPolicy": "Best"},
        [
            'spec.dnsPolicy: Unsupported value: "Best": supported values: "ClusterFirst", "ClusterFirstWithHostNet", '
            '"Default", "None"'
        ],
    ),
    ({"dnsPolicy": "None"}, ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]),
    (
        {"dnsPolicy": "None", "dnsConfig": {}},
        [
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"
        ],
    ),
    (
        {"dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "x"]}},
        [
            'spec.dnsConfig.nameservers: Invalid value: ["1.1.1.1","2.2.2.2","3.3.3.3","x"]: must not have more than 3 '
            "nameservers",
            'spec.dnsConfig.nameservers[3]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or '
            "2001:db8::ffff)",
        ],
    ),
    (
        {"terminationGracePeriodSeconds": -1},
        ["spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0"],
    ),
    (
        {"activeDeadlineSeconds": 0},
        ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
    ),
    ({"hostname": "a.b"}, [f'spec.hostname: Invalid value: "a.b": {LABEL}']),
    ({"subdomain": "A"}, [f'spec.subdomain: Invalid value: "A": {LABEL}']),
    ({"volumes": [{"name": "a"}, {"name": "a"}]}, ['spec.volumes[1].name: Duplicate value: "a"']),
    ({"volumes": [{"emptyDir": {}}]}, ["spec.volumes[0].name: Required value"]),
    (
        {"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {}}]},
        [
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[0].hostPath.path: Required value",
        ],
    ),
    (
        {"tolerations": [{"operator": "Equal"}]},
        [
            'spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means '
            '"match all values and all keys"'
        ],
    ),
    (
        {"tolerations": [{"key": "a", "operator": "Like", "effect": "Bad"}]},
        [
            'spec.tolerations[0].operator: Unsupported value: "Like": supported values: "Equal", "Exists"',
            'spec.tolerations[0].effect: Unsupported value: "Bad": supported values: "NoExecute", "NoSchedule", '
            '"PreferNoSchedule"',
        ],
    ),
    (
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        ["spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'"],
    ),
    (
        {"hostAliases": [{"ip": "x", "hostnames": ["ok"]}]},
        ['spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'],
    ),
    (
        {"hostNetwork": True, "containers": [container(ports=[{"containerPort": 80, "hostPort": 81}])]},
        [f"{C}.ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"],
    ),
]


@pytest.mark.parametrize(("spec", "expected"), BAD_SPECS)
def test_refused_pods(context: Context, spec: Object, expected: list[str]) -> None:
    with pytest.raises(Invalid) as error:
        create(context, **spec)
    assert causes(error) == expected


def test_much_that_is_allowed(context: Context) -> None:
    probe = {"tcpSocket": {"port": 80}}
    sidecar = {"name": "s", "image": "a:1", "restartPolicy": "Always", "startupProbe": probe}
    obj = create(
        context,
        source(fieldRef={"fieldPath": "metadata.labels['app']"}) | {"lifecycle": {"stopSignal": "SIGINT"}},
        initContainers=[sidecar],
        tolerations=[{"operator": "Exists"}, {"key": "a", "value": "b"}],
        dnsPolicy="None",
        dnsConfig={"nameservers": ["192.0.2.1"]},
    )
    assert obj["spec"]["initContainers"][0]["startupProbe"]["periodSeconds"] == 10


# Updates


def change(context: Context, old: Object, **spec: Any) -> Object:
    new = deepcopy(old)
    new["spec"].update(spec)
    return admit_update(kind("pods"), None, new, old, context)


def refusals(context: Context, old: Object, **spec: Any) -> list[str]:
    with pytest.raises(Invalid) as error:
        change(context, old, **spec)
    return causes(error)


def test_images_may_change(context: Context) -> None:
    old = create(context)
    new = deepcopy(old)
    new["spec"]["containers"][0]["image"] = "mongo:3.4"
    assert admit_update(kind("pods"), None, new, old, context) == new


def test_labels_may_change(context: Context) -> None:
    old = create(context)
    new = deepcopy(old)
    new["metadata"]["labels"] = {"a": "b"}
    assert admit_update(kind("pods"), None, new, old, context)["metadata"]["labels"] == {"a": "b"}


def test_most_of_the_spec_may_not(context: Context) -> None:
    old = create(context)
    assert refusals(context, old, hostname="new") == [f"spec: Forbidden: {MAY_CHANGE}; changed: spec.hostname"]
    new = deepcopy(old["spec"]["containers"])
    new[0]["command"] = ["x"]
    assert refusals(context, old, containers=new) == [
        f"spec: Forbidden: {MAY_CHANGE}; changed: spec.containers[0].command"
    ]
    assert refusals(context, old, nodeName="n1") == [f"spec: Forbidden: {MAY_CHANGE}; changed: spec.nodeName"]


def test_containers_may_not_come_or_go(context: Context) -> None:
    old = create(context)
    more = [*old["spec"]["containers"], container(name="other")]
    assert refusals(context, old, containers=more) == [
        "spec.containers: Forbidden: pod updates may not add or remove containers"
    ]


def test_tolerations_may_be_added(context: Context) -> None:
    old = create(context, tolerations=[{"key": "a", "operator": "Exists", "tolerationSeconds": 5}])
    kept = {"key": "a", "operator": "Exists", "tolerationSeconds": 9}
    assert len(change(context, old, tolerations=[kept, {"operator": "Exists"}])["spec"]["tolerations"]) == 2
    assert refusals(context, old, tolerations=[]) == [
        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
    ]


def test_the_deadline_may_come_nearer(context: Context) -> None:
    old = create(context, activeDeadlineSeconds=60)
    assert change(context, old, activeDeadlineSeconds=30)["spec"]["activeDeadlineSeconds"] == 30
    path = "spec.activeDeadlineSeconds: Invalid value"
    assert refusals(context, old, activeDeadlineSeconds=90) == [
        f"{path}: 90: must be less than or equal to previous value"
    ]
    assert refusals(context, old, activeDeadlineSeconds=None) == [
        f"{path}: null: must not update from a positive integer to nil value"
    ]
    assert change(context, create(context), activeDeadlineSeconds=5)["spec"]["activeDeadlineSeconds"] == 5


def test_gates_may_only_open(context: Context) -> None:
    old = create(context, schedulingGates=[{"name": "a"}])
    assert change(context, old, schedulingGates=[])["spec"]["schedulingGates"] == []
    assert refusals(context, old, schedulingGates=[{"name": "a"}, {"name": "b"}]) == [
        "spec.schedulingGates: Forbidden: only deletion is allowed, but found new scheduling gate 'b'"
    ]


def test_a_negative_grace_period_may_become_one(context: Context) -> None:
    old = create(context)
    old["spec"]["terminationGracePeriodSeconds"] = -1
    assert change(context, old, terminationGracePeriodSeconds=1)["spec"]["terminationGracePeriodSeconds"] == 1


def test_the_status_of_a_pod(context: Context) -> None:
    old = create(context)
    new = {**deepcopy(old), "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.2"}]}}
    new["spec"] = {"containers": []}
    result = admit_update(kind("pods"), "status", new, old, context)
    assert result["spec"] == old["spec"]
    assert result["status"]["phase"] == "Running"
    new["status"]["podIPs"][0]["ip"] = "x"
    with pytest.raises(Invalid, match=r"status\.podIPs\[0\]\.ip"):
        admit_update(kind("pods"), "status", new, old, context)


# ReplicaSets


def replica_set(**spec: Any) -> Object:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container()]}}
    spec = {"selector": {"matchLabels": {"app": "web"}}, "template": template, **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": spec,
    }


def create_set(context: Context, **spec: Any) -> Object:
    return admit_create(kind("replicasets", "apps"), replica_set(**spec), context)


def test_a_plain_replica_set(context: Context) -> None:
    obj = create_set(context)
    assert obj["spec"]["replicas"] == 1
    assert obj["metadata"]["labels"] == {"app": "web"}
    assert obj["status"] == {"replicas": 0}
    spec = obj["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "Always"
    assert "enableServiceLinks" not in spec
    assert "serviceAccountName" not in spec


def expression(operator: str, *values: str, key: str = "app") -> Object:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


T = "spec.template"
MISMATCH = f'{T}.metadata.labels: Invalid value: {{"app":"web"}}: `selector` does not match template `labels`'
BAD_SETS: list[tuple[Object, list[str]]] = [
    ({"replicas": -1}, ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]),
    ({"minReadySeconds": -1}, ["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"]),
    ({"selector": None}, ["spec.selector: Required value"]),
    ({"selector": {}}, ["spec.selector: Invalid value: {}: empty selector is invalid for deployment"]),
    ({"selector": {"matchLabels": {"app": "db"}}}, [MISMATCH]),
    ({"selector": expression("NotIn", "web")}, [MISMATCH]),
    ({"selector": expression("DoesNotExist")}, [MISMATCH]),
    ({"selector": expression("Exists", key="tier")}, [MISMATCH]),
    (
        {"selector": expression("In")},
        [
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
        ],
    ),
    (
        {"selector": expression("Exists", "a")},
        [
            "spec.selector.matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or "
            "'DoesNotExist'"
        ],
    ),
    (
        {"selector": expression("Like", "a")},
        ['spec.selector.matchExpressions[0].operator: Invalid value: "Like": not a valid selector operator'],
    ),
    (
        {"template": {"metadata": {"labels": {"app": "web"}}}},
        [f"{T}.spec.containers: Required value"],
    ),
    (
        {
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [container()], "restartPolicy": "Never", "activeDeadlineSeconds": 5},
            }
        },
        [
            f'{T}.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"',
            f"{T}.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
        ],
    ),
]


@pytest.mark.parametrize(("spec", "expected"), BAD_SETS)
def test_refused_replica_sets(context: Context, spec: Object, expected: list[str]) -> None:
    with pytest.raises(Invalid) as error:
        create_set(context, **spec)
    assert causes(error) == expected


def test_selectors_by_expression(context: Context) -> None:
    assert create_set(context, selector=expression("In", "web", "db"))["spec"]["replicas"] == 1


def test_the_selector_is_for_good(context: Context) -> None:
    old = create_set(context)
    new = deepcopy(old)
    new["spec"]["selector"] = expression("Exists")
    with pytest.raises(Invalid) as error:
        admit_update(kind("replicasets", "apps"), None, new, old, context)
    shown = '{"matchExpressions":[{"key":"app","operator":"Exists","values":[]}]}'
    assert causes(error) == [f"spec.selector: Invalid value: {shown}: field is immutable"]


def test_scaling(context: Context) -> None:
    old = create_set(context)
    new = deepcopy(old)
    new["spec"]["replicas"] = 5
    assert admit_update(kind("replicasets", "apps"), "scale", new, old, context)["spec"]["replicas"] == 5
    new["spec"]["replicas"] = -5
    with pytest.raises(Invalid, match=r"spec\.replicas"):
        admit_update(kind("replicasets", "apps"), "scale", new, old, context)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"replicas": -1}, ["status.replicas: Invalid value: -1: must be greater than or equal to 0"]),
        (
            {"replicas": 1, "readyReplicas": 2},
            ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"],
        ),
        (
            {"replicas": 2, "readyReplicas": 1, "availableReplicas": 2},
            ["status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas"],
        ),
    ],
)
def test_the_status_of_a_replica_set(context: Context, status: Object, expected: list[str]) -> None:
    old = create_set(context)
    with pytest.raises(Invalid) as error:
        admit_update(kind("replicasets", "apps"), "status", {**old, "status": status}, old, context)
    assert causes(error) == expected
