"""Words, flags and files: what a command line means."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.kubectl import commands, register
from agent.cli.kubectl.command import Bare, after_dash, rewrite_flags, verb
from agent.cli.kubectl.discovery import (
    Catalog,
    Resource,
    dump_catalog,
    load_catalog,
    parse_aggregated,
    parse_resource_lists,
)
from agent.cli.kubectl.errors import ApiError, KubectlError, client_error, render_status
from agent.cli.kubectl.kubeconfig import find_kubeconfig
from agent.cli.kubectl.manifests import read_manifests
from agent.cli.kubectl.objects import age, go_value, human_duration, rfc1123
from agent.cli.kubectl.podpick import best_pod, pick_container, selector_text
from agent.cli.kubectl.targets import parse_words
from agent.cli.kubectl.verbs.label import patch_for, split_words
from agent.cli.kubectl.verbs.logs import log_params
from agent.cli.kubectl.waiting import parse_duration, parse_for
from agent.cli.kubectl.yamltext import YamlError, dump_document, load_documents

PODS = Resource("pods", "pod", "Pod", "", "v1", True, ("po",), ("all",), ("get", "list"))
SERVICES = Resource("services", "service", "Service", "", "v1", True, ("svc",), ("all",), ("get",))
NODES = Resource("nodes", "node", "Node", "", "v1", False, ("no",))
REPLICASETS = Resource("replicasets", "replicaset", "ReplicaSet", "apps", "v1", True, ("rs",), ("all",))
EVENTS = Resource("events", "event", "Event", "events.k8s.io", "v1", True, ("ev",))
CORE_EVENTS = Resource("events", "event", "Event", "", "v1", True, ("ev",))
CATALOG = Catalog((PODS, SERVICES, NODES, CORE_EVENTS, REPLICASETS, EVENTS))


# --- discovery ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "resource"),
    [
        ("pods", PODS),
        ("pod", PODS),
        ("po", PODS),
        ("Pod", PODS),
        ("rs", REPLICASETS),
        ("replicasets.apps", REPLICASETS),
        ("rs.v1.apps", REPLICASETS),
        ("replicaset.batch", None),
        ("events", CORE_EVENTS),
        ("events.events.k8s.io", EVENTS),
        ("events.v1.events.k8s.io", EVENTS),
        ("deployments", None),
    ],
)
def test_words_for_resources(word: str, resource: Resource | None) -> None:
    assert CATALOG.find(word) is resource


def test_categories_and_kinds() -> None:
    assert CATALOG.in_category("all") == (PODS, SERVICES, REPLICASETS)
    assert CATALOG.of_kind("apps/v1", "ReplicaSet") is REPLICASETS
    assert CATALOG.of_kind("v1", "ReplicaSet") is None


def test_paths() -> None:
    assert PODS.path("default") == "/api/v1/namespaces/default/pods"
    assert PODS.path(None) == "/api/v1/pods"
    assert REPLICASETS.path("d", "r", "scale") == "/apis/apps/v1/namespaces/d/replicasets/r/scale"
    assert NODES.path("ignored", "n1") == "/api/v1/nodes/n1"


def test_both_forms_of_discovery_say_the_same() -> None:
    aggregated = {
        "kind": "APIGroupDiscoveryList",
        "items": [
            {
                "metadata": {"name": "apps"},
                "versions": [
                    {
                        "version": "v1",
                        "resources": [
                            {
                                "resource": "replicasets",
                                "responseKind": {"group": "apps", "version": "v1", "kind": "ReplicaSet"},
                                "scope": "Namespaced",
                                "singularResource": "replicaset",
                                "shortNames": ["rs"],
                                "categories": ["all"],
                                "verbs": ["get"],
                            }
                        ],
                    }
                ],
            },
            {
                "versions": [
                    {
                        "version": "v1",
                        "resources": [
                            {
                                "resource": "nodes",
                                "responseKind": {"kind": "Node"},
                                "scope": "Cluster",
                                "verbs": ["get"],
                            }
                        ],
                    }
                ]
            },
        ],
    }
    lists = [
        {
            "groupVersion": "apps/v1",
            "resources": [
                {"name": "replicasets", "singularName": "replicaset", "namespaced": True, "kind": "ReplicaSet",
                 "shortNames": ["rs"], "categories": ["all"], "verbs": ["get"]},
                {"name": "replicasets/scale", "namespaced": True, "kind": "Scale", "verbs": ["get"]},
            ],
        },
        {"groupVersion": "v1", "resources": [{"name": "nodes", "namespaced": False, "kind": "Node", "verbs": ["get"]}]},
    ]  # fmt: skip
    catalog = parse_aggregated([aggregated])
    assert catalog == parse_resource_lists(lists)
    assert [resource.name for resource in catalog.resources] == ["nodes", "replicasets"]
    assert load_catalog(dump_catalog(catalog)) == catalog


# --- words -------------------------------------------------------------------------------------------------------


def lookup(word: str) -> tuple[Resource, ...]:
    found = CATALOG.in_category(word) or tuple(r for r in [CATALOG.find(word)] if r)
    if not found:
        raise client_error(f'the server doesn\'t have a resource type "{word}"')
    return found


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        (["po"], [(PODS, "")]),
        (["po", "a", "b"], [(PODS, "a"), (PODS, "b")]),
        (["po,svc"], [(PODS, ""), (SERVICES, "")]),
        (["po,svc", "a"], [(PODS, "a"), (SERVICES, "a")]),
        (["po/a", "svc/b"], [(PODS, "a"), (SERVICES, "b")]),
        (["all"], [(PODS, ""), (SERVICES, ""), (REPLICASETS, "")]),
        ([], []),
    ],
)
def test_types_and_names(words: list[str], pairs: list[tuple[Resource, str]]) -> None:
    assert parse_words(words, lookup) == pairs


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["po", "po/a"], "there is no need to specify a resource type"),
        (["po/"], "must have a single resource and name"),
        (["po/a/b"], "must have a single resource and name"),
        (["nonsense"], 'the server doesn\'t have a resource type "nonsense"'),
    ],
)
def test_bad_words(words: list[str], complaint: str) -> None:
    with pytest.raises(KubectlError, match=complaint):
        parse_words(words, lookup)


# --- flags -------------------------------------------------------------------------------------------------------

FLAGS = [
    click.Option(["-o", "--output"]),
    click.Option(["-w", "--watch"], is_flag=True),
    click.Option(["--wait/--no-wait"], default=True),
    Bare(["--dry-run"], bare="client"),
]


@pytest.mark.parametrize(
    ("args", "rewritten"),
    [
        (["-o=yaml"], ["-o", "yaml"]),
        (["-o=custom-columns=NAME:.a"], ["-o", "custom-columns=NAME:.a"]),
        (["-oyaml", "-o", "yaml", "--output=yaml"], ["-oyaml", "-o", "yaml", "--output=yaml"]),
        (["-w=true", "--watch=false"], ["-w"]),
        (["--wait=false"], ["--no-wait"]),
        (["--dry-run", "x"], ["--dry-run=client", "x"]),
        (["--dry-run=server"], ["--dry-run=server"]),
        (["a=b", "--unknown=1", "-"], ["a=b", "--unknown=1", "-"]),
    ],
)
def test_kubectls_spellings_of_flags(args: list[str], rewritten: list[str]) -> None:
    assert rewrite_flags(args, FLAGS) == rewritten


def test_a_switch_takes_only_true_and_false() -> None:
    with pytest.raises(click.BadParameter, match="expected true or false"):
        rewrite_flags(["--watch=maybe"], FLAGS)


@verb("show")
@click.argument("words", nargs=-1)
@click.option("-c")
def show(words: tuple[str, ...], c: str | None) -> None:
    context = click.get_current_context()
    click.echo(f"{words} {c} {context.meta.get('podwire.kubectl.namespace')} {after_dash()}")


def run(*args: str) -> str:
    group = click.Group("podwire")
    register(group)
    group.add_command(show)
    result = CliRunner().invoke(group, list(args), catch_exceptions=False)
    return result.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-n", "x", "show", "a"], "('a',) None x None\n"),
        (["show", "a", "-n=x", "-c=1"], "('a',) 1 x None\n"),
        (["-n", "x", "show", "a", "--namespace", "y"], "('a',) None y None\n"),
        (
            ["show", "a", "-c", "1", "--", "-c", "2", "--", "-n=z"],
            "('a', '-c', '2', '--', '-n=z') 1 None ['-c', '2', '--', '-n=z']\n",
        ),
    ],
)
def test_the_namespace_before_and_after_the_verb_and_what_follows_the_dash(args: list[str], said: str) -> None:
    assert run(*args) == said


def test_an_error_is_its_message_and_exit_code_1(tmp_path: Path) -> None:
    group = click.Group("podwire")
    register(group)
    result = CliRunner().invoke(group, ["--kubeconfig", str(tmp_path / "none"), "get", "pods"])
    assert result.exit_code == 1
    assert result.output.startswith("error: cannot use kubeconfig ")


def test_every_verb_has_help() -> None:
    group = click.Group("podwire")
    register(group)
    for command in commands:
        result = CliRunner().invoke(group, [str(command.name), "--help"])
        assert result.exit_code == 0
        assert "--namespace" in result.output
        assert command.get_short_help_str()


def test_which_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.kubectl.kubeconfig.NODE_KUBECONFIG", tmp_path / "node")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(KubectlError, match=r"podwire up|try sudo"):
        find_kubeconfig(None)
    home = tmp_path / ".kube" / "config"
    home.parent.mkdir()
    home.touch()
    assert find_kubeconfig(None) == home
    (tmp_path / "node").touch()
    assert find_kubeconfig(None) == tmp_path / "node"
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}:{home}")
    assert find_kubeconfig(None) == home
    assert find_kubeconfig("given") == Path("given")


# --- files -------------------------------------------------------------------------------------------------------

SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"


def test_documents_lists_folders_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.yml").write_text(f"---\n{SERVICE}---\n# nothing\n---\n{SERVICE}")
    (tmp_path / "a.json").write_text(
        '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Pod"}]}'
    )
    (tmp_path / "notes.txt").write_text("not a manifest")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c.yaml").write_text(SERVICE)
    found = read_manifests([str(tmp_path)])
    assert [(Path(each.source).name, each.obj["kind"]) for each in found] == [("a.json", "Pod"), ("b.yml", "Service"), ("b.yml", "Service")]  # fmt: skip
    assert len(read_manifests([str(tmp_path)], recursive=True)) == 4
    monkeypatch.setattr("sys.stdin", io.StringIO(SERVICE))
    assert [each.source for each in read_manifests(["-"])] == ["STDIN"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kind: Service\n", "Object 'apiVersion' is missing"),
        ("apiVersion: v1\n", "Object 'Kind' is missing"),
        ("- a\n", "expected an object, got list"),
        ("a: b: c\n", "line 1: mapping values are not allowed"),
        (
            f"{SERVICE}spec:\n  type: NodePort\n  ports: []\n  type: ClusterIP\n",
            'line 7: key "type" already set in map',
        ),
        ("a: *b\n", "undefined alias"),
    ],
)
def test_bad_manifests_name_the_file_and_the_line(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "m.yml"
    file.write_text(text)
    with pytest.raises(KubectlError) as caught:
        read_manifests([str(file)])
    assert complaint in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("https://example.com/x.yml", "fetches no manifests"),
        ("/nonexistent.yml", 'the path "/nonexistent.yml" does not exist'),
    ],
)
def test_places_that_cannot_be_read(name: str, complaint: str) -> None:
    with pytest.raises(KubectlError, match=complaint):
        read_manifests([name])


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(KubectlError, match="recognized file extensions"):
        read_manifests([str(tmp_path)])


def test_yaml_is_read_as_kubernetes_reads_it() -> None:
    assert load_documents("{d: 2024-01-01, t: 2024-01-01T00:00:00Z, 1: 0777, true: x, n: ~}") == [
        {"d": "2024-01-01", "t": "2024-01-01T00:00:00Z", "true": "x", "1": 511, "n": None}
    ]
    assert load_documents("on: yes") == [{"true": True}]
    assert load_documents("base: &b {x: 1}\nuse:\n  <<: *b\n  y: 2\n") == [{"base": {"x": 1}, "use": {"x": 1, "y": 2}}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain text", "plain text"),
        ("", '""'),
        ("true", '"true"'),
        ("yes", '"yes"'),
        ("null", '"null"'),
        ("1", '"1"'),
        ("1.5", '"1.5"'),
        ("1e3", '"1e3"'),
        ("y", '"y"'),
        ("2024-01-01T00:00:00Z", '"2024-01-01T00:00:00Z"'),
        ("10.0.0.1", "10.0.0.1"),
        ("*", "'*'"),
        ("a: b", "'a: b'"),
        ("two\nlines\n", "|\n  two\n  lines"),
        (1, "1"),
        (True, "true"),
        (None, "null"),
        ([], "[]"),
        ({}, "{}"),
    ],
)
def test_yaml_is_written_as_kubectl_writes_it(value: Any, text: str) -> None:
    assert dump_document({"k": value}) == f"k: {text}\n"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="aey01.:-_ ~*&#\n'\"[]{}|>%@`é", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="abn1.", min_size=1, max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(VALUES.filter(lambda value: value is not None))
def test_what_is_written_is_read_again(value: Any) -> None:
    assert load_documents(dump_document(value)) == [value]


def test_a_key_given_twice() -> None:
    with pytest.raises(YamlError, match='line 2: key "a" already set in map'):
        load_documents("a: 1\na: 2\n")


# --- messages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"reason": "NotFound", "message": 'pods "x" not found'}, 'Error from server (NotFound): pods "x" not found'),
        ({"message": "oops"}, "Error from server: oops"),
        (
            {
                "reason": "Invalid",
                "message": "m",
                "details": {
                    "kind": "Service",
                    "name": "s",
                    "causes": [{"field": "spec.ports", "message": "Required value"}],
                },
            },
            'The Service "s" is invalid: spec.ports: Required value',
        ),
        (
            {
                "reason": "Invalid",
                "details": {
                    "kind": "Service",
                    "name": "s",
                    "causes": [
                        {"field": "a", "message": "x"},
                        {"field": "b", "message": "y"},
                        {"field": "a", "message": "x"},
                    ],
                },
            },
            'The Service "s" is invalid: \n* a: x\n* b: y',
        ),
        ({"reason": "Invalid", "message": "m", "details": {"kind": "Pod", "name": "p"}}, 'The Pod "p" is invalid: m'),
        ({"reason": "Invalid", "message": "m"}, "The request is invalid: m"),
    ],
)
def test_a_status_in_kubectls_words(status: dict[str, Any], text: str) -> None:
    assert render_status(status) == text


def test_what_was_being_done() -> None:
    error = ApiError({"reason": "AlreadyExists", "message": 'services "s" already exists'})
    assert str(error.while_doing('error when creating "f.yml"')) == (
        'Error from server (AlreadyExists): error when creating "f.yml": services "s" already exists'
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (600, "10m"), (10799, "179m"),
        (10800, "3h"), (10860, "3h1m"), (28800, "8h"), (172799, "47h"), (172800, "2d"), (176400, "2d1h"), (691200, "8d"),
        (63072000, "2y"), (63158400, "2y1d"), (252288000, "8y"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_times() -> None:
    assert age(None) == "<unknown>"
    assert rfc1123(None) == "Mon, 01 Jan 0001 00:00:00 +0000"
    assert go_value({"b": [1, None], "a": True}) == "map[a:true b:[1 <nil>]]"


# --- waiting -----------------------------------------------------------------------------------------------------

READY = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}


@pytest.mark.parametrize(
    ("flag", "obj", "holds"),
    [
        ("condition=Ready", READY, True),
        ("condition=ready=true", READY, True),
        ("condition=Ready=False", READY, False),
        ("condition=Other", READY, False),
        ("condition=Ready", {}, False),
        ("delete", None, True),
        ("delete", READY, False),
        ("create", READY, True),
        ("create", None, False),
        ("jsonpath={.status.phase}=Running", READY, True),
        ("jsonpath='{.status.phase}'=Running", READY, True),
        ("jsonpath={.status.phase}=Pending", READY, False),
        ("jsonpath={.status.phase}", READY, True),
        ("jsonpath={.status.other}", READY, False),
        ("jsonpath=.status.phase=Running", READY, True),
        ('jsonpath={.status.conditions[?(@.type=="Ready")].status}=True', READY, True),
    ],
)
def test_wishes(flag: str, obj: dict[str, Any] | None, holds: bool) -> None:
    assert parse_for(flag).wish(obj) is holds


@pytest.mark.parametrize("flag", ["ready", "condition=", "jsonpath={", ""])
def test_wishes_that_are_none(flag: str) -> None:
    with pytest.raises(KubectlError):
        parse_for(flag)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("1h30m", 5400), ("500ms", 0.5), ("0", 0), ("-1s", -1), ("-1", -1)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5x", "s", "1m30"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(KubectlError, match="invalid duration"):
        parse_duration(text)


# --- labels, pods, logs ------------------------------------------------------------------------------------------


def test_words_of_label() -> None:
    objects, changes = split_words(["pods", "web", "a=b", "example.com/c=", "d-"])
    assert (objects, dict(changes.to_set), changes.to_remove) == (
        ["pods", "web"],
        {"a": "b", "example.com/c": ""},
        ("d",),
    )
    with pytest.raises(KubectlError, match="before the changes"):
        split_words(["pods", "a=b", "web"])
    with pytest.raises(KubectlError, match="both modify and remove"):
        split_words(["pods", "a=b", "a-"])


@pytest.mark.parametrize(
    ("words", "overwrite", "patch", "done", "remarks"),
    [
        (["new=1"], False, {"new": "1"}, "labeled", []),
        (["a=1"], False, {}, "not labeled", []),
        (["a=2"], True, {"a": "2"}, "labeled", []),
        (["a-"], False, {"a": None}, "unlabeled", []),
        (["gone-"], False, {}, "not labeled", ['label "gone" not found.']),
        (["new=1", "a-"], False, {"new": "1", "a": None}, "labeled", []),
    ],
)
def test_labelling(words: list[str], overwrite: bool, patch: dict[str, Any], done: str, remarks: list[str]) -> None:
    _, changes = split_words(["pods", "web", *words])
    assert patch_for({"a": "1"}, changes, overwrite=overwrite, what="label") == (patch, done, remarks)


def test_labels_are_not_overwritten_by_accident() -> None:
    _, changes = split_words(["pods", "a=2"])
    with pytest.raises(KubectlError, match=r"'a' already has a value \(1\), and --overwrite is false"):
        patch_for({"a": "1"}, changes, overwrite=False, what="label")


def pod(name: str, phase: str = "Running", *, ready: bool = True, leaving: bool = False) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "creationTimestamp": "2024-01-01T00:00:00Z", **({"deletionTimestamp": "x"} if leaving else {})},
        "spec": {"containers": [{"name": "db"}, {"name": "api"}], "initContainers": [{"name": "setup"}]},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pods", "chosen"),
    [
        ([pod("b"), pod("a")], "a"),
        ([pod("a", ready=False), pod("b")], "b"),
        ([pod("a", "Pending", ready=False), pod("b", ready=False)], "b"),
        ([pod("a", leaving=True), pod("b", "Pending", ready=False)], "b"),
    ],
)
def test_the_best_of_several_pods(pods: list[dict[str, Any]], chosen: str) -> None:
    assert best_pod(pods)["metadata"]["name"] == chosen


def test_the_container_that_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert pick_container(pod("p"), "api") == "api"
    assert capsys.readouterr().err == ""
    assert pick_container(pod("p"), None) == "db"
    assert capsys.readouterr().err == 'Defaulted container "db" out of: db, api, setup (init)\n'
    annotated = pod("p")
    annotated["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": "api"}
    assert pick_container(annotated, None) == "api"
    with pytest.raises(KubectlError, match="container x not found in pod p; it has db, api, setup"):
        pick_container(pod("p"), "x")


def test_selectors_as_queries() -> None:
    assert selector_text({"kind": "Service", "spec": {"selector": {"a": "b", "c": "d"}}}) == "a=b,c=d"
    assert selector_text({"kind": "ReplicaSet", "spec": {"selector": {"matchLabels": {"a": "b"}}}}) == "a=b"


NO_FLAGS = {
    "follow": False,
    "previous": False,
    "timestamps": False,
    "tail": None,
    "since": None,
    "since_time": None,
    "limit_bytes": 0,
}


@pytest.mark.parametrize(
    ("flags", "selected", "params"),
    [
        ({}, False, {}),
        ({}, True, {"tailLines": 10}),
        ({"tail": -1}, True, {}),
        ({"tail": 0, "follow": True, "since": "2m", "limit_bytes": 9}, False, {"tailLines": 0, "follow": "true", "sinceSeconds": 120, "limitBytes": 9}),
        ({"previous": True, "timestamps": True, "since_time": "2024-01-01T00:00:00Z"}, False, {"previous": "true", "timestamps": "true", "sinceTime": "2024-01-01T00:00:00Z"}),
    ],
)  # fmt: skip
def test_the_query_of_a_log(flags: dict[str, Any], selected: bool, params: dict[str, Any]) -> None:
    assert log_params({**NO_FLAGS, **flags}, selected=selected) == params
