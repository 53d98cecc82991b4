"""Kubernetes' protobuf, as far as kubectl sends it without being asked.

``kubectl create configmap`` and its siblings, ``kubectl auth`` and ``kubectl drain`` use typed clients, which
send protobuf (from kubectl 1.32 on) and read JSON just as well. So requests are read in both, and answers are JSON.

The wire format is proto2's: a tag (field number and wire type), then a value, again and again; messages within
messages are length-delimited. Around it there is an envelope: ``k8s\\0`` and a ``runtime.Unknown`` with the kind's name
and the object's bytes. Field numbers are those of the ``generated.proto`` files of k8s.io/api. Kinds that are not in
``MESSAGES`` are answered with 415, which names JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agent.apiserver.registry import JSON

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Type = Literal["string", "int", "bool", "bytes", "message", "strings", "map", "bytesmap", "intstr", "messages"]


class ProtobufError(ValueError):
    """The bytes are not what they should be."""


class UnknownMessage(ValueError):
    """A kind whose field numbers are not known here."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: Type = "string"
    of: Mapping[int, Field] | None = None


Message = Mapping[int, Field]


def _message(**fields: Any) -> Message:
    """``name=number`` for text, ``name=(number, type)`` and ``name=(number, type, message)`` for the rest."""
    made: dict[int, Field] = {}
    for name, entry in fields.items():
        number, *rest = entry if isinstance(entry, tuple) else (entry,)
        made[number] = Field(name, *rest)
    return made


UNKNOWN = _message(typeMeta=(1, "message", _message(apiVersion=1, kind=2)), raw=(2, "bytes"))

OWNER = _message(
    kind=1, name=3, uid=4, apiVersion=5, controller=(6, "bool"), blockOwnerDeletion=(7, "bool")
)  # fmt: skip
METADATA = _message(
    name=1,
    generateName=2,
    namespace=3,
    uid=5,
    resourceVersion=6,
    labels=(11, "map"),
    annotations=(12, "map"),
    ownerReferences=(13, "messages", OWNER),
    finalizers=(14, "strings"),
)
META = (1, "message", METADATA)
REFERENCE = _message(kind=1, namespace=2, name=3, uid=4, apiVersion=5, resourceVersion=6, fieldPath=7)
PORT = _message(name=1, protocol=2, port=(3, "int"), targetPort=(4, "intstr"), nodePort=(5, "int"), appProtocol=6)
CLIENT_IP = _message(clientIP=(1, "message", _message(timeoutSeconds=(1, "int"))))
SERVICE = _message(
    ports=(1, "messages", PORT),
    selector=(2, "map"),
    clusterIP=3,
    type=4,
    externalIPs=(5, "strings"),
    sessionAffinity=7,
    loadBalancerIP=8,
    loadBalancerSourceRanges=(9, "strings"),
    externalName=10,
    externalTrafficPolicy=11,
    healthCheckNodePort=(12, "int"),
    publishNotReadyAddresses=(13, "bool"),
    sessionAffinityConfig=(14, "message", CLIENT_IP),
    ipFamilyPolicy=17,
    clusterIPs=(18, "strings"),
    ipFamilies=(19, "strings"),
    allocateLoadBalancerNodePorts=(20, "bool"),
    loadBalancerClass=21,
    internalTrafficPolicy=22,
)
RESOURCE = _message(namespace=1, verb=2, group=3, version=4, resource=5, subresource=6, name=7)
ACCESS = _message(
    resourceAttributes=(1, "message", RESOURCE), nonResourceAttributes=(2, "message", _message(path=1, verb=2))
)
DELETE_OPTIONS = _message(
    gracePeriodSeconds=(1, "int"),
    preconditions=(2, "message", _message(uid=1, resourceVersion=2)),
    orphanDependents=(3, "bool"),
    propagationPolicy=4,
    dryRun=(5, "strings"),
)

MESSAGES: Mapping[tuple[str, str], Message] = {
    ("v1", "ConfigMap"): _message(metadata=META, data=(2, "map"), binaryData=(3, "bytesmap"), immutable=(4, "bool")),
    ("v1", "Namespace"): _message(
        metadata=META,
        spec=(2, "message", _message(finalizers=(1, "strings"))),
        status=(3, "message", _message(phase=1)),
    ),
    ("v1", "Secret"): _message(
        metadata=META, data=(2, "bytesmap"), type=3, stringData=(4, "map"), immutable=(5, "bool")
    ),
    ("v1", "Service"): _message(metadata=META, spec=(2, "message", SERVICE)),
    ("v1", "ServiceAccount"): _message(
        metadata=META,
        secrets=(2, "messages", REFERENCE),
        imagePullSecrets=(3, "messages", _message(name=1)),
        automountServiceAccountToken=(4, "bool"),
    ),
    ("v1", "DeleteOptions"): DELETE_OPTIONS,
    ("policy/v1", "Eviction"): _message(metadata=META, deleteOptions=(2, "message", DELETE_OPTIONS)),
    ("authentication.k8s.io/v1", "SelfSubjectReview"): _message(metadata=META),
    ("authorization.k8s.io/v1", "SelfSubjectRulesReview"): _message(
        metadata=META, spec=(2, "message", _message(namespace=1))
    ),
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview"): _message(metadata=META, spec=(2, "message", ACCESS)),
}


def decode_protobuf(content: bytes) -> JSON:
    """The object in the envelope, as JSON. Raises ProtobufError, UnknownMessage."""
    if not content.startswith(MAGIC):
        raise ProtobufError("the body does not begin as Kubernetes' protobuf does")
    envelope = _decode(memoryview(content)[len(MAGIC) :], UNKNOWN, raw_bytes=True)
    head: JSON = envelope.get("typeMeta") or {}
    message = MESSAGES.get((head.get("apiVersion", ""), head.get("kind", "")))
    if message is None:
        raise UnknownMessage(f"{head.get('kind')} of {head.get('apiVersion')} is not read as protobuf: send JSON")
    obj = _decode(memoryview(envelope.get("raw") or b""), message)
    return {"apiVersion": head["apiVersion"], "kind": head["kind"], **obj}


def _decode(data: memoryview, message: Message, *, raw_bytes: bool = False) -> JSON:
    """Fields that the table does not name are left out, and so is empty text, which means "not set" in Go."""
    obj: JSON = {}
    for number, value in _fields(data):
        field = message.get(number)
        if field is not None:
            _put(obj, field, value, raw_bytes)
    return obj


def _put(obj: JSON, field: Field, value: int | memoryview, raw_bytes: bool) -> None:
    if isinstance(value, int):
        if field.type == "bool":
            obj[field.name] = bool(value)
        elif field.type == "int":
            obj[field.name] = value - (1 << 64) if value >> 63 else value
        else:
            raise ProtobufError(f"{field.name}: a number where there should be none")
        return
    match field.type:
        case "string":
            if text := _text(value):
                obj[field.name] = text
        case "bytes":
            obj[field.name] = bytes(value) if raw_bytes else base64.b64encode(value).decode()
        case "strings":
            obj.setdefault(field.name, []).append(_text(value))
        case "message":
            obj[field.name] = _decode(value, field.of or {})
        case "messages":
            obj.setdefault(field.name, []).append(_decode(value, field.of or {}))
        case "map" | "bytesmap":
            entry = _decode(value, MAP_ENTRY[field.type])
            obj.setdefault(field.name, {})[entry.get("key", "")] = entry.get("value", "")
        case "intstr":
            obj[field.name] = _int_or_string(value)
        case "int" | "bool":
            raise ProtobufError(f"{field.name}: no number where there should be one")


MAP_ENTRY: Mapping[str, Message] = {"map": _message(key=1, value=2), "bytesmap": _message(key=1, value=(2, "bytes"))}
INT_OR_STRING = _message(type=(1, "int"), intVal=(2, "int"), strVal=3)


def _int_or_string(value: memoryview) -> int | str:
    decoded = _decode(value, INT_OR_STRING)
    return str(decoded.get("strVal", "")) if decoded.get("type") else int(decoded.get("intVal", 0))


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise ProtobufError(f"text that is no UTF-8: {error}") from error


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values; those of fixed size occur in none of our messages and are skipped."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif wire in (BYTES, FIXED64, FIXED32):
            length, at = _varint(data, at) if wire == BYTES else ({FIXED64: 8, FIXED32: 4}[wire], at)
            if at + length > len(data):
                raise ProtobufError("the message is cut short")
            if wire == BYTES:
                yield number, data[at : at + length]
            at += length
        else:
            raise ProtobufError(f"unknown wire type {wire}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ProtobufError("the message is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ProtobufError("a number of more than ten bytes")
