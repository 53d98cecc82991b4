"""SPDY frames: what one side renders the other reads, however it is cut; what is none is refused."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet.spdy import (
    DICTIONARY,
    Data,
    Decoder,
    Encoder,
    Frame,
    Opened,
    Ping,
    Reset,
    SpdyError,
    render_data,
    render_ping,
    render_reset,
)

STREAMS = st.integers(1, 2**31 - 1)
HEADERS = st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=5)
FRAMES = st.one_of(
    st.builds(Opened, STREAMS, HEADERS, st.booleans()),
    st.builds(Data, STREAMS, st.binary(max_size=300), st.booleans()),
    st.builds(Reset, STREAMS),
    st.builds(Ping, st.integers(0, 2**32 - 1)),
)


def render(encoder: Encoder, frame: Frame) -> bytes:
    match frame:
        case Opened():
            return encoder.open(frame.stream, frame.headers, last=frame.last)
        case Data():
            return render_data(frame.stream, frame.payload, last=frame.last)
        case Reset():
            return render_reset(frame.stream)
        case Ping():
            return render_ping(frame.number)


@given(st.lists(FRAMES, max_size=8), st.integers(1, 50))
def test_what_is_rendered_is_read_however_it_is_cut(frames: list[Frame], size: int) -> None:
    encoder, decoder = Encoder(), Decoder()
    sent = b"".join(render(encoder, frame) for frame in frames)
    read = [frame for at in range(0, len(sent), size) for frame in decoder.feed(sent[at : at + size])]
    assert read == frames


def test_the_dictionary_is_the_one_everybody_has() -> None:
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2  # the id that zlib streams of other SPDY/3 programs name


def test_a_reply_and_other_frames_are_no_news() -> None:
    window_update = bytes.fromhex("8003000900000008") + bytes(8)
    assert Decoder().feed(Encoder().reply(1) + window_update + render_ping(3)) == [Ping(3)]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (bytes.fromhex("8002000100000000"), "SPDY version 2 instead of 3"),
        (bytes.fromhex("8003000600000002") + b"xx", "cut short"),
        (bytes.fromhex("800300010000000e") + bytes(10) + b"none", "headers that cannot be read"),
        (Encoder().open(1, {"a": "b" * 20_000}), "headers of more than"),
    ],
)
def test_refusals(sent: bytes, said: str) -> None:
    with pytest.raises(SpdyError, match=said):
        Decoder().feed(sent)


def test_headers_that_promise_more_than_they_hold() -> None:
    plain = (7).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"a"
    block = zlib.compressobj(zdict=DICTIONARY)
    payload = (1).to_bytes(4, "big") + bytes(6) + block.compress(plain) + block.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(SpdyError, match="cut short"):
        Decoder().feed(bytes.fromhex("80030001") + len(payload).to_bytes(4, "big") + payload)
