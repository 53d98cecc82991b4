"""Root tests: each checks that it leaves nothing behind, and most want a node's network namespace of their own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from netns import attach, host, namespaces
from tests.leaks import assert_no_leaks

TAG = secrets.token_hex(4)  # in the name of every namespace and cgroup that a test of this run makes
BRIDGE, GATEWAY = "podwire0", "10.244.0.1"


def new_name(what: str) -> str:
    """For a namespace."""
    return f"pwt-{TAG}-{secrets.token_hex(3)}-{what}"


@dataclass
class Network:
    """A node's namespace with a bridge, and pods on it."""

    node: str
    pods: dict[str, str]  # address -> namespace

    def add_pod(self, address: str) -> str:
        name = new_name("pod")
        self.pods[address] = name
        namespaces.ensure(name)
        link = "pw" + secrets.token_hex(5)
        namespaces.inside(
            self.node,
            lambda: attach.attach(name, bridge=BRIDGE, address=f"{address}/32", gateway=GATEWAY, host_ifname=link),
        )
        return name


@pytest.fixture
def no_leaks() -> Iterator[None]:
    with assert_no_leaks(tag=TAG):
        yield


@pytest.fixture
def node_namespace(no_leaks: None) -> Iterator[str]:
    """An empty network namespace, to be a node's."""
    name = new_name("node")
    namespaces.ensure(name)
    try:
        yield name
    finally:
        namespaces.remove(name)


@pytest.fixture
def network(node_namespace: str) -> Iterator[Network]:
    namespaces.inside(node_namespace, lambda: host.prepare_node(BRIDGE, f"{GATEWAY}/24"))
    made = Network(node_namespace, {})
    try:
        yield made
    finally:
        for name in made.pods.values():
            namespaces.remove(name)
