"""What a pod needs next: every rule of ``agent.kubelet.pod`` as a line of a table, and its invariants as properties."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet.backoff import FIRST, Backoff
from agent.kubelet.containers import Container
from agent.kubelet.pod import (
    Action,
    Decision,
    EnsureSandbox,
    Failure,
    LeavePod,
    NoteInterruption,
    Observed,
    ProbeState,
    RemoveContainer,
    RemovePod,
    RemoveSandbox,
    ReportBackoff,
    Shutdown,
    StartContainer,
    StopContainer,
    newest,
    previous,
    probe_state,
    resolve_actions,
    running,
)
from agent.kubelet.spec import Pod
from tests.unit.kubelet.kubelet_objects import (
    LIVENESS,
    NOW,
    READINESS,
    STARTUP,
    container,
    deleted,
    make_pod,
    seen,
)

SIDECAR = {"name": "side", "restartPolicy": "Always"}
SHUTDOWN = Shutdown(NOW, NOW + 30)


def start(name: str = "c", attempt: int = 0, backoff: Backoff | None = None) -> StartContainer:
    return StartContainer(name, attempt, backoff)


def again(name: str = "c", attempt: int = 1) -> StartContainer:
    """The first restart: at once, and the next would wait."""
    return start(name, attempt, Backoff(FIRST, NOW))


def stop(name: str = "c", attempt: int = 0, grace: float = 30.0, message: str = "") -> StopContainer:
    return StopContainer(f"{name}-{attempt}", name, grace, message or f"Stopping container {name}")


def interrupt(name: str = "c", grace: float = 30.0, message: str = "") -> StopContainer:
    return replace(stop(name, grace=grace, message=message), interrupts=True)


def actions(pod: Pod, observed: Observed) -> tuple[Action, ...]:
    return resolve_actions(pod, observed).actions


# Beginning


def test_first_the_sandbox_then_all_containers_at_once() -> None:
    pod = make_pod("a", "b")
    assert actions(pod, seen(address=None)) == (EnsureSandbox(),)
    assert actions(pod, seen()) == (start("a"), start("b"))
    assert actions(pod, seen(container("a"))) == (start("b"),)
    assert resolve_actions(pod, seen(container("a"), container("b"))) == Decision()


def test_a_sandbox_that_failed_is_tried_again_later() -> None:
    failed = Failure("FailedMount", "x", NOW + 7)
    assert resolve_actions(make_pod(), seen(address=None, setup=failed)) == Decision(wake=NOW + 7)
    assert actions(make_pod(), seen(address=None, setup=replace(failed, retry_at=NOW))) == (EnsureSandbox(),)


def test_containers_that_outlived_their_sandbox_are_stopped_first() -> None:
    assert actions(make_pod(), seen(container(), address=None)) == (interrupt(),)
    assert actions(make_pod(), seen(container(exit_code=137), address=None)) == (EnsureSandbox(),)


def test_a_container_that_could_not_be_made_is_tried_again_later_and_holds_back_nobody() -> None:
    failures = {"a": Failure("ErrImageNeverPull", "x", NOW + 3)}
    assert resolve_actions(make_pod("a", "b"), seen(failures=failures)) == Decision((start("b"),), wake=NOW + 3)
    assert actions(make_pod("a", "b"), seen(failures=failures, now=NOW + 3)) == (start("a"), start("b"))


# Restarts


@pytest.mark.parametrize(
    ("policy", "code", "restarted"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_restart_policies(policy: str, code: int, restarted: bool) -> None:
    pod = make_pod("a", "b", restartPolicy=policy)
    expected = (again("a"),) if restarted else ()
    assert actions(pod, seen(container("a", exit_code=code), container("b"))) == expected


def test_a_condemned_container_is_a_failed_one_whatever_its_exit_code() -> None:
    pod = make_pod({"name": "a", **LIVENESS}, "b", restartPolicy="OnFailure")
    dead = container("a", exit_code=0)
    assert actions(pod, seen(dead, container("b"))) == ()
    condemned = seen(dead, container("b"), probes={"a-0": ProbeState(failed="liveness")})
    assert actions(pod, condemned) == (again("a"),)


def test_back_off_after_the_second_death() -> None:
    dead = container(attempt=1, exit_code=1, died=NOW - 4)
    observed = seen(dead, backoffs={"c": Backoff(10.0, NOW - 5)})
    assert resolve_actions(make_pod(), observed) == Decision((ReportBackoff("c-1", "c"),), wake=NOW + 6)
    later = replace(observed, now=NOW + 6)
    assert actions(make_pod(), later) == (start(attempt=2, backoff=Backoff(20.0, NOW + 6)),)


def test_only_the_latest_two_attempts_are_kept() -> None:
    attempts = [container(attempt=i, exit_code=1) for i in range(3)]
    assert actions(make_pod(), seen(*attempts, container(attempt=3))) == (
        RemoveContainer("c-0"),
        RemoveContainer("c-1"),
    )
    assert newest(seen(*attempts), "c") == attempts[2]
    assert previous(seen(*attempts), "c") == attempts[1]
    assert previous(seen(attempts[0]), "c") is None


# Probes


@pytest.mark.parametrize(
    ("container_spec", "failed", "policy", "message", "grace"),
    [
        (LIVENESS, "liveness", "Always", "Container c failed liveness probe, will be restarted", 30.0),
        (STARTUP, "startup", "OnFailure", "Container c failed startup probe, will be restarted", 30.0),
        (LIVENESS, "liveness", "Never", "Container c failed liveness probe", 30.0),
        (
            {"livenessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 2}},
            "liveness",
            "Always",
            "Container c failed liveness probe, will be restarted",
            2.0,
        ),
    ],
)
def test_a_failed_probe_stops_the_container(
    container_spec: dict[str, Any], failed: str, policy: str, message: str, grace: float
) -> None:
    pod = make_pod(container_spec, restartPolicy=policy)
    observed = seen(container(), probes={"c-0": ProbeState(failed=failed)})
    expected = stop if policy == "Never" else interrupt
    assert actions(pod, observed) == (expected(grace=grace, message=message),)
    noted = frozenset(() if policy == "Never" else ("c-0",))
    assert actions(pod, replace(observed, stopping={"c-0": NOW + grace}, interrupted=noted)) == ()


def test_a_condemned_container_is_started_again_also_by_a_kubelet_that_knows_nothing_of_its_probe() -> None:
    dead = seen(container(exit_code=0, interrupted=True))
    assert actions(make_pod(LIVENESS, restartPolicy="OnFailure"), dead) == (again(),)


@pytest.mark.parametrize(
    ("spec", "state"),
    [
        ({}, ProbeState(started=True, ready=True)),
        (READINESS, ProbeState(started=True, ready=False)),
        (LIVENESS, ProbeState(started=True, ready=True)),
        (STARTUP, ProbeState(started=False, ready=False)),
        ({**STARTUP, **READINESS}, ProbeState(started=False, ready=False)),
    ],
)
def test_before_the_first_result(spec: dict[str, Any], state: ProbeState) -> None:
    assert probe_state(make_pod(spec).spec.containers[0], seen(), container()) == state


# Init containers


def test_init_containers_one_after_the_other() -> None:
    pod = make_pod("c", init=("i", "j"))
    assert actions(pod, seen()) == (start("i"),)
    assert actions(pod, seen(container("i"))) == ()
    assert actions(pod, seen(container("i", exit_code=0))) == (start("j"),)
    done = (container("i", exit_code=0), container("j", exit_code=0))
    assert actions(pod, seen(*done)) == (start("c"),)
    assert actions(pod, seen(*done, container("c"))) == ()


def test_init_containers_are_not_run_again_when_a_container_dies() -> None:
    pod = make_pod("c", init=("i",))
    assert actions(pod, seen(container("c", exit_code=1))) == (again("c"),)


@pytest.mark.parametrize("policy", ["Always", "OnFailure"])
def test_a_failed_init_container_is_tried_again(policy: str) -> None:
    pod = make_pod("c", init=("i",), restartPolicy=policy)
    assert actions(pod, seen(container("i", exit_code=1))) == (again("i"),)


def test_a_failed_init_container_with_never_ends_the_pod() -> None:
    pod = make_pod("c", init=(SIDECAR, "i"), restartPolicy="Never")
    failed = container("i", exit_code=1)
    assert actions(pod, seen(container("side"), failed)) == (stop("side"),)
    assert actions(pod, seen(container("side", exit_code=0), failed)) == (RemoveSandbox(),)


def test_a_sidecar_lets_pass_when_it_has_started() -> None:
    pod = make_pod("c", init=({**SIDECAR, **STARTUP},))
    assert actions(pod, seen()) == (start("side"),)
    assert actions(pod, seen(container("side"))) == ()
    started = {"side-0": ProbeState(started=True)}
    assert actions(pod, seen(container("side"), probes=started)) == (start("c"),)


def test_a_sidecar_is_restarted_always_and_holds_back_nobody_later() -> None:
    pod = make_pod("c", "d", init=({**SIDECAR, **STARTUP},), restartPolicy="Never")
    assert actions(pod, seen(container("side", exit_code=0), container("c"))) == (again("side"), start("d"))
    assert actions(pod, seen(container("side", exit_code=1))) == (again("side"),)


# Another life of a pod


def test_in_another_sandbox_everything_is_run_again() -> None:
    """What an earlier life has done does not count, but its attempts are counted on."""
    pod = make_pod("c", init=("i", SIDECAR, "j"))
    old = (
        container("i", 2, exit_code=0),
        container("side", exit_code=0),
        container("j", exit_code=0),
        container(exit_code=137),
    )
    assert actions(pod, seen(*old, address=None)) == (EnsureSandbox(),)
    assert actions(pod, seen(*old, sandbox="new")) == (again("i", 3),)

    def at(name: str, attempt: int = 1, code: int | None = None) -> Container:
        return container(name, attempt, exit_code=code, sandbox="new")

    assert actions(pod, seen(*old, at("i", 3), sandbox="new")) == ()
    assert actions(pod, seen(*old, at("i", 3, 0), sandbox="new")) == (again("side"),)
    assert actions(pod, seen(*old, at("i", 3, 0), at("side"), sandbox="new")) == (again("j"),)
    initialized = (*old, at("i", 3, 0), at("side"), at("j", 1, 0))
    assert actions(pod, seen(*initialized, sandbox="new")) == (again("c"),)
    assert actions(pod, seen(*initialized, at("c"), sandbox="new")) == ()
    assert actions(pod, seen(*initialized, at("c", 1, 1), sandbox="new")) == (again("c", 2),), "it dies once more"


def test_the_same_sandbox_is_the_same_life_also_of_the_version_before() -> None:
    pod = make_pod("c", init=("i",))
    for mark in ("", "same"):
        done, dead = container("i", exit_code=0, sandbox=mark), container(exit_code=137, sandbox=mark)
        assert actions(pod, seen(done, dead, sandbox=mark)) == (again("c"),)
    assert actions(pod, seen(container("i", exit_code=0), container(exit_code=137), sandbox="new")) == (again("i"),)


def test_a_back_off_goes_on_in_another_life() -> None:
    dead = (container("i", exit_code=0, died=NOW - 4), container(exit_code=1, died=NOW - 4))
    observed = seen(*dead, sandbox="new", backoffs={"i": Backoff(10.0, NOW - 5)})
    assert resolve_actions(make_pod("c", init=("i",)), observed) == Decision((ReportBackoff("i-0", "i"),), wake=NOW + 6)


def test_what_outlived_its_sandbox_is_stopped_though_there_is_another_one() -> None:
    """Sidecars last, and what is of this life goes on."""
    pod = make_pod("a", "b", init=(SIDECAR,))
    fresh = container("b", 1, sandbox="new")
    assert actions(pod, seen(container("a"), container("side"), fresh, sandbox="new")) == (interrupt("a"),)
    dead = container("a", exit_code=0)
    assert actions(pod, seen(dead, container("side"), fresh, sandbox="new")) == (interrupt("side"),)


def test_with_on_failure_what_is_done_is_done() -> None:
    """But what is not begins with the init containers, all of them."""
    pod = make_pod("a", "b", init=("i",), restartPolicy="OnFailure")
    init, a, b = (container(name, exit_code=0) for name in ("i", "a", "b"))
    assert actions(pod, seen(init, a, b, address=None)) == ()
    failed = replace(b, exit_code=137)
    assert actions(pod, seen(init, a, failed, address=None)) == (EnsureSandbox(),)
    assert actions(pod, seen(init, a, failed, sandbox="new")) == (again("i"),)
    assert actions(pod, seen(init, a, failed, container("i", 1, exit_code=0, sandbox="new"), sandbox="new")) == (
        again("b"),
    )


@pytest.mark.parametrize("address", [None, "10.244.0.7"])
def test_with_never_a_pod_has_one_life(address: str | None) -> None:
    pod = make_pod("a", "b", init=("i",), restartPolicy="Never")
    expected = (RemoveSandbox(),) if address else ()
    for left in ([container("i", exit_code=0)], [container("i", exit_code=0), container("a", exit_code=0)]):
        assert actions(pod, seen(*left, address=address, sandbox="new")) == expected
    assert actions(pod, seen(container("a"), address=address, sandbox="new")) == (interrupt("a"),)
    assert actions(pod, seen(address=None)) == (EnsureSandbox(),), "nothing of it was started"


@pytest.mark.parametrize(("policy", "expected"), [("OnFailure", again()), ("Never", RemoveSandbox())])
def test_what_was_stopped_because_it_outlived_its_sandbox_has_not_done_its_work(policy: str, expected: Action) -> None:
    dead = container(exit_code=0, interrupted=True)
    assert actions(make_pod(restartPolicy=policy), seen(dead, sandbox="new")) == (expected,)


def test_a_shutdown_also_interrupts_what_outlived_its_sandbox_in_a_pod_that_is_over() -> None:
    pod = make_pod("c", init=(SIDECAR,), restartPolicy="Never")
    old, fresh = container(sandbox="old"), container("side", sandbox="new")
    observed = seen(old, fresh, sandbox="new", shutdown=SHUTDOWN)
    assert actions(pod, observed) == (interrupt(grace=29.0),)
    observed = seen(replace(old, state="exited", exit_code=0), fresh, sandbox="new", shutdown=SHUTDOWN)
    assert actions(pod, observed) == (stop("side"),)


# The end of a pod


@pytest.mark.parametrize("code", [0, 1])
def test_a_pod_whose_containers_are_done_gives_its_address_back(code: int) -> None:
    pod = make_pod("a", "b", restartPolicy="Never")
    observed = seen(container("a", exit_code=code), container("b", exit_code=0))
    assert actions(pod, observed) == (RemoveSandbox(),)
    assert resolve_actions(pod, replace(observed, address=None)) == Decision()


def test_sidecars_are_stopped_when_the_containers_are_done_the_last_first() -> None:
    pod = make_pod("c", init=({**SIDECAR, "name": "x"}, {**SIDECAR, "name": "y"}), restartPolicy="OnFailure")
    done = container("c", exit_code=0)
    assert actions(pod, seen(done, container("x"), container("y"))) == (stop("y"),)
    assert actions(pod, seen(done, container("x"), container("y", exit_code=0))) == (stop("x"),)


def test_a_final_phase_is_final_even_if_nobody_remembers_the_containers() -> None:
    pod = make_pod(status={"phase": "Succeeded"})
    assert actions(pod, seen(address=None)) == ()
    assert actions(pod, seen(container())) == (stop(),)


def test_the_deadline_ends_a_pod() -> None:
    pod = make_pod(activeDeadlineSeconds=100, status={"startTime": "2023-11-14T22:13:20Z"})
    assert resolve_actions(pod, seen(container())) == Decision(wake=NOW + 100)
    assert resolve_actions(pod, seen(address=None)).wake == NOW + 100
    assert actions(pod, seen(container(), now=NOW + 100)) == (stop(),)
    assert resolve_actions(make_pod(activeDeadlineSeconds=100), seen(container())) == Decision()


# Deletion


def test_a_deleted_pod_stops_its_containers_then_is_removed() -> None:
    pod = make_pod("a", "b", meta=deleted(grace=9))
    observed = seen(container("a"), container("b"))
    assert actions(pod, observed) == (stop("a", grace=9.0), stop("b", grace=9.0))
    assert actions(pod, replace(observed, stopping={"a-0": NOW + 9, "b-0": NOW + 9})) == ()
    assert actions(pod, seen(container("a", exit_code=0), container("b", exit_code=137))) == (RemovePod(finalize=True),)


def test_a_deleted_pod_is_never_begun() -> None:
    assert actions(make_pod(meta=deleted()), seen(address=None)) == (RemovePod(finalize=True),)
    assert actions(make_pod(), seen(address=None, removed=True)) == (RemovePod(finalize=False),)


def test_sidecars_go_last_with_the_time_that_is_left() -> None:
    pod = make_pod("c", init=(SIDECAR,), meta=deleted(grace=20, at=NOW - 15))
    assert actions(pod, seen(container("c"), container("side"))) == (stop("c", grace=20.0),)
    assert actions(pod, seen(container("c", exit_code=0), container("side"))) == (stop("side", grace=5.0),)
    late = seen(container("c", exit_code=0), container("side"), now=NOW + 60)
    assert actions(pod, late) == (stop("side", grace=1.0),)


@pytest.mark.parametrize(
    ("meta", "removed", "grace"),
    [
        ({"deletionTimestamp": "2023-11-14T22:13:20Z"}, False, 30.0),
        ({"deletionTimestamp": "2023-11-14T22:13:20Z", "deletionGracePeriodSeconds": 0}, False, 1.0),
        ({}, True, 1.0),
        ({"deletionTimestamp": "2023-11-14T22:13:20Z", "deletionGracePeriodSeconds": 7}, True, 7.0),
    ],
)
def test_grace_periods(meta: dict[str, Any], removed: bool, grace: float) -> None:
    assert actions(make_pod(meta=meta), seen(container(), removed=removed)) == (stop(grace=grace),)


def test_a_second_deletion_can_only_shorten_a_stop() -> None:
    pod = make_pod(meta=deleted(grace=5))
    assert actions(pod, seen(container(), stopping={"c-0": NOW + 30})) == (stop(grace=5.0),)
    assert actions(pod, seen(container(), stopping={"c-0": NOW + 2})) == ()


# The machine's shutdown


@pytest.mark.parametrize(
    ("own", "passed", "grace"),
    [(30, 0, 30.0), (7, 0, 7.0), (0, 0, 1.0), (600, 0, 30.0), (600, 12, 18.0), (600, 31, 0.0)],
)
def test_a_shutdown_stops_all_containers_in_time(own: int, passed: float, grace: float) -> None:
    pod = make_pod("a", "b", terminationGracePeriodSeconds=own)
    observed = seen(container("a"), container("b"), now=NOW + passed, shutdown=SHUTDOWN)
    assert actions(pod, observed) == (interrupt("a", grace), interrupt("b", grace))
    due = observed.now + grace
    later = replace(observed, stopping={"a-0": due, "b-0": due}, now=due - grace / 2)
    assert actions(pod, replace(later, interrupted=frozenset(("a-0", "b-0")))) == ()


def test_a_shutdown_that_comes_during_a_stop_interrupts_as_well() -> None:
    """The stop goes on as it is: a preStop hook may be at work."""
    pod = make_pod(LIVENESS, restartPolicy="Never")
    observed = seen(container(), stopping={"c-0": NOW + 5}, shutdown=SHUTDOWN)
    assert actions(pod, observed) == (NoteInterruption("c-0"),)
    assert actions(pod, replace(observed, interrupted=frozenset(("c-0",)))) == ()
    assert actions(make_pod(meta=deleted()), observed) == ()


def test_a_shutdown_shortens_stops_that_are_under_way() -> None:
    """A deleted pod's too, and its removal goes on."""
    late = {"stopping": {"c-0": NOW + 500}, "shutdown": SHUTDOWN}
    assert actions(make_pod(terminationGracePeriodSeconds=600), seen(container(), **late)) == (interrupt(),)
    gone = make_pod(meta=deleted(grace=600))
    assert actions(gone, seen(container(), **late)) == (stop(),)
    assert actions(gone, seen(container(exit_code=0), **late)) == (RemovePod(finalize=True),)


@pytest.mark.parametrize(
    ("own", "until", "main", "first", "second"),
    [
        (30, 30, 28.0, 19.0, 5.0),  # each sidecar keeps its second
        (20, 30, 20.0, 10.0, 1.0),  # counted from the shutdown on, as from a deletion
        (30, 1.5, 0.5, 0.0, 0.0),  # too little for everybody: shared
    ],
)
def test_a_shutdown_stops_sidecars_last_and_in_time(
    own: int, until: float, main: float, first: float, second: float
) -> None:
    pod = make_pod("c", init=({**SIDECAR, "name": "x"}, {**SIDECAR, "name": "y"}), terminationGracePeriodSeconds=own)
    shutdown = Shutdown(NOW, NOW + until)
    observed = seen(container("c"), container("x"), container("y"), shutdown=shutdown)
    assert actions(pod, observed) == (interrupt("c", main),)
    done = container("c", exit_code=143)
    observed = seen(done, container("x"), container("y"), shutdown=shutdown, now=NOW + 10)
    assert actions(pod, observed) == (interrupt("y", first),)
    observed = seen(done, container("x"), container("y", exit_code=0), shutdown=shutdown, now=NOW + 25)
    assert actions(pod, observed) == (interrupt("x", second),)


@pytest.mark.parametrize("address", [None, "10.244.0.7"])
@pytest.mark.parametrize("code", [None, 0, 137])
def test_nothing_is_started_during_a_shutdown_nor_taken_away(address: str | None, code: int | None) -> None:
    dead = () if code is None else (container(exit_code=code),)
    assert resolve_actions(make_pod(), seen(*dead, address=address, shutdown=SHUTDOWN)) == Decision((LeavePod(),))


@pytest.mark.parametrize(
    ("policy", "expected"), [("Always", again()), ("OnFailure", again()), ("Never", RemoveSandbox())]
)
def test_what_a_shutdown_interrupted_has_not_done_its_work(policy: str, expected: Action) -> None:
    """However well it took its SIGTERM; what had ended before is done."""
    interrupted = container(exit_code=0, interrupted=True)
    assert actions(make_pod(restartPolicy=policy), seen(interrupted)) == (expected,)
    pod = make_pod("done", "c", restartPolicy=policy)
    others = actions(pod, seen(container("done", exit_code=0), interrupted))
    assert others == ((again("done"), expected) if policy == "Always" else (expected,))


@pytest.mark.parametrize(
    ("policy", "expected"), [("Always", again("i")), ("OnFailure", again("i")), ("Never", RemoveSandbox())]
)
def test_an_interrupted_init_container_lets_nobody_pass(policy: str, expected: Action) -> None:
    pod = make_pod("c", init=("i",), restartPolicy=policy)
    assert actions(pod, seen(container("i", exit_code=0, interrupted=True))) == (expected,)


def test_a_shutdown_interrupts_nothing_in_a_pod_that_is_over() -> None:
    pod = make_pod("c", init=(SIDECAR,), restartPolicy="Never")
    observed = seen(container("c", exit_code=0), container("side"), shutdown=SHUTDOWN)
    assert actions(pod, observed) == (stop("side"),)


# Properties

names = st.sampled_from(["a", "b", "i", "side"])
records = st.builds(
    container,
    names,
    st.integers(0, 3),
    exit_code=st.one_of(st.none(), st.sampled_from([0, 1, 137])),
    died=st.floats(NOW - 1000, NOW),
    sandbox=st.sampled_from(["", "old"]),
)
pods = st.builds(
    lambda policy, gone, phase: make_pod(
        {"name": "a", **LIVENESS},
        {"name": "b", **STARTUP},
        init=("i", SIDECAR),
        restartPolicy=policy,
        meta=deleted() if gone else {},
        status={"phase": phase},
    ),
    st.sampled_from(["Always", "OnFailure", "Never"]),
    st.booleans(),
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
)


@st.composite
def observations(draw: st.DrawFn) -> Observed:
    found = {c.id: c for c in draw(st.lists(records, max_size=6))}
    latest = {c.container: max(x.attempt for x in found.values() if x.container == c.container) for c in found.values()}
    alive = [c for c in found.values() if c.state == "exited" or c.attempt == latest[c.container]]
    probes = st.builds(ProbeState, st.booleans(), st.booleans(), st.sampled_from(["", "", "liveness"]))
    return seen(
        *alive,
        address=draw(st.sampled_from([None, "10.244.0.7"])),
        sandbox=draw(st.sampled_from(["", "old"])),
        probes={c.id: draw(probes) for c in alive},
        backoffs={n: Backoff(draw(st.floats(10, 300)), NOW - 500) for n in draw(st.sets(names))},
        removed=draw(st.booleans()),
        shutdown=draw(st.sampled_from([None, None, SHUTDOWN, Shutdown(NOW - 30, NOW)])),
    )


@given(pods, observations())
def test_never_two_of_one_container_and_never_without_a_sandbox(pod: Pod, observed: Observed) -> None:
    alive = {c.container for c in running(observed)}
    started = [a for a in actions(pod, observed) if isinstance(a, StartContainer)]
    assert alive.isdisjoint(a.name for a in started)
    assert len({a.name for a in started}) == len(started)
    taken = {(c.container, c.attempt) for c in observed.containers}
    assert taken.isdisjoint((a.name, a.attempt) for a in started)
    over = pod.deleted or observed.removed or pod.status.phase in ("Succeeded", "Failed")
    if observed.address is None or over or observed.shutdown is not None:
        assert not started


@given(pods, observations())
def test_what_runs_is_never_removed_and_what_is_dead_never_stopped(pod: Pod, observed: Observed) -> None:
    by_id = {c.id: c for c in observed.containers}
    for action in actions(pod, observed):
        if isinstance(action, StopContainer):
            assert by_id[action.id].state == "running"
        if isinstance(action, RemoveContainer):
            assert by_id[action.id].state == "exited"
        if isinstance(action, RemovePod | RemoveSandbox | LeavePod):
            assert not running(observed)
        if isinstance(action, StopContainer) and observed.shutdown is not None:
            assert observed.now + action.grace <= max(observed.shutdown.until, observed.now)


def carry_out(observed: Observed, action: Action) -> Observed:
    """A machine on which everything works: what the worker would observe after an action."""
    match action:
        case EnsureSandbox():
            return replace(observed, address="10.244.0.7", sandbox="new")
        case StartContainer(name, attempt, backoff):
            kept = {**observed.backoffs, **({name: backoff} if backoff else {})}
            state = {**observed.probes, f"{name}-{attempt}": ProbeState()}
            fresh = container(name, attempt, sandbox=observed.sandbox)
            return replace(observed, containers=(*observed.containers, fresh), backoffs=kept, probes=state)
        case StopContainer(id=key):
            return replace(observed, containers=tuple(_ended(c) if c.id == key else c for c in observed.containers))
        case RemoveContainer(key):
            return replace(observed, containers=tuple(c for c in observed.containers if c.id != key))
        case RemoveSandbox():
            return replace(observed, address=None)
        case RemovePod():
            return Observed(now=observed.now, removed=True)
    return observed


def _ended(c: Container) -> Container:
    return replace(c, state="exited", pid=None, finished_at=NOW, exit_code=143)


def _init_ends(observed: Observed) -> Observed:
    """An ordinary init container that runs ends well."""
    ended = [replace(_ended(c), exit_code=0) if c.container == "i" and c.pid else c for c in observed.containers]
    return replace(observed, containers=tuple(ended))


@given(pods, observations())
def test_from_any_situation_a_pod_comes_to_rest(pod: Pod, observed: Observed) -> None:
    """Carrying out what is decided, and sleeping as long as is said, ends where there is nothing to do."""
    for _ in range(60):
        decision = resolve_actions(pod, observed)
        if any(isinstance(action, RemovePod | LeavePod) for action in decision.actions):
            return
        if not decision.actions and decision.wake is None:
            if _init_ends(observed) == observed:
                break
            observed = _init_ends(observed)
        for action in decision.actions:
            observed = carry_out(observed, action)
        if decision.wake is not None and all(isinstance(a, ReportBackoff) for a in decision.actions):
            observed = replace(observed, now=decision.wake)
    else:
        pytest.fail(f"still busy: {decision}")
    alive = {c.container for c in running(observed)}
    if pod.status.phase in ("Succeeded", "Failed"):
        assert not alive
    elif pod.spec.restart_policy == "Always":
        assert alive == {"a", "b", "side"}
    assert all(c.sandbox == observed.sandbox for c in running(observed))


@given(pods, observations())
def test_nobody_begins_before_the_init_containers_of_this_life(pod: Pod, observed: Observed) -> None:
    lives = {c.container for c in observed.containers if c.sandbox == observed.sandbox and observed.address}
    started = {action.name for action in actions(pod, observed) if isinstance(action, StartContainer)}
    if not lives & {"a", "b"} and started & {"a", "b"}:
        latest = newest(observed, "i")
        assert latest is not None
        assert (latest.sandbox, latest.state, latest.exit_code) == (observed.sandbox, "exited", 0)
