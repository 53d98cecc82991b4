"""What only the SQLite engine has: a file that can be broken, a lock, and a process that can be killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent.store import StoreError
from agent.store.sqlite import open_sqlite

# Writes as fast as it can, from many tasks at once, and says each write that was acknowledged.
WRITER = """
import asyncio, itertools, os, sys
from pathlib import Path
from agent.store.sqlite import open_sqlite

async def write(store, task):
    key = f"pods/n/{task}"
    revision = await store.create(key, b"0")
    for count in itertools.count(1):
        os.write(1, f"{key} {count - 1} {revision}\\n".encode())
        revision = await store.update(key, str(count).encode(), revision=revision)

async def main():
    store = open_sqlite(Path(sys.argv[1]))
    await asyncio.gather(*(write(store, task) for task in range(8)))

asyncio.run(main())
"""


def write_until_killed(path: Path, after: int) -> dict[str, tuple[int, int]]:
    """Kill the writer after so many lines. Returns by key the last acknowledged count and its revision."""
    argv = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(after)]
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()  # what was in the pipe has been acknowledged too
    acknowledged: dict[str, tuple[int, int]] = {}
    for line in said:
        if line.endswith(b"\n"):
            key, count, revision = line.decode().split()
            acknowledged[key] = (int(count), int(revision))
    return acknowledged


@pytest.mark.parametrize("after", [40, 200, 600])
async def test_kill_9_loses_no_acknowledged_write(tmp_path: Path, after: int) -> None:
    path = tmp_path / "store.db"
    acknowledged = write_until_killed(path, after + random.randrange(20))
    assert acknowledged
    store = open_sqlite(path)
    for key, (count, written) in acknowledged.items():
        found = await store.get(key)
        assert found is not None
        assert int(found.value) >= count
        assert found.revision >= written
    newest = max(item.revision for item in (await store.list("pods/")).items)
    assert await store.revision() == newest
    await store.close()


async def test_a_commit_is_on_the_disk(tmp_path: Path) -> None:
    """What ``kill -9`` cannot show: with FULL, and only with it, each commit syncs the log (sqlite.org/pragma.html), so
    a power cut loses no acknowledged write either.
    """
    store = open_sqlite(tmp_path / "store.db")
    await store.create("a/b", b"1")
    for pragma, expected in (("journal_mode", "wal"), ("synchronous", 2)):
        assert store._writer._connection.execute(f"PRAGMA {pragma}").fetchone() == (expected,)
    await store.close()


async def test_concurrent_writes_share_a_transaction(tmp_path: Path) -> None:
    """The group commit: far fewer commits than writes. The WAL's frame count per commit tells nothing; SQLite's
    data_version of another connection moves once per commit that it can see."""
    store = open_sqlite(tmp_path / "store.db")
    with sqlite3.connect(tmp_path / "store.db") as other:
        commits: list[int] = []

        async def write(n: int) -> None:
            await store.create(f"pods/n/{n}", b"x")
            commits.append(other.execute("PRAGMA data_version").fetchone()[0])

        await asyncio.gather(*(write(n) for n in range(200)))
    other.close()
    await store.close()
    assert len(set(commits)) < 100


async def test_a_second_process_is_kept_away(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "store.db")
    with pytest.raises(StoreError, match="another process"):
        open_sqlite(tmp_path / "store.db")
    await store.close()
    again = open_sqlite(tmp_path / "store.db")
    await again.close()


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match=r"store\.db: it is damaged"):
        open_sqlite(tmp_path / "store.db")


async def test_a_damaged_database_is_found_at_the_door(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = open_sqlite(path)
    await asyncio.gather(*(store.create(f"pods/n/{n}", b"x" * 500) for n in range(200)))
    await store.close()
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(size // 2)
        file.write(os.urandom(8192))
    with pytest.raises(StoreError, match="damaged"):
        open_sqlite(path)


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await open_sqlite(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="format 99"):
        open_sqlite(path)


async def test_the_file_is_private(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "store.db")
    await store.create("secrets/a/b", b"")
    assert all(os.stat(tmp_path / name).st_mode & 0o077 == 0 for name in os.listdir(tmp_path))
    await store.close()


async def test_the_log_stays_bounded(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "store.db", keep=10)
    revision = await store.create("leases/x", b"")
    for _ in range(100):
        revision = await store.update("leases/x", b"", revision=revision)
    await store.close()
    connection = sqlite3.connect(tmp_path / "store.db")
    (kept,) = connection.execute("SELECT count(*) FROM changes").fetchone()
    connection.close()
    assert 10 <= kept <= 20


async def test_a_full_disk_fails_the_write_and_not_the_store(tmp_path: Path) -> None:
    """PRAGMA max_page_count stands for the disk: SQLite reports both as SQLITE_FULL."""
    store = open_sqlite(tmp_path / "store.db")
    revision = await store.create("pods/n/x", b"1")
    store._writer._connection.execute("PRAGMA max_page_count = 12")
    with pytest.raises(StoreError, match="full"):
        await store.create("pods/n/big", b"x" * 200_000)
    assert await store.get("pods/n/big") is None
    assert await store.update("pods/n/x", b"2", revision=revision) == revision + 1
    await store.close()
