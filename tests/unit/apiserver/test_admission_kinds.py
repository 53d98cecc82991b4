"""Metadata, names, and the kinds with few rules."""

import base64
from copy import deepcopy
from typing import Any

import pytest

from agent.apiserver.admission import Cause, Context, Invalid, admit_create, admit_update, names, release
from agent.apiserver.registry import KINDS, Kind, find_kind
from agent.config import Config

Object = dict[str, Any]
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
).replace("\\\\", "\\")


def kind(plural: str, group: str = "") -> Kind:
    found = find_kind(group, "v1", plural)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def context() -> Context:
    return Context.load([], Config())


def make(name: str = "x", *, namespace: Any = "default", metadata: Any = None, **fields: Any) -> Object:
    return {"metadata": {"name": name, "namespace": namespace, **(metadata or {})}, **fields}


def refused(context: Context, of: Kind, obj: Object) -> list[str]:
    with pytest.raises(Invalid) as error:
        admit_create(of, obj, context)
    return [str(cause) for cause in error.value.causes]


def refused_change(context: Context, of: Kind, old: Object, **fields: Any) -> list[str]:
    with pytest.raises(Invalid) as error:
        admit_update(of, None, {**deepcopy(old), **fields}, old, context)
    return [str(cause) for cause in error.value.causes]


# Errors


def test_one_cause_stands_alone_and_several_stand_in_brackets() -> None:
    one, two = Cause("FieldValueRequired", "Required value", "a"), Cause("FieldValueRequired", "Required value", "b")
    assert str(Invalid([one])) == "a: Required value"
    assert str(Invalid([one, two, one])) == "[a: Required value, b: Required value]"


# Metadata

CONFIG = kind("configmaps")
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u"}
NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
BAD_METADATA: list[tuple[Object, list[str]]] = [
    ({"name": ""}, ["metadata.name: Required value: name or generateName is required"]),
    ({"name": "A"}, [f'metadata.name: Invalid value: "A": {SUBDOMAIN}']),
    ({"name": "a" * 254}, [f'metadata.name: Invalid value: "{"a" * 254}": must be no more than 253 bytes']),
    ({"generateName": "A-"}, [f'metadata.generateName: Invalid value: "A-": {SUBDOMAIN}']),
    ({"namespace": ""}, ["metadata.namespace: Required value"]),
    ({"labels": {"/a": "b"}}, ['metadata.labels: Invalid value: "/a": prefix part must be non-empty']),
    (
        {"labels": {"a/": "b"}},
        [
            'metadata.labels: Invalid value: "a/": name part must be non-empty',
            f'metadata.labels: Invalid value: "a/": {NAME_PART}',
        ],
    ),
    ({"labels": {"a": "b" * 64}}, [f'metadata.labels: Invalid value: "{"b" * 64}": must be no more than 63 bytes']),
    (
        {"annotations": {"a/": ""}},
        [
            'metadata.annotations: Invalid value: "a/": name part must be non-empty',
            f'metadata.annotations: Invalid value: "a/": {NAME_PART}',
        ],
    ),
    ({"annotations": {"a": "b" * 262144}}, ["metadata.annotations: Too long: may not be more than 262144 bytes"]),
    (
        {"finalizers": ["mine"]},
        [
            'metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified'
        ],
    ),
    (
        {"ownerReferences": [{**OWNER, "uid": ""}]},
        ['metadata.ownerReferences[0].uid: Invalid value: "": must not be empty'],
    ),
    (
        {"ownerReferences": [{**OWNER, "apiVersion": ""}]},
        ['metadata.ownerReferences[0].apiVersion: Invalid value: "": version must not be empty'],
    ),
]


@pytest.mark.parametrize(("metadata", "expected"), BAD_METADATA)
def test_refused_metadata(context: Context, metadata: Object, expected: list[str]) -> None:
    assert refused(context, CONFIG, make(metadata=metadata)) == expected


def test_owners(context: Context) -> None:
    [event] = refused(context, CONFIG, make(metadata={"ownerReferences": [{**OWNER, "kind": "Event"}]}))
    assert event.endswith("Event is disallowed from being an owner")
    two = [{**OWNER, "controller": True}, {**OWNER, "name": "b", "controller": True}]
    [several] = refused(context, CONFIG, make(metadata={"ownerReferences": two}))
    assert "Only one reference can have Controller set to true" in several


def test_good_metadata(context: Context) -> None:
    metadata = {
        "generateName": "x-",
        "labels": {"example.com/a": "", "b": "C_d.e"},
        "annotations": {"Example.com/A": "anything at all"},
        "finalizers": ["example.com/mine", "foregroundDeletion"],
        "ownerReferences": [{**OWNER, "controller": True}, {**OWNER, "name": "b"}],
    }
    assert admit_create(CONFIG, make(metadata=metadata), context)["metadata"]["labels"]["b"] == "C_d.e"


def test_metadata_that_says_nothing_is_left_out(context: Context) -> None:
    empty: Object = {"labels": {}, "annotations": {}, "finalizers": [], "ownerReferences": [], "generateName": None}
    plain = {"name": "a", "namespace": "default"}
    created = admit_create(kind("configmaps"), {"metadata": {**plain, **empty}, "data": {}}, context)
    assert created == {"metadata": plain, "data": {}}
    labelled = {"metadata": {**plain, "labels": {"a": "b"}}}
    assert admit_update(kind("configmaps"), None, {"metadata": {**plain, **empty}}, labelled, context) == {
        "metadata": plain
    }


def test_cluster_scoped_objects_have_no_namespace(context: Context) -> None:
    assert refused(context, kind("nodes"), make("n1")) == ["metadata.namespace: Forbidden: not allowed on this type"]


def test_what_identifies_an_object_stays(context: Context) -> None:
    old = admit_create(CONFIG, make(metadata={"uid": "u1", "creationTimestamp": "2024-01-01T00:00:00Z"}), context)
    assert refused_change(context, CONFIG, old, metadata={**old["metadata"], "name": "y", "uid": "u2"}) == [
        'metadata.name: Invalid value: "y": field is immutable',
        'metadata.uid: Invalid value: "u2": field is immutable',
    ]
    without = {"name": "x", "namespace": "default"}
    assert admit_update(CONFIG, None, {**old, "metadata": without}, old, context)["metadata"] == without


def test_nobody_holds_up_what_is_being_deleted(context: Context) -> None:
    metadata = {"finalizers": ["a.example/b"], "deletionTimestamp": "2024-01-01T00:00:00Z"}
    old = make(metadata=metadata)
    new = {**old["metadata"], "finalizers": ["a.example/b", "a.example/c"]}
    assert refused_change(context, CONFIG, old, metadata=new) == [
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new "
        'finalizers ["a.example/c"]'
    ]


@pytest.mark.parametrize("of", KINDS, ids=lambda of: of.resource)
def test_releasing_what_holds_nothing_is_harmless(of: Kind, context: Context) -> None:
    release(of, make(namespace="default" if of.namespaced else None), context)


# Names


@pytest.mark.parametrize("name", ["a", "a-b", "9a"])
def test_labels(name: str) -> None:
    assert names.dns_label(name) == []


def test_a_name_with_two_slashes() -> None:
    [complaint] = names.qualified_name("a/b/c")
    assert complaint.startswith("a qualified name must consist of alphanumeric characters")
    assert complaint.endswith("with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")
    [complaint] = names.qualified_name("A/b")
    assert complaint.startswith("prefix part a lowercase RFC 1123 subdomain")


@pytest.mark.parametrize(
    ("key", "complaint"),
    [(".", "must not be '.'"), ("..", "must not be '..'"), ("..a", "must not start with '..'")],
)
def test_config_keys_are_file_names(key: str, complaint: str) -> None:
    assert names.config_key(key) == [complaint]
    assert names.config_key(".a") == []


@pytest.mark.parametrize(
    ("ip", "complaint"),
    [
        ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
        ("::", "may not be unspecified (::)"),
        ("127.0.0.2", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        ("169.254.1.1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        ("fe80::1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        ("ff32::5", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
        ("0127.0.0.1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        ("224.0.0.5", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ],
)
def test_addresses_that_mean_this_very_machine(ip: str, complaint: str) -> None:
    assert names.special_ip(ip) == [complaint]
    assert names.special_ip("10.0.0.1") == []
    assert names.special_ip("not an address") == []


def test_addresses_have_no_zone() -> None:
    assert names.ip("fe80::1%eth0") != []


# Namespace, Node


def test_a_namespace(context: Context) -> None:
    obj = admit_create(kind("namespaces"), {"metadata": {"name": "demo"}}, context)
    assert obj == {
        "metadata": {"name": "demo", "labels": {"kubernetes.io/metadata.name": "demo"}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }
    assert refused(context, kind("namespaces"), {"metadata": {"name": "a.b"}})[0].startswith(
        "metadata.name: Invalid value"
    )


def test_only_finalize_lifts_the_finalizers_of_a_namespace(context: Context) -> None:
    old = admit_create(
        kind("namespaces"), {"metadata": {"name": "demo"}, "spec": {"finalizers": ["a.example/b"]}}, context
    )
    assert old["spec"]["finalizers"] == ["a.example/b", "kubernetes"]
    new = {**deepcopy(old), "spec": {"finalizers": []}, "status": {"phase": "Terminating"}}
    assert admit_update(kind("namespaces"), None, new, old, context) == old
    finalized = admit_update(kind("namespaces"), "finalize", new, old, context)
    assert finalized["spec"] == {"finalizers": []}
    assert finalized["status"] == {"phase": "Active"}
    ending = admit_update(kind("namespaces"), "status", new, old, context)
    assert ending["status"] == {"phase": "Terminating"}
    assert ending["spec"] == old["spec"]


def test_a_node_registers_with_its_status(context: Context) -> None:
    node = {"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.0.0/24"}, "status": {"conditions": []}}
    old = admit_create(kind("nodes"), node, context)
    assert old["status"] == {"conditions": []}
    assert admit_update(kind("nodes"), None, {"metadata": {"name": "n1"}, "spec": old["spec"]}, old, context) == old
    assert refused_change(context, kind("nodes"), old, spec={"podCIDR": "10.1.0.0/24"}) == [
        'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid'
    ]
    old["spec"]["providerID"] = "a"
    assert refused_change(context, kind("nodes"), old, spec={**old["spec"], "providerID": "b"}) == [
        'spec.providerID: Forbidden: node updates may not change providerID except from "" to valid'
    ]
    taints = {"spec": {"taints": [{"key": "a", "effect": "Bad"}]}}
    assert refused(context, kind("nodes"), {"metadata": {"name": "n1"}, **taints}) == [
        'spec.taints[0].effect: Unsupported value: "Bad": supported values: "NoExecute", "NoSchedule", "PreferNoSchedule"'
    ]


# ConfigMap, Secret


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_config_maps(context: Context) -> None:
    [key] = refused(context, CONFIG, make(data={"a b": ""}))
    assert key.startswith('data[a b]: Invalid value: "a b": a valid config key must consist of')
    both = make(data={"a": ""}, binaryData={"a": ""})
    assert refused(context, CONFIG, both) == ['binaryData[a]: Invalid value: "a": duplicate of key present in data']
    assert refused(context, CONFIG, make(data={"a": "x" * 1048577})) == [
        "data: Too long: may not be more than 1048576 bytes"
    ]


def test_immutable_config_maps(context: Context) -> None:
    old = admit_create(CONFIG, make(data={"a": "1"}, immutable=True), context)
    assert refused_change(context, CONFIG, old, data={"a": "2"}, immutable=False) == [
        "immutable: Forbidden: field is immutable when `immutable` is set",
        "data: Forbidden: field is immutable when `immutable` is set",
    ]
    relabelled = {**old["metadata"], "labels": {"a": "b"}}
    assert admit_update(CONFIG, None, {**old, "metadata": relabelled}, old, context)["data"] == {"a": "1"}


def test_secrets(context: Context) -> None:
    of = kind("secrets")
    old = admit_create(of, make(stringData={"a": "word"}, data={"b": "eA=="}), context)
    assert old["data"] == {"a": encoded("word"), "b": "eA=="}
    assert old["type"] == "Opaque"
    assert "stringData" not in old
    assert refused_change(context, of, old, type="kubernetes.io/ssh-auth") == [
        "data[ssh-privatekey]: Required value",
        'type: Invalid value: "kubernetes.io/ssh-auth": field is immutable',
    ]
    assert refused(context, of, make(type="kubernetes.io/tls", stringData={"tls.crt": "x"})) == [
        "data[tls.key]: Required value"
    ]
    assert refused(context, of, make(type="kubernetes.io/basic-auth")) == [
        "data[username]: Required value",
        "data[password]: Required value",
    ]
    assert admit_create(of, make(type="kubernetes.io/basic-auth", stringData={"username": "u"}), context)["data"]


# Lease, Event, ServiceAccount


def test_leases(context: Context) -> None:
    spec = {"holderIdentity": "", "leaseDurationSeconds": 0, "leaseTransitions": -1}
    assert refused(context, kind("leases", "coordination.k8s.io"), make(spec=spec)) == [
        "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        'spec.holderIdentity: Invalid value: "": must not be empty',
    ]


@pytest.mark.parametrize(
    ("group", "version", "field"), [("", "v1", "involvedObject"), ("events.k8s.io", "events.k8s.io/v1", "regarding")]
)
def test_events_lie_where_their_object_lies(context: Context, group: str, version: str, field: str) -> None:
    of = kind("events", group)

    def event(about: Object) -> Object:
        return {**make(apiVersion=version), field: about}

    good = event({"namespace": "default"})
    assert admit_create(of, good, context)[field] == {"namespace": "default"}
    assert admit_create(of, event({"kind": "Node"}), context)
    assert refused(context, of, event({"namespace": "other"})) == [
        f'{field}.namespace: Invalid value: "other": does not match event.namespace'
    ]


def test_kinds_without_rules_of_their_own(context: Context) -> None:
    assert admit_create(kind("serviceaccounts"), make("default"), context) == make("default")


# Endpoints, EndpointSlice

SLICES = kind("endpointslices", "discovery.k8s.io")
IP_RULE = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def test_endpoints(context: Context) -> None:
    subset = {"addresses": [{"ip": "10.0.0.1", "hostname": "a", "nodeName": "n1"}], "ports": [{"port": 80}]}
    obj = admit_create(kind("endpoints"), make(subsets=[subset]), context)
    assert obj["subsets"][0]["ports"] == [{"port": 80, "protocol": "TCP"}]


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        ({}, ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]),
        ({"addresses": [{"ip": "x"}]}, [f'subsets[0].addresses[0].ip: Invalid value: "x": {IP_RULE}']),
        (
            {"notReadyAddresses": [{"ip": "127.0.0.1"}]},
            [
                'subsets[0].notReadyAddresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)'
            ],
        ),
        (
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "name": "a"}, {"port": 0}]},
            [
                "subsets[0].ports[1].name: Required value",
                "subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
    ],
)
def test_refused_endpoints(context: Context, subset: Object, expected: list[str]) -> None:
    assert refused(context, kind("endpoints"), make(subsets=[subset])) == expected


ONE = {"addresses": ["10.0.0.1"]}


def slices(*endpoints: Object, **fields: Any) -> Object:
    return make(**{"addressType": "IPv4", "endpoints": list(endpoints), "ports": [{"port": 80}], **fields})


def test_an_endpoint_slice(context: Context) -> None:
    endpoint = {"addresses": ["10.0.0.1"], "hostname": "a", "nodeName": "n1", "hints": {"forZones": [{"name": "z"}]}}
    obj = admit_create(SLICES, slices(endpoint), context)
    assert obj["ports"] == [{"name": "", "port": 80, "protocol": "TCP"}]
    assert admit_create(SLICES, slices({"addresses": ["a.example", "b.example."]}, addressType="FQDN"), context)


@pytest.mark.parametrize(
    "fields",
    [
        {"addresses": ["010.0.0.7", "::ffff:10.0.0.8"]},
        {"hints": {"forNodes": [{"name": "n" * 60 + ".example.com"}], "forZones": [{"name": "Zone_a"}]}},
        {"conditions": {"ready": False, "serving": True, "terminating": True}, "zone": "a"},
    ],
)
def test_allowed_endpoints_of_a_slice(context: Context, fields: Object) -> None:
    assert admit_create(SLICES, slices({**ONE, **fields}), context)["endpoints"] == [{**ONE, **fields}]


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (slices(addressType=""), ["addressType: Required value"]),
        (
            slices(addressType="IPv5"),
            ['addressType: Unsupported value: "IPv5": supported values: "FQDN", "IPv4", "IPv6"'],
        ),
        (slices({"addresses": []}), ["endpoints[0].addresses: Required value: must contain at least 1 address"]),
        (
            slices({"addresses": ["fd00::1"]}),
            ['endpoints[0].addresses[0]: Invalid value: "fd00::1": must be an IPv4 address'],
        ),
        (
            slices(ONE, addressType="IPv6"),
            ['endpoints[0].addresses[0]: Invalid value: "10.0.0.1": must be an IPv6 address'],
        ),
        (
            slices({"addresses": ["x"]}),
            [f'endpoints[0].addresses[0]: Invalid value: "x": {IP_RULE}'],
        ),
        (
            slices({"addresses": ["localhost"]}, addressType="FQDN"),
            [
                'endpoints[0].addresses[0]: Invalid value: "localhost": should be a domain with at least two segments separated by dots'
            ],
        ),
        (slices({"addresses": [""]}, addressType="FQDN"), ["endpoints[0].addresses[0]: Required value"]),
        (
            slices({"addresses": ["0.0.0.0"]}),
            ['endpoints[0].addresses[0]: Invalid value: "0.0.0.0": may not be unspecified (0.0.0.0)'],
        ),
        (
            slices({"addresses": ["10.0.0.1"] * 101}),
            ["endpoints[0].addresses: Too many: 101: must have at most 100 items"],
        ),
        (slices(*[ONE] * 1001), ["endpoints: Too many: 1001: must have at most 1000 items"]),
        (slices(ports=[{}] * 20001), ["ports: Too many: 20001: must have at most 20000 items"]),
        (slices(ports=[{"port": 1}, {"port": 2}]), ['ports[1].name: Duplicate value: ""']),
        (
            slices(ports=[{"port": 0, "protocol": "X"}]),
            [
                "ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                'ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"',
            ],
        ),
        (
            slices({**ONE, "hints": {"forZones": [{"name": "z"}, {"name": "z"}]}}),
            ['endpoints[0].hints.forZones[1].name: Duplicate value: "z"'],
        ),
        (
            slices({**ONE, "hints": {"forNodes": [{"name": str(n)} for n in range(9)]}}),
            ["endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items"],
        ),
    ],
)
def test_refused_endpoint_slices(context: Context, obj: Object, expected: list[str]) -> None:
    assert refused(context, SLICES, obj) == expected


def test_named_slice_ports(context: Context) -> None:
    obj = admit_create(SLICES, slices(ONE, ports=[{"name": "web", "appProtocol": "http"}]), context)
    assert obj["ports"][0]["name"] == "web"


def test_the_address_type_is_for_good(context: Context) -> None:
    old = admit_create(SLICES, slices(), context)
    assert refused_change(context, SLICES, old, addressType="IPv6") == [
        'addressType: Invalid value: "IPv6": field is immutable'
    ]
