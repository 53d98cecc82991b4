"""Sets of addresses, through the ``ipset`` program: one family's sets whose names are ours.

A set remembers the clients of one endpoint, each for its own time (net/netfilter/ipset/ip_set_hash_ip.c); rules put
them in. The kernel lets a set grow only when a program adds to it, not when a packet does (ipset(8), about the SET
target), and a bucket holds 12. So a set is made as large as it may become: the fewer sets there are, the larger. Up to
four clients a bucket, hardly one in ten thousand finds no room; one that does is served, but not remembered.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Sequence

from rules.iptables.engines import EngineError, Run
from rules.iptables.names import set_prefix
from rules.snapshot import Family

log = logging.getLogger(__name__)

MAX_CLIENTS = 1 << 20  # per set
_BUCKETS = 1 << 23  # of all sets together, as far as they go; 8 bytes each
_FEWEST, _MOST = 1 << 10, 1 << 14  # of one set
_TIMEOUT = 10800  # seconds, of entries that say none; rules always do
_REFERENCES = re.compile(r"^Name: (\S+)\n(?:.+\n)*?References: (\d+)", re.MULTILINE)
PATIENCE = 1.0  # seconds: nf_tables lets go of a set only when it has freed the rules that spoke of it


class Sets:
    """Reads, makes and destroys sets in the namespace of the calling thread."""

    def __init__(self, run: Run, family: Family) -> None:
        self._run = run
        self._prefix, self._inet = set_prefix(family), "inet" if family is Family.IPV4 else "inet6"
        self._present = shutil.which("ipset") is not None

    def read(self) -> frozenset[str]:
        """Names of those that are there. Without the program there are none."""
        if not self._present:
            return frozenset()
        names = self._call("list", "-n").decode().split()
        return frozenset(name for name in names if name.startswith(self._prefix))

    def make(self, names: Sequence[str]) -> None:
        """Have these sets, empty."""
        if not names:
            return
        if not self._present:
            raise EngineError(
                "cannot keep clients with their endpoints (sessionAffinity: ClientIP): the ipset program is not"
                " installed (Debian and Ubuntu: apt install ipset)"
            )
        buckets = choose_buckets(len(self.read().union(names)))
        kind = f"hash:ip family {self._inet} hashsize {buckets} maxelem {MAX_CLIENTS} timeout {_TIMEOUT}"
        self._restore([line for name in names for line in (f"create {name} {kind}", f"flush {name}")])

    def destroy(self, names: Sequence[str], *, patience: float = PATIENCE) -> None:
        """Have these sets no more. ``patience``: seconds for which rules that were just removed may still hold them."""
        deadline = time.monotonic() + patience
        while left := self._destroy_unused(names):
            if time.monotonic() > deadline:
                raise EngineError(f"cannot destroy sets of clients: somebody else's rules use {', '.join(left)}")
            time.sleep(0.01)

    def destroy_unused(self, names: Sequence[str], *, patience: float = PATIENCE) -> None:
        """Have no more of these sets than rules of the other variant of iptables use."""
        try:
            self.destroy(names, patience=patience)
        except EngineError as error:
            log.info("%s", error)

    def _destroy_unused(self, names: Sequence[str]) -> list[str]:
        """One try; returns those that rules still use."""
        if not names:
            return []
        used = dict(_REFERENCES.findall(self._call("list", "-t").decode()))
        unused = [name for name in names if used.get(name) == "0"]
        if unused:
            self._restore([f"destroy {name}" for name in unused])
        return [name for name in names if used.get(name, "0") != "0"]

    def _restore(self, lines: list[str]) -> None:
        try:
            self._run(("ipset", "-exist", "restore"), stdin="".join(f"{line}\n" for line in lines).encode())
        except Exception as error:
            raise EngineError(f"cannot change sets of clients: {error}") from error

    def _call(self, *words: str) -> bytes:
        try:
            return self._run(("ipset", *words))
        except Exception as error:
            raise EngineError(f"cannot read sets of clients: {error}") from error


def choose_buckets(sets: int) -> int:
    """How many buckets each of so many sets should have: a power of two."""
    share = min(max(_BUCKETS // sets, _FEWEST), _MOST)
    return 1 << share.bit_length() - 1
