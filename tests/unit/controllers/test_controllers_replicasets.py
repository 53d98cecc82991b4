"""What a ReplicaSet needs and can spare."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.controllers.objects import Condition, Meta, OwnerReference, Pod, ReplicaSet, ReplicaSetStatus
from agent.controllers.replicasets import (
    BURST,
    DELETION_COST,
    SlowStart,
    claim,
    deletion_cost,
    deletion_order,
    is_available,
    next_available,
    render_pod,
    resolve_replicas,
    resolve_status,
)
from tests.harness.controller_objects import NOW, ago, owned_by, pod, replicaset

RS = replicaset()
MINE = owned_by(RS)


def names(pods: tuple[Pod, ...]) -> list[str]:
    return [each.metadata.name for each in pods]


def test_claims_by_owner_and_labels() -> None:
    stranger = OwnerReference(kind="ReplicaSet", name="other", uid="other", controller=True)
    other = {"app": "db"}
    claimed = claim(
        RS,
        [
            pod("mine", owner=MINE),
            pod("mine-finished", owner=MINE, phase="Failed"),
            pod("orphan"),
            pod("orphan-finished", phase="Succeeded"),
            pod("orphan-going", terminating=True),
            pod("strangers", owner=stranger),
            pod("relabelled", owner=MINE, labels=other),
            pod("relabelled-going", owner=MINE, labels=other, terminating=True),
            pod("others", labels=other),
        ],
    )
    assert names(claimed.own) == ["mine", "mine-finished"]
    assert names(claimed.adopt) == ["orphan"]
    assert names(claimed.release) == ["relabelled"]


def test_an_owner_made_anew_under_its_name_is_a_stranger() -> None:
    earlier = OwnerReference(kind="ReplicaSet", name="web", uid="an earlier life", controller=True)
    assert claim(RS, [pod("a", owner=earlier)]) == claim(RS, [])


def test_an_owner_that_merely_owns_leaves_room_for_a_controller() -> None:
    merely = OwnerReference(kind="ConfigMap", name="x", uid="x")
    assert names(claim(RS, [pod("a", owner=merely)]).adopt) == ["a"]


def test_who_is_being_deleted_neither_adopts_nor_releases() -> None:
    leaving = ReplicaSet(
        metadata=Meta(name="web", namespace="default", uid=RS.metadata.uid, deletion_timestamp=NOW), spec=RS.spec
    )
    claimed = claim(leaving, [pod("orphan"), pod("relabelled", owner=MINE, labels={})])
    assert (names(claimed.own), claimed.adopt, claimed.release) == (["relabelled"], (), ())


@pytest.mark.parametrize(
    ("wanted", "have", "create", "delete"),
    [(3, 0, 3, 0), (3, 2, 1, 0), (3, 3, 0, 0), (3, 5, 0, 2), (0, 1, 0, 1), (BURST + 7, 0, BURST, 0)],
)
def test_makes_or_deletes_the_difference(wanted: int, have: int, create: int, delete: int) -> None:
    own = [pod(f"p{number}", owner=MINE) for number in range(have)]
    plan = resolve_replicas(replicaset(wanted), own, own, now=NOW)
    assert (plan.create, len(plan.delete)) == (create, delete)


def test_deletes_at_most_a_burst() -> None:
    own = [pod(f"p{number}") for number in range(BURST + 3)]
    assert len(resolve_replicas(replicaset(0), own, own, now=NOW).delete) == BURST


# In each pair the first is deleted before the second; later criteria are set against it, to show who decides.
ORDER = {
    "unassigned before assigned": (pod("z", node="", ready=True, age=9999), pod("a", ready=False, age=1)),
    "pending before unknown": (pod("z", phase="Pending"), pod("a", phase="Unknown", ready=False)),
    "unknown before running": (pod("z", phase="Unknown"), pod("a", phase="Running", ready=False)),
    "not ready before ready": (
        pod("z", ready=False, annotations={DELETION_COST: "100"}),
        pod("a", annotations={DELETION_COST: "-100"}),
    ),
    "cheap before dear": (
        pod("z", annotations={DELETION_COST: "-5"}, ready_for=99999),
        pod("a", annotations={DELETION_COST: "5"}, ready_for=1),
    ),
    "ready for less time": (pod("z", ready_for=10), pod("a", ready_for=100, restarts=9)),
    "more restarts": (pod("z", restarts=3, age=9999), pod("a", restarts=1, age=1)),
    "newer": (pod("z", age=10), pod("a", age=1000)),
    "then by UID": (pod("a", age=1000), pod("z", age=1001)),
}


@pytest.mark.parametrize("case", ORDER)
def test_whom_to_delete_first(case: str) -> None:
    first, second = ORDER[case]
    ranked = resolve_replicas(replicaset(1), [second, first], [], now=NOW)
    assert ranked.delete == (first,)


def test_doubled_up_on_a_node_goes_before_alone_however_long_ready() -> None:
    own = [pod("alone", node="n1", ready_for=1), pod("x", node="n2", ready_for=99999), pod("y", node="n2")]
    assert "alone" not in names(resolve_replicas(replicaset(2), own, own, now=NOW).delete)
    other_revision = [pod("old", node="n1"), pod("older", node="n1")]
    related = [*own, *other_revision]
    assert names(resolve_replicas(replicaset(2), own, related, now=NOW).delete) == ["alone"]


@given(st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_of_the_cache(chance: random.Random) -> None:
    everyone = [each for pair in ORDER.values() for each in pair]
    unique = {
        index: msgspec.structs.replace(p, metadata=msgspec.structs.replace(p.metadata, uid=f"u{index:02}"))
        for index, p in enumerate(everyone)
    }
    shuffled = list(unique.values())
    chance.shuffle(shuffled)

    def rank(each: Pod) -> object:
        return deletion_order(each, doubled=1, now=NOW)

    assert sorted(shuffled, key=rank) == sorted(unique.values(), key=rank)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "cost"),
    [("10", 10), ("-10", -10), ("0", 0), ("", 0), ("010", 0), ("+1", 0), ("much", 0), ("1.5", 0), ("3000000000", 0)],
)
def test_deletion_cost_is_a_plain_number(text: str, cost: int) -> None:
    assert deletion_cost(pod("a", annotations={DELETION_COST: text})) == cost
    assert deletion_cost(pod("a")) == 0


def test_available_means_ready_for_a_while() -> None:
    assert is_available(pod("a", ready_for=0), min_ready_seconds=0, now=NOW)
    assert is_available(pod("a", ready_for=10), min_ready_seconds=10, now=NOW)
    assert not is_available(pod("a", ready_for=9), min_ready_seconds=10, now=NOW)
    assert not is_available(pod("a", ready=False), min_ready_seconds=0, now=NOW)


def test_the_next_look_is_when_the_next_pod_becomes_available() -> None:
    pods = [pod("a", ready_for=3), pod("b", ready_for=8), pod("c", ready_for=50), pod("d", ready=False)]
    assert next_available(pods, min_ready_seconds=10, now=NOW) == 2
    assert next_available(pods, min_ready_seconds=0, now=NOW) is None


def test_status_counts() -> None:
    owner = replicaset(min_ready_seconds=60)
    own = [
        pod("ready"),
        pod("fresh", ready_for=5),
        pod("waiting", ready=False),
        pod("relabelled", labels={"other": "x"}),
    ]
    status = resolve_status(owner, own, terminating=2, failure=None, now=NOW)
    assert status == ReplicaSetStatus(
        replicas=4,
        fully_labeled_replicas=3,
        ready_replicas=3,
        available_replicas=2,
        terminating_replicas=2,
        observed_generation=4,
    )


def test_a_failure_is_a_condition_that_keeps_its_time_and_goes_with_success() -> None:
    began = Condition(type="ReplicaFailure", status="True", reason="FailedCreate", last_transition_time=ago(100))
    other = Condition(type="Other", status="True")
    owner = msgspec.structs.replace(replicaset(), status=ReplicaSetStatus(conditions=[began, other]))
    again = Condition(type="ReplicaFailure", status="True", reason="FailedCreate", last_transition_time=NOW)
    assert resolve_status(owner, [], terminating=0, failure=again, now=NOW).conditions == [other, began]
    assert resolve_status(owner, [], terminating=0, failure=None, now=NOW).conditions == [other]


def test_a_pod_is_made_from_the_template_and_nothing_else() -> None:
    meta = {
        "creationTimestamp": None,
        "name": "ignored",
        "labels": {"app": "web"},
        "annotations": {"a": "b"},
        "finalizers": ["x/y"],
    }
    template = {"metadata": meta, "spec": {"containers": [{"name": "c", "newField": {"kept": True}}]}}
    made = render_pod(replicaset(template=template))
    assert made["metadata"] == {
        "labels": {"app": "web"},
        "annotations": {"a": "b"},
        "finalizers": ["x/y"],
        "namespace": "default",
        "generateName": "web-",
        "ownerReferences": [
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": "web",
                "uid": "uid-rs-web",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    assert made["spec"] == {"containers": [{"name": "c", "newField": {"kept": True}}]}


def test_batches_grow_while_all_goes_well() -> None:
    assert list(SlowStart(20)) == [1, 2, 4, 8, 5]
    assert list(SlowStart(1)) == [1]
    assert list(SlowStart(0)) == []
