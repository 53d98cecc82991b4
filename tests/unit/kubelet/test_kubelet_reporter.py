"""The patch that tells the API a status, and the objects that are read from it."""

import asyncio
from typing import cast

import pytest

from agent.kube.client import Client
from agent.kubelet.objects import parse_config_map, parse_secret
from agent.kubelet.reporter import Reporter, conditions_of, resolve_patch
from agent.kubelet.server import Refused, choose_protocol, exit_status, parse_exec_options, parse_log_options
from agent.kubelet.spec import Condition
from agent.kubelet.status import resolve_status
from tests.unit.kubelet.kubelet_objects import READINESS, container, make_pod, seen


def test_a_patch_is_for_this_very_pod() -> None:
    patch = resolve_patch(make_pod(), {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]})
    assert patch["metadata"] == {"uid": "u-1"}
    assert patch["status"]["podIPs"] == [{"ip": "10.0.0.1"}]


def test_an_old_address_is_taken_out() -> None:
    pod = make_pod(status={"podIP": "10.0.0.1", "hostIP": "192.0.2.1"})
    status = {
        "podIP": "10.0.0.2",
        "podIPs": [{"ip": "10.0.0.2"}],
        "hostIP": "192.0.2.1",
        "hostIPs": [{"ip": "192.0.2.1"}],
    }
    patch = resolve_patch(pod, status)["status"]
    assert patch["podIPs"] == [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}]
    assert patch["hostIPs"] == [{"ip": "192.0.2.1"}]
    assert status["podIPs"] == [{"ip": "10.0.0.2"}]


def test_reporting_the_same_again_changes_nothing() -> None:
    """Conditions go out and come back as what is known; a second status is equal but for a removed reason's null."""
    pod, observed = make_pod(READINESS), seen(container())
    first = resolve_status(pod, observed, host_ip="h", start="s", known=())
    second = resolve_status(pod, observed, host_ip="h", start="s", known=conditions_of(first))
    assert first == second
    assert conditions_of(first)[2] == Condition(
        type="Ready",
        status="False",
        reason="ContainersNotReady",
        message="containers with unready status: [c]",
        last_transition_time="2023-11-14T22:13:20Z",
    )


def test_config_maps_and_secrets() -> None:
    assert parse_config_map(b'{"data":{"a":"1"},"binaryData":{"b":"/w=="}}') == {"a": b"1", "b": b"\xff"}
    assert parse_config_map(b'{"data":null}') == {}
    assert parse_secret(b'{"data":{"k":"cHc="}}') == {"k": b"pw"}
    with pytest.raises(ValueError, match="base64"):
        parse_secret(b'{"data":{"k":"?"}}')


def test_how_an_exec_ends() -> None:
    assert exit_status(0) == {"metadata": {}, "status": "Success"}
    assert exit_status(137)["details"]["causes"] == [{"reason": "ExitCode", "message": "137"}]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["v4.channel.k8s.io", "v5.channel.k8s.io"], "v5.channel.k8s.io"),
        (["v4.channel.k8s.io"], "v4.channel.k8s.io"),
        (["other"], None),
        ([], None),
    ],
)
def test_protocols(offered: list[str], chosen: str | None) -> None:
    assert choose_protocol(offered) == chosen


def test_queries() -> None:
    options = parse_log_options(
        {"follow": "true", "timestamps": "1", "tailLines": "5", "sinceTime": "1970-01-01T00:00:09Z"}
    )
    assert (options.follow, options.timestamps, options.tail, options.since) == (True, True, 5, 9.0)
    assert parse_log_options({}).since is None
    given = parse_exec_options([("command", "a"), ("command", "b"), ("stdin", "true"), ("tty", "1")])
    assert (given.command, given.stdin, given.tty) == (("a", "b"), True, True)
    for query in ({"tailLines": "x"}, {"limitBytes": "-1"}, {"sinceTime": "x"}):
        with pytest.raises(Refused):
            parse_log_options(query)
    with pytest.raises(Refused):
        parse_exec_options([("tty", "1")])


async def test_who_waits_can_be_cancelled_even_as_the_wait_ends() -> None:
    """``asyncio.wait_for`` of Python 3.11 would return instead, and a worker that should end would go on for ever."""
    reporter = Reporter(cast(Client, None), make_pod())
    reporter.want({"phase": "Running"})
    waiting = asyncio.create_task(reporter.flush(60))
    await asyncio.sleep(0)
    reporter._settled.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
