"""What the kubelet needs to know of a pod and a Service: small frozen values, read from the API's JSON.

The API's objects are large; a node needs a few of their fields. Only those are here, under Python's names, and all else
in the JSON is ignored. An absent field and a ``null`` mean the same in the Kubernetes API, so nulls are dropped before
decoding; then lists are never None and a decision never has to ask. Defaults are those of the API's own defaulting
(k8s.io/kubernetes pkg/apis/core/v1/defaults.go), for objects that were stored without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import field


class _Value(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Frozen, camelCase on the wire."""


class KeySelector(_Value, frozen=True):
    """One key of a ConfigMap or Secret."""

    name: str = ""
    key: str = ""
    optional: bool = False


class FieldRef(_Value, frozen=True):
    field_path: str = ""


class ResourceFieldRef(_Value, frozen=True):
    resource: str = ""
    container_name: str = ""
    divisor: str | int = "1"


class EnvVarSource(_Value, frozen=True):
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None


class EnvVar(_Value, frozen=True):
    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class ObjectSource(_Value, frozen=True):
    """A whole ConfigMap or Secret."""

    name: str = ""
    optional: bool = False


class EnvFrom(_Value, frozen=True):
    prefix: str = ""
    config_map_ref: ObjectSource | None = None
    secret_ref: ObjectSource | None = None


class Header(_Value, frozen=True):
    name: str
    value: str = ""


class HttpGet(_Value, frozen=True):
    port: int | str
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[Header, ...] = ()


class TcpSocket(_Value, frozen=True):
    port: int | str
    host: str = ""


class ExecAction(_Value, frozen=True):
    command: tuple[str, ...] = ()


class SleepAction(_Value, frozen=True):
    seconds: int = 0


class GrpcAction(_Value, frozen=True):
    port: int


class Probe(_Value, frozen=True):
    """Durations are seconds; exactly one of the four actions is set in a valid pod."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    exec: ExecAction | None = None
    grpc: GrpcAction | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Handler(_Value, frozen=True):
    """What to do after a container's start or before its stop."""

    exec: ExecAction | None = None
    http_get: HttpGet | None = None
    sleep: SleepAction | None = None


class Lifecycle(_Value, frozen=True):
    post_start: Handler | None = None
    pre_stop: Handler | None = None


class Port(_Value, frozen=True):
    container_port: int
    name: str = ""
    protocol: str = "TCP"
    host_port: int = 0


class VolumeMount(_Value, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""


class Capabilities(_Value, frozen=True):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(_Value, frozen=True):
    """Of a container or a pod; a container's value wins."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    privileged: bool = False
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool | None = None
    supplemental_groups: tuple[int, ...] = ()
    fs_group: int | None = None
    capabilities: Capabilities = field(default_factory=Capabilities)


class Resources(_Value, frozen=True):
    limits: dict[str, str | int | float] = field(default_factory=dict)
    requests: dict[str, str | int | float] = field(default_factory=dict)


class ContainerSpec(_Value, frozen=True):
    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    ports: tuple[Port, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    resources: Resources = field(default_factory=Resources)
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    security_context: SecurityContext = field(default_factory=SecurityContext)
    image_pull_policy: str = ""
    restart_policy: str = ""
    stdin: bool = False
    tty: bool = False
    termination_message_path: str = "/dev/termination-log"


class KeyToPath(_Value, frozen=True):
    key: str
    path: str
    mode: int | None = None


class ConfigMapVolume(_Value, frozen=True):
    name: str = ""
    optional: bool = False
    default_mode: int | None = None
    items: tuple[KeyToPath, ...] = ()


class SecretVolume(_Value, frozen=True):
    """As a volume a Secret is named ``secretName``; inside a projected volume, ``name``."""

    secret_name: str = ""
    name: str = ""
    optional: bool = False
    default_mode: int | None = None
    items: tuple[KeyToPath, ...] = ()


class DownwardFile(_Value, frozen=True):
    path: str
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: int | None = None


class DownwardVolume(_Value, frozen=True):
    items: tuple[DownwardFile, ...] = ()
    default_mode: int | None = None


class HostPath(_Value, frozen=True):
    path: str
    type: str = ""


class EmptyDir(_Value, frozen=True):
    medium: str = ""


class Projection(_Value, frozen=True):
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    downward_api: DownwardVolume | None = field(name="downwardAPI", default=None)
    service_account_token: dict[str, Any] | None = None


class ProjectedVolume(_Value, frozen=True):
    sources: tuple[Projection, ...] = ()
    default_mode: int | None = None


class Volume(_Value, frozen=True):
    """``kind`` is the name of the source as it stands in the manifest, also when it is none of ours."""

    name: str
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    downward_api: DownwardVolume | None = field(name="downwardAPI", default=None)
    projected: ProjectedVolume | None = None
    kind: str = ""


class HostAlias(_Value, frozen=True):
    ip: str
    hostnames: tuple[str, ...] = ()


class DnsOption(_Value, frozen=True):
    name: str
    value: str | None = None


class DnsConfig(_Value, frozen=True):
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[DnsOption, ...] = ()


class ReadinessGate(_Value, frozen=True):
    condition_type: str


class PodSpec(_Value, frozen=True):
    containers: tuple[ContainerSpec, ...]
    init_containers: tuple[ContainerSpec, ...] = ()
    volumes: tuple[Volume, ...] = ()
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    node_name: str = ""
    hostname: str = ""
    subdomain: str = ""
    set_hostname_as_fqdn: bool = field(name="setHostnameAsFQDN", default=False)
    host_network: bool = False
    host_aliases: tuple[HostAlias, ...] = ()
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig | None = None
    enable_service_links: bool = True
    service_account_name: str = ""
    readiness_gates: tuple[ReadinessGate, ...] = ()
    security_context: SecurityContext = field(default_factory=SecurityContext)


class Metadata(_Value, frozen=True):
    name: str
    namespace: str = "default"
    uid: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    generation: int | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None


class Condition(_Value, frozen=True):
    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""


class KnownContainer(_Value, frozen=True):
    """What the API says about a container: read back when the kubelet starts anew, so that nothing flaps."""

    name: str
    ready: bool = False
    started: bool = False
    container_id: str = field(name="containerID", default="")
    image_id: str = field(name="imageID", default="")


class KnownStatus(_Value, frozen=True):
    """The part of a pod's status that the kubelet reads back."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    pod_ip: str = field(name="podIP", default="")
    host_ip: str = field(name="hostIP", default="")
    start_time: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[KnownContainer, ...] = ()
    init_container_statuses: tuple[KnownContainer, ...] = ()


class Pod(_Value, frozen=True):
    metadata: Metadata
    spec: PodSpec
    status: KnownStatus = field(default_factory=KnownStatus)

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def deleted(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    def __str__(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    def container(self, name: str) -> ContainerSpec | None:
        """The container or init container of that name."""
        return next((c for c in (*self.spec.containers, *self.spec.init_containers) if c.name == name), None)


class ServicePort(_Value, frozen=True):
    port: int
    name: str = ""
    protocol: str = "TCP"


class ServiceSpec(_Value, frozen=True):
    cluster_ip: str = field(name="clusterIP", default="")
    type: str = "ClusterIP"
    ports: tuple[ServicePort, ...] = ()


class Service(_Value, frozen=True):
    metadata: Metadata
    spec: ServiceSpec = field(default_factory=ServiceSpec)


def parse_pod(raw: bytes) -> Pod:
    """A Pod from the API's JSON. Raises msgspec's errors (ValueErrors), which name the field."""
    document = _without_nulls(msgspec.json.decode(raw))
    if isinstance(document, dict):
        _name_volume_kinds(document)
    return msgspec.convert(document, Pod)


def parse_service(raw: bytes) -> Service:
    """A Service from the API's JSON. Raises msgspec's errors (ValueErrors)."""
    return msgspec.convert(_without_nulls(msgspec.json.decode(raw)), Service)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value


def _name_volume_kinds(document: dict[str, Any]) -> None:
    """Note which source each volume has. One without a source is an emptyDir (defaults.go SetDefaults_Volume)."""
    spec = document.get("spec")
    volumes = spec.get("volumes", []) if isinstance(spec, Mapping) else []
    for volume in volumes if isinstance(volumes, list) else []:
        if isinstance(volume, dict):
            volume["kind"] = next((name for name in volume if name not in ("name", "kind")), "emptyDir")
