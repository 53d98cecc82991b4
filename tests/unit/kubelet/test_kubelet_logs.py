"""Reading container logs back."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet.logs import Ended, LogOptions, Piece, Renderer, _backwards, parse_piece, read_log, tail_offset

T = "2024-05-01T10:00:0{}.123456789+00:00"
LOG = "".join(
    f"{T.format(i)} {line}\n"
    for i, line in enumerate(
        ["stdout F one", "stderr F two", "stdout P thr", "stdout F ee", "stdout F ", "stdout P cut"]
    )
).encode()


async def never() -> None:
    await asyncio.Event().wait()


async def now() -> None:
    return


async def read(path: Path, options: LogOptions, ended: Ended = now) -> str:
    return b"".join([chunk async for chunk in read_log(path, options, ended=ended)]).decode()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "0.log"
    path.write_bytes(LOG)
    return path


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (LogOptions(), "one\ntwo\nthree\n\ncut"),
        (LogOptions(tail=0), ""),
        (LogOptions(tail=1), "cut"),
        (LogOptions(tail=2), "\ncut"),
        (LogOptions(tail=3), "three\n\ncut"),
        (LogOptions(tail=4), "two\nthree\n\ncut"),
        (LogOptions(tail=99), "one\ntwo\nthree\n\ncut"),
        (LogOptions(limit=5), "one\nt"),
        (LogOptions(limit=0), ""),
        (LogOptions(since=1714557604.0), "\ncut"),
        (
            LogOptions(timestamps=True, tail=3),
            f"{T.format(2)} three\n{T.format(4)} \n{T.format(5)} cut".replace("+00:00", "Z"),
        ),
    ],
)
async def test_options(log: Path, options: LogOptions, text: str) -> None:
    assert await read(log, options) == text


async def test_no_log_is_no_output(tmp_path: Path) -> None:
    assert await read(tmp_path / "none.log", LogOptions(follow=True)) == ""


async def test_following_ends_with_the_container_and_misses_nothing(log: Path) -> None:
    ended = asyncio.get_running_loop().create_future()
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def follow() -> None:
        async for data in read_log(log, LogOptions(follow=True, tail=1), ended=lambda: ended):
            received.put_nowait(data)

    reader = asyncio.create_task(follow())
    assert await received.get() == b"cut"
    with log.open("ab") as file:
        file.write(f"{T.format(6)} stdout F more\n".encode())
    assert await received.get() == b"more\n"
    with log.open("ab") as file:
        file.write(f"{T.format(7)} stdout F last\n".encode())
    ended.set_result(None)
    await reader
    assert await received.get() == b"last\n"
    assert received.empty()


async def test_a_reader_that_goes_away_leaves_nothing_behind(log: Path) -> None:
    task = asyncio.create_task(read(log, LogOptions(follow=True), never))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_following_stops_at_the_limit(log: Path) -> None:
    assert await read(log, LogOptions(follow=True, limit=3), never) == "one"


@pytest.mark.parametrize(
    ("line", "piece"),
    [
        (b"t stdout F a b", Piece(b"t", b"stdout", False, b"a b")),
        (b"t stderr P ", Piece(b"t", b"stderr", True, b"")),
        (b"t stdout F:x a", Piece(b"t", b"stdout", False, b"a")),
        (b"t stdout", None),
        (b"", None),
        (b"rubbish from a crash", None),
    ],
)
def test_parse_piece(line: bytes, piece: Piece | None) -> None:
    assert parse_piece(line) == piece


def test_what_is_no_piece_is_left_out() -> None:
    assert Renderer(LogOptions()).feed(b"rubbish\n" + LOG[:50].split(b"\n")[0] + b"\n") == b"one\n"


lines = st.lists(st.tuples(st.sampled_from(["F", "P"]), st.binary(max_size=5).map(lambda b: b.replace(b"\n", b""))))


@given(lines, st.integers(1, 20))
def test_blocks_do_not_matter(pieces: list[tuple[str, bytes]], size: int) -> None:
    data = b"".join(b"t stdout " + tag.encode() + b" " + content + b"\n" for tag, content in pieces)
    blocks = [data[max(0, end - size) : end] for end in range(len(data), 0, -size)]
    assert list(_backwards(iter(blocks))) == list(reversed([line + b"\n" for line in data.split(b"\n")[:-1]]))
    renderer, whole = Renderer(LogOptions()), Renderer(LogOptions())
    assert b"".join(renderer.feed(data[i : i + size]) for i in range(0, len(data), size)) == whole.feed(data)


@given(lines, st.integers(1, 8), st.integers(1, 30))
def test_the_tail_is_the_end_of_the_whole(pieces: list[tuple[str, bytes]], count: int, size: int) -> None:
    data = b"".join(b"t stdout " + tag.encode() + b" " + content + b"\n" for tag, content in pieces)
    blocks = iter([data[max(0, end - size) : end] for end in range(len(data), 0, -size)])
    offset = tail_offset(blocks, len(data), count)
    whole = Renderer(LogOptions()).feed(data)
    tail = Renderer(LogOptions()).feed(data[offset:])
    assert whole.endswith(tail)
    expected = whole.split(b"\n") if pieces and pieces[-1][0] == "P" else whole.split(b"\n")[:-1]
    assert tail == b"\n".join(expected[-count:]) + (b"" if not pieces or pieces[-1][0] == "P" else b"\n")
