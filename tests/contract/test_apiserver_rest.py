"""What the API server owes its clients, asked of a real one over TLS: names, versions, errors, patches, deletion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.harness.apiserver import ApiServer, running_apiserver
from tests.harness.rest import APPLY, JSON_PATCH, STRATEGIC, Json, Refused, Rest, together

APPS = "/apis/apps/v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path_factory.mktemp("apiserver")) as running:
        yield running


@pytest.fixture
def api(server: ApiServer) -> Iterator[Rest]:
    rest = Rest(server)
    yield rest
    rest.http.close()


def service(name: str, port: int = 80, **spec: Any) -> Json:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": port}], "selector": {"app": name}, **spec}}


def replicaset(name: str, replicas: int = 1) -> Json:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "busybox"}]}}
    return {
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


# Who may ask


def test_without_the_token_nothing_is_told(server: ApiServer) -> None:
    with httpx2.Client(base_url=server.url, verify=server.tls, trust_env=False) as stranger:
        refused = stranger.get("/api/v1/pods")
        assert (refused.status_code, refused.json()["reason"]) == (401, "Unauthorized")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        wrong = stranger.get("/api/v1/pods", headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == 401
        assert stranger.get("/metrics").status_code == 401
        for path in ("/healthz", "/livez", "/readyz"):
            assert stranger.get(path).text == "ok"
        assert stranger.get("/version").json()["major"] == "1"


def test_metrics_count_requests(api: Rest) -> None:
    api.config_map("x")
    text = api.response("GET", "/metrics").text
    assert 'apiserver_request_total{code="201",resource="configmaps",verb="create"}' in text


# Creating


def test_create_fills_in_what_the_server_knows(api: Rest) -> None:
    response = api.response("POST", api.path("configmaps"), {"metadata": {"name": "x", "uid": "mine", "generation": 7}})
    assert response.status_code == 201
    created = response.json()
    metadata = created["metadata"]
    assert (created["apiVersion"], created["kind"]) == ("v1", "ConfigMap")
    assert (metadata["name"], metadata["namespace"]) == ("x", api.namespace)
    assert len(metadata["uid"]) == 36
    assert "generation" not in metadata
    assert metadata["creationTimestamp"].endswith("Z")
    assert api.get("configmaps", "x") == created


def test_generated_names(api: Rest) -> None:
    names = {api.create("configmaps", {"metadata": {"generateName": "web-"}})["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("web-") and len(name) == len("web-") + 5 for name in names)


def test_a_name_is_needed(api: Rest) -> None:
    with pytest.raises(Refused, match="name or generateName is required") as refused:
        api.create("configmaps", {"metadata": {}})
    assert refused.value.status["details"]["causes"][0]["field"] == "metadata.name"


def test_a_name_is_taken(api: Rest) -> None:
    api.config_map("x")
    with pytest.raises(Refused) as refused:
        api.config_map("x")
    assert (refused.value.code, refused.value.reason) == (409, "AlreadyExists")
    assert refused.value.message == 'configmaps "x" already exists'
    assert refused.value.status["details"] == {"name": "x", "kind": "configmaps"}


def test_of_many_creations_one_wins(api: Rest) -> None:
    results = together(8, lambda n: api.config_map("same", {"n": str(n)}))
    assert sum(not isinstance(result, Refused) for result in results) == 1


def test_a_service_port_asked_for_by_many_goes_to_one(api: Rest) -> None:
    port = {"port": 80, "nodePort": 32123}
    results = together(
        6, lambda n: api.create("services", {**service(f"s{n}"), "spec": {"type": "NodePort", "ports": [port]}})
    )
    winners = [result for result in results if not isinstance(result, Refused)]
    assert len(winners) == 1
    losers = [result for result in results if isinstance(result, Refused)]
    assert all(loser.code == 422 and "provided port is already allocated" in loser.message for loser in losers)
    api.call("DELETE", api.path("services", winners[0]["metadata"]["name"]))
    api.create("services", {**service("again"), "spec": {"type": "NodePort", "ports": [port]}})
    api.call("DELETE", api.path("services", "again"))


def test_the_namespace_must_exist(api: Rest) -> None:
    with pytest.raises(Refused) as refused:
        api.call("POST", "/api/v1/namespaces/nowhere/configmaps", {"metadata": {"name": "x"}})
    assert (refused.value.code, refused.value.message) == (404, 'namespaces "nowhere" not found')


def test_what_was_sent_must_be_what_the_url_says(api: Rest) -> None:
    cases: list[tuple[Json, str]] = [
        ({"apiVersion": "apps/v1", "metadata": {"name": "x"}}, "does not match the expected API version"),
        ({"kind": "Pod", "metadata": {"name": "x"}}, "cannot be handled as a ConfigMap"),
        ({"metadata": {"name": "x", "namespace": "other"}}, "does not match the namespace sent on the request"),
        ({"metadata": {"name": "x", "resourceVersion": "3"}}, "resourceVersion should not be set"),
    ]
    for body, said in cases:
        with pytest.raises(Refused, match=said) as refused:
            api.create("configmaps", body)
        assert refused.value.code == 400


def test_bodies_that_cannot_be_read(api: Rest) -> None:
    path = api.path("configmaps")
    for content, media_type, code in (
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"a: [", "application/yaml", 400),
        (b"{}", "text/csv", 415),
        (b"k8s\x00\xff", "application/vnd.kubernetes.protobuf", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'"' + b"x" * (3 << 20) + b'"', "application/json", 413),
    ):
        with pytest.raises(Refused) as refused:
            api.call("POST", path, content, headers={"Content-Type": media_type})
        assert refused.value.code == code


def test_yaml_is_read_and_written(api: Rest) -> None:
    text = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {day: 2024-01-01}\n"
    api.call("POST", api.path("configmaps"), text, headers={"Content-Type": "application/yaml"})
    assert api.get("configmaps", "y")["data"] == {"day": "2024-01-01"}
    shown = api.response("GET", api.path("configmaps", "y"), headers={"Accept": "application/yaml"})
    assert shown.headers["content-type"] == "application/yaml"
    assert "day: '2024-01-01'" in shown.text


def test_unknown_fields_are_refused_warned_of_or_let_pass(api: Rest) -> None:
    body = {**service("x"), "spec": {"portz": [], "ports": [{"port": 80}]}}
    with pytest.raises(Refused, match=r'strict decoding error: unknown field "spec.portz"') as refused:
        api.create("services", body, fieldValidation="Strict")
    assert refused.value.code == 400
    warned = api.response("POST", api.path("services"), body, fieldValidation="Warn", dryRun="All")
    assert warned.headers["warning"] == '299 - "unknown field \\"spec.portz\\""'
    quiet = api.response("POST", api.path("services"), body, fieldValidation="Ignore", dryRun="All")
    assert (quiet.status_code, "warning" in quiet.headers) == (201, False)
    with pytest.raises(Refused, match="fieldValidation"):
        api.create("services", body, fieldValidation="Perhaps")


def test_a_field_twice_is_told(api: Rest) -> None:
    twice = b'{"metadata": {"name": "x", "name": "y"}, "data": {"a": "1", "a": "2"}}'
    with pytest.raises(Refused, match=r'duplicate field "metadata.name", duplicate field "data.a"'):
        api.call("POST", api.path("configmaps"), twice, fieldValidation="Strict")


def test_invalid_objects_name_their_fields(api: Rest) -> None:
    with pytest.raises(Refused) as refused:
        api.create("services", {"metadata": {"name": "x"}, "spec": {"ports": [{"port": 0}, {"port": 70000}]}})
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    assert refused.value.message.startswith('Service "x" is invalid: [')
    details = refused.value.status["details"]
    assert (details["name"], details["kind"]) == ("x", "Service")
    assert {"spec.ports[0].port", "spec.ports[1].port"} <= {cause["field"] for cause in details["causes"]}


def test_a_dry_run_leaves_nothing(api: Rest) -> None:
    assert api.create("configmaps", {"metadata": {"name": "x"}}, dryRun="All")["metadata"]["uid"]
    assert api.names("configmaps") == []
    api.config_map("x", {"a": "1"})
    assert api.patch(api.path("configmaps", "x"), {"data": {"a": "2"}}, dryRun="All")["data"] == {"a": "2"}
    api.call("DELETE", api.path("configmaps", "x"), dryRun="All")
    assert api.get("configmaps", "x")["data"] == {"a": "1"}


# Reading


def test_what_is_not_there(api: Rest) -> None:
    for path, message in (
        (api.path("pods", "none"), 'pods "none" not found'),
        (api.path("replicasets", "none", root=APPS), 'replicasets.apps "none" not found'),
        (api.path("unicorns"), "the server could not find the requested resource"),
        ("/apis/none/v1/things", "the server could not find the requested resource"),
        (api.path("configmaps", "x/status"), "the server could not find the requested resource"),
        ("/nowhere", "the server could not find the requested resource"),
    ):
        with pytest.raises(Refused) as refused:
            api.call("GET", path)
        assert (refused.value.code, refused.value.message) == (404, message)


def test_methods_that_do_not_fit(api: Rest) -> None:
    for method, path in (
        ("POST", api.path("configmaps", "x")),
        ("PUT", api.path("configmaps")),
        ("POST", "/api/v1/configmaps"),
        ("DELETE", "/api/v1/configmaps"),
        ("DELETE", "/api/v1/namespaces"),
        ("POST", api.path("pods", "x/status")),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
    ):
        with pytest.raises(Refused) as refused:
            api.call(method, path, {} if method != "GET" else None)
        assert (refused.value.code, refused.value.reason) == (405, "MethodNotAllowed")


def test_lists(api: Rest) -> None:
    for name in ("b", "a"):
        api.config_map(name, labels={"n": name})
    found = api.call("GET", api.path("configmaps"))
    assert (found["kind"], found["apiVersion"]) == ("ConfigMapList", "v1")
    assert [item["metadata"]["name"] for item in found["items"]] == ["a", "b"]
    assert found["items"][0] == api.get("configmaps", "a")
    everywhere = api.call("GET", "/api/v1/configmaps")
    assert {api.namespace} <= {item["metadata"]["namespace"] for item in everywhere["items"]}
    assert api.call("GET", api.path("secrets"))["items"] == []


def test_selectors(api: Rest) -> None:
    for n in range(4):
        api.pod(f"p{n}", node=f"n{n % 2}", labels={"n": str(n), **({"odd": "yes"} if n % 2 else {})})
    assert api.names("pods", labelSelector="odd") == ["p1", "p3"]
    assert api.names("pods", labelSelector="n in (0,3)") == ["p0", "p3"]
    assert api.names("pods", fieldSelector="spec.nodeName=n0") == ["p0", "p2"]
    assert api.names("pods", fieldSelector="spec.nodeName!=n0", labelSelector="n!=1") == ["p3"]
    assert api.names("pods", fieldSelector="metadata.name=p2") == ["p2"]
    assert api.names("pods", fieldSelector="metadata.name=none") == []
    assert api.names("pods", fieldSelector="metadata.name=p2,status.phase=Running") == []
    refusals: list[tuple[Json, str]] = [
        ({"fieldSelector": "spec.color=red"}, "400 BadRequest: field label not supported: spec.color$"),
        ({"labelSelector": "a in b"}, "expected: '\\('"),
    ]
    for params, said in refusals:
        with pytest.raises(Refused, match=said) as refused:
            api.call("GET", api.path("pods"), **params)
        assert refused.value.code == 400


def test_pages(api: Rest) -> None:
    names = [f"c{n:02}" for n in range(25)]
    together(25, lambda n: api.config_map(names[n], labels={"even": str(n % 2 == 0)}))
    for selector, expected in (("", names), ("even=True", names[::2])):
        seen: list[str] = []
        params: Json = {"limit": 4, "labelSelector": selector}
        first = api.call("GET", api.path("configmaps"), **params)
        page = first
        while True:
            assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
            seen += [item["metadata"]["name"] for item in page["items"]]
            if not page["metadata"].get("continue"):
                break
            assert len(page["items"]) == 4
            params["continue"] = page["metadata"]["continue"]
            page = api.call("GET", api.path("configmaps"), **params)
        assert seen == expected


def test_pages_do_not_move(api: Rest) -> None:
    for name in "abcd":
        api.config_map(name)
    first = api.call("GET", api.path("configmaps"), limit=2)
    api.call("DELETE", api.path("configmaps", "c"))
    api.config_map("bb")
    rest: Json = {"limit": 2, "continue": first["metadata"]["continue"]}
    second = api.call("GET", api.path("configmaps"), **rest)
    assert [item["metadata"]["name"] for item in second["items"]] == ["c", "d"]


def test_tokens_that_lead_nowhere(api: Rest) -> None:
    for token in ("rubbish", "e30", "!!!"):
        params: Json = {"continue": token}
        with pytest.raises(Refused, match="continue key is not valid") as refused:
            api.call("GET", api.path("pods"), **params)
        assert refused.value.code == 400


def test_lists_at_a_version(api: Rest) -> None:
    before = api.config_map("a")["metadata"]["resourceVersion"]
    api.config_map("b")
    assert api.names("configmaps", resourceVersion=before, resourceVersionMatch="Exact") == ["a"]
    assert api.names("configmaps", resourceVersion=before, resourceVersionMatch="NotOlderThan") == ["a", "b"]
    assert api.names("configmaps", resourceVersion="0") == ["a", "b"]
    with pytest.raises(Refused, match="Too large resource version") as refused:
        api.call("GET", api.path("configmaps"), resourceVersion=10**9)
    assert refused.value.code == 504
    with pytest.raises(Refused) as refused:
        api.call("GET", api.path("configmaps"), resourceVersion="abc")
    assert refused.value.code == 400


def test_tables_and_metadata_only(api: Rest) -> None:
    api.pod("p")
    table = api.call(
        "GET", api.path("pods"), headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    )
    assert (table["kind"], table["rows"][0]["cells"][0]) == ("Table", "p")
    assert table["rows"][0]["object"]["metadata"]["name"] == "p"
    accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
    partial = api.call("GET", api.path("pods", "p"), headers={"Accept": accept})
    assert (partial["kind"], "spec" in partial) == ("PartialObjectMetadata", False)
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    assert api.call("GET", api.path("pods"), headers={"Accept": accept})["kind"] == "PartialObjectMetadataList"
    with pytest.raises(Refused) as refused:
        api.call("GET", api.path("pods"), headers={"Accept": "text/html"})
    assert refused.value.code == 406


def test_pretty(api: Rest) -> None:
    api.config_map("x")
    text = api.response("GET", api.path("configmaps", "x"), pretty="true").text
    assert '\n  "kind": "ConfigMap"' in text
    assert json.loads(text) == api.get("configmaps", "x")


def test_one_event_two_spellings(api: Rest) -> None:
    involved = {"kind": "Pod", "name": "p", "namespace": api.namespace}
    body = {
        "metadata": {"name": "e"},
        "involvedObject": involved,
        "reason": "Seen",
        "message": "hello",
        "type": "Normal",
    }
    api.create("events", body)
    new = api.get("events", "e", root="/apis/events.k8s.io/v1")
    assert (new["apiVersion"], new["note"], new["regarding"]) == ("events.k8s.io/v1", "hello", involved)
    assert api.names("events", fieldSelector="involvedObject.name=p,reason=Seen") == ["e"]
    listed = api.call("GET", api.path("events", root="/apis/events.k8s.io/v1"), fieldSelector="regarding.name=p")
    assert listed["items"] == [new]


# Changing


def test_update_wants_the_version_that_was_seen(api: Rest) -> None:
    first = api.config_map("x", {"a": "1"})
    second = api.call("PUT", api.path("configmaps", "x"), {**first, "data": {"a": "2"}})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    with pytest.raises(Refused) as refused:
        api.call("PUT", api.path("configmaps", "x"), {**first, "data": {"a": "3"}})
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    assert refused.value.message == (
        'Operation cannot be fulfilled on configmaps "x": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )


def test_update_without_a_version_wins(api: Rest) -> None:
    api.config_map("x", {"a": "1"})
    together(
        6, lambda n: api.call("PUT", api.path("configmaps", "x"), {"metadata": {"name": "x"}, "data": {"a": str(n)}})
    )
    assert api.get("configmaps", "x")["data"]["a"] in {str(n) for n in range(6)}


def test_counting_with_conflicts_loses_no_count(api: Rest) -> None:
    api.config_map("x", {"n": "0"})

    def add(_: int) -> None:
        while True:
            seen = api.get("configmaps", "x")
            try:
                api.call("PUT", api.path("configmaps", "x"), {**seen, "data": {"n": str(int(seen["data"]["n"]) + 1)}})
                return
            except Refused as refused:
                assert refused.code == 409  # noqa: PT017

    together(10, add)
    assert api.get("configmaps", "x")["data"]["n"] == "10"


def test_an_update_that_changes_nothing_is_not_written(api: Rest) -> None:
    seen = api.config_map("x", {"a": "1"})
    assert api.call("PUT", api.path("configmaps", "x"), seen) == seen
    assert api.patch(api.path("configmaps", "x"), {"data": {"a": "1"}}) == seen


def test_an_update_of_somebody_else(api: Rest) -> None:
    api.config_map("x")
    with pytest.raises(Refused, match="UID in precondition") as refused:
        api.call("PUT", api.path("configmaps", "x"), {"metadata": {"name": "x", "uid": "other"}})
    assert refused.value.code == 409
    with pytest.raises(Refused, match="does not match the name on the URL") as refused:
        api.call("PUT", api.path("configmaps", "x"), {"metadata": {"name": "y"}})
    assert refused.value.code == 400
    with pytest.raises(Refused) as refused:
        api.call("PUT", api.path("configmaps", "none"), {"metadata": {"name": "none"}})
    assert refused.value.code == 404


def test_unknown_fields_survive(api: Rest) -> None:
    api.create(
        "pods", {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}], "future": {"x": 1}}}
    )
    api.patch(api.path("pods", "p"), {"metadata": {"labels": {"a": "b"}}}, fieldValidation="Strict")
    assert api.get("pods", "p")["spec"]["future"] == {"x": 1}


def test_generation_counts_changes_of_the_spec(api: Rest) -> None:
    path = api.path("replicasets", "r", root=APPS)
    assert api.create("replicasets", replicaset("r"), root=APPS)["metadata"]["generation"] == 1
    assert api.patch(path, {"metadata": {"labels": {"a": "b"}}})["metadata"]["generation"] == 1
    assert api.patch(f"{path}/status", {"status": {"replicas": 1}})["metadata"]["generation"] == 1
    assert api.patch(path, {"spec": {"replicas": 3}})["metadata"]["generation"] == 2


def test_status_and_spec_are_apart(api: Rest) -> None:
    api.pod("p")
    path = api.path("pods", "p")
    changed = {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}
    through_status = api.patch(f"{path}/status", {"spec": {"nodeName": "n"}, "status": {"phase": "Running"}})
    assert (through_status["status"]["phase"], "nodeName" in through_status["spec"]) == ("Running", False)
    through_main = api.patch(path, {**changed, "spec": {}, "status": {"phase": "Failed"}})
    assert (through_main["status"]["phase"], through_main["metadata"]["labels"]) == ("Running", {"a": "b"})


def test_patches(api: Rest) -> None:
    api.create("services", service("s"))
    path = api.path("services", "s")
    strategic = api.patch(
        path, {"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 81, "name": "b"}]}}, media_type=STRATEGIC
    )
    assert [port["name"] for port in strategic["spec"]["ports"]] == ["http", "b"]
    merged = api.patch(path, {"spec": {"ports": [{"port": 80}]}, "metadata": {"labels": {"a": "b"}}})
    assert len(merged["spec"]["ports"]) == 1
    operations = [
        {"op": "test", "path": "/metadata/labels/a", "value": "b"},
        {"op": "remove", "path": "/metadata/labels/a"},
    ]
    assert not api.patch(path, operations, media_type=JSON_PATCH)["metadata"].get("labels")
    with pytest.raises(Refused) as refused:
        api.patch(path, operations, media_type=JSON_PATCH)
    assert refused.value.code == 422
    with pytest.raises(Refused) as refused:
        api.patch(path, {}, media_type="application/json")
    assert refused.value.code == 415
    with pytest.raises(Refused) as refused:
        api.patch(path, {"metadata": {"resourceVersion": "1"}})
    assert refused.value.code == 409
    for patch in ({"kind": "Pod"}, {"metadata": {"name": "other"}}):
        with pytest.raises(Refused) as refused:
            api.patch(path, patch)
        assert refused.value.code == 400
    bare = api.patch(path, [{"op": "remove", "path": "/metadata"}], media_type=JSON_PATCH)
    assert bare["metadata"]["uid"] == merged["metadata"]["uid"], "what is the server's stays"


def test_patches_at_the_same_time_all_land(api: Rest) -> None:
    api.config_map("x")
    together(10, lambda n: api.patch(api.path("configmaps", "x"), {"data": {f"k{n}": "v"}}))
    assert len(api.get("configmaps", "x")["data"]) == 10


def test_scale(api: Rest) -> None:
    api.create("replicasets", replicaset("r", 2), root=APPS)
    path = api.path("replicasets", "r/scale", root=APPS)
    scale = api.call("GET", path)
    assert (scale["kind"], scale["apiVersion"], scale["spec"]) == ("Scale", "autoscaling/v1", {"replicas": 2})
    assert scale["status"]["selector"] == "app=r"
    assert api.patch(path, {"spec": {"replicas": 5}})["spec"]["replicas"] == 5
    assert api.get("replicasets", "r", root=APPS)["spec"]["replicas"] == 5
    with pytest.raises(Refused) as refused:
        api.call("PUT", path, scale)
    assert refused.value.code == 409
    with pytest.raises(Refused) as refused:
        api.patch(path, {"spec": {"replicas": -1}})
    assert refused.value.code == 422


def test_binding(api: Rest) -> None:
    api.pod("p")
    path = api.path("pods", "p/binding")
    answer = api.call(
        "POST", path, {"target": {"kind": "Node", "name": "n1"}, "metadata": {"annotations": {"by": "me"}}}
    )
    assert answer["status"] == "Success"
    pod = api.get("pods", "p")
    assert (pod["spec"]["nodeName"], pod["metadata"]["annotations"]) == ("n1", {"by": "me"})
    assert [entry["status"] for entry in pod["status"]["conditions"] if entry["type"] == "PodScheduled"] == ["True"]
    with pytest.raises(Refused, match='pod p is already assigned to node "n1"') as refused:
        api.call("POST", path, {"target": {"name": "n2"}})
    assert refused.value.code == 409


def test_asking_what_one_may_do(api: Rest) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    spec = {"resourceAttributes": {"verb": "get"}}
    answer = api.call("POST", path, {"spec": spec})
    assert (answer["spec"], answer["status"]["allowed"]) == (spec, True)
    rules = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": "x"}})
    assert rules["status"]["resourceRules"] == [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]


def test_asking_who_one_is(api: Rest) -> None:
    answer = api.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert answer["kind"] == "SelfSubjectReview"
    assert answer["status"]["userInfo"]["groups"] == ["system:masters"]


# Server-side apply


def test_apply_creates_changes_and_takes_back(api: Rest) -> None:
    path = api.path("configmaps", "x")
    config: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "1", "b": "2"}}

    def apply(data: Json, manager: str = "me", **params: Any) -> httpx2.Response:
        body = {**config, "data": data}
        return api.response("PATCH", path, body, headers={"Content-Type": APPLY}, fieldManager=manager, **params)

    created = apply({"a": "1", "b": "2"})
    assert (created.status_code, created.json()["metadata"]["managedFields"][0]["manager"]) == (201, "me")
    assert apply({"a": "1", "b": "2"}).json() == created.json(), "the same again is no change"
    api.patch(path, {"data": {"c": "theirs"}})
    changed = apply({"a": "3"})
    assert (changed.status_code, changed.json()["data"]) == (200, {"a": "3", "c": "theirs"})

    conflict = apply({"a": "4"}, manager="you")
    assert conflict.status_code == 409
    assert conflict.json()["message"] == 'Apply failed with 1 conflict: conflict with "me": .data.a'
    assert conflict.json()["details"]["causes"][0]["reason"] == "FieldManagerConflict"
    assert apply({"a": "3"}, manager="you").status_code == 200, "the same value can be shared"
    assert apply({}).json()["data"]["a"] == "3", "and stays while one still wants it"
    assert apply({"a": "5"}, manager="me", force="true").json()["data"]["a"] == "5"

    with pytest.raises(Refused, match="fieldManager: Required value"):
        api.patch(path, config, media_type=APPLY)


def test_apply_knows_items_by_their_keys(api: Rest) -> None:
    path = api.path("services", "dns")

    def apply(*ports: Json) -> list[Json]:
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns"}, "spec": {"ports": list(ports)}}
        found: list[Json] = api.patch(path, body, media_type=APPLY, fieldManager="me")["spec"]["ports"]
        return found

    udp = {"name": "dns", "port": 53, "protocol": "UDP"}
    tcp = {"name": "dns-tcp", "port": 53, "protocol": "TCP"}
    assert [port["name"] for port in apply(udp, tcp)] == ["dns", "dns-tcp"]
    assert [port["name"] for port in apply(tcp)] == ["dns-tcp"]


# Deleting


def test_delete_answers_with_what_went(api: Rest) -> None:
    uid = api.config_map("x")["metadata"]["uid"]
    answer = api.call("DELETE", api.path("configmaps", "x"))
    assert (answer["status"], answer["details"]) == ("Success", {"name": "x", "kind": "configmaps", "uid": uid})
    with pytest.raises(Refused) as refused:
        api.call("DELETE", api.path("configmaps", "x"))
    assert refused.value.code == 404


def test_delete_with_preconditions(api: Rest) -> None:
    created = api.config_map("x")["metadata"]
    path = api.path("configmaps", "x")
    for conditions in ({"uid": "other"}, {"uid": created["uid"], "resourceVersion": "1"}):
        with pytest.raises(Refused, match="Precondition failed") as refused:
            api.call("DELETE", path, {"preconditions": conditions})
        assert refused.value.code == 409
    api.call("DELETE", path, {"preconditions": {"uid": created["uid"], "resourceVersion": created["resourceVersion"]}})


def test_an_unscheduled_pod_goes_at_once(api: Rest) -> None:
    api.pod("p")
    assert api.call("DELETE", api.path("pods", "p"))["kind"] == "Pod"
    assert api.names("pods") == []


def test_a_running_pod_gets_its_grace(api: Rest) -> None:
    api.pod("p", node="n")
    path = api.path("pods", "p")
    marked = api.call("DELETE", path)["metadata"]
    assert (marked["deletionGracePeriodSeconds"], "deletionTimestamp" in marked) == (30, True)
    assert marked["generation"] == 2
    assert api.call("DELETE", path)["metadata"] == marked, "again changes nothing"
    assert api.call("DELETE", path, {"gracePeriodSeconds": 60})["metadata"] == marked, "nor does more time"
    shorter = api.call("DELETE", path, {"gracePeriodSeconds": 5})["metadata"]
    assert shorter["deletionGracePeriodSeconds"] == 5
    assert shorter["deletionTimestamp"] < marked["deletionTimestamp"]
    updated = api.patch(f"{path}/status", {"status": {"phase": "Running"}, "metadata": {"deletionTimestamp": None}})
    assert updated["metadata"]["deletionTimestamp"] == shorter["deletionTimestamp"]
    api.call("DELETE", path, gracePeriodSeconds=0)
    assert api.names("pods") == []


def test_a_finished_pod_needs_no_grace(api: Rest) -> None:
    api.pod("p", node="n")
    api.patch(api.path("pods", "p/status"), {"status": {"phase": "Succeeded"}})
    api.call("DELETE", api.path("pods", "p"))
    assert api.names("pods") == []


def test_finalizers_hold_an_object_back(api: Rest) -> None:
    api.config_map("x", finalizers=["example.com/a", "example.com/b"])
    path = api.path("configmaps", "x")
    marked = api.call("DELETE", path)
    assert marked["metadata"]["deletionTimestamp"]
    api.patch(path, {"metadata": {"finalizers": ["example.com/b"]}})
    with pytest.raises(Refused, match="no new finalizers can be added"):
        api.patch(path, {"metadata": {"finalizers": ["example.com/b", "example.com/c"]}})
    assert api.names("configmaps") == ["x"]
    api.patch(path, {"metadata": {"finalizers": []}})
    assert api.names("configmaps") == []


def test_a_pod_with_grace_and_finalizers_needs_both(api: Rest) -> None:
    api.pod("p", node="n", finalizers=["example.com/a"])
    path = api.path("pods", "p")
    api.call("DELETE", path)
    api.call("DELETE", path, gracePeriodSeconds=0)
    assert api.get("pods", "p")["metadata"]["deletionGracePeriodSeconds"] == 0
    api.patch(path, {"metadata": {"finalizers": None}})
    assert api.names("pods") == []


@pytest.mark.parametrize(("policy", "finalizers"), [("Orphan", ["orphan"]), ("Foreground", ["foregroundDeletion"])])
def test_policies_are_finalizers_for_the_garbage_collector(api: Rest, policy: str, finalizers: list[str]) -> None:
    api.create("replicasets", replicaset("r"), root=APPS)
    path = api.path("replicasets", "r", root=APPS)
    marked = api.call("DELETE", path, {"propagationPolicy": policy})
    assert marked["metadata"]["finalizers"] == finalizers
    api.call("DELETE", path, {"propagationPolicy": "Background"})
    with pytest.raises(Refused) as refused:
        api.call("GET", path)
    assert refused.value.code == 404


def test_policies_that_do_not_exist(api: Rest) -> None:
    api.config_map("x")
    with pytest.raises(Refused, match='propagationPolicy: Unsupported value: "Sideways"') as refused:
        api.call("DELETE", api.path("configmaps", "x"), {"propagationPolicy": "Sideways"})
    assert refused.value.code == 422


def test_delete_collection(api: Rest) -> None:
    for n in range(6):
        api.config_map(f"c{n}", labels={"even": str(n % 2 == 0)})
    gone = api.call("DELETE", api.path("configmaps"), labelSelector="even=True")
    assert [item["metadata"]["name"] for item in gone["items"]] == ["c0", "c2", "c4"]
    assert api.names("configmaps") == ["c1", "c3", "c5"]


def test_eviction(api: Rest) -> None:
    api.pod("p", node="n")
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "p"},
        "deleteOptions": {"gracePeriodSeconds": 3},
    }
    assert api.call("POST", api.path("pods", "p/eviction"), body)["status"] == "Success"
    assert api.get("pods", "p")["metadata"]["deletionGracePeriodSeconds"] == 3


# Namespaces


def test_the_usual_namespaces_are_there_and_stay(api: Rest) -> None:
    names = [item["metadata"]["name"] for item in api.call("GET", "/api/v1/namespaces")["items"]]
    assert {"default", "kube-node-lease", "kube-public", "kube-system"} <= set(names)
    with pytest.raises(Refused, match="this namespace may not be deleted") as refused:
        api.call("DELETE", "/api/v1/namespaces/default")
    assert refused.value.code == 403


def test_a_namespace_goes_when_its_finalizer_does(api: Rest) -> None:
    path = f"/api/v1/namespaces/{api.namespace}"
    marked = api.call("DELETE", path)
    assert (marked["status"]["phase"], marked["spec"]["finalizers"]) == ("Terminating", ["kubernetes"])
    with pytest.raises(Refused) as refused:
        api.config_map("x")
    assert (refused.value.code, refused.value.reason) == (403, "Forbidden")
    assert refused.value.status["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    assert api.call("DELETE", path)["metadata"] == marked["metadata"]
    finalized = {**marked, "spec": {"finalizers": []}}
    api.call("PUT", f"{path}/finalize", finalized)
    with pytest.raises(Refused) as refused:
        api.call("GET", path)
    assert refused.value.code == 404


# Staying alive


def test_a_restart_and_a_kill_lose_nothing(server: ApiServer, api: Rest) -> None:
    node_port = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 31999}]}
    created = api.create("services", {**service("s"), "spec": node_port})
    for kill in (False, True):
        server.stop(kill=kill)
        server.start()
        assert api.get("services", "s") == created
        with pytest.raises(Refused, match="provided port is already allocated"):
            api.create("services", {**service("t"), "spec": node_port})
    api.call("DELETE", api.path("services", "s"))


def test_the_timeline_says_when_a_service_was_accepted(server: ApiServer, api: Rest) -> None:
    api.create("services", service("marked"))
    lines = [json.loads(line) for line in server.config.paths.timeline.read_text().splitlines()]
    assert ("request accepted", api.namespace, "marked") in [(m["step"], m["namespace"], m["name"]) for m in lines]
