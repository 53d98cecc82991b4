"""Informers against a real HTTP server that does what real servers do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from agent.kube import informer as informer_module
from agent.kube.client import Client
from agent.kube.informer import Change, Informer, Key
from tests.harness.scripted_api import PATH, ScriptedApi, refused, serve_scripted, until


class Thing(msgspec.Struct):
    metadata: dict[str, str]
    size: int = 0


Seen = list[tuple[str, int | None, int | None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer_module, "BACKOFF", (0.01, 0.05))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[ScriptedApi, Client]]:
    async with serve_scripted(tmp_path) as both:
        yield both


class Watching:
    """A running informer and what its handler was told: (name, old size, new size)."""

    def __init__(self, client: Client, **selectors: str) -> None:
        self.informer = Informer(client, PATH, msgspec.json.Decoder(Thing).decode, **selectors)
        self.seen: Seen = []
        self.informer.subscribe(self._note)
        self._task: asyncio.Task[None] | None = None

    def _note(self, change: Change[Thing]) -> None:
        old, new = change.old, change.new
        self.seen.append((change.key.name, old.size if old else None, new.size if new else None))

    async def __aenter__(self) -> Watching:
        self._task = asyncio.create_task(self.informer.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def sizes(self) -> dict[str, int]:
        return {key.name: value.size for key, value in self.informer.cache.items()}


async def test_lists_then_follows(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    api.put("a", size=1)
    async with Watching(client) as watching:
        await watching.informer.synced.wait()
        assert watching.sizes == {"a": 1}
        await api.watched()
        api.put("b", size=2)
        api.put("a", size=3)
        api.delete("b")
        await until(lambda: watching.sizes == {"a": 3} and len(watching.seen) == 4)
        assert watching.seen == [("a", None, 1), ("b", None, 2), ("a", 1, 3), ("b", 2, None)]
        assert watching.informer.version == api.version


async def test_selectors_are_sent_with_list_and_watch(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    async with Watching(client, labels="app=x", fields="spec.nodeName=n"):
        await api.watched()
    for query in api.requests:
        assert (query["labelSelector"], query["fieldSelector"]) == ("app=x", "spec.nodeName=n")
    watch = api.requests[-1]
    assert (watch["allowWatchBookmarks"], watch["resourceVersion"]) == ("true", str(api.version))


async def test_a_long_list_comes_in_pages(server: tuple[ScriptedApi, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    api, client = server
    monkeypatch.setattr(informer_module, "PAGE", 3)
    for number in range(8):
        api.put(f"n{number}", size=number)
    async with Watching(client) as watching:
        await watching.informer.synced.wait()
        assert len(watching.sizes) == 8
    assert [query.get("continue") for query in api.requests[:3]] == [None, "3", "6"]


async def test_the_watch_goes_on_where_it_ended(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    async with Watching(client) as watching:
        await api.watched()
        api.put("a", size=1)
        await until(lambda: watching.sizes == {"a": 1})
        api.end_watches()
        await api.watched(times=2)
        assert sum("watch" not in query for query in api.requests) == 1, "no second list"
        assert api.requests[-1]["resourceVersion"] == str(api.version)
        api.put("a", size=2)
        await until(lambda: watching.sizes == {"a": 2})


async def test_bookmarks_move_the_version(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    async with Watching(client) as watching:
        await api.watched()
        api.bookmark()
        await until(lambda: watching.informer.version == api.version)
        api.compact()
        api.end_watches()
        await api.watched(times=2)
        assert sum("watch" not in query for query in api.requests) == 1, "the bookmark saved a list"
        assert watching.seen == []


async def test_a_broken_connection_loses_nothing(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    api.put("gone", size=1)
    api.put("same", size=1)
    api.put("changed", size=1)
    async with Watching(client) as watching:
        await api.watched()
        watching.seen.clear()
        api.send(b'{"type": "MODIFIED", "object": {"metadata": {"name": "sa')
        api.break_watches()
        api.delete("gone")
        api.put("changed", size=2)
        api.put("new", size=1)
        await until(lambda: watching.sizes == {"same": 1, "changed": 2, "new": 1})
        assert sorted(watching.seen) == [("changed", 1, 2), ("gone", 1, None), ("new", None, 1)]


@pytest.mark.parametrize("how", ["http", "event"])
async def test_gone_lists_again(server: tuple[ScriptedApi, Client], how: str) -> None:
    api, client = server
    api.put("a", size=1)
    async with Watching(client) as watching:
        await api.watched()
        if how == "event":
            api.send(b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n')
        else:
            api.bookmark()
            api.watch_failures = [refused(410, "Expired", "too old")]
            api.end_watches()  # a clean end: it goes on watching, and that is refused
        await until(lambda: sum("watch" not in query for query in api.requests) == 2)
        api.put("b", size=2)
        await until(lambda: watching.sizes == {"a": 1, "b": 2})


async def test_an_expired_page_starts_the_list_again(
    server: tuple[ScriptedApi, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, client = server
    api.failures = [refused(410, "Expired", "the provided continue parameter is too old")]
    api.put("a", size=1)
    async with Watching(client) as watching:
        await asyncio.wait_for(watching.informer.synced.wait(), 10)
        assert watching.sizes == {"a": 1}


@pytest.mark.parametrize(
    "answer",
    [refused(500, "InternalError", "boom"), refused(403, "Forbidden", "no"), PlainTextResponse("<html>", 200)],
    ids=["500", "403", "not json"],
)
async def test_failures_are_retried(server: tuple[ScriptedApi, Client], answer: JSONResponse) -> None:
    api, client = server
    api.failures = [answer, answer]
    api.put("a", size=1)
    async with Watching(client) as watching:
        await asyncio.wait_for(watching.informer.synced.wait(), 10)
        assert watching.sizes == {"a": 1}


async def test_other_watch_errors_list_again(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    async with Watching(client) as watching:
        await api.watched()
        api.send(b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"storage is sad"}}\n')
        await api.watched(times=2)
        api.put("a", size=1)
        await until(lambda: watching.sizes == {"a": 1})


async def test_a_watch_that_ends_at_once_is_a_failure(server: tuple[ScriptedApi, Client]) -> None:
    """Otherwise an informer and a broken server would turn each other in circles without a pause."""
    api, client = server
    api.watch_failures = [PlainTextResponse("", 200) for _ in range(3)]
    async with Watching(client):
        await api.watched(times=4)
    assert sum("watch" not in query for query in api.requests) == 4, "each was followed by a pause and a list"


async def test_one_unreadable_object_never_blocks_the_others(
    server: tuple[ScriptedApi, Client], caplog: pytest.LogCaptureFixture
) -> None:
    api, client = server
    api.put("good", size=1)
    api.put("bad", size=2)
    async with Watching(client) as watching:
        await api.watched()
        api.put("bad", size="enormous")
        api.put("good", size=5)
        await until(lambda: watching.sizes == {"good": 5, "bad": 2})
        api.break_watches()
        await api.watched(times=2)
        assert watching.sizes == {"good": 5, "bad": 2}, "left as it was, after a list too"
        api.delete("bad")
        await until(lambda: watching.sizes == {"good": 5})
    assert "cannot read default/bad" in caplog.text


async def test_an_object_without_a_name_is_left_out(
    server: tuple[ScriptedApi, Client], caplog: pytest.LogCaptureFixture
) -> None:
    api, client = server
    api.objects["x", "y"] = {"metadata": {"name": 7}}
    api.put("a", size=1)
    async with Watching(client) as watching:
        await api.watched()
        api.send(b'{"type": "ADDED", "object": {"metadata": {"name": {}}}}\n')
        api.put("b", size=1)
        await until(lambda: watching.sizes == {"a": 1, "b": 1})
    assert caplog.text.count("without a readable name") == 2


async def test_made_anew_is_no_update(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    api.put("a", uid="first", size=1)
    async with Watching(client) as watching:
        await api.watched()
        api.break_watches()
        api.put("a", uid="second", size=2)
        await until(lambda: watching.sizes == {"a": 2})
        assert watching.seen == [("a", None, 1), ("a", 1, None), ("a", None, 2)]


async def test_an_unchanged_version_is_no_change(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    api.put("a", size=1)
    async with Watching(client) as watching:
        await api.watched()
        api.break_watches()
        await api.watched(times=2)
        assert watching.seen == [("a", None, 1)]


async def test_a_failing_handler_does_not_stop_the_others(
    server: tuple[ScriptedApi, Client], caplog: pytest.LogCaptureFixture
) -> None:
    api, client = server
    watching = Watching(client)
    late: list[Key] = []

    def fail(change: Change[Thing]) -> None:
        raise RuntimeError("handler trouble")

    watching.informer.subscribe(fail)
    watching.informer.subscribe(lambda change: late.append(change.key))
    async with watching:
        await api.watched()
        api.put("a", size=1)
        await until(lambda: late == [Key("default", "a")])
    assert "handler trouble" in caplog.text


async def test_a_late_subscriber_hears_of_everything(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    api.put("a", size=1)
    async with Watching(client) as watching:
        await watching.informer.synced.wait()
        late: list[Change[Thing]] = []
        watching.informer.subscribe(late.append)
        assert [(change.key, change.old) for change in late] == [(Key("default", "a"), None)]


async def test_waits_for_a_server_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with serve_scripted(tmp_path) as (_, client):
        pass
    # The server is gone, and the client closed: both are failures to be retried, not to die of.
    watching = Watching(client)
    async with watching:
        await asyncio.sleep(0.1)
    assert not watching.informer.synced.is_set()


def test_keys_read_as_people_write_them() -> None:
    assert str(Key("ns", "a")) == "ns/a"
    assert str(Key("", "node")) == "node"
