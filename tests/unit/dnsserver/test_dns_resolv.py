"""Whom to ask: resolv.conf, addresses with ports, stub domains."""

from pathlib import Path

import pytest

from dnsserver.names import parse_name
from dnsserver.resolv import parse_resolv_conf, read_upstreams
from dnsserver.upstream import Routes, Server, parse_server


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("1.1.1.1", Server("1.1.1.1", 53)),
        ("1.1.1.1:5353", Server("1.1.1.1", 5353)),
        ("2606:4700::1111", Server("2606:4700::1111", 53)),
        ("[2606:4700::1111]:5353", Server("2606:4700::1111", 5353)),
        ("[2606:4700::1111]", Server("2606:4700::1111", 53)),
    ],
)
def test_parse_server(text: str, server: Server) -> None:
    assert parse_server(text) == server
    assert parse_server(str(server)) == server


@pytest.mark.parametrize("text", ["", "dns.example", "1.1.1.1:0", "1.1.1.1:65536", "1.1.1.1:dns", "[::1]:x"])
def test_what_is_no_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        parse_server(text)


def test_parse_resolv_conf() -> None:
    text = """
# a comment
search example.com
nameserver 10.0.0.1
nameserver\t10.0.0.2 # trailing
nameserver fe80::1%eth0
nameserver 10.0.0.1
nameserver not-an-address
nameserver
options ndots:5
"""
    assert parse_resolv_conf(text) == ("10.0.0.1", "10.0.0.2", "fe80::1")


def test_our_own_address_is_no_upstream(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 10.0.0.1\nnameserver 10.0.0.2\n")
    assert read_upstreams(file, own={"10.0.0.1"}, systemd=tmp_path / "none") == (Server("10.0.0.2"),)


def test_the_stub_of_systemd_resolved_is_looked_through(tmp_path: Path) -> None:
    stub, real = tmp_path / "resolv.conf", tmp_path / "real.conf"
    stub.write_text("nameserver 127.0.0.53\n")
    assert read_upstreams(stub, own=(), systemd=real) == (Server("127.0.0.53"),)
    real.write_text("nameserver 192.168.1.1\n")
    assert read_upstreams(stub, own=(), systemd=real) == (Server("192.168.1.1"),)


def test_no_resolv_conf_means_no_upstream(tmp_path: Path) -> None:
    assert read_upstreams(tmp_path / "none", own=(), systemd=tmp_path / "none") == ()


def test_the_longest_suffix_decides() -> None:
    default, corp, lab = (Server("10.0.0.1"),), (Server("10.0.0.2"),), (Server("10.0.0.3"),)
    routes = Routes(default, ((parse_name("corp.example"), corp), (parse_name("lab.corp.example"), lab)))
    assert routes.servers(parse_name("www.example")) == default
    assert routes.servers(parse_name("www.corp.example")) == corp
    assert routes.servers(parse_name("www.lab.corp.example")) == lab
    assert routes.servers(parse_name("xcorp.example")) == default
    assert routes
    assert not Routes()
