"""Events as they are written: once, then counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from agent.kube import events
from agent.kube.client import Client
from agent.kube.events import Recorder, Ref
from tests.harness.scripted_api import ScriptedApi, refused, serve_scripted, until

REF = Ref("ReplicaSet", "shop", "web", uid="u1", api_version="apps/v1")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[ScriptedApi, Client]]:
    async with serve_scripted(tmp_path) as both:
        yield both


@asynccontextmanager
async def running(client: Client) -> AsyncIterator[Recorder]:
    recorder = Recorder(client, "replicaset-controller", host="box")
    task = asyncio.create_task(recorder.run())
    yield recorder
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_event_says_who_what_and_about_whom(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    async with running(client) as recorder:
        recorder.event(REF, "Normal", "SuccessfulCreate", "Created pod: web-1")
        await until(lambda: api.writes)
    method, path, body, _ = api.writes[0]
    assert (method, path) == ("POST", "/api/v1/namespaces/shop/events")
    assert body["metadata"]["name"].startswith("web.")
    assert body["involvedObject"] == {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "namespace": "shop",
        "name": "web",
        "uid": "u1",
    }
    assert (body["type"], body["reason"], body["message"]) == ("Normal", "SuccessfulCreate", "Created pod: web-1")
    assert (body["source"], body["count"]) == ({"component": "replicaset-controller", "host": "box"}, 1)
    assert body["firstTimestamp"] == body["lastTimestamp"]


async def test_names_sort_in_the_order_of_the_events(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    async with running(client) as recorder:
        for n in range(20):
            recorder.event(REF, "Normal", "SuccessfulCreate", f"Created pod: web-{n}")
        await until(lambda: len(api.writes) == 20)
    in_order = sorted((body["metadata"]["name"], body["message"]) for _, _, body, _ in api.writes)
    assert [message for _, message in in_order] == [f"Created pod: web-{n}" for n in range(20)]


async def test_an_event_about_the_longest_name_has_a_name_too(server: tuple[ScriptedApi, Client]) -> None:
    """The object's name is cut where the Event's would be longer than a name can be, and not after a dot."""
    api, client = server
    async with running(client) as recorder:
        recorder.event(Ref("Pod", "shop", "p" * 235 + "." + "p" * 17), "Normal", "Started", "Started")
        await until(lambda: api.writes)
    name = api.writes[0][2]["metadata"]["name"]
    assert len(name) <= 253
    assert name.startswith("p" * 235 + ".")
    assert ".." not in name


async def test_equal_events_are_counted(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    async with running(client) as recorder:
        for _ in range(3):
            recorder.event(REF, "Warning", "FailedCreate", "no")
        recorder.event(REF, "Warning", "FailedCreate", "another reason")
        await until(lambda: len(api.writes) == 4)
    assert [method for method, *_ in api.writes] == ["POST", "PATCH", "PATCH", "POST"]
    assert [api.writes[index][2]["count"] for index in (1, 2)] == [2, 3]
    assert api.writes[1][1].rpartition("/")[2] == api.writes[0][2]["metadata"]["name"]


async def test_a_vanished_event_is_written_anew(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    async with running(client) as recorder:
        recorder.event(REF, "Normal", "A", "a")
        await until(lambda: len(api.writes) == 1)
        api.write_answers = [refused(404, "NotFound", "gone")]
        recorder.event(REF, "Normal", "A", "a")
        await until(lambda: len(api.writes) == 3)
    assert [method for method, *_ in api.writes] == ["POST", "PATCH", "POST"]


async def test_what_cannot_be_written_is_told_to_the_log(
    server: tuple[ScriptedApi, Client], caplog: pytest.LogCaptureFixture
) -> None:
    api, client = server
    api.write_answers = [
        refused(500, "InternalError", "boom"),
        refused(403, "Forbidden", "namespace shop is being terminated"),
    ]
    async with running(client) as recorder:
        recorder.event(REF, "Normal", "A", "a")
        recorder.event(REF, "Normal", "B", "b")
        recorder.event(Ref("Node", "", "n1"), "Normal", "C", "c")
        await until(lambda: len(api.writes) == 3)
    assert "cannot record event A about shop/web" in caplog.text
    assert "cannot record event B" not in caplog.text, "its namespace is going: nobody will miss it"
    assert api.writes[2][1] == "/api/v1/namespaces/default/events", "cluster-scoped objects have theirs in default"


async def test_a_server_that_is_away_for_a_moment_loses_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PAUSES", (0.01, 0.01, 0.01))
    async with serve_scripted(tmp_path) as (api, client):
        real, failures = client.http.post, [True, True]

        async def sometimes(*args: object, **kwargs: object) -> object:
            if failures:
                failures.pop()
                raise httpx2.ConnectError("nobody there")
            return await real(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(client.http, "post", sometimes)
        async with running(client) as recorder:
            recorder.event(REF, "Normal", "A", "a")
            await until(lambda: api.writes)
        assert api.writes[0][2]["reason"] == "A"


async def test_a_full_queue_drops_and_says_so(
    server: tuple[ScriptedApi, Client], caplog: pytest.LogCaptureFixture
) -> None:
    _, client = server
    recorder = Recorder(client, "x")
    for number in range(1001):
        recorder.event(REF, "Normal", "Many", str(number))
    assert "event dropped, too many at once: Many web: 1000" in caplog.text
