"""Who holds a port, read from a /proc of our own."""

from pathlib import Path

import pytest

from dnsserver.ports import find_holder

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(local: str, state: str, inode: int) -> str:
    return f"   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 2 0 0\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/udp").write_text(HEAD + line("3500007F:0035", "07", 100) + line("0100007F:14E9", "01", 101))
    (tmp_path / "net/tcp").write_text(HEAD + line("00000000:0035", "0A", 200) + line("0100007F:0050", "01", 201))
    (tmp_path / "net/udp6").write_text(HEAD + line("00000000000000000000000001000000:0035", "07", 300))
    for pid, name, inodes in ((7, "resolved", (100,)), (8, "dnsmasq", (1, 200, 300))):
        (tmp_path / f"{pid}/fd").mkdir(parents=True)
        (tmp_path / f"{pid}/comm").write_text(f"{name}\n")
        for fd, inode in enumerate(inodes):
            (tmp_path / f"{pid}/fd/{fd}").symlink_to(f"socket:[{inode}]")
        (tmp_path / f"{pid}/fd/90").write_text("not a link")
    (tmp_path / "9").mkdir()
    (tmp_path / "9/fd").write_text("not a folder")
    return tmp_path


@pytest.mark.parametrize(
    ("address", "port", "proto", "holder"),
    [
        ("127.0.0.53", 53, "udp", "resolved (pid 7)"),
        ("127.0.0.1", 53, "udp", None),  # another address
        ("127.0.0.1", 5353, "udp", None),  # connected: it is nobody's listener
        ("192.0.2.1", 53, "tcp", "dnsmasq (pid 8)"),  # bound to every address
        ("127.0.0.1", 80, "tcp", None),  # a connection
        ("::1", 53, "udp", "dnsmasq (pid 8)"),
    ],
)
def test_holders(proc: Path, address: str, port: int, proto: str, holder: str | None) -> None:
    assert find_holder(address, port, proto, proc=proc) == holder


def test_a_process_that_has_just_ended(proc: Path) -> None:
    (proc / "7/comm").unlink()
    assert find_holder("127.0.0.53", 53, "udp", proc=proc) == "a process that has ended (pid 7)"


def test_a_holder_that_cannot_be_seen(proc: Path) -> None:
    (proc / "7/fd/0").unlink()
    assert find_holder("127.0.0.53", 53, "udp", proc=proc) is None
