"""As much of MongoDB's wire protocol as the stand-ins speak: BSON documents in OP_MSG and in the older OP_QUERY.

Formats: bsonspec.org 1.1; MongoDB manual, "MongoDB Wire Protocol". Everything is little-endian.
"""

from __future__ import annotations

import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would take longer than all the rest
    from typing import Any

    Document = dict[str, Any]
else:
    Document = dict

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
MAX_MESSAGE = 48_000_000  # what a server announces as maxMessageSizeBytes


class Message:
    def __init__(self, request_id: int, code: int, document: Document) -> None:
        self.id, self.code, self.document = request_id, code, document


class WireError(ValueError):
    """Bytes that are not a message this can read."""


def encode(document: Document) -> bytes:
    body = b"".join(_element(name, value) for name, value in document.items())
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def decode(data: bytes) -> Document:
    """The document at the start of ``data``. Raises WireError."""
    try:
        return _document(data, 0)[0]
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise WireError(f"not a BSON document: {error}") from error


def read_message(connection: socket.socket) -> Message | None:
    """The next message, or None at the end of the connection. Raises WireError."""
    head = _read(connection, 16)
    if len(head) < 16:
        return None
    length, request, _, code = struct.unpack("<iiii", head)
    if not 16 < length <= MAX_MESSAGE:
        raise WireError(f"a message of {length} bytes")
    body = _read(connection, length - 16)
    if code == OP_MSG:
        return Message(request, code, _sections(body))
    if code == OP_QUERY:  # flags, collection name, numbers to skip and to return, document
        return Message(request, code, decode(body[body.index(b"\0", 4) + 9 :]))
    raise WireError(f"opcode {code}")


def send_reply(connection: socket.socket, to: Message, document: Document) -> None:
    if to.code == OP_MSG:
        _send(connection, OP_MSG, struct.pack("<I", 0) + b"\0" + encode(document), to=to.id)
    else:
        _send(connection, OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + encode(document), to=to.id)


def ask(host: str, port: int, command: Document, *, timeout: float) -> Document:
    """A server's answer to one command. Raises OSError or WireError."""
    with socket.create_connection((host, port), timeout=timeout) as connection:
        _send(connection, OP_MSG, struct.pack("<I", 0) + b"\0" + encode({**command, "$db": "test"}), to=0)
        reply = read_message(connection)
    if reply is None:
        raise WireError("the server closed the connection")
    return reply.document


def _send(connection: socket.socket, code: int, body: bytes, *, to: int) -> None:
    connection.sendall(struct.pack("<iiii", 16 + len(body), 1, to, code) + body)


def _read(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(min(65536, length - len(data)))
        if not part:
            break
        data += part
    return bytes(data)


def _sections(body: bytes) -> Document:
    """OP_MSG: kind 0 is the command, kind 1 a sequence of documents that belongs to it under a name."""
    checksum = struct.unpack_from("<I", body)[0] & 1
    place, end, whole = 4, len(body) - 4 * checksum, Document()
    while place < end:
        kind, place = body[place], place + 1
        (size,) = struct.unpack_from("<i", body, place)
        if size < 5:
            raise WireError(f"a section of {size} bytes")
        if kind == 0:
            whole |= decode(body[place : place + size])
        else:
            name_end = body.index(b"\0", place + 4)
            whole[body[place + 4 : name_end].decode()] = _sequence(body[name_end + 1 : place + size])
        place += size
    return whole


def _sequence(data: bytes) -> list[Document]:
    found, place = [], 0
    while place < len(data):
        document, place = _document(data, place)
        found.append(document)
    return found


def _element(name: str, value: Any) -> bytes:
    key = name.encode() + b"\0"
    if isinstance(value, bool):
        return b"\x08" + key + bytes([value])
    if isinstance(value, float):
        return b"\x01" + key + struct.pack("<d", value)
    if isinstance(value, int):
        small = -(2**31) <= value < 2**31
        return (b"\x10" if small else b"\x12") + key + struct.pack("<i" if small else "<q", value)
    if isinstance(value, str):
        data = value.encode() + b"\0"
        return b"\x02" + key + struct.pack("<i", len(data)) + data
    if isinstance(value, list):
        return b"\x04" + key + encode({str(i): item for i, item in enumerate(value)})
    if isinstance(value, dict):
        return b"\x03" + key + encode(value)
    if value is None:
        return b"\x0a" + key
    if isinstance(value, bytes):  # an ObjectId, kept as it came
        return b"\x07" + key + value
    raise TypeError(f"no BSON for {type(value).__name__}")


def _document(data: bytes, start: int) -> tuple[Document, int]:
    (size,) = struct.unpack_from("<i", data, start)
    end = start + size
    if size < 5 or end > len(data):
        raise WireError(f"a document of {size} bytes")
    found, place = Document(), start + 4
    while data[place] != 0:
        kind, name_end = data[place], data.index(b"\0", place + 1)
        name = data[place + 1 : name_end].decode()
        found[name], place = _value(kind, data, name_end + 1)
    return found, end


def _value(kind: int, data: bytes, at: int) -> tuple[Any, int]:
    if kind in _FIXED:
        form = _FIXED[kind]
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    if kind in (0x02, 0x0D, 0x0E):
        (size,) = struct.unpack_from("<i", data, at)
        return data[at + 4 : at + 3 + size].decode(), at + 4 + size
    if kind in (0x03, 0x04):
        found, end = _document(data, at)
        return (list(found.values()) if kind == 0x04 else found), end
    if kind == 0x05:
        (size,) = struct.unpack_from("<i", data, at)
        return None, at + 5 + size  # binary data (session ids): nothing here looks at it
    if kind in (0x0A, 0x06, 0xFF, 0x7F):
        return None, at
    if kind == 0x07:
        return data[at : at + 12], at + 12
    raise WireError(f"BSON type {kind:#x}")


_FIXED = {0x01: "<d", 0x08: "<?", 0x09: "<q", 0x10: "<i", 0x11: "<Q", 0x12: "<q"}
