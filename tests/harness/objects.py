"""Objects that tests apply: plain JSON, as a user would write it."""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]


def echo_replicaset(name: str, replicas: int) -> JSON:
    """Pods of the echo server: HTTP 8080, UDP 8081, ready as soon as it answers."""
    labels = {"app": name}
    container = {
        "name": "echo",
        "image": "podwire/echo",
        "ports": [{"name": "http", "containerPort": 8080}, {"name": "udp", "containerPort": 8081, "protocol": "UDP"}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
    }
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name}, "spec": spec}


def service(name: str, *ports: JSON, app: str | None = None, **spec: Any) -> JSON:
    """A Service that selects ``app=<app or name>``."""
    body = {"selector": {"app": app or name}, "ports": list(ports) or [{"port": 80, "targetPort": "http"}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}
