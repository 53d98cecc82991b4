"""Watching over HTTP: what is told, from when on, through which selector, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.harness.apiserver import ApiServer, running_apiserver
from tests.harness.rest import Json, Rest, together

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path_factory.mktemp("apiserver")) as running:
        yield running


@pytest.fixture
def api(server: ApiServer) -> Iterator[Rest]:
    rest = Rest(server)
    yield rest
    rest.http.close()


def revision(api: Rest) -> str:
    found = api.call("GET", api.path("configmaps"))
    return str(found["metadata"]["resourceVersion"])


def test_a_watch_from_a_version_tells_what_came_after(api: Rest) -> None:
    api.config_map("before")
    since = revision(api)
    api.config_map("x", {"a": "1"})
    api.patch(api.path("configmaps", "x"), {"data": {"a": "2"}})
    with api.watch(api.path("configmaps"), resourceVersion=since) as events:
        assert events.brief(2) == [("ADDED", "x"), ("MODIFIED", "x")]
        last = api.get("configmaps", "x")
        api.call("DELETE", api.path("configmaps", "x"))
        deleted = events.next()
    assert (deleted["type"], deleted["object"]["data"]) == ("DELETED", {"a": "2"})
    assert int(deleted["object"]["metadata"]["resourceVersion"]) > int(last["metadata"]["resourceVersion"])


def test_an_event_shows_the_object_as_it_is_read(api: Rest) -> None:
    with api.watch(api.path("configmaps"), resourceVersion=revision(api)) as events:
        api.config_map("x", {"a": "1"})
        assert events.next() == {"type": "ADDED", "object": api.get("configmaps", "x")}


@pytest.mark.parametrize("version", ["", "0"])
def test_a_watch_from_nowhere_begins_with_what_is_there(api: Rest, version: str) -> None:
    for name in ("b", "a"):
        api.config_map(name)
    with api.watch(api.path("configmaps"), resourceVersion=version) as events:
        assert events.brief(2) == [("ADDED", "a"), ("ADDED", "b")]
        api.config_map("c")
        assert events.brief(1) == [("ADDED", "c")]


def test_a_watch_can_be_the_list_too(api: Rest) -> None:
    api.config_map("a")
    with api.watch(
        api.path("configmaps"),
        sendInitialEvents="true",
        resourceVersionMatch="NotOlderThan",
        allowWatchBookmarks="true",
    ) as events:
        assert events.brief(1) == [("ADDED", "a")]
        end = events.next()
        assert end["type"] == "BOOKMARK"
        assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert int(end["object"]["metadata"]["resourceVersion"]) > 1


def test_a_quiet_watch_ends_in_time_with_a_bookmark(api: Rest) -> None:
    since = revision(api)
    api.create("secrets", {"metadata": {"name": "elsewhere"}})
    now = api.get("secrets", "elsewhere")["metadata"]["resourceVersion"]
    with api.watch(
        api.path("configmaps"), resourceVersion=since, timeoutSeconds=1, allowWatchBookmarks="true"
    ) as events:
        last = events.rest()[-1]
    assert (last["type"], last["object"]["kind"]) == ("BOOKMARK", "ConfigMap")
    assert int(last["object"]["metadata"]["resourceVersion"]) >= int(now)
    with api.watch(api.path("configmaps"), resourceVersion=since, timeoutSeconds=1) as events:
        assert events.rest() == []


def test_through_a_selector_objects_come_and_go(api: Rest) -> None:
    path = api.path("pods")
    since = revision(api)
    with api.watch(
        path, resourceVersion=since, labelSelector="app=web", fieldSelector="status.phase=Running"
    ) as events:
        api.pod("p", labels={"app": "web"})
        api.pod("other", labels={"app": "db"})
        api.patch(api.path("pods", "p/status"), {"status": {"phase": "Running"}})
        api.patch(api.path("pods", "p"), {"metadata": {"annotations": {"a": "b"}}})
        api.patch(api.path("pods", "p"), {"metadata": {"labels": {"app": "db"}}})
        api.patch(api.path("pods", "p"), {"metadata": {"labels": {"app": "web"}}})
        api.call("DELETE", api.path("pods", "p"))
        assert [events.next()["type"] for _ in range(5)] == ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]


def test_a_watch_stays_in_its_namespace(api: Rest, server: ApiServer) -> None:
    other = Rest(server)
    with api.watch(api.path("configmaps"), resourceVersion=revision(api)) as events:
        other.config_map("theirs")
        api.config_map("mine")
        assert events.brief(1) == [("ADDED", "mine")]
    other.http.close()


def test_a_watch_over_all_namespaces(api: Rest) -> None:
    with api.watch("/api/v1/configmaps", resourceVersion=revision(api)) as events:
        api.config_map("x")
        assert events.next()["object"]["metadata"]["namespace"] == api.namespace


def test_a_version_of_the_future_is_gone(api: Rest) -> None:
    with api.watch(api.path("configmaps"), resourceVersion=10**9) as events:
        (event,) = events.rest()
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_a_watch_of_rows(api: Rest) -> None:
    with api.watch(api.path("pods"), resourceVersion=revision(api), headers={"Accept": TABLE}) as events:
        api.pod("p")
        event = events.next()
    assert (event["type"], event["object"]["kind"]) == ("ADDED", "Table")
    assert event["object"]["rows"][0]["cells"][0] == "p"
    assert event["object"]["rows"][0]["object"]["metadata"]["resourceVersion"]


def test_many_watch_the_same(api: Rest, server: ApiServer) -> None:
    since = revision(api)

    def follow(_: int) -> list[tuple[str, str]]:
        mine = server.client()
        rest = Rest.__new__(Rest)
        rest.http, rest.namespace = mine, api.namespace
        with mine, rest.watch(api.path("configmaps"), resourceVersion=since) as events:
            return events.brief(3)

    def write(_: int) -> list[tuple[str, str]]:
        for name in "abc":
            api.config_map(name)
        return []

    results = together(7, lambda n: write(n) if n == 0 else follow(n))
    assert results[1:] == [[("ADDED", name) for name in "abc"]] * 6


def test_a_watch_that_cannot_be(api: Rest) -> None:
    cases: list[Json] = [{"fieldSelector": "a=b"}, {"labelSelector": "!"}, {"resourceVersion": "x"}, {"watch": "maybe"}]
    for params in cases:
        response = api.response("GET", api.path("pods"), **{"watch": "true", **params})
        assert (response.status_code, response.json()["reason"]) == (400, "BadRequest")


def test_a_watch_goes_on_after_a_restart(api: Rest, server: ApiServer) -> None:
    since = revision(api)
    api.config_map("a")
    server.stop(kill=True)
    server.start()
    api.config_map("b")
    with api.watch(api.path("configmaps"), resourceVersion=since) as events:
        assert events.brief(2) == [("ADDED", "a"), ("ADDED", "b")]


def test_the_server_does_not_wait_for_watches_to_run_out(api: Rest, server: ApiServer) -> None:
    with api.watch(api.path("configmaps"), resourceVersion=revision(api), timeoutSeconds=3000) as events:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 20
        assert events.rest() == []
    server.start()
    assert "Traceback" not in server.log()
