"""The kinds with few rules: Namespace, Node, ConfigMap, Secret, Lease, Event."""

from __future__ import annotations

import base64

from agent.apiserver.admission import names
from agent.apiserver.admission.context import Context
from agent.apiserver.admission.errors import forbidden, invalid, required
from agent.apiserver.admission.rules import Causes, at_least_zero, formed, one_of, positive, same, total_size
from agent.apiserver.admission.strategies.base import Strategy, keep
from agent.apiserver.registry import JSON

DATA_LIMIT = 1 << 20  # bytes
NAME_LABEL = "kubernetes.io/metadata.name"
EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
SECRET_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


class NamespaceStrategy(Strategy):
    """A namespace goes only when its finalizers are gone: ``kubernetes`` is lifted when nothing is left in it."""

    name_check = staticmethod(names.dns_label)

    def default(self, obj: JSON) -> None:
        metadata = obj.setdefault("metadata", {})
        metadata.setdefault("labels", {})[NAME_LABEL] = metadata.get("name", "")

    def prepare_create(self, obj: JSON, context: Context) -> None:
        spec = obj.setdefault("spec", {})
        finalizers = spec.setdefault("finalizers", [])
        if "kubernetes" not in finalizers:
            finalizers.append("kubernetes")
        obj["status"] = {"phase": "Active"}

    def prepare_update(self, new: JSON, old: JSON, subresource: str | None, context: Context) -> None:
        if subresource != "finalize":
            keep(new, old, "spec")


class NodeStrategy(Strategy):
    """A kubelet registers its node with a status, so that one is kept on create."""

    def validate(self, obj: JSON) -> Causes:
        for index, taint in enumerate((obj.get("spec") or {}).get("taints") or []):
            path = f"spec.taints[{index}]"
            yield from formed(f"{path}.key", taint.get("key", ""), names.qualified_name)
            yield from formed(f"{path}.value", taint.get("value", ""), names.label_value)
            yield from one_of(f"{path}.effect", taint.get("effect"), EFFECTS)

    def validate_update(self, new: JSON, old: JSON, subresource: str | None) -> Causes:
        now, then = new.get("spec") or {}, old.get("spec") or {}
        if then.get("podCIDR") and now.get("podCIDR") != then["podCIDR"]:
            yield forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')
        if then.get("providerID") and now.get("providerID") != then["providerID"]:
            yield forbidden("spec.providerID", 'node updates may not change providerID except from "" to valid')


class ConfigMapStrategy(Strategy):
    def validate(self, obj: JSON) -> Causes:
        text, binary = obj.get("data") or {}, obj.get("binaryData") or {}
        for field, values in (("data", text), ("binaryData", binary)):
            for key in values:
                yield from formed(f"{field}[{key}]", key, names.config_key)
        for key in text.keys() & binary.keys():
            yield invalid(f"binaryData[{key}]", key, "duplicate of key present in data")
        sizes = [len(value.encode()) for value in text.values()] + [_decoded(value) for value in binary.values()]
        yield from total_size("data", sizes, DATA_LIMIT)

    def validate_update(self, new: JSON, old: JSON, subresource: str | None) -> Causes:
        return check_frozen(new, old, ("data", "binaryData"))


class SecretStrategy(Strategy):
    def default(self, obj: JSON) -> None:
        obj.setdefault("type", "Opaque")
        for key, text in obj.pop("stringData", {}).items():
            obj.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()

    def validate(self, obj: JSON) -> Causes:
        data = obj.get("data") or {}
        for key in data:
            yield from formed(f"data[{key}]", key, names.config_key)
        yield from total_size("data", [_decoded(value) for value in data.values()], DATA_LIMIT)
        for key in SECRET_KEYS.get(obj["type"], ()):
            if key not in data:
                yield required(f"data[{key}]")
        if obj["type"] == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
            yield required("data[username]")
            yield required("data[password]")

    def validate_update(self, new: JSON, old: JSON, subresource: str | None) -> Causes:
        yield from same("type", new["type"], old.get("type", "Opaque"))
        yield from check_frozen(new, old, ("data",))


def _decoded(value: str) -> int:
    """Bytes after decoding base64."""
    return len(value) * 3 // 4 - value.count("=")


def check_frozen(new: JSON, old: JSON, fields: tuple[str, ...]) -> Causes:
    """``immutable: true`` is for good (KEP-1412)."""
    if not old.get("immutable"):
        return
    why = "field is immutable when `immutable` is set"
    if not new.get("immutable"):
        yield forbidden("immutable", why)
    for name in fields:
        if (new.get(name) or {}) != (old.get(name) or {}):
            yield forbidden(name, why)


class LeaseStrategy(Strategy):
    def validate(self, obj: JSON) -> Causes:
        spec = obj.get("spec") or {}
        yield from positive("spec.leaseDurationSeconds", spec.get("leaseDurationSeconds"))
        yield from at_least_zero("spec.leaseTransitions", spec.get("leaseTransitions"))
        if spec.get("holderIdentity") == "":
            yield invalid("spec.holderIdentity", "", "must not be empty")


class EventStrategy(Strategy):
    """Both spellings of an Event; what it is about must be in the same namespace, or in none."""

    def validate(self, obj: JSON) -> Causes:
        field = "regarding" if obj.get("apiVersion") == "events.k8s.io/v1" else "involvedObject"
        about = (obj.get(field) or {}).get("namespace", "")
        here = (obj.get("metadata") or {}).get("namespace", "")
        if about != here and not (about == "" and here in ("default", "kube-system")):
            yield invalid(f"{field}.namespace", about, "does not match event.namespace")
