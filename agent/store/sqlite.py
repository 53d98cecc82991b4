"""The store of a single machine: one SQLite file in WAL mode.

One thread writes. It takes all writes that wait, applies them in order within one transaction, commits once, and only
then tells the callers: concurrent writers share an fsync ("group commit"), and nobody is told before the data is safe
(``synchronous=FULL``: the WAL is synced at every commit, so ``kill -9`` or a power cut loses no acknowledged write).
A few other threads read; in WAL mode readers see a consistent snapshot and neither wait nor make anyone wait.

Tables: ``objects`` is what is, ``changes`` is what happened (the value before and after each write), ``meta`` holds the
revision. With ``changes`` a list can look back: what has not changed since revision R is taken from ``objects``, the
rest is what the first change after R found. Only the last ``KEEP`` changes are kept; ``meta.floor`` is the oldest
revision that can still be asked for.

A lock file keeps a second process away: the revision is counted here, in memory.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.store import AlreadyExists, Change, Conflict, Gone, NotFound, Page, Store, Stored, StoreError, Watch
from agent.store.history import WINDOW, History

T = TypeVar("T")

KEEP = 10_000  # changes; when twice as many are there, the older half goes
GROUP = 256  # writes in one transaction at most
READERS = 2
FORMAT = 1  # PRAGMA user_version

SCHEMA = """
CREATE TABLE objects (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL);
CREATE TABLE changes
    (revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB, old_value BLOB, old_revision INTEGER);
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO meta VALUES ('revision', 1), ('floor', 1);
"""

LIST_NOW = "SELECT key, value, revision FROM objects WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
LIST_THEN = """
SELECT key, value, revision FROM objects WHERE key > :after AND key < :end AND revision <= :then
UNION ALL
SELECT key, old_value, old_revision FROM changes
 WHERE key > :after AND key < :end AND revision > :then AND old_revision <= :then
ORDER BY key LIMIT :limit
"""
LOG = """
SELECT key, old_value, value, revision FROM changes
 WHERE revision > ? AND revision <= ? AND key >= ? AND key < ? ORDER BY revision
"""


@dataclass(frozen=True, slots=True)
class _Write:
    """A wish: ``value`` None deletes, ``expected`` 0 creates. Who wished it waits for ``done`` in ``loop``."""

    key: str
    value: bytes | None
    expected: int
    done: asyncio.Future[int]


@dataclass(frozen=True, slots=True)
class _Outcome:
    write: _Write
    result: int | Exception


Outcomes = list[_Outcome]
Changes = list[Change]


def open_sqlite(path: Path, *, keep: int = KEEP, window: int = WINDOW) -> SqliteStore:
    """Open or make the store at ``path``. Call it in the event loop that will use it. Raises StoreError.

    ``keep`` and ``window`` bound the history on disk and in memory (in changes).
    """
    lock = _lock(path)
    try:
        # It holds Secrets: 0600. Before connecting, as closing a file drops the locks a process has on it (fcntl(2)).
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = _connect(path)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return SqliteStore(path, lock, connection, keep=keep, window=window)
    except BaseException:
        os.close(lock)
        raise


class SqliteStore(Store):
    """See ``agent.store.Store``. Made by ``open_sqlite``."""

    def __init__(self, path: Path, lock: int, connection: sqlite3.Connection, *, keep: int, window: int) -> None:
        self._path, self._lock = path, lock
        self._loop = asyncio.get_running_loop()
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        revision, floor = _meta(connection, "revision"), _meta(connection, "floor")
        self._history = History(revision, self._read_log, window=window)
        self._writer = _Writer(connection, self._writes, self._committed, keep=keep, revision=revision, floor=floor)
        self._thread = threading.Thread(target=self._writer.run, name="store-writer", daemon=True)
        self._thread.start()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False

    async def revision(self) -> int:
        return await self._read(lambda connection: _meta(connection, "revision"))

    async def get(self, key: str) -> Stored | None:
        """One row by its key is read right here: a thread's hand-over would cost ten times as much."""
        self._check_open()
        return self._in_reader(lambda connection: _select(connection, key))

    async def list(self, prefix: str, *, after: str = "", limit: int = 0, revision: int | None = None) -> Page:
        return await self._read(lambda connection: _list(connection, prefix, max(after, prefix), limit, revision))

    async def create(self, key: str, value: bytes) -> int:
        return await self._write(key, value, 0)

    async def update(self, key: str, value: bytes, *, revision: int) -> int:
        return await self._write(key, value, revision)

    async def delete(self, key: str, *, revision: int) -> int:
        return await self._write(key, None, revision)

    def watch(self, prefix: str, *, after: int) -> Watch:
        return self._history.watch(prefix, after=after)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writes.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._connections:
            connection.close()
        os.close(self._lock)

    async def _write(self, key: str, value: bytes | None, expected: int) -> int:
        self._check_open()
        done: asyncio.Future[int] = self._loop.create_future()
        self._writes.put(_Write(key, value, expected, done))
        return await done

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"cannot use the store {self._path}: it is closed")

    def _committed(self, outcomes: Outcomes, changes: Changes) -> None:
        """Called by the writer's thread when a group of writes is safe (or has failed)."""
        self._loop.call_soon_threadsafe(self._settle, outcomes, changes)

    def _settle(self, outcomes: Outcomes, changes: Changes) -> None:
        self._history.publish(changes)
        for outcome in outcomes:
            if outcome.write.done.done():  # whoever asked has gone away
                continue
            if isinstance(outcome.result, Exception):
                outcome.write.done.set_exception(outcome.result)
            else:
                outcome.write.done.set_result(outcome.result)

    async def _read_log(self, prefix: str, after: int, until: int) -> tuple[Change, ...]:
        return await self._read(lambda connection: _log(connection, prefix, after, until))

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        return await self._loop.run_in_executor(self._readers, self._in_reader, work)

    def _in_reader(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        with _translated(self._path):
            if connection is None:
                connection = self._local.connection = _connect(self._path)
                self._connections.append(connection)
            with _transaction(connection, "BEGIN"):
                return work(connection)


class _Writer:
    """The thread that writes: wishes in, outcomes out."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        wishes: queue.SimpleQueue[_Write | None],
        committed: Callable[[Outcomes, Changes], None],
        *,
        keep: int,
        revision: int,
        floor: int,
    ) -> None:
        self._connection, self._wishes, self._committed = connection, wishes, committed
        self._keep, self._revision, self._floor = keep, revision, floor

    def run(self) -> None:
        with closing(self._connection):
            going = True
            while going:
                group, going = self._take()
                if group:
                    self._committed(*self._commit(group))

    def _take(self) -> tuple[list[_Write], bool]:
        """Wait for a write, then take what else is waiting. False: the store is being closed."""
        wish = self._wishes.get()
        group: list[_Write] = []
        while wish is not None:
            group.append(wish)
            if len(group) >= GROUP or self._wishes.empty():
                return group, True
            wish = self._wishes.get()
        return group, False

    def _commit(self, group: list[_Write]) -> tuple[Outcomes, Changes]:
        """All or nothing: if the transaction fails, every write of the group has failed, and nothing has happened."""
        before = self._revision, self._floor
        outcomes: Outcomes = []
        changes: Changes = []
        try:
            with _transaction(self._connection, "BEGIN IMMEDIATE"):
                for write in group:
                    outcomes.append(_Outcome(write, self._apply(write, changes)))
                self._finish(changes)
        except sqlite3.Error as error:
            self._revision, self._floor = before
            return [_Outcome(write, StoreError(f"cannot write {write.key}: {error}")) for write in group], []
        return outcomes, changes

    def _apply(self, write: _Write, changes: Changes) -> int | Exception:
        old = _select(self._connection, write.key)
        refused = _refusal(write, old)
        if refused is not None:
            return refused
        self._revision += 1
        if write.value is None:
            self._connection.execute("DELETE FROM objects WHERE key = ?", (write.key,))
        else:
            row = (write.key, write.value, self._revision)
            self._connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", row)
        before = (old.value, old.revision) if old else (None, None)
        entry = (self._revision, write.key, write.value, *before)
        self._connection.execute("INSERT INTO changes VALUES (?, ?, ?, ?, ?)", entry)
        changes.append(Change(write.key, before[0], write.value, self._revision))
        return self._revision

    def _finish(self, changes: Changes) -> None:
        if not changes:
            return
        self._set("revision", self._revision)
        if self._revision - self._floor >= 2 * self._keep:
            self._floor = self._revision - self._keep
            self._connection.execute("DELETE FROM changes WHERE revision <= ?", (self._floor,))
            self._set("floor", self._floor)

    def _set(self, name: str, value: int) -> None:
        self._connection.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))


def _refusal(write: _Write, old: Stored | None) -> Exception | None:
    if write.expected == 0:
        return AlreadyExists(write.key) if old else None
    if old is None:
        return NotFound(write.key)
    return Conflict(write.key) if old.revision != write.expected else None


def _select(connection: sqlite3.Connection, key: str) -> Stored | None:
    row = connection.execute("SELECT key, value, revision FROM objects WHERE key = ?", (key,)).fetchone()
    return Stored(*row) if row else None


def _list(connection: sqlite3.Connection, prefix: str, after: str, limit: int, then: int | None) -> Page:
    now = _meta(connection, "revision")
    rows_wanted = limit + 1 if limit else -1  # one more, to know whether there are more
    if then is None or then == now:
        rows = connection.execute(LIST_NOW, (after, _end(prefix), rows_wanted)).fetchall()
    else:
        _check_reach(connection, then, now)
        bounds = {"after": after, "end": _end(prefix), "then": then, "limit": rows_wanted}
        rows = connection.execute(LIST_THEN, bounds).fetchall()
    more = bool(limit) and len(rows) > limit
    items = tuple(Stored(*row) for row in (rows[:limit] if more else rows))
    return Page(items, now if then is None else then, more)


def _log(connection: sqlite3.Connection, prefix: str, after: int, until: int) -> tuple[Change, ...]:
    _check_reach(connection, after, _meta(connection, "revision"))
    rows = connection.execute(LOG, (after, until, prefix, _end(prefix))).fetchall()
    return tuple(Change(*row) for row in rows)


def _check_reach(connection: sqlite3.Connection, revision: int, now: int) -> None:
    floor = _meta(connection, "floor")
    if not floor <= revision <= now:
        raise Gone(revision, oldest=floor, current=now)


def _meta(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])


def _end(prefix: str) -> str:
    """The first key after all that start with ``prefix``."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else chr(0x10FFFF)


def _connect(path: Path) -> sqlite3.Connection:
    with _translated(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            connection.execute("PRAGMA synchronous=FULL")
        except sqlite3.Error:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new store; look an old one over before anybody trusts it."""
    with _translated(path):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        elif version != FORMAT:
            raise StoreError(f"cannot use {path}: it has format {version}, this program reads format {FORMAT}")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)


def _lock(path: Path) -> int:
    """Keep others away for as long as this process lives. A file of its own: SQLite locks the database itself."""
    name = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot make {name}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreError(
            f"cannot open {path}: another process has it open (it holds {name}); stop that first"
        ) from error
    return descriptor


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreError(f"cannot use the store {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        hint = "restore a copy, or move the file away to start empty"
        raise StoreError(f"cannot use the store {path}: it is damaged ({error}); {hint}") from error
