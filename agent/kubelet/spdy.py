"""SPDY/3.1 frames, as far as ``kubectl port-forward`` needs them: bytes in, values out, and back. Pure.

SPDY was HTTP/2's forerunner: many streams in one connection. Browsers have forgotten it; Kubernetes still multiplexes
port forwarding with it, inside a WebSocket (KEP-4006). A frame has a head of eight bytes::

    control   1 bit 1, 15 bits version, 16 bits type      8 bits flags, 24 bits length, then that many bytes
    data      1 bit 0, 31 bits stream                     8 bits flags, 24 bits length, then that many bytes

Headers of a stream (SPDY draft 3.1, 2.6.10) are one zlib stream for the whole connection, with a dictionary that both
sides know. Windows (flow control) are part of SPDY but not of what Kubernetes' clients do with it; such frames, and
others of no use here, are left out.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

HEAD = 8
CONTROL = 0x80  # of the first byte
VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, PING = 1, 2, 3, 6
FIN = 0x01
HEADERS_LIMIT = 16 << 10  # bytes, of all headers of one stream
MAX_DATA = (1 << 24) - 1

_WORDS = """
options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age
allow authorization cache-control connection content-base content-encoding content-language content-length
content-location content-md5 content-range content-type date etag expect expires from host if-match if-modified-since
if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate
proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning
www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin
"""
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative"
    " Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500"
    " Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec"
    " 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    "application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset="
    "iso-8859-1,utf-,*,enq=0."
)


def _long(number: int) -> bytes:
    return number.to_bytes(4, "big")


# The words that headers are expected to hold, each with its length before it (2.6.10.1).
DICTIONARY = b"".join(_long(len(word)) + word.replace("_", " ").encode() for word in _WORDS.split()) + _TEXT.encode()


class SpdyError(Exception):
    """The peer does not speak SPDY/3.1 as it should."""


@dataclass(frozen=True, slots=True)
class Opened:
    """SYN_STREAM: the peer opens a stream. ``headers`` have lower-case names."""

    stream: int
    headers: dict[str, str]
    last: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """``last``: the peer sends no more in this stream."""

    stream: int
    payload: bytes
    last: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """RST_STREAM: neither side sends more."""

    stream: int


@dataclass(frozen=True, slots=True)
class Ping:
    number: int


Frame = Opened | Data | Reset | Ping


class Decoder:
    """What one peer sends, in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises SpdyError."""
        self._buffer += data
        frames = []
        while (whole := self._take()) is not None:
            frame = self._parse(whole)
            if frame is not None:
                frames.append(frame)
        return frames

    def _take(self) -> bytes | None:
        if len(self._buffer) < HEAD:
            return None
        version = int.from_bytes(self._buffer[:2], "big") & 0x7FFF
        if self._buffer[0] & CONTROL and version != VERSION:  # told at once: its length may be anything
            raise SpdyError(f"SPDY version {version} instead of {VERSION}")
        end = HEAD + int.from_bytes(self._buffer[5:HEAD], "big")
        if len(self._buffer) < end:
            return None
        whole = bytes(self._buffer[:end])
        del self._buffer[:end]
        return whole

    def _parse(self, whole: bytes) -> Frame | None:
        first, flags, payload = int.from_bytes(whole[:4], "big"), whole[4], whole[HEAD:]
        if not whole[0] & CONTROL:
            return Data(first, payload, bool(flags & FIN))
        kind = first & 0xFFFF
        if kind == SYN_STREAM:
            return Opened(_stream(payload), self._headers(payload[10:]), bool(flags & FIN))
        if kind == RST_STREAM:
            return Reset(_stream(payload))
        return Ping(_number(payload)) if kind == PING else None

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, HEADERS_LIMIT)
        except zlib.error as error:
            raise SpdyError(f"headers that cannot be read: {error}") from error
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"headers of more than {HEADERS_LIMIT} bytes")
        words, rest = [], plain[4:]
        for _ in range(2 * _number(plain)):
            length = _number(rest)
            words.append(rest[4 : 4 + length].decode(errors="replace"))
            rest = rest[4 + length :]
        return dict(zip(words[::2], words[1::2], strict=True))


def _number(data: bytes) -> int:
    """Raises SpdyError."""
    if len(data) < 4:
        raise SpdyError("a frame that is cut short")
    return int.from_bytes(data[:4], "big")


def _stream(payload: bytes) -> int:
    return _number(payload) & 0x7FFFFFFF


class Encoder:
    """What we send. Its headers, too, are one zlib stream."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def open(self, stream: int, headers: dict[str, str], *, last: bool = False) -> bytes:
        """SYN_STREAM: what a client sends."""
        return _control(SYN_STREAM, _long(stream) + bytes(6) + self._block(headers), FIN if last else 0)

    def reply(self, stream: int) -> bytes:
        """SYN_REPLY: the stream that the peer has opened is welcome."""
        return _control(SYN_REPLY, _long(stream) + self._block({}))

    def _block(self, headers: dict[str, str]) -> bytes:
        words = [word.encode() for pair in headers.items() for word in pair]
        plain = _long(len(headers)) + b"".join(_long(len(word)) + word for word in words)
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def render_data(stream: int, payload: bytes, *, last: bool = False) -> bytes:
    """``payload`` has at most MAX_DATA bytes."""
    return _long(stream) + bytes([FIN if last else 0]) + len(payload).to_bytes(3, "big") + payload


def render_ping(number: int) -> bytes:
    return _control(PING, _long(number))


def render_reset(stream: int, status: int = 5) -> bytes:
    """``status`` 5: cancelled."""
    return _control(RST_STREAM, _long(stream) + _long(status))


def _control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    head = _long(1 << 31 | VERSION << 16 | kind) + bytes([flags]) + len(payload).to_bytes(3, "big")
    return head + payload
