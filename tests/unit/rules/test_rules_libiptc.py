"""Extension options are found in both layouts of libxtables' table, of which a machine has only one."""

import ctypes
from typing import Any

import pytest

from rules.iptables.engines.libiptc import _find_option


class Older(ctypes.Structure):
    """struct xt_option_entry up to iptables 1.8.10, and what python-iptables takes it for."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("numbers", ctypes.c_uint * 6),
        ("size", ctypes.c_size_t),
        ("bounds", ctypes.c_uint * 2),
    )


class Newer(ctypes.Structure):
    """The same since iptables 1.8.11."""

    _fields_ = (*Older._fields_, ("base", ctypes.c_uint))


@pytest.mark.parametrize("layout", [Older, Newer])
@pytest.mark.parametrize("names", [[b"sport", b"dport", b"ports"], [b"comment"]])
def test_an_option_is_found_in_either_layout(layout: type[Any], names: list[bytes]) -> None:
    table = (layout * (len(names) + 1))(*(layout(name, size=place + 1) for place, name in enumerate(names)))
    if layout is Newer:
        table[0].base = 16
    entries = ctypes.cast(table, ctypes.POINTER(Older))
    for place, name in enumerate(names):
        found = _find_option(None, entries, name)
        assert (found.name, found.size) == (name, place + 1)
    assert _find_option(None, entries, b"nowhere") is None
