"""Which lists of which kinds are merged item by item, and by which key.

Strategic merge patch and server-side apply need to know that ``containers`` is a set of things called by ``name`` while
``args`` is one value. Upstream says so in the tags of its Go types (``patchMergeKey``, staging/src/k8s.io/api), which
the models in Python do not carry. What is not named here is an ordinary object, or a list that is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agent.apiserver.registry import Kind

NOTHING: Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class Shape:
    """One field. ``key``: a list of objects, merged by that key. ``set``: a list of scalars, merged as a set.

    ``fields`` are those of the object, or of each item, that have a shape worth naming. Server-side apply tells ports
    apart that strategic merge takes for one (53/UDP and 53/TCP): ``by_protocol`` (the ``listMapKey`` tags).
    """

    fields: Mapping[str, Shape] = field(default_factory=lambda: NOTHING)
    key: str = ""
    set: bool = False
    by_protocol: bool = False

    @property
    def identity(self) -> tuple[tuple[str, str | None], ...]:
        """The keys that server-side apply tells items apart by, each with its default."""
        return ((self.key, None), ("protocol", "TCP")) if self.by_protocol else ((self.key, None),)

    def of(self, name: str) -> Shape:
        return self.fields.get(name, PLAIN)


NOTHING = MappingProxyType({})
PLAIN = Shape()


def _shape(**fields: Shape) -> Shape:
    return Shape(MappingProxyType(fields))


def _by(key: str, **fields: Shape) -> Shape:
    return Shape(MappingProxyType(fields), key=key)


def _ports(key: str) -> Shape:
    return Shape(key=key, by_protocol=True)


_SET = Shape(set=True)

_METADATA = _shape(ownerReferences=_by("uid"), finalizers=_SET)
_CONTAINERS = _by(
    "name",
    ports=_ports("containerPort"),
    env=_by("name"),
    volumeMounts=_by("mountPath"),
    volumeDevices=_by("devicePath"),
)
_POD_SPEC = _shape(
    containers=_CONTAINERS,
    initContainers=_CONTAINERS,
    ephemeralContainers=_CONTAINERS,
    volumes=_by("name"),
    imagePullSecrets=_by("name"),
    hostAliases=_by("ip"),
    topologySpreadConstraints=_by("topologyKey"),
    resourceClaims=_by("name"),
    schedulingGates=_by("name"),
)
_POD_STATUS = _shape(conditions=_by("type"), podIPs=_by("ip"), hostIPs=_by("ip"), resourceClaimStatuses=_by("name"))
_CONDITIONS = _shape(conditions=_by("type"))

# By the name of the kind; groups need not be told apart, no two kinds served here differ in this.
_SHAPES: Mapping[str, Mapping[str, Shape]] = {
    "Namespace": {"status": _CONDITIONS},
    "Node": {"spec": _shape(podCIDRs=_SET), "status": _shape(conditions=_by("type"), addresses=_by("type"))},
    "Pod": {"spec": _POD_SPEC, "status": _POD_STATUS},
    "ReplicaSet": {"spec": _shape(template=_shape(metadata=_METADATA, spec=_POD_SPEC)), "status": _CONDITIONS},
    "Service": {"spec": _shape(ports=_ports("port")), "status": _CONDITIONS},
    "ServiceAccount": {"secrets": _by("name")},
}


def shape_of(kind: Kind) -> Shape:
    return Shape(MappingProxyType({"metadata": _METADATA, **_SHAPES.get(kind.kind, {})}))
