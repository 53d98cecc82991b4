"""What a pod spec must look like, in pods and in templates (apis/core/validation: ValidatePodSpec)."""

from __future__ import annotations

from collections.abc import Collection

from agent.apiserver.admission import names
from agent.apiserver.admission.errors import duplicate, forbidden, invalid, not_supported, required
from agent.apiserver.admission.rules import Causes, at_least_zero, formed, labels, one_of, required_name
from agent.apiserver.admission.strategies.container_rules import check_container
from agent.apiserver.admission.strategies.pod_defaults import PROBES
from agent.apiserver.registry import JSON

DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
RESTART_POLICIES = ("Always", "Never", "OnFailure")
EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
NAMESERVERS = 3
DEADLINE_LIMIT = 2147483647  # seconds


def check_pod_spec(spec: JSON, path: str = "spec") -> Causes:
    volumes: list[JSON] = spec.get("volumes") or []
    yield from _check_volumes(f"{path}.volumes", volumes)
    mountable = {volume.get("name", "") for volume in volumes}
    yield from _check_containers(spec, path, mountable)
    if spec.get("ephemeralContainers"):
        yield forbidden(f"{path}.ephemeralContainers", "cannot be set on create")
    yield from one_of(f"{path}.restartPolicy", spec["restartPolicy"], RESTART_POLICIES)
    yield from _check_dns(spec, path)
    yield from labels(f"{path}.nodeSelector", spec.get("nodeSelector"))
    yield from at_least_zero(f"{path}.terminationGracePeriodSeconds", spec.get("terminationGracePeriodSeconds"))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= DEADLINE_LIMIT:
        why = f"must be between 1 and {DEADLINE_LIMIT}, inclusive"
        yield invalid(f"{path}.activeDeadlineSeconds", deadline, why)
    yield from _check_names(spec, path)
    for index, toleration in enumerate(spec.get("tolerations") or []):
        yield from _check_toleration(f"{path}.tolerations[{index}]", toleration)
    for index, alias in enumerate(spec.get("hostAliases") or []):
        yield from formed(f"{path}.hostAliases[{index}].ip", alias.get("ip", ""), names.ip)
        for at, name in enumerate(alias.get("hostnames") or []):
            yield from formed(f"{path}.hostAliases[{index}].hostnames[{at}]", name, names.dns_subdomain)


def _check_containers(spec: JSON, path: str, volumes: Collection[str]) -> Causes:
    host_network = bool(spec.get("hostNetwork"))
    seen: set[str] = set()
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    for group in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(group) or []):
            here, name = f"{path}.{group}[{index}]", container.get("name", "")
            yield from check_container(here, container, volumes=volumes, host_network=host_network)
            if name and name in seen:
                yield duplicate(f"{here}.name", name)
            seen.add(name)
            if group == "initContainers":
                yield from _check_init(here, container)
            elif container.get("restartPolicy"):
                yield forbidden(f"{here}.restartPolicy", "may not be set for non-init containers")
    yield from _check_host_ports(spec, path)


def _check_init(path: str, container: JSON) -> Causes:
    """One that restarts is a sidecar (KEP-753) and may have probes; the others just run to their end."""
    policy = container.get("restartPolicy")
    if policy is not None and policy != "Always":
        yield not_supported(f"{path}.restartPolicy", policy, ["Always"])
    for name in (*PROBES, "lifecycle"):
        if name in container and policy != "Always":
            yield forbidden(f"{path}.{name}", "may not be set for init containers without restartPolicy=Always")


def _check_host_ports(spec: JSON, path: str) -> Causes:
    seen: set[tuple[str, str, int]] = set()
    for at, container in enumerate(spec.get("containers") or []):
        for index, port in enumerate(container.get("ports") or []):
            if port.get("hostPort"):
                key = (port.get("protocol", "TCP"), port.get("hostIP", ""), port["hostPort"])
                if key in seen:
                    shown = "/".join(str(part) for part in (key[0], key[1], key[2]))
                    yield duplicate(f"{path}.containers[{at}].ports[{index}].hostPort", shown)
                seen.add(key)


def _check_volumes(path: str, volumes: list[JSON]) -> Causes:
    seen: set[str] = set()
    for index, volume in enumerate(volumes):
        here, name = f"{path}[{index}]", volume.get("name", "")
        sources = [field for field in volume if field != "name"]
        for extra in sources[1:]:
            yield forbidden(f"{here}.{extra}", "may not specify more than 1 volume type")
        yield from required_name(f"{here}.name", name, names.dns_label)
        if name and name in seen:
            yield duplicate(f"{here}.name", name)
        seen.add(name)
        for source, field in (("configMap", "name"), ("secret", "secretName"), ("hostPath", "path")):
            if source in volume and not volume[source].get(field):
                yield required(f"{here}.{source}.{field}")


def _check_dns(spec: JSON, path: str) -> Causes:
    policy, config = spec["dnsPolicy"], spec.get("dnsConfig") or {}
    servers = config.get("nameservers") or []
    yield from one_of(f"{path}.dnsPolicy", policy, DNS_POLICIES)
    if policy == "None" and "dnsConfig" not in spec:
        yield required(f"{path}.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None")
    elif policy == "None" and not servers:
        yield required(
            f"{path}.dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None"
        )
    if len(servers) > NAMESERVERS:
        yield invalid(f"{path}.dnsConfig.nameservers", servers, f"must not have more than {NAMESERVERS} nameservers")
    for index, server in enumerate(servers):
        yield from formed(f"{path}.dnsConfig.nameservers[{index}]", server, names.ip)


def _check_names(spec: JSON, path: str) -> Causes:
    checks = (
        ("hostname", names.dns_label),
        ("subdomain", names.dns_label),
        ("nodeName", names.dns_subdomain),
        ("serviceAccountName", names.dns_subdomain),
    )
    for name, check in checks:
        if spec.get(name):
            yield from formed(f"{path}.{name}", spec[name], check)


def _check_toleration(path: str, toleration: JSON) -> Causes:
    key, operator = toleration.get("key", ""), toleration.get("operator", "")
    if key:
        yield from formed(f"{path}.key", key, names.qualified_name)
    elif operator != "Exists":
        why = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        yield invalid(f"{path}.operator", operator, why)
    if operator not in ("", "Equal", "Exists"):
        yield not_supported(f"{path}.operator", operator, ("Equal", "Exists"))
    elif operator == "Exists" and toleration.get("value"):
        yield invalid(f"{path}.operator", toleration["value"], "value must be empty when `operator` is 'Exists'")
    if toleration.get("effect") and toleration["effect"] not in EFFECTS:
        yield not_supported(f"{path}.effect", toleration["effect"], EFFECTS)
