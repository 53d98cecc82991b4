"""What the API is told about a pod."""

from dataclasses import replace
from typing import Any

import pytest

from agent.kubelet.backoff import Backoff
from agent.kubelet.pod import Failure, Observed, ProbeState, Shutdown
from agent.kubelet.spec import Condition, Pod
from agent.kubelet.status import resolve_phase, resolve_qos, resolve_status
from tests.unit.kubelet.kubelet_objects import NOW, READINESS, STARTUP, container, deleted, make_pod, seen

AT = "2023-11-14T22:13:20Z"
BEFORE = "2023-11-14T22:12:20Z"
SIDECAR = {"name": "side", "restartPolicy": "Always"}


def status(pod: Pod, observed: Observed, *known: Condition) -> dict[str, Any]:
    return resolve_status(pod, observed, host_ip="192.0.2.1", start=BEFORE, known=known)


def conditions(pod: Pod, observed: Observed, *known: Condition) -> dict[str, dict[str, Any]]:
    return {c["type"]: c for c in status(pod, observed, *known)["conditions"]}


def states(pod: Pod, observed: Observed, name: str = "c") -> tuple[dict[str, Any], dict[str, Any]]:
    told = status(pod, observed)
    every = told["containerStatuses"] + told.get("initContainerStatuses", [])
    mine = next(c for c in every if c["name"] == name)
    return mine["state"], mine["lastState"]


def test_a_running_pod() -> None:
    told = status(
        make_pod({"image": "mongo:3.3"}), seen(container(attempt=2), images={"c": "podwire://host#mongo:3.3"})
    )
    assert told == {
        "phase": "Running",
        "hostIP": "192.0.2.1",
        "hostIPs": [{"ip": "192.0.2.1"}],
        "podIP": "10.244.0.7",
        "podIPs": [{"ip": "10.244.0.7"}],
        "qosClass": "BestEffort",
        "startTime": BEFORE,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": AT}
            for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "containerStatuses": [
            {
                "name": "c",
                "image": "mongo:3.3",
                "imageID": "podwire://host#mongo:3.3",
                "containerID": "runc://c-2",
                "restartCount": 2,
                "ready": True,
                "started": True,
                "state": {"running": {"startedAt": BEFORE}},
                "lastState": {},
            }
        ],
    }


@pytest.mark.parametrize(
    ("pod", "observed", "phase"),
    [
        (make_pod(), seen(address=None), "Pending"),
        (make_pod("a", "b"), seen(container("a")), "Pending"),
        (make_pod("a", "b"), seen(container("a", exit_code=1)), "Running"),
        (make_pod(init=("i",)), seen(container("i")), "Pending"),
        (make_pod(), seen(container(exit_code=1)), "Running"),
        (make_pod(restartPolicy="OnFailure"), seen(container(exit_code=1)), "Running"),
        (make_pod(restartPolicy="OnFailure"), seen(container(exit_code=0)), "Succeeded"),
        (make_pod(restartPolicy="Never"), seen(container(exit_code=0)), "Succeeded"),
        (make_pod(restartPolicy="Never"), seen(container(exit_code=3)), "Failed"),
        (make_pod("a", "b", restartPolicy="Never"), seen(container("a", exit_code=3), container("b")), "Running"),
        (make_pod(init=("i",), restartPolicy="Never"), seen(container("i", exit_code=1)), "Failed"),
        (make_pod(init=(SIDECAR,), restartPolicy="Never"), seen(container("side"), container(exit_code=0)), "Running"),
        (make_pod(status={"phase": "Failed"}), seen(address=None), "Failed"),
        (make_pod(status={"phase": "Succeeded"}), seen(container()), "Succeeded"),
        (make_pod(meta=deleted()), seen(container()), "Running"),
        (make_pod(meta=deleted()), seen(container(exit_code=0)), "Succeeded"),
        (make_pod(meta=deleted()), seen(container(exit_code=137)), "Failed"),
        (make_pod(meta=deleted()), seen(address=None), "Failed"),
    ],
)
def test_phases(pod: Pod, observed: Observed, phase: str) -> None:
    assert resolve_phase(pod, observed) == phase
    assert status(pod, observed)["phase"] == phase


# States of containers


def test_waiting_for_the_first_start() -> None:
    assert states(make_pod(), seen(address=None)) == ({"waiting": {"reason": "ContainerCreating"}}, {})
    assert states(make_pod(init=("i",)), seen(container("i"))) == ({"waiting": {"reason": "PodInitializing"}}, {})
    failures = {"c": Failure("ErrImageNeverPull", "there is none", NOW)}
    expected = {"waiting": {"reason": "ErrImageNeverPull", "message": "there is none"}}
    assert states(make_pod(), seen(failures=failures)) == (expected, {})


def test_crash_loop() -> None:
    dead = container(attempt=1, exit_code=1, died=NOW - 1)
    pod = make_pod()
    state, last = states(pod, seen(dead, backoffs={"c": Backoff(80.0, NOW - 2)}))
    assert state == {
        "waiting": {
            "reason": "CrashLoopBackOff",
            "message": "back-off 1m20s restarting failed container=c pod=p_shop(u-1)",
        }
    }
    assert last["terminated"]["exitCode"] == 1
    state, _ = states(pod, seen(dead, backoffs={"c": Backoff(10.0, NOW - 2)}))
    assert state["waiting"]["message"].startswith("back-off 10s restarting")


def test_about_to_be_started_again_is_still_terminated() -> None:
    state, last = states(make_pod(), seen(container(exit_code=1)))
    assert state["terminated"]["reason"] == "Error"
    assert last == {}


def test_a_restart_that_fails_shows_why_and_how_it_died() -> None:
    failures = {"c": Failure("CreateContainerConfigError", 'configmap "m" not found', NOW)}
    state, last = states(make_pod(), seen(container(exit_code=1), failures=failures))
    assert state["waiting"]["reason"] == "CreateContainerConfigError"
    assert "terminated" in last


@pytest.mark.parametrize(
    ("record", "terminated"),
    [
        (
            container(exit_code=0),
            {"exitCode": 0, "reason": "Completed", "startedAt": BEFORE, "finishedAt": AT, "containerID": "runc://c-0"},
        ),
        (
            container(exit_code=137, reason="OOMKilled", message="last words"),
            {
                "exitCode": 137,
                "reason": "OOMKilled",
                "message": "last words",
                "startedAt": BEFORE,
                "finishedAt": AT,
                "containerID": "runc://c-0",
            },
        ),
        (
            container(exit_code=1, reason="", finished_at=None),
            {"exitCode": 1, "reason": "Error", "startedAt": BEFORE, "finishedAt": BEFORE, "containerID": "runc://c-0"},
        ),
    ],
)
def test_terminated(record: Any, terminated: dict[str, Any]) -> None:
    assert states(make_pod(restartPolicy="Never"), seen(record)) == ({"terminated": terminated}, {})


def test_an_unknown_exit_code_is_255() -> None:
    lost = container(exit_code=0, reason="")
    state, _ = states(make_pod(restartPolicy="Never"), seen(replace(lost, exit_code=None)))
    assert state["terminated"]["exitCode"] == 255
    assert state["terminated"]["reason"] == "Error"


def test_the_death_before_is_the_last_state() -> None:
    state, last = states(make_pod(), seen(container(exit_code=9), container(attempt=1)))
    assert "running" in state
    assert last["terminated"]["exitCode"] == 9


def test_a_container_that_never_was_when_its_pod_ended() -> None:
    state, _ = states(make_pod(meta=deleted()), seen(address=None))
    assert state["terminated"]["reason"] == "ContainerStatusUnknown"
    assert state["terminated"]["exitCode"] == 137


def test_an_init_container_is_ready_when_it_is_done() -> None:
    told = status(make_pod(init=("i",)), seen(container("i", exit_code=0), container()))
    assert told["initContainerStatuses"][0]["ready"]
    assert not told["initContainerStatuses"][0]["started"]


@pytest.mark.parametrize("address", [None, "10.244.0.7"])
def test_an_init_container_that_runs_again_has_not_yet_done_its_work(address: str | None) -> None:
    """As in the beginning, but for what is remembered of the life before."""
    pod, old = make_pod("c", init=("i", "j")), [container(name, exit_code=0) for name in ("i", "j", "c")]
    told = status(pod, seen(*old, address=address, sandbox="new"))
    every = (*told["initContainerStatuses"], *told["containerStatuses"])
    assert [c["state"] for c in every] == [{"waiting": {"reason": "PodInitializing"}}] * 3
    assert all(c["lastState"]["terminated"]["exitCode"] == 0 and not c["ready"] for c in every)
    assert told["phase"] == "Pending"
    initialized = next(c for c in told["conditions"] if c["type"] == "Initialized")
    assert (initialized["status"], initialized["message"]) == ("False", "containers with incomplete status: [i j]")


def test_it_is_initialized_again_when_all_have_run_again() -> None:
    pod, old = make_pod("c", init=("i",)), [container("i", exit_code=0), container(exit_code=137)]
    half = seen(*old, container("i", 1, sandbox="new"), sandbox="new")
    assert conditions(pod, half)["Initialized"]["status"] == "False"
    done = seen(*old, container("i", 1, exit_code=0, sandbox="new"), sandbox="new")
    assert conditions(pod, done)["Initialized"]["status"] == "True"
    assert resolve_phase(pod, done) == "Pending"
    assert (
        resolve_phase(pod, replace(done, containers=(*done.containers, container("c", 1, sandbox="new")))) == "Running"
    )


def test_a_pod_that_still_runs_without_its_sandbox_is_initialized() -> None:
    pod = make_pod("c", init=("i",))
    observed = seen(container("i", exit_code=0), container(), address=None)
    assert conditions(pod, observed)["Initialized"]["status"] == "True"
    assert resolve_phase(pod, observed) == "Running"


def test_a_pod_that_is_over_stays_initialized_without_its_sandbox() -> None:
    pod = make_pod("c", init=("i", SIDECAR), restartPolicy="Never")
    observed = seen(container("i", exit_code=0), container("side", exit_code=0), container(exit_code=3), address=None)
    told = status(pod, observed)
    assert told["phase"] == "Failed"
    assert [c["ready"] for c in told["initContainerStatuses"]] == [True, False]
    assert conditions(pod, observed)["Initialized"]["status"] == "True"


def test_with_never_what_has_not_begun_when_the_sandbox_was_lost_is_told_so() -> None:
    observed = seen(container("i", exit_code=0), sandbox="new")
    told = status(make_pod("c", init=("i",), restartPolicy="Never"), observed)
    assert told["phase"] == "Failed"
    assert told["containerStatuses"][0]["state"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert told["initContainerStatuses"][0]["ready"]


# Conditions


@pytest.mark.parametrize(
    ("pod", "observed", "expected"),
    [
        (make_pod(), seen(address=None), {"PodReadyToStartContainers": ("False", None, None)}),
        (make_pod(), seen(), {"PodReadyToStartContainers": ("True", None, None), "Initialized": ("True", None, None)}),
        (
            make_pod("a", "b", init=("i", "j")),
            seen(container("i", exit_code=0)),
            {
                "Initialized": ("False", "ContainersNotInitialized", "containers with incomplete status: [j]"),
                "Ready": ("False", "ContainersNotReady", "containers with unready status: [a b]"),
                "ContainersReady": ("False", "ContainersNotReady", "containers with unready status: [a b]"),
            },
        ),
        (
            make_pod(READINESS),
            seen(container()),
            {"Ready": ("False", "ContainersNotReady", "containers with unready status: [c]")},
        ),
        (make_pod(READINESS), seen(container(), probes={"c-0": ProbeState()}), {"Ready": ("True", None, None)}),
        (make_pod({**STARTUP, **READINESS}), seen(container()), {"Ready": ("False", "ContainersNotReady", "containers with unready status: [c]")}),
        (
            make_pod(init=({**SIDECAR, **READINESS},)),
            seen(container("side"), container()),
            {
                "Initialized": ("True", None, None),
                "Ready": ("False", "ContainersNotReady", "containers with unready status: [side]"),
            },
        ),
        (
            make_pod(init=({**SIDECAR, **STARTUP},)),
            seen(container("side")),
            {"Initialized": ("False", "ContainersNotInitialized", "containers with incomplete status: [side]")},
        ),
        (
            make_pod(restartPolicy="Never", init=("i",)),
            seen(container("i", exit_code=0), container(exit_code=0)),
            {
                "Initialized": ("True", "PodCompleted", None),
                "Ready": ("False", "PodCompleted", None),
                "ContainersReady": ("False", "PodCompleted", None),
            },
        ),
        (
            make_pod(restartPolicy="Never"),
            seen(container(exit_code=2)),
            {"Initialized": ("True", None, None), "Ready": ("False", "PodFailed", None)},
        ),
        (
            make_pod(readinessGates=[{"conditionType": "x/y"}]),
            seen(container()),
            {
                "ContainersReady": ("True", None, None),
                "Ready": (
                    "False",
                    "ReadinessGatesNotReady",
                    'corresponding condition of pod readiness gate "x/y" does not exist.',
                ),
            },
        ),
        (
            make_pod(readinessGates=[{"conditionType": "x"}], status={"conditions": [{"type": "x", "status": "False"}]}),
            seen(container()),
            {"Ready": ("False", "ReadinessGatesNotReady", 'the status of pod readiness gate "x" is not "True", but False')},
        ),
        (
            make_pod(readinessGates=[{"conditionType": "x"}], status={"conditions": [{"type": "x", "status": "True"}]}),
            seen(container()),
            {"Ready": ("True", None, None)},
        ),
    ],
)  # fmt: skip
def test_conditions(pod: Pod, observed: Observed, expected: dict[str, tuple[Any, Any, Any]]) -> None:
    told = conditions(pod, observed)
    assert {k: (told[k]["status"], told[k].get("reason"), told[k].get("message")) for k in expected} == expected


def test_a_transition_time_stays_while_the_status_does() -> None:
    known = Condition(type="Ready", status="True", last_transition_time="2020-01-01T00:00:00Z")
    assert conditions(make_pod(), seen(container()), known)["Ready"]["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    assert conditions(make_pod(READINESS), seen(container()), known)["Ready"]["lastTransitionTime"] == AT


def test_an_old_reason_is_taken_away() -> None:
    known = Condition(type="Ready", status="False", reason="ContainersNotReady", message="x", last_transition_time=AT)
    told = conditions(make_pod(), seen(container()), known)["Ready"]
    assert told == {"type": "Ready", "status": "True", "lastTransitionTime": AT, "reason": None, "message": None}


# The rest


def test_addresses_and_start_time_outlive_the_sandbox() -> None:
    pod = make_pod(status={"podIP": "10.244.0.9", "startTime": "2020-01-01T00:00:00Z", "phase": "Succeeded"})
    told = status(pod, seen(address=None))
    assert (told["podIP"], told["startTime"]) == ("10.244.0.9", "2020-01-01T00:00:00Z")
    assert "podIP" not in status(make_pod(), seen(address=None))


def test_the_deadline_is_the_reason_and_stays_it() -> None:
    pod = make_pod(activeDeadlineSeconds=10, status={"startTime": BEFORE})
    told = status(pod, seen(container(exit_code=137)))
    assert (told["phase"], told["reason"]) == ("Failed", "DeadlineExceeded")
    later = make_pod(status={"phase": "Failed", "reason": "DeadlineExceeded", "message": "m"})
    assert status(later, seen(address=None))["message"] == "m"


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ([{}, {}], "BestEffort"),
        ([{"requests": {"cpu": "0"}}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
        ([{"limits": {"nvidia.com/gpu": "1"}}], "BestEffort"),
    ],
)
def test_qos(resources: list[dict[str, Any]], qos: str) -> None:
    pod = make_pod(*({"name": f"c{i}", "resources": r} for i, r in enumerate(resources)))
    assert resolve_qos(pod) == qos


# The machine's shutdown


def test_services_forget_a_pod_as_soon_as_the_machine_shuts_down() -> None:
    """Its containers are as ready as they were."""
    told = conditions(make_pod(), seen(container(), shutdown=Shutdown(NOW, NOW + 30)))
    assert told["ContainersReady"]["status"] == "True"
    assert (told["Ready"]["status"], told["Ready"]["reason"]) == ("False", "NodeShutdown")


@pytest.mark.parametrize(("policy", "phase"), [("Always", "Running"), ("OnFailure", "Running"), ("Never", "Failed")])
def test_a_pod_that_a_shutdown_interrupted_has_not_succeeded(policy: str, phase: str) -> None:
    observed = seen(container(exit_code=0, interrupted=True), shutdown=Shutdown(NOW, NOW + 30))
    told = status(make_pod(restartPolicy=policy), observed)
    assert told["phase"] == phase
    assert told.get("reason") == ("Terminated" if phase == "Failed" else None)
    assert told["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


def test_a_pod_that_lost_its_sandbox_is_not_said_to_have_been_shut_down() -> None:
    told = status(make_pod(restartPolicy="Never"), seen(container(exit_code=0, interrupted=True), address=None))
    assert (told["phase"], told["reason"]) == ("Failed", "Terminated")
    assert (
        told["message"] == "Pod was stopped before it was done: the machine shut down, or the pod's sandbox was lost."
    )


def test_a_pod_that_failed_otherwise_is_not_said_to_have_been_stopped() -> None:
    """One that is deleted while its container, which a probe condemned, is to be restarted; and one whose work had
    ended before its sidecar was interrupted.
    """
    gone = status(make_pod(meta=deleted()), seen(container(exit_code=143, interrupted=True)))
    side = container("side", exit_code=0, interrupted=True)
    pod = make_pod(init=({"name": "side", "restartPolicy": "Always"},), restartPolicy="Never")
    failed = status(pod, seen(container(exit_code=1), side))
    assert [(told["phase"], told.get("reason")) for told in (gone, failed)] == [("Failed", None)] * 2


def test_an_interrupted_init_container_is_not_ready() -> None:
    told = status(make_pod("c", init=("i",)), seen(container("i", exit_code=0, interrupted=True)))
    assert not told["initContainerStatuses"][0]["ready"]
