"""Services: defaults, what an update inherits, and which addresses and ports they hold.

A Service is a union told apart by ``type``; changing the type must take and free what the types differ in without the
user having to say so. Hence the three steps of an update, as upstream's (registry/core/service: storage.go, alloc.go
and strategy.go): values the client left out are taken over from the old object, values that no longer apply and were
not touched are dropped, and only then the rules look at it.

podwire's clusters are single-stack: the family of ``service_cidr`` is the only one that can be allocated.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from agent.apiserver.admission import names
from agent.apiserver.admission.allocation import Exhausted, Lease, OutOfRange, Taken
from agent.apiserver.admission.context import Context, Holding, address_number, held_by, service_key
from agent.apiserver.admission.errors import Invalid, invalid
from agent.apiserver.admission.rules import Causes
from agent.apiserver.admission.strategies.base import Strategy, refuse
from agent.apiserver.admission.strategies.service_rules import (
    check_families,
    check_load_balancer_status,
    check_service,
    check_service_update,
    has_node_ports,
    is_external,
    is_headless,
    needs_health_check_port,
)
from agent.apiserver.registry import JSON

ALREADY = "provided {} is already allocated"
EMPTY_IS_ABSENT = (
    "type",
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "sessionAffinity",
)


class ServiceStrategy(Strategy):
    name_check = staticmethod(names.dns_1035_label)

    def default(self, obj: JSON) -> None:
        spec = obj.setdefault("spec", {})
        _drop_empty(spec)
        spec.setdefault("type", "ClusterIP")
        for port in spec.get("ports") or []:
            port.setdefault("protocol", "TCP")
            if port.get("targetPort") in (None, 0, ""):
                port["targetPort"] = port.get("port", 0)
        _default_affinity(spec)
        if spec["type"] != "ExternalName":
            spec.setdefault("internalTrafficPolicy", "Cluster")
        if is_external(spec):
            spec.setdefault("externalTrafficPolicy", "Cluster")
        if spec["type"] == "LoadBalancer":
            spec.setdefault("allocateLoadBalancerNodePorts", True)
        obj.setdefault("status", {}).setdefault("loadBalancer", {})

    def prepare_create(self, obj: JSON, context: Context) -> None:
        obj["status"] = {"loadBalancer": {}}
        spec = obj["spec"]
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        if spec["type"] != "ExternalName":
            _default_families(spec, None, context)

    def prepare_update(self, new: JSON, old: JSON, subresource: str | None, context: Context) -> None:
        spec, before = new["spec"], old.get("spec") or {}
        _inherit(spec, before)
        _follow_cluster_ip(spec, before)
        _drop_what_no_longer_applies(spec, before)
        if spec["type"] != "LoadBalancer":
            new["status"] = {**(new.get("status") or {}), "loadBalancer": {}}
        if spec["type"] != "ExternalName":
            _default_families(spec, before, context)

    def validate(self, obj: JSON) -> Causes:
        return check_service(obj["spec"], (obj.get("metadata") or {}).get("annotations") or {})

    def validate_update(self, new: JSON, old: JSON, subresource: str | None) -> Causes:
        return check_service_update(new["spec"], old.get("spec") or {})

    def prepare_status(self, new: JSON, old: JSON) -> None:
        """An address that does not say how it is served is a VIP (KEP-1860)."""
        balancer = new.setdefault("status", {}).setdefault("loadBalancer", {})
        for entry in balancer.get("ingress") or []:
            if entry.get("ip") and (new.get("spec") or {}).get("type") == "LoadBalancer":
                entry.setdefault("ipMode", "VIP")

    def validate_status(self, new: JSON, old: JSON) -> Causes:
        return check_load_balancer_status(new["status"], new.get("spec") or {})

    def allocate(self, obj: JSON, old: JSON | None, context: Context) -> None:
        holder = service_key(obj)
        _allocate_cluster_ip(obj["spec"], holder, context)
        _allocate_node_ports(obj["spec"], holder, context.ports)
        if old is not None:
            _free(context, holder, set(held_by(old)) - set(held_by(obj)))

    def release(self, obj: JSON, context: Context) -> None:
        _free(context, service_key(obj), held_by(obj))


def _default_affinity(spec: JSON) -> None:
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {})
        config.setdefault("clientIP", {}).setdefault("timeoutSeconds", 10800)
    elif spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)


def _drop_empty(spec: JSON) -> None:
    """Values that mean "not given" in upstream's types are not stored."""
    for name in EMPTY_IS_ABSENT:
        if not spec.get(name):
            spec.pop(name, None)
    for port in spec.get("ports") or []:
        for name in ("nodePort", "protocol"):
            if not port.get(name):
                port.pop(name, None)


def _inherit(spec: JSON, before: JSON) -> None:
    """Allocated values that the client left out stay what they are (upstream: patchAllocatedValues)."""
    if "ExternalName" not in (spec["type"], before.get("type")):
        if not spec.get("clusterIP") and not spec.get("clusterIPs"):
            _copy(spec, before, "clusterIP")
        if not spec.get("clusterIPs") and spec.get("clusterIP") == before.get("clusterIP"):
            _copy(spec, before, "clusterIPs")
    if has_node_ports(spec) and has_node_ports(before):
        _inherit_node_ports(spec, before)
    if needs_health_check_port(spec) and needs_health_check_port(before) and not spec.get("healthCheckNodePort"):
        _copy(spec, before, "healthCheckNodePort")


def _inherit_node_ports(spec: JSON, before: JSON) -> None:
    """By port name, unless the old number is already used for another port of the new spec."""
    ports: list[JSON] = spec.get("ports") or []
    used = {port["nodePort"] for port in ports if port.get("nodePort")}
    known = {port.get("name", ""): port.get("nodePort") for port in before.get("ports") or []}
    for port in ports:
        number = known.get(port.get("name", ""))
        if not port.get("nodePort") and number and number not in used:
            port["nodePort"] = number


def _follow_cluster_ip(spec: JSON, before: JSON) -> None:
    """``clusterIP`` and ``clusterIPs[0]`` are one value: when only the former was changed, the latter follows."""
    changed = spec.get("clusterIP") != before.get("clusterIP")
    if changed and spec.get("clusterIPs") == before.get("clusterIPs"):
        spec.pop("clusterIPs", None)
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def _drop_what_no_longer_applies(spec: JSON, before: JSON) -> None:
    """Values the old type needed and the new one does not, if the user did not touch them as well."""
    to_name = spec["type"] == "ExternalName" and before.get("type") != "ExternalName"
    dropped: list[tuple[bool, tuple[str, ...]]] = [
        (to_name, ("clusterIP", "clusterIPs")),
        (to_name, ("ipFamilies",)),
        (to_name, ("ipFamilyPolicy",)),
        (needs_health_check_port(before) and not needs_health_check_port(spec), ("healthCheckNodePort",)),
        (is_external(before) and not is_external(spec), ("externalTrafficPolicy",)),
        (_left_load_balancer(spec, before), ("allocateLoadBalancerNodePorts",)),
        (_left_load_balancer(spec, before), ("loadBalancerClass",)),
    ]
    for applies, fields in dropped:
        if applies and all(spec.get(name) == before.get(name) for name in fields):
            for name in fields:
                spec.pop(name, None)
    if has_node_ports(before) and not has_node_ports(spec):
        _drop_node_ports(spec, before)


def _left_load_balancer(spec: JSON, before: JSON) -> bool:
    return before.get("type") == "LoadBalancer" and spec["type"] != "LoadBalancer"


def _drop_node_ports(spec: JSON, before: JSON) -> None:
    ports: list[JSON] = spec.get("ports") or []
    old = {port.get("nodePort") for port in before.get("ports") or []}
    if {port["nodePort"] for port in ports if port.get("nodePort")} <= old:
        for port in ports:
            port.pop("nodePort", None)


def _copy(spec: JSON, before: JSON, name: str) -> None:
    if before.get(name):
        spec[name] = before[name]


def _default_families(spec: JSON, before: JSON | None, context: Context) -> None:
    """``ipFamilies`` and ``ipFamilyPolicy`` of a Service that has endpoints (upstream: initIPFamilyFields)."""
    family = f"IPv{ipaddress.ip_network(context.config.service_cidr).version}"
    by_hand = is_headless(spec) and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        inherited = (before or {}).get("ipFamilyPolicy")
        spec["ipFamilyPolicy"] = inherited or ("RequireDualStack" if by_hand else "SingleStack")
    refuse(check_families(spec, family, by_hand=by_hand))
    if not spec.get("ipFamilies"):
        spec["ipFamilies"] = [family]
    if by_hand and spec["ipFamilyPolicy"] != "SingleStack" and len(spec["ipFamilies"]) == 1:
        spec["ipFamilies"].append("IPv6" if spec["ipFamilies"][0] == "IPv4" else "IPv4")


def _allocate_cluster_ip(spec: JSON, holder: str, context: Context) -> None:
    if spec["type"] == "ExternalName" or is_headless(spec):
        return
    if not spec.get("clusterIPs"):
        try:
            number = context.addresses.take_any(holder)
        except Exhausted as error:
            message = f"failed to allocate a serviceIP: range {context.config.service_cidr} is full"
            raise Invalid([invalid("spec.clusterIPs", [], message)]) from error
        spec["clusterIPs"] = [str(_address(number, context))]
    else:
        _take_cluster_ip(spec, holder, context)
    spec["clusterIP"] = spec["clusterIPs"][0]


def _take_cluster_ip(spec: JSON, holder: str, context: Context) -> None:
    asked = spec["clusterIPs"][0]
    try:
        context.addresses.take(address_number(asked), holder)
    except OutOfRange as error:
        cidr = context.config.service_cidr
        why = f"the provided IP ({asked}) is not in the valid range. The range of valid IPs is {cidr}"
        raise _refused(spec, asked, why) from error
    except Taken as error:
        raise _refused(spec, asked, ALREADY.format("IP")) from error


def _refused(spec: JSON, asked: str, why: str) -> Invalid:
    return Invalid([invalid("spec.clusterIPs", spec["clusterIPs"], f"failed to allocate IP {asked}: {why}")])


def _address(number: int, context: Context) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    network = ipaddress.ip_network(context.config.service_cidr)
    return network.network_address + (number - int(network.network_address))


def _allocate_node_ports(spec: JSON, holder: str, pool: Lease) -> None:
    """One port number serves several protocols of the same Service; the client's wishes go before free choice."""
    if has_node_ports(spec):
        ports: list[JSON] = spec.get("ports") or []
        for index, port in enumerate(ports):
            if port.get("nodePort"):
                _take_port(pool, port["nodePort"], holder, f"spec.ports[{index}].nodePort")
        if spec["type"] == "NodePort" or spec.get("allocateLoadBalancerNodePorts", True):
            _choose_node_ports(ports, holder, pool)
    if needs_health_check_port(spec):
        if spec.get("healthCheckNodePort"):
            _take_health_check_port(spec, holder, pool)
        else:
            spec["healthCheckNodePort"] = _any_port(pool, holder, "spec.healthCheckNodePort")


def _take_health_check_port(spec: JSON, holder: str, pool: Lease) -> None:
    """A number to which the node answers itself: traffic cannot have it too, not even this Service's own."""
    number, path = spec["healthCheckNodePort"], "spec.healthCheckNodePort"
    if any(port.get("nodePort") == number for port in spec.get("ports") or []):
        raise Invalid([invalid(path, number, ALREADY.format("port"))])
    _take_port(pool, number, holder, path)


def _choose_node_ports(ports: list[JSON], holder: str, pool: Lease) -> None:
    for index, port in enumerate(ports):
        if not port.get("nodePort"):
            port["nodePort"] = _sibling(ports, port) or _any_port(pool, holder, f"spec.ports[{index}].nodePort")


def _sibling(ports: list[JSON], port: JSON) -> int | None:
    """The NodePort of the same port under another protocol (DNS: 53/UDP and 53/TCP), if this protocol can share it."""
    numbers = {other["nodePort"] for other in ports if other.get("nodePort") and other["port"] == port["port"]}
    taken = {other["nodePort"] for other in ports if other.get("nodePort") and other["protocol"] == port["protocol"]}
    return min(numbers - taken, default=None)


def _any_port(pool: Lease, holder: str, path: str) -> int:
    try:
        return pool.take_any(holder)
    except Exhausted as error:
        raise Invalid([invalid(path, 0, "failed to allocate a nodePort: range is full")]) from error


def _take_port(pool: Lease, number: int, holder: str, path: str) -> None:
    values = pool.pool.range
    try:
        pool.take(number, holder)
    except OutOfRange as error:
        why = f"provided port is not in the valid range. The range of valid ports is {values.first}-{values.last}"
        raise Invalid([invalid(path, number, why)]) from error
    except Taken as error:
        raise Invalid([invalid(path, number, ALREADY.format("port"))]) from error


def _free(context: Context, holder: str, holdings: Iterable[Holding]) -> None:
    for holding in holdings:
        context.lease_of(holding).free(holding.number, holder)
