"""What every store owes the API server. One suite for every engine: add yours to ``ENGINES``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from agent.store import AlreadyExists, Change, Conflict, Gone, NotFound, Store, StoreError, Watch
from agent.store.sqlite import open_sqlite

KEEP, WINDOW = 20, 5  # a short memory, so that a test can outlive it
QUIET = 0.05  # seconds to wait for what must not come
PATIENT = 30.0


async def open_sqlite_store(folder: Path) -> Store:
    return open_sqlite(folder / "store.db", keep=KEEP, window=WINDOW)


ENGINES: dict[str, Callable[[Path], Awaitable[Store]]] = {"sqlite": open_sqlite_store}


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Callable[[Path], Awaitable[Store]]:
    return ENGINES[request.param]


@pytest.fixture
async def store(engine: Callable[[Path], Awaitable[Store]], tmp_path: Path) -> AsyncIterator[Store]:
    opened = await engine(tmp_path)
    yield opened
    await opened.close()


async def collect(watch: Watch, count: int) -> list[Change]:
    changes: list[Change] = []
    while len(changes) < count:
        batch = await watch.next(PATIENT)
        assert batch.changes, "the watch fell silent"
        changes += batch.changes
    return changes


async def keys(store: Store, prefix: str, *, revision: int | None = None) -> list[str]:
    return [item.key for item in (await store.list(prefix, revision=revision)).items]


async def test_a_new_store_is_empty_and_begins_with_revision_one(store: Store) -> None:
    assert await store.revision() == 1
    assert (await store.list("pods/")).items == ()
    assert await store.get("pods/a/b") is None


async def test_every_write_takes_the_next_revision(store: Store) -> None:
    first = await store.create("pods/a/one", b"1")
    second = await store.create("nodes/n", b"2")
    third = await store.update("pods/a/one", b"3", revision=first)
    fourth = await store.delete("nodes/n", revision=second)
    assert [first, second, third, fourth] == [2, 3, 4, 5]
    assert await store.revision() == 5
    found = await store.get("pods/a/one")
    assert found is not None
    assert (found.value, found.revision) == (b"3", third)


async def test_what_does_not_fit_is_refused_and_changes_nothing(store: Store) -> None:
    revision = await store.create("pods/a/x", b"1")
    with pytest.raises(AlreadyExists):
        await store.create("pods/a/x", b"2")
    with pytest.raises(Conflict):
        await store.update("pods/a/x", b"2", revision=revision + 7)
    with pytest.raises(Conflict):
        await store.delete("pods/a/x", revision=1)
    with pytest.raises(NotFound):
        await store.update("pods/a/none", b"2", revision=revision)
    with pytest.raises(NotFound):
        await store.delete("pods/a/none", revision=revision)
    found = await store.get("pods/a/x")
    assert found is not None
    assert (found.value, found.revision, await store.revision()) == (b"1", revision, revision)


async def test_of_many_who_saw_the_same_revision_one_wins(store: Store) -> None:
    seen = await store.create("pods/a/x", b"0")
    results = await asyncio.gather(
        *(store.update("pods/a/x", str(n).encode(), revision=seen) for n in range(40)), return_exceptions=True
    )
    winners = [n for n, result in enumerate(results) if isinstance(result, int)]
    assert len(winners) == 1
    assert all(isinstance(result, Conflict) for n, result in enumerate(results) if n not in winners)
    found = await store.get("pods/a/x")
    assert found is not None
    assert found.value == str(winners[0]).encode()


async def test_counting_up_together_loses_no_count(store: Store) -> None:
    await store.create("leases/x", b"0")

    async def add() -> None:
        while True:
            found = await store.get("leases/x")
            assert found is not None
            try:
                await store.update("leases/x", str(int(found.value) + 1).encode(), revision=found.revision)
                return
            except Conflict:
                continue

    await asyncio.gather(*(add() for _ in range(25)))
    found = await store.get("leases/x")
    assert found is not None
    assert found.value == b"25"


async def test_a_prefix_is_a_folder_not_a_beginning(store: Store) -> None:
    for key in ("pods/a/x", "pods/ab/x", "podsets/a/x", "pods/a/y"):
        await store.create(key, b"")
    assert await keys(store, "pods/a/") == ["pods/a/x", "pods/a/y"]
    assert await keys(store, "pods/") == ["pods/a/x", "pods/a/y", "pods/ab/x"]


async def test_pages_together_are_the_list_as_it_was_at_the_first_one(store: Store) -> None:
    for name in "abcdef":
        await store.create(f"pods/n/{name}", name.encode())
    first = await store.list("pods/", limit=2)
    assert [item.key for item in first.items] == ["pods/n/a", "pods/n/b"]
    assert first.more

    by_key = {item.key: item for item in (await store.list("pods/")).items}
    await store.delete("pods/n/c", revision=by_key["pods/n/c"].revision)
    await store.update("pods/n/d", b"later", revision=by_key["pods/n/d"].revision)
    await store.create("pods/n/dd", b"new")
    again = await store.create("pods/n/c", b"another c")
    await store.delete("pods/n/c", revision=again)

    second = await store.list("pods/", after="pods/n/b", limit=2, revision=first.revision)
    assert [(item.key, item.value) for item in second.items] == [("pods/n/c", b"c"), ("pods/n/d", b"d")]
    assert second.more
    third = await store.list("pods/", after="pods/n/d", limit=2, revision=first.revision)
    assert [item.key for item in third.items] == ["pods/n/e", "pods/n/f"]
    assert (third.more, third.revision) == (False, first.revision)


async def test_every_past_state_can_be_listed(store: Store) -> None:
    states: dict[int, list[tuple[str, bytes]]] = {}
    known: dict[str, int] = {}
    for step in range(15):
        key = f"pods/n/{step * 7 % 4}"
        if key not in known:
            known[key] = revision = await store.create(key, str(step).encode())
        elif step % 3:
            known[key] = revision = await store.update(key, str(step).encode(), revision=known[key])
        else:
            revision = await store.delete(key, revision=known.pop(key))
        states[revision] = [(item.key, item.value) for item in (await store.list("pods/")).items]
    for revision, state in states.items():
        page = await store.list("pods/", revision=revision)
        assert [(item.key, item.value) for item in page.items] == state


async def test_the_past_ends_somewhere_and_so_does_the_present(store: Store) -> None:
    revision = await store.create("pods/n/x", b"")
    for n in range(3 * KEEP):
        revision = await store.update("pods/n/x", str(n).encode(), revision=revision)
    with pytest.raises(Gone) as past:
        await store.list("pods/", revision=2)
    assert past.value.current == revision
    assert 2 < past.value.oldest <= revision
    with pytest.raises(Gone):
        await store.list("pods/", revision=revision + 1)
    assert await keys(store, "pods/", revision=past.value.oldest) == ["pods/n/x"]


async def test_a_watch_tells_before_and_after(store: Store) -> None:
    watch = store.watch("pods/", after=1)
    created = await store.create("pods/n/x", b"1")
    await store.create("nodes/n", b"not asked for")
    updated = await store.update("pods/n/x", b"2", revision=created)
    deleted = await store.delete("pods/n/x", revision=updated)
    assert await collect(watch, 3) == [
        Change("pods/n/x", None, b"1", created),
        Change("pods/n/x", b"1", b"2", updated),
        Change("pods/n/x", b"2", None, deleted),
    ]
    watch.close()


async def test_a_watch_begins_in_the_past_and_goes_on_without_a_gap(store: Store) -> None:
    first = await store.create("pods/n/0", b"")
    for n in range(1, 2 * WINDOW):
        await store.create(f"pods/n/{n}", b"")
    watch = store.watch("pods/", after=first)
    writing = asyncio.gather(*(store.create(f"pods/m/{n}", b"") for n in range(6)))
    changes = await collect(watch, 2 * WINDOW - 1 + 6)
    await writing
    assert [change.revision for change in changes] == list(range(first + 1, first + 2 * WINDOW + 6))
    watch.close()


async def test_a_reader_that_slept_falls_back_and_misses_nothing(store: Store) -> None:
    watch = store.watch("pods/", after=1)
    for n in range(WINDOW + KEEP // 2):
        await store.create(f"pods/n/{n}", b"")
    changes = await collect(watch, WINDOW + KEEP // 2)
    assert [change.revision for change in changes] == list(range(2, 2 + WINDOW + KEEP // 2))
    watch.close()


async def test_a_reader_that_slept_too_long_is_told(store: Store) -> None:
    watch = store.watch("pods/", after=1)
    for n in range(3 * KEEP):
        await store.create(f"pods/n/{n}", b"")
    with pytest.raises(Gone):
        await watch.next(PATIENT)
    watch.close()


async def test_a_watch_from_the_future_is_refused(store: Store) -> None:
    watch = store.watch("pods/", after=1000)
    with pytest.raises(Gone):
        await watch.next(PATIENT)
    watch.close()


async def test_silence_says_how_far_it_reaches(store: Store) -> None:
    watch = store.watch("pods/", after=1)
    revision = await store.create("nodes/n", b"elsewhere")
    batch = await watch.next(QUIET)
    assert (batch.changes, batch.revision) == ((), revision)
    created = await store.create("pods/n/x", b"")
    assert [change.revision for change in await collect(watch, 1)] == [created]
    watch.close()


async def test_giving_up_waiting_loses_nothing(store: Store) -> None:
    watch = store.watch("pods/", after=1)
    waiting = asyncio.create_task(watch.next(PATIENT))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    revision = await store.create("pods/n/x", b"")
    assert [change.revision for change in await collect(watch, 1)] == [revision]
    watch.close()


async def test_many_watchers_hear_the_same(store: Store) -> None:
    watches = [store.watch("pods/", after=1) for _ in range(5)]
    await asyncio.gather(*(store.create(f"pods/n/{n}", b"") for n in range(4)))
    heard = await asyncio.gather(*(collect(watch, 4) for watch in watches))
    assert all(changes == heard[0] for changes in heard)
    for watch in watches:
        watch.close()


async def test_everything_is_there_after_opening_again(
    engine: Callable[[Path], Awaitable[Store]], tmp_path: Path
) -> None:
    store = await engine(tmp_path)
    created = await store.create("pods/n/x", b"1")
    updated = await store.update("pods/n/x", b"2", revision=created)
    await store.close()
    again = await engine(tmp_path)
    found = await again.get("pods/n/x")
    assert found is not None
    assert (found.value, found.revision, await again.revision()) == (b"2", updated, updated)
    watch = again.watch("pods/", after=created)
    assert await collect(watch, 1) == [Change("pods/n/x", b"1", b"2", updated)]
    assert await again.create("pods/n/y", b"") == updated + 1
    await again.close()


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.create("pods/n/x", b"")
    with pytest.raises(StoreError, match="closed"):
        await store.get("pods/n/x")
