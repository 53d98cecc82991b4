"""Writes as they travel, and refusals as callers see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from agent.kube import rest
from agent.kube.client import Client, KubeError, connect
from tests.harness.scripted_api import ScriptedApi, refused, serve_scripted, write_kubeconfig

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[ScriptedApi, Client]]:
    async with serve_scripted(tmp_path) as both:
        yield both


async def test_each_verb_is_one_request(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    body = {"metadata": {"name": "a"}}
    assert await rest.create(client, PODS, body) == {"metadata": {"name": "stored"}}
    await rest.replace(client, f"{PODS}/a", body)
    await rest.patch(client, f"{PODS}/a", body)
    await rest.patch_listed(client, f"{PODS}/a", body)
    await rest.get(client, f"{PODS}/a")
    assert api.writes == [
        ("POST", PODS, body, "application/json"),
        ("PUT", f"{PODS}/a", body, "application/json"),
        ("PATCH", f"{PODS}/a", body, "application/merge-patch+json"),
        ("PATCH", f"{PODS}/a", body, "application/strategic-merge-patch+json"),
        ("GET", f"{PODS}/a", None, ""),
    ]


async def test_delete_says_what_was_decided_upon(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    await rest.delete(client, f"{PODS}/a")
    await rest.delete(client, f"{PODS}/a", uid="u", version="7", grace=0, propagation="Foreground")
    assert [body for _, _, body, _ in api.writes] == [
        {"kind": "DeleteOptions", "apiVersion": "v1"},
        {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "gracePeriodSeconds": 0,
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": "u", "resourceVersion": "7"},
        },
    ]


async def test_refusals_are_told_apart(server: tuple[ScriptedApi, Client]) -> None:
    api, client = server
    api.write_answers = [
        refused(404, "NotFound", 'pods "a" not found'),
        refused(409, "Conflict", "the object has been modified"),
        refused(403, "Forbidden", "no", causes=[{"reason": "NamespaceTerminating"}]),
        PlainTextResponse("<h1>Bad Gateway</h1>", 502),
    ]
    with pytest.raises(rest.ApiError, match=r'cannot get /api/v1/namespaces/default/pods/a: pods "a" not found') as e:
        await rest.get(client, f"{PODS}/a")
    assert e.value.not_found
    assert not e.value.conflict
    with pytest.raises(rest.ApiError) as e:
        await rest.replace(client, f"{PODS}/a", {})
    assert e.value.conflict
    assert e.value.reason == "Conflict"
    with pytest.raises(rest.ApiError) as e:
        await rest.create(client, PODS, {})
    assert e.value.namespace_terminating
    with pytest.raises(rest.ApiError, match="HTTP 502: <h1>Bad Gateway</h1>") as e:
        await rest.get(client, PODS)
    assert e.value.code == 502


async def test_nobody_there(tmp_path: Path) -> None:
    client = connect(write_kubeconfig(tmp_path, "http://127.0.0.1:9"))
    try:
        with pytest.raises(rest.Unreachable, match=r"cannot get /api/v1: http://127.0.0.1:9: "):
            await rest.get(client, "/api/v1")
    finally:
        await client.close()


def test_unusable_kubeconfigs_are_named(tmp_path: Path) -> None:
    with pytest.raises(KubeError, match=r"cannot use kubeconfig .*missing"):
        connect(tmp_path / "missing")
    with pytest.raises(KubeError, match="other"):
        connect(write_kubeconfig(tmp_path, "http://127.0.0.1:9"), context="other")
