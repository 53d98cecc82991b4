"""Short ways to write pods and what a node sees of them, for the tables of the kubelet's tests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from agent.kubelet.containers import Container
from agent.kubelet.pod import Observed
from agent.kubelet.spec import Pod

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z
LIVENESS = {"livenessProbe": {"tcpSocket": {"port": 1}}}
READINESS = {"readinessProbe": {"tcpSocket": {"port": 1}}}
STARTUP = {"startupProbe": {"tcpSocket": {"port": 1}}}


def make_pod(
    *containers: dict[str, Any] | str,
    init: tuple[dict[str, Any] | str, ...] = (),
    meta: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> Pod:
    """A pod of the given containers (a name will do); ``spec`` under the API's names."""

    def full(container: dict[str, Any] | str) -> dict[str, Any]:
        return {"name": container} if isinstance(container, str) else {"name": "c", **container}

    document = {
        "metadata": {"name": "p", "namespace": "shop", "uid": "u-1", **(meta or {})},
        "spec": {
            "containers": [full(c) for c in containers or ("c",)],
            "initContainers": [full(c) for c in init],
            **spec,
        },
        "status": status or {},
    }
    return msgspec.convert(document, Pod)


def deleted(grace: int = 30, at: float = NOW) -> dict[str, Any]:
    """Metadata of a pod that is being deleted since ``at``."""
    return {
        "deletionTimestamp": datetime.fromtimestamp(at + grace, UTC).isoformat(),
        "deletionGracePeriodSeconds": grace,
    }


def container(
    name: str = "c", attempt: int = 0, *, exit_code: int | None = None, died: float = NOW, **fields: Any
) -> Container:
    """One attempt: running, or with an exit code dead."""
    values: dict[str, Any] = {
        "id": f"{name}-{attempt}",
        "pod_uid": "u-1",
        "namespace": "shop",
        "pod": "p",
        "container": name,
        "attempt": attempt,
        "state": "running" if exit_code is None else "exited",
        "pid": 1 if exit_code is None else None,
        "started_at": NOW - 60,
        "finished_at": None if exit_code is None else died,
        "exit_code": exit_code,
        "reason": "" if exit_code is None else "Completed" if exit_code == 0 else "Error",
        "message": "",
        "log_path": Path("/nowhere"),
    }
    return Container(**(values | fields))


def seen(*containers: Container, **fields: Any) -> Observed:
    """An observation with a sandbox, unless ``address=None``."""
    values: dict[str, Any] = {"now": NOW, "address": "10.244.0.7", "containers": containers}
    return Observed(**(values | fields))
