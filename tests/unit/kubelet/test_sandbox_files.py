"""The files in a pod's /etc, and names."""

from __future__ import annotations

from dataclasses import replace

from agent.kubelet.sandbox import HostAlias, Resolv, SandboxSpec, link_name, namespace_name, render_hosts, render_resolv

SPEC = SandboxSpec(uid="0a1b2c3d-0000-4000-8000-000000000001", namespace="default", name="web-1", hostname="web-1")


def entries(text: str) -> dict[str, list[str]]:
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {words[0]: words[1:] for words in lines}


def test_a_pod_knows_its_own_name() -> None:
    found = entries(render_hosts(SPEC, "10.244.0.5"))
    assert found["10.244.0.5"] == ["web-1"]
    assert found["127.0.0.1"] == ["localhost"]


def test_with_a_subdomain_its_full_name_comes_first() -> None:
    found = entries(render_hosts(replace(SPEC, subdomain="web"), "10.244.0.5"))
    assert found["10.244.0.5"] == ["web-1.web.default.svc.cluster.local", "web-1"]


def test_aliases_are_added_in_their_order() -> None:
    aliases = (HostAlias("1.2.3.4", ("a", "b")), HostAlias("5.6.7.8", ("c",)))
    text = render_hosts(replace(SPEC, host_aliases=aliases), "10.244.0.5")
    assert text.endswith("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n5.6.7.8\tc\n")


def test_a_host_network_pod_has_the_nodes_file() -> None:
    text = render_hosts(replace(SPEC, host_network=True), "192.0.2.1", "192.0.2.1 node\n")
    assert entries(text) == {"192.0.2.1": ["node"]}


def test_resolv_conf() -> None:
    dns = Resolv(("10.96.0.10", "1.1.1.1"), ("default.svc.cluster.local", "svc.cluster.local"), ("ndots:5",))
    assert render_resolv(dns) == (
        "nameserver 10.96.0.10\nnameserver 1.1.1.1\nsearch default.svc.cluster.local svc.cluster.local\noptions ndots:5\n"
    )
    assert render_resolv(Resolv()) == ""


def test_names_fit_the_kernel() -> None:
    long = replace(SPEC, name="n" * 253)
    assert namespace_name(SPEC) == "podwire-0a1b2c3d-web-1"
    assert len(namespace_name(long)) <= 255
    assert len(link_name(SPEC.uid)) <= 15
    assert link_name(SPEC.uid) != link_name(long.uid + "x")
