"""The parts of netns that need no privileges."""

from __future__ import annotations

from pathlib import Path

import pytest

from netns import host, namespaces
from netns.errors import NetnsError
from netns.links import mac_of, read_sysctl


def test_a_mac_address_is_made_of_the_address() -> None:
    assert mac_of("10.244.1.17") == "0a:58:0a:f4:01:11"


def test_a_name_stands_for_its_handle_and_a_path_for_itself() -> None:
    assert namespaces.path_of("blue") == Path("/run/netns/blue")
    assert namespaces.path_of("/proc/1/ns/net") == Path("/proc/1/ns/net")


def test_entering_what_is_not_there() -> None:
    with pytest.raises(NetnsError, match=r"/run/netns/pwt-none: there is none"):
        namespaces.inside("pwt-none", lambda: None)


def test_a_missing_setting_is_none() -> None:
    assert read_sysctl("net/ipv4/no_such_setting") is None


def test_preflight_has_a_hint_for_whatever_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    findings = {finding.name: finding for finding in host.preflight(netns="pwt-none")}
    assert not findings["runc"].ok
    assert findings["runc"].hint == "install it: apt-get install runc"
    assert all(finding.hint for finding in findings.values() if not finding.ok)
    assert findings["namespace"].what == "network namespace pwt-none will be made"
