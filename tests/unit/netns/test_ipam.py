"""The allocator against what it promises, over random histories, and its file."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.errors import NetnsError, PoolExhausted
from netns.ipam import DamagedPool, Pool, adopt, allocate, load, parse, release, render, save

SMALL = "10.9.8.0/29"  # room for five pods: .2 to .6

# (owner, True: allocate, False: release)
histories = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=60)


def play(history: list[tuple[str, bool]]) -> list[Pool]:
    pools = [Pool(SMALL)]
    for now, (owner, wants) in enumerate(history):
        try:
            pools.append(allocate(pools[-1], owner)[0] if wants else release(pools[-1], owner, now=float(now)))
        except PoolExhausted:
            assert len(pools[-1].allocated) == pools[-1].size
    return pools


@given(histories)
def test_nobody_shares_an_address_and_none_is_special(history: list[tuple[str, bool]]) -> None:
    for pool in play(history):
        given_out = [ipaddress.IPv4Address(address) for address in pool.allocated.values()]
        assert len(set(given_out)) == len(given_out)
        assert all(address in list(pool.network.hosts())[1:] for address in given_out)
        assert not set(pool.allocated.values()) & set(pool.released)


@given(histories)
def test_what_is_written_is_what_is_read(history: list[tuple[str, bool]]) -> None:
    pool = play(history)[-1]
    assert parse(render(pool)) == pool


@given(histories)
def test_only_the_longest_released_address_is_reused_and_only_when_none_is_new(history: list[tuple[str, bool]]) -> None:
    pool = play(history)[-1]
    if "new" in pool.allocated or len(pool.allocated) == pool.size:
        return
    _, address = allocate(pool, "new")
    known = {*pool.allocated.values(), *pool.released}
    if len(known) < pool.size:
        assert address not in known
    else:
        assert pool.released[address] == min(pool.released.values())


def test_the_same_owner_gets_the_same_address() -> None:
    pool, address = allocate(Pool(SMALL), "a")
    assert allocate(pool, "a") == (pool, address) == (pool, "10.9.8.2")


def test_an_address_comes_back_last() -> None:
    pool, first = allocate(Pool(SMALL), "a")
    pool = release(pool, "a", now=1.0)
    order = []
    for owner in "bcdef":
        pool, address = allocate(pool, owner)
        order.append(address)
    assert order == ["10.9.8.3", "10.9.8.4", "10.9.8.5", "10.9.8.6", first]


def test_a_full_pool_says_so() -> None:
    pool = Pool(SMALL)
    for owner in range(5):
        pool, _ = allocate(pool, str(owner))
    with pytest.raises(PoolExhausted, match=r"all 5 of 10\.9\.8\.0/29 are in use"):
        allocate(pool, "one too many")


def test_an_address_can_be_adopted() -> None:
    pool, address = allocate(Pool(SMALL), "a")
    pool = release(pool, "a", now=1.0)
    assert adopt(pool, "b", address) == Pool(SMALL, {"b": address})
    assert adopt(adopt(pool, "b", address), "b", address) == adopt(pool, "b", address)
    for wrong in (address, "10.9.9.2"):
        with pytest.raises(NetnsError, match="not a free address"):
            adopt(adopt(pool, "b", address), "c", wrong)


def test_an_empty_file_is_a_power_cut(tmp_path: Path) -> None:
    (tmp_path / "ipam.json").touch()
    assert load(tmp_path / "ipam.json", SMALL) == Pool(SMALL)


def test_releasing_what_nobody_has_changes_nothing() -> None:
    pool = Pool(SMALL)
    assert release(pool, "a", now=1.0) is pool


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"cidr": "10.9.8.0/29", "allocated": {"a": "10.9.9.2"}, "released": {}}',
        '{"cidr": "10.9.8.0/29", "allocated": {"a": "10.9.8.2", "b": "10.9.8.2"}, "released": {}}',
        '{"cidr": "10.9.8.0/29", "allocated": {"a": "10.9.8.2"}, "released": {"10.9.8.2": 1}}',
        '{"cidr": "nonsense", "allocated": {}, "released": {}}',
    ],
)
def test_what_is_no_pool_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message differs with what is wrong
        parse(text)


def test_the_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "ipam.json"
    assert load(file, SMALL) == Pool(SMALL)
    pool, _ = allocate(Pool(SMALL), "a")
    save(file, pool)
    assert load(file, SMALL) == pool
    assert [entry.name for entry in file.parent.iterdir()] == ["ipam.json"]


def test_another_cidr_is_refused_while_pods_have_addresses(tmp_path: Path) -> None:
    file = tmp_path / "ipam.json"
    pool, _ = allocate(Pool(SMALL), "a")
    save(file, pool)
    with pytest.raises(NetnsError, match="1 pods have addresses"):
        load(file, "10.1.0.0/24")
    save(file, release(pool, "a", now=1.0))
    assert load(file, "10.1.0.0/24") == Pool("10.1.0.0/24")


@pytest.mark.parametrize("content", [b"{", b"\xff{", b"[]", b'{"cidr": "10.0.0.0/29"}'])
def test_a_damaged_file_is_told_apart_from_an_empty_one(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ipam.json"
    file.write_bytes(content)
    with pytest.raises(DamagedPool, match=r"cannot read pod addresses from .*ipam\.json"):
        load(file, SMALL)
