"""Speaking REST with an API server under test: each call one request, each failure its Status."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.harness.apiserver import ApiServer

Json = dict[str, Any]
STRATEGIC, MERGE, JSON_PATCH = (
    "application/strategic-merge-patch+json",
    "application/merge-patch+json",
    "application/json-patch+json",
)
APPLY = "application/apply-patch+yaml"


class Refused(Exception):
    """``status`` is what the server said."""

    def __init__(self, status: Json) -> None:
        super().__init__(f"{status.get('code')} {status.get('reason')}: {status.get('message')}")
        self.status = status
        self.code, self.reason, self.message = status.get("code"), status.get("reason"), status.get("message", "")


class Rest:
    """A client, and a namespace of its own."""

    def __init__(self, server: ApiServer) -> None:
        self.http = server.client()
        self.namespace = f"test-{secrets.token_hex(4)}"
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def path(self, plural: str, name: str = "", *, root: str = "/api/v1") -> str:
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def response(
        self, method: str, path: str, body: Any = None, *, headers: Json | None = None, **params: Any
    ) -> httpx2.Response:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})} if content is not None else headers or {}
        return self.http.request(method, path, content=content, headers=sent, params=params)

    def call(self, method: str, path: str, body: Any = None, *, headers: Json | None = None, **params: Any) -> Json:
        """The answer's JSON. Raises Refused."""
        response = self.response(method, path, body, headers=headers, **params)
        answer: Json = response.json()
        if not response.is_success:
            assert answer["kind"] == "Status", answer
            assert answer["code"] == response.status_code
            raise Refused(answer)
        return answer

    def create(self, plural: str, body: Json, *, root: str = "/api/v1", **params: Any) -> Json:
        return self.call("POST", self.path(plural, root=root), body, **params)

    def get(self, plural: str, name: str, *, root: str = "/api/v1") -> Json:
        return self.call("GET", self.path(plural, name, root=root))

    def names(self, plural: str, **params: Any) -> list[str]:
        return [item["metadata"]["name"] for item in self.call("GET", self.path(plural), **params)["items"]]

    def patch(self, path: str, body: Any, *, media_type: str = MERGE, **params: Any) -> Json:
        return self.call("PATCH", path, body, headers={"Content-Type": media_type}, **params)

    def config_map(self, name: str, data: Json | None = None, **metadata: Any) -> Json:
        return self.create("configmaps", {"metadata": {"name": name, **metadata}, "data": data or {}})

    def pod(self, name: str, *, node: str = "", **metadata: Any) -> Json:
        spec: Json = {"containers": [{"name": "main", "image": "busybox"}]}
        body = {"metadata": {"name": name, **metadata}, "spec": {**spec, **({"nodeName": node} if node else {})}}
        return self.create("pods", body)

    @contextmanager
    def watch(self, path: str, **params: Any) -> Iterator[Events]:
        params = {"watch": "true", "timeoutSeconds": 60, **params}
        headers = params.pop("headers", {})
        with self.http.stream("GET", path, params=params, headers=headers) as response:
            assert response.status_code == 200, response.read()
            yield Events(response)


class Events:
    """A watch that is being read."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.iter_lines()

    def next(self) -> Json:
        event: Json = json.loads(next(self._lines))
        return event

    def brief(self, count: int) -> list[tuple[str, str]]:
        """Type and name of the next events."""
        events = [self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"]["name"]) for event in events]

    def rest(self) -> list[Json]:
        return [json.loads(line) for line in self._lines]


def together(count: int, work: Any) -> list[Any]:
    """Do ``work(n)`` in so many threads at once; exceptions are results."""
    results: list[Any] = [None] * count

    def run(n: int) -> None:
        try:
            results[n] = work(n)
        except Refused as refused:
            results[n] = refused

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
