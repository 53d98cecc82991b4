"""Services: defaults, rules with upstream's messages, what updates inherit, drop and refuse."""

from copy import deepcopy
from typing import Any

import pytest

from agent.apiserver.admission import Context, Invalid, admit_create, admit_update
from agent.apiserver.admission.strategies.service_rules import check_service_update
from agent.apiserver.registry import Kind, find_kind
from agent.config import Config

Object = dict[str, Any]
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


def kind() -> Kind:
    found = find_kind("", "v1", "services")
    assert found is not None
    return found


@pytest.fixture
def context() -> Context:
    return Context.load([], Config())


def service(name: str = "web", **spec: Any) -> Object:
    spec.setdefault("ports", [{"port": 80}])
    spec.setdefault("selector", {"app": "web"})
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def create(context: Context, name: str = "web", **spec: Any) -> Object:
    return admit_create(kind(), service(name, **spec), context)


def update(context: Context, old: Object, **spec: Any) -> Object:
    """Replace the old object's spec by another."""
    return admit_update(kind(), None, service(old["metadata"]["name"], **spec), old, context)


def change(context: Context, old: Object, **spec: Any) -> Object:
    """As a patch does: everything old but for these fields."""
    new = deepcopy(old)
    new["spec"].update(spec)
    return admit_update(kind(), None, new, old, context)


def causes(error: pytest.ExceptionInfo[Invalid]) -> list[str]:
    return [str(cause) for cause in error.value.causes]


# Defaults


def test_a_plain_service(context: Context) -> None:
    obj = create(context)
    ip = obj["spec"]["clusterIP"]
    assert obj["spec"] == {
        "type": "ClusterIP",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "selector": {"app": "web"},
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "clusterIP": ip,
        "clusterIPs": [ip],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
    }
    assert obj["status"] == {"loadBalancer": {}}


def test_arguments_are_never_changed(context: Context) -> None:
    given = service(type="NodePort")
    before = deepcopy(given)
    admit_create(kind(), given, context)
    assert given == before


def test_a_node_port(context: Context) -> None:
    spec = create(context, type="NodePort", ports=[{"port": 80, "targetPort": "http"}])["spec"]
    assert 30086 <= spec["ports"][0]["nodePort"] <= 32767
    assert spec["ports"][0]["targetPort"] == "http"
    assert spec["externalTrafficPolicy"] == "Cluster"


def test_a_load_balancer_that_keeps_the_client_address(context: Context) -> None:
    spec = create(context, type="LoadBalancer", externalTrafficPolicy="Local")["spec"]
    assert spec["allocateLoadBalancerNodePorts"] is True
    assert spec["healthCheckNodePort"] != spec["ports"][0]["nodePort"]


def test_a_load_balancer_without_node_ports(context: Context) -> None:
    spec = create(context, type="LoadBalancer", allocateLoadBalancerNodePorts=False)["spec"]
    assert "nodePort" not in spec["ports"][0]


def test_client_ip_affinity_lasts_three_hours(context: Context) -> None:
    spec = create(context, sessionAffinity="ClientIP")["spec"]
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    off = create(context, "other", sessionAffinity="None", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}})
    assert "sessionAffinityConfig" not in off["spec"]


def test_external_ips_make_a_service_external(context: Context) -> None:
    assert create(context, externalIPs=["192.0.2.7"])["spec"]["externalTrafficPolicy"] == "Cluster"


def test_headless(context: Context) -> None:
    spec = create(context, clusterIP="None")["spec"]
    assert (spec["clusterIP"], spec["clusterIPs"], spec["ipFamilies"]) == ("None", ["None"], ["IPv4"])
    assert context.addresses.pool.holders == {}


def test_headless_without_selector_may_have_endpoints_of_both_families(context: Context) -> None:
    spec = create(context, clusterIP="None", selector={})["spec"]
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"]) == ("RequireDualStack", ["IPv4", "IPv6"])


def test_external_name(context: Context) -> None:
    spec = create(context, type="ExternalName", externalName="db.example.org.", ports=[])["spec"]
    assert spec.keys() == {"type", "externalName", "ports", "selector", "sessionAffinity"}


def test_one_node_port_under_two_protocols(context: Context) -> None:
    ports = [
        {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053},
        {"name": "t", "port": 53, "protocol": "TCP"},
    ]
    spec = create(context, type="NodePort", ports=ports)["spec"]
    assert [port["nodePort"] for port in spec["ports"]] == [30053, 30053]


def test_asked_for_values_are_honoured(context: Context) -> None:
    spec = create(context, type="NodePort", clusterIP="10.96.0.10", ports=[{"port": 80, "nodePort": 30001}])["spec"]
    assert (spec["clusterIPs"], spec["ports"][0]["nodePort"]) == (["10.96.0.10"], 30001)


def test_an_ipv6_cluster() -> None:
    context = Context.load([], Config(service_cidr="fd00:10::/112", dns_ip="fd00:10::a"))
    spec = create(context)["spec"]
    assert spec["ipFamilies"] == ["IPv6"]
    assert spec["clusterIP"].startswith("fd00:10::")


# Rules

PORT_LIMIT = "must be between 1 and 65535, inclusive"
TWO = [{"name": "a", "port": 80}, {"name": "a", "port": 81}]
REFUSED: list[tuple[Object, list[str]]] = [
    ({"ports": []}, ["spec.ports: Required value"]),
    (
        {"type": "Magic"},
        [
            'spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'
        ],
    ),
    (
        {"ports": [{"port": 0}]},
        [
            f"spec.ports[0].port: Invalid value: 0: {PORT_LIMIT}",
            f"spec.ports[0].targetPort: Invalid value: 0: {PORT_LIMIT}",
        ],
    ),
    ({"ports": [{"port": 70000, "targetPort": 80}]}, [f"spec.ports[0].port: Invalid value: 70000: {PORT_LIMIT}"]),
    (
        {"ports": [{"port": 80}, {"port": 81}]},
        ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
    ),
    ({"ports": TWO}, ['spec.ports[1].name: Duplicate value: "a"']),
    ({"ports": [{"port": 80, "name": "A"}]}, [f'spec.ports[0].name: Invalid value: "A": {LABEL_RULE}']),
    (
        {"ports": [{"port": 80, "protocol": "ICMP"}]},
        ['spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"'],
    ),
    (
        {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]},
        [
            'spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}'
        ],
    ),
    (
        {"ports": [{"port": 80, "targetPort": "a_b"}]},
        [
            'spec.ports[0].targetPort: Invalid value: "a_b": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)'
        ],
    ),
    (
        {"ports": [{"port": 80, "targetPort": "123"}]},
        ['spec.ports[0].targetPort: Invalid value: "123": must contain at least one letter (a-z)'],
    ),
    (
        {"ports": [{"port": 80, "targetPort": "a--b"}]},
        ['spec.ports[0].targetPort: Invalid value: "a--b": must not contain consecutive hyphens'],
    ),
    (
        {"ports": [{"port": 80, "targetPort": "-a"}]},
        ['spec.ports[0].targetPort: Invalid value: "-a": must not begin or end with a hyphen'],
    ),
    (
        {"ports": [{"port": 80, "targetPort": "a234567890123456"}]},
        ['spec.ports[0].targetPort: Invalid value: "a234567890123456": must be no more than 15 bytes'],
    ),
    (
        {"ports": [{"port": 80, "nodePort": 30001}]},
        ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    ),
    (
        {
            "type": "NodePort",
            "ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30001}],
        },
        ["spec.ports[1].nodePort: Duplicate value: 30001"],
    ),
    (
        {"type": "NodePort", "ports": [{"port": 80, "nodePort": 8080}]},
        [
            "spec.ports[0].nodePort: Invalid value: 8080: provided port is not in the valid range. The range of valid ports is 30000-32767"
        ],
    ),
    (
        {"type": "NodePort", "clusterIP": "None"},
        ["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
    ),
    (
        {"selector": {"a b": "c"}},
        [
            "spec.selector: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        ],
    ),
    (
        {"sessionAffinity": "Cookie"},
        ['spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", "None"'],
    ),
    (
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100000}}},
        [
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 100000: must be greater than 0 and less than 86400"
        ],
    ),
    ({"type": "ExternalName"}, ["spec.externalName: Required value"]),
    (
        {"type": "ExternalName", "externalName": "a.example", "clusterIP": "10.96.0.5"},
        ["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
    ),
    (
        {"clusterIP": "nonsense"},
        [
            'spec.clusterIPs[0]: Invalid value: "nonsense": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'
        ],
    ),
    (
        {"clusterIP": "192.0.2.1"},
        [
            'spec.clusterIPs: Invalid value: ["192.0.2.1"]: failed to allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12'
        ],
    ),
    (
        {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.6"]},
        ['spec.clusterIPs: Invalid value: ["10.96.0.6"]: first value must match `clusterIP`'],
    ),
    (
        {"clusterIPs": ["10.96.0.6"]},
        ['spec.clusterIPs: Invalid value: ["10.96.0.6"]: must be empty when `clusterIP` is not specified'],
    ),
    (
        {"clusterIP": "None", "clusterIPs": ["None", "10.96.0.5"], "ipFamilyPolicy": "PreferDualStack"},
        ['spec.clusterIPs: Invalid value: ["None","10.96.0.5"]: \'None\' must be the first and only value'],
    ),
    (
        {
            "clusterIP": "10.96.0.5",
            "clusterIPs": ["10.96.0.5", "10.96.0.6", "10.96.0.7"],
            "ipFamilyPolicy": "PreferDualStack",
        },
        [
            'spec.clusterIPs: Invalid value: ["10.96.0.5","10.96.0.6","10.96.0.7"]: may only hold up to 2 values',
            'spec.clusterIPs: Invalid value: ["10.96.0.5","10.96.0.6","10.96.0.7"]: may specify no more than one IP for each IP family',
        ],
    ),
    (
        {"clusterIP": "fd00::1", "ipFamilies": ["IPv4"]},
        ['spec.clusterIPs[0]: Invalid value: "fd00::1": expected an IPv4 value as indicated by `ipFamilies[0]`'],
    ),
    (
        {"clusterIP": "fd00::1"},
        ['spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster'],
    ),
    ({"ipFamilies": ["IPv6"]}, ['spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster']),
    ({"ipFamilies": ["IPv5"]}, ['spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"']),
    (
        {"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "PreferDualStack"},
        ['spec.ipFamilies[1]: Duplicate value: "IPv4"'],
    ),
    (
        {"ipFamilies": ["IPv4", "IPv6"]},
        [
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            'spec.ipFamilies[1]: Invalid value: "IPv6": not configured on this cluster',
        ],
    ),
    (
        {"ipFamilyPolicy": "RequireDualStack"},
        [
            'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services'
        ],
    ),
    (
        {"ipFamilyPolicy": "Both"},
        [
            'spec.ipFamilyPolicy: Unsupported value: "Both": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"'
        ],
    ),
    (
        {"externalIPs": ["127.0.0.1"]},
        ['spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)'],
    ),
    (
        {"externalIPs": ["x"]},
        ['spec.externalIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'],
    ),
    (
        {"externalTrafficPolicy": "Local"},
        ['spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services'],
    ),
    (
        {"type": "NodePort", "externalTrafficPolicy": "Near"},
        ['spec.externalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"'],
    ),
    (
        {"internalTrafficPolicy": "Near"},
        ['spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"'],
    ),
    (
        {"trafficDistribution": "Near"},
        [
            'spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", "PreferSameZone", "PreferSameNode"'
        ],
    ),
    (
        {"healthCheckNodePort": 30005},
        [
            "spec.healthCheckNodePort: Invalid value: 30005: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        ],
    ),
    (
        {"loadBalancerSourceRanges": ["10.0.0.0/8"]},
        ["spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"],
    ),
    (
        {"allocateLoadBalancerNodePorts": False},
        ["spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'"],
    ),
    (
        {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0"]},
        [
            'spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)'
        ],
    ),
    (
        {"type": "LoadBalancer", "loadBalancerSourceRanges": ["x/8"]},
        [
            'spec.LoadBalancerSourceRanges[0]: Invalid value: "x/8": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)'
        ],
    ),
    (
        {"loadBalancerSourceRanges": ["10.0.0.0/255.0.0.0"]},
        [
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            'spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.0/255.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)',
        ],
    ),
    (
        {"type": "LoadBalancer", "loadBalancerClass": ""},
        [
            'spec.loadBalancerClass: Invalid value: "": name part must be non-empty',
            "spec.loadBalancerClass: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    ),
    (
        {"loadBalancerClass": "example.com/vip"},
        ["spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"],
    ),
    (
        {"internalTrafficPolicy": ""},
        ['spec.internalTrafficPolicy: Unsupported value: "": supported values: "Cluster", "Local"'],
    ),
    (
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
        [
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400"
        ],
    ),
    (
        {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "None"], "ipFamilyPolicy": "PreferDualStack"},
        ['spec.clusterIPs[1]: Invalid value: "None": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'],
    ),
    (
        {"externalIPs": ["ff12::1"]},
        [
            'spec.externalIPs[0]: Invalid value: "ff12::1": may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)'
        ],
    ),
    (
        {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 30005,
            "ports": [{"port": 80, "nodePort": 30005}],
        },
        ["spec.healthCheckNodePort: Invalid value: 30005: provided port is already allocated"],
    ),
    (
        {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 80},
        [
            "spec.healthCheckNodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
        ],
    ),
]


@pytest.mark.parametrize(("spec", "expected"), REFUSED)
def test_refused(context: Context, spec: Object, expected: list[str]) -> None:
    with pytest.raises(Invalid) as error:
        create(context, **spec)
    assert causes(error) == expected
    assert context.addresses.pool.holders == {}
    assert context.ports.pool.holders == {}


ALLOWED: list[Object] = [
    {"externalIPs": ["192.0.2.007", "::ffff:192.0.2.8", "2001:db8::1"]},
    {"type": "LoadBalancer", "ports": [{"port": 10250}]},
    {"type": "LoadBalancer", "loadBalancerSourceRanges": ["010.0.0.1/8 ", "2001:db8::1/64"]},
    {"type": "LoadBalancer", "loadBalancerIP": "whatever the load balancer understands"},
    {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30005},
    {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}}},
    *({"trafficDistribution": wish} for wish in ("PreferClose", "PreferSameZone", "PreferSameNode")),
    {"ports": [{"name": "t", "port": 53}, {"name": "s", "port": 53, "protocol": "SCTP"}]},
    {"type": "", "sessionAffinity": "", "externalTrafficPolicy": "", "ports": [{"port": 80, "protocol": ""}]},
    {"type": "NodePort", "externalTrafficPolicy": "", "internalTrafficPolicy": "Local"},
]


@pytest.mark.parametrize("spec", ALLOWED)
def test_allowed(context: Context, spec: Object) -> None:
    made = create(context, **spec)["spec"]
    told = {name: value for name, value in spec.items() if value and name != "ports"}
    assert told.items() <= made.items()
    assert update(context, {**service(), "spec": made, "status": {"loadBalancer": {}}}, **spec)["spec"] == made


def test_an_odd_cluster_ip_is_kept_as_written_and_held_as_meant(context: Context) -> None:
    spec = create(context, clusterIP="10.96.000.077")["spec"]
    assert spec["clusterIPs"] == ["10.96.000.077"]
    with pytest.raises(Invalid, match="provided IP is already allocated"):
        create(context, "other", clusterIP="10.96.0.77")


@pytest.mark.parametrize(
    ("kind_of", "annotation", "expected"),
    [
        ("LoadBalancer", " 10.0.0.0/8, 192.0.2.0/24 ", []),
        ("LoadBalancer", "", []),
        (
            "LoadBalancer",
            "10.0.0.0/8,x",
            ['Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)'],
        ),
        ("ClusterIP", "10.0.0.0/8", ["Forbidden: may only be used when `type` is 'LoadBalancer'"]),
    ],
)
def test_source_ranges_in_the_annotation(context: Context, kind_of: str, annotation: str, expected: list[str]) -> None:
    key = "service.beta.kubernetes.io/load-balancer-source-ranges"
    obj = service(type=kind_of)
    obj["metadata"]["annotations"] = {key: annotation}
    if not expected:
        assert admit_create(kind(), obj, context)["metadata"]["annotations"] == {key: annotation}
        return
    with pytest.raises(Invalid) as error:
        admit_create(kind(), obj, context)
    assert causes(error) == [f"metadata.annotations[{key}]: {text}" for text in expected]


def test_the_field_for_source_ranges_hides_the_annotation(context: Context) -> None:
    obj = service(type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.0/8"])
    obj["metadata"]["annotations"] = {"service.beta.kubernetes.io/load-balancer-source-ranges": "nonsense"}
    assert admit_create(kind(), obj, context)


def test_more_that_is_allowed(context: Context) -> None:
    spec = create(
        context,
        type="LoadBalancer",
        loadBalancerClass="example.com/vip",
        loadBalancerSourceRanges=[" 10.0.0.0/8"],
        ports=[{"port": 80, "appProtocol": "kubernetes.io/h2c"}],
        trafficDistribution="PreferClose",
    )["spec"]
    assert spec["loadBalancerSourceRanges"] == [" 10.0.0.0/8"]


def test_the_name_must_be_a_host_name(context: Context) -> None:
    with pytest.raises(Invalid) as error:
        create(context, "1web")
    assert causes(error) == [
        'metadata.name: Invalid value: "1web": a DNS-1035 label must consist of lower case alphanumeric characters or '
        "'-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', "
        "regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
    ]


def test_what_belongs_to_another_is_refused(context: Context) -> None:
    first = create(context, type="NodePort")["spec"]
    with pytest.raises(Invalid) as error:
        create(context, "other", type="NodePort", ports=[{"port": 80, "nodePort": first["ports"][0]["nodePort"]}])
    number = first["ports"][0]["nodePort"]
    assert causes(error) == [f"spec.ports[0].nodePort: Invalid value: {number}: provided port is already allocated"]
    ip = first["clusterIP"]
    with pytest.raises(Invalid) as error:
        create(context, "other", clusterIP=ip)
    message = f'spec.clusterIPs: Invalid value: ["{ip}"]: failed to allocate IP {ip}: provided IP is already allocated'
    assert causes(error) == [message]


# Updates


def test_a_put_without_allocated_values_keeps_them(context: Context) -> None:
    old = create(context, type="NodePort")
    assert update(context, old, type="NodePort") == old


def test_node_ports_follow_the_names_of_ports(context: Context) -> None:
    old = create(context, type="NodePort", ports=[{"name": "a", "port": 80}, {"name": "b", "port": 81}])
    numbers = {port["name"]: port["nodePort"] for port in old["spec"]["ports"]}
    new = update(context, old, type="NodePort", ports=[{"name": "b", "port": 81}, {"name": "c", "port": 82}])
    by_name = {port["name"]: port["nodePort"] for port in new["spec"]["ports"]}
    assert by_name["b"] == numbers["b"]
    assert set(context.ports.pool.holders) == set(by_name.values())


def test_a_number_used_for_another_port_is_not_inherited(context: Context) -> None:
    old = create(context, type="NodePort", ports=[{"name": "a", "port": 80, "nodePort": 30001}])
    ports = [{"name": "b", "port": 81, "nodePort": 30001}, {"name": "a", "port": 80}]
    new = update(context, old, type="NodePort", ports=ports)
    assert new["spec"]["ports"][1]["nodePort"] != 30001


def test_the_cluster_ip_is_for_good(context: Context) -> None:
    old = create(context)
    with pytest.raises(Invalid) as error:
        change(context, old, clusterIP="10.96.0.99")
    assert causes(error) == ['spec.clusterIPs[0]: Invalid value: ["10.96.0.99"]: may not change once set']
    with pytest.raises(Invalid) as error:
        update(context, old, clusterIP="None")
    assert causes(error) == ['spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set']
    with pytest.raises(Invalid) as error:
        update(context, create(context, "headless", clusterIP="None"), clusterIP="10.96.0.98")
    assert causes(error) == ['spec.clusterIPs[0]: Invalid value: ["10.96.0.98"]: may not change once set']


def test_from_node_port_to_cluster_ip(context: Context) -> None:
    old = create(context, type="NodePort")
    new = change(context, old, type="ClusterIP")
    assert "nodePort" not in new["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in new["spec"]
    assert new["spec"]["clusterIP"] == old["spec"]["clusterIP"]
    assert context.ports.pool.holders == {}


def test_a_node_port_given_along_with_the_wrong_type_is_refused(context: Context) -> None:
    old = create(context, type="NodePort")
    with pytest.raises(Invalid, match="may not be used when `type` is 'ClusterIP'"):
        change(context, old, type="ClusterIP", ports=[{"port": 80, "nodePort": 30009}])


def test_from_cluster_ip_to_node_port(context: Context) -> None:
    old = create(context)
    new = change(context, old, type="NodePort")
    assert list(context.ports.pool.holders) == [new["spec"]["ports"][0]["nodePort"]]
    assert new["spec"]["externalTrafficPolicy"] == "Cluster"


def test_to_external_name_and_back(context: Context) -> None:
    old = create(context, type="NodePort")
    named = change(context, old, type="ExternalName", externalName="db.example.org")
    assert named["spec"].keys().isdisjoint({"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"})
    assert context.addresses.pool.holders == {}
    assert context.ports.pool.holders == {}
    back = update(context, named, type="ClusterIP")
    assert back["spec"]["clusterIPs"] == [back["spec"]["clusterIP"]]
    assert back["spec"]["ipFamilyPolicy"] == "SingleStack"


def test_a_node_port_written_on_an_external_name_is_not_held(context: Context) -> None:
    old = create(context, type="NodePort", ports=[{"port": 80, "nodePort": 30001}])
    update(context, old, type="ExternalName", externalName="a.example", ports=[{"port": 80, "nodePort": 30001}])
    assert context.ports.pool.holders == {}


def test_load_balancers_come_and_go(context: Context) -> None:
    old = create(context, type="LoadBalancer", externalTrafficPolicy="Local", loadBalancerClass="example.com/vip")
    assert len(context.ports.pool.holders) == 2
    assert (
        update(context, old, type="LoadBalancer", externalTrafficPolicy="Local", loadBalancerClass="example.com/vip")
        == old
    )
    with pytest.raises(Invalid) as error:
        change(context, old, loadBalancerClass="example.com/other")
    assert causes(error) == ['spec.loadBalancerClass: Invalid value: "example.com/other": may not change once set']
    with pytest.raises(Invalid) as error:
        change(context, old, healthCheckNodePort=30500)
    assert causes(error) == ["spec.healthCheckNodePort: Forbidden: field is immutable"]
    with pytest.raises(Invalid) as error:
        update(context, old, type="LoadBalancer", externalTrafficPolicy="Local")
    assert causes(error) == ['spec.loadBalancerClass: Invalid value: "null": may not change once set']
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}]}}
    served = admit_update(kind(), "status", {**old, "status": status}, old, context)
    assert served["status"] == status
    new = change(context, served, type="ClusterIP")
    gone = {"healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass", "externalTrafficPolicy"}
    assert new["spec"].keys().isdisjoint(gone)
    assert new["status"] == {"loadBalancer": {}}
    assert context.ports.pool.holders == {}


def test_a_status_update_touches_nothing_else(context: Context) -> None:
    old = create(context)
    new = deepcopy(old)
    new["spec"]["ports"][0]["port"] = 9999
    new["status"] = {"loadBalancer": {}, "conditions": [{"type": "x", "status": "True"}]}
    result = admit_update(kind(), "status", new, old, context)
    assert result["spec"] == old["spec"]
    assert result["status"] == new["status"]


def test_an_update_of_the_spec_leaves_the_status(context: Context) -> None:
    old = create(context)
    new = {**deepcopy(old), "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}}
    assert admit_update(kind(), None, new, old, context)["status"] == old["status"]


def test_families_of_a_headless_service_may_change(context: Context) -> None:
    old = create(context, clusterIP="None", selector={})
    assert change(context, old, ipFamilies=["IPv6", "IPv4"])["spec"]["ipFamilies"] == ["IPv6", "IPv4"]


def test_the_first_family_is_for_good() -> None:
    old = {"clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "type": "ClusterIP"}
    told = [str(cause) for cause in check_service_update({**old, "ipFamilies": ["IPv6"]}, old)]
    assert told == ['spec.ipFamilies[0]: Invalid value: ["IPv6"]: may not change once set']


# Status

INGRESS = "status.loadBalancer.ingress"


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ({"ip": "192.0.2.9"}, {"ip": "192.0.2.9", "ipMode": "VIP"}),
        ({"ip": "192.0.2.9", "ipMode": "Proxy"}, {"ip": "192.0.2.9", "ipMode": "Proxy"}),
        (
            {"ip": "2001:db8::9", "hostname": "a.example"},
            {"ip": "2001:db8::9", "hostname": "a.example", "ipMode": "VIP"},
        ),
        ({"hostname": "a.example"}, {"hostname": "a.example"}),
        ({"ip": "192.0.2.9", "ports": [{"port": 80, "protocol": "TCP"}]}, None),
        ({"ip": "192.0.2.9", "ports": [{"port": 80, "protocol": "TCP", "error": "example.com/NotHere"}]}, None),
    ],
)
def test_any_client_may_write_the_ingress(context: Context, sent: Object, stored: Object | None) -> None:
    old = create(context, type="LoadBalancer")
    new = {**deepcopy(old), "status": {"loadBalancer": {"ingress": [sent]}}}
    found = admit_update(kind(), "status", new, old, context)["status"]["loadBalancer"]["ingress"]
    assert found == [stored or {**sent, "ipMode": "VIP"}]


@pytest.mark.parametrize(
    ("kind_of", "sent", "expected"),
    [
        (
            "ClusterIP",
            {"ip": "192.0.2.9"},
            [f"{INGRESS}: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"],
        ),
        (
            "LoadBalancer",
            {"ip": "x"},
            [f'{INGRESS}[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)'],
        ),
        (
            "LoadBalancer",
            {"ip": "192.0.2.9", "ipMode": "DSR"},
            [f'{INGRESS}[0].ipMode: Unsupported value: "DSR": supported values: "Proxy", "VIP"'],
        ),
        (
            "LoadBalancer",
            {"hostname": "a.example", "ipMode": "VIP"},
            [f"{INGRESS}[0].ipMode: Forbidden: may not be specified when `ip` is not set"],
        ),
        (
            "LoadBalancer",
            {"hostname": "192.0.2.9"},
            [f'{INGRESS}[0].hostname: Invalid value: "192.0.2.9": must be a DNS name, not an IP address'],
        ),
    ],
)
def test_refused_ingress(context: Context, kind_of: str, sent: Object, expected: list[str]) -> None:
    old = create(context, type=kind_of)
    new = {**deepcopy(old), "status": {"loadBalancer": {"ingress": [sent]}}}
    with pytest.raises(Invalid) as error:
        admit_update(kind(), "status", new, old, context)
    assert causes(error) == expected


def test_no_load_balancer_no_ingress(context: Context) -> None:
    old = create(context, type="LoadBalancer")
    ingress = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}
    served = admit_update(kind(), "status", {**deepcopy(old), "status": ingress}, old, context)
    assert change(context, served, type="NodePort")["status"] == {"loadBalancer": {}}


def test_null_means_absent(context: Context) -> None:
    obj = create(context, clusterIP=None, sessionAffinityConfig=None, externalIPs=None)
    assert "externalIPs" not in obj["spec"]
    assert obj["spec"]["clusterIP"]


def test_zero_and_empty_mean_not_given(context: Context) -> None:
    obj = create(
        context,
        type="NodePort",
        clusterIP="",
        healthCheckNodePort=0,
        ports=[{"port": 80, "nodePort": 0, "targetPort": 0}],
    )
    assert obj["spec"]["ports"][0]["nodePort"] >= 30000
    assert obj["spec"]["ports"][0]["targetPort"] == 80
    assert "healthCheckNodePort" not in obj["spec"]
