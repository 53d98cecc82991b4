"""What other people do to rules: at random, to ours; and a program that minds its own rules only, all the time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

from rules.iptables.engines import Variant
from rules.iptables.names import MADE, is_ours
from rules.iptables.ruleset import TABLES, Rule, Rules, Ruleset
from tests.harness.netfilter import MiniNode

JUNK = (
    "-j RETURN",
    "-j ACCEPT",
    "-s 198.51.100.0/24 -j RETURN",
    "-p tcp -m tcp --dport 80 -j ACCEPT",
    "-m comment --comment tampering",
)
FOREIGN_RULES = """\
*filter
:FOREIGN - [0:0]
-A INPUT -j FOREIGN
-A FORWARD -s 203.0.113.0/24 -m comment --comment "not podwire's" -j DROP
-A FOREIGN -s 203.0.113.9/32 -j REJECT --reject-with icmp-port-unreachable
COMMIT
*nat
:FOREIGN - [0:0]
-A PREROUTING -j FOREIGN
-A POSTROUTING -s 203.0.113.0/24 -j MASQUERADE
-A FOREIGN -p tcp -m tcp --dport 2222 -j DNAT --to-destination 203.0.113.7:22
COMMIT
"""


class Foreigner:
    """Rewrites a chain of its own, over and over, and looks whether it is still what was written last."""

    def __init__(self, node: MiniNode, variant: Variant, *, pause: float = 0.1) -> None:
        self.rewritten = 0
        self.surprises: list[str] = []
        self.lock = threading.Lock()  # held by those who replace whole tables
        self._node, self._tool, self._pause = node, f"iptables-{variant}", pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Foreigner:
        self._restore(":BUSY - [0:0]", "-A BUSY -j RETURN", "-A FORWARD -j BUSY")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._restore("-D FORWARD -j BUSY", "-F BUSY", "-X BUSY")

    def _work(self) -> None:
        written = ["-A BUSY -j RETURN"]
        while not self._stop.wait(self._pause):
            with self.lock:
                found = self._node.run(self._tool, "-w", "-S", "BUSY").splitlines()[1:]
                if found != written:
                    self.surprises.append(f"wrote {written}, found {found}")
                number = self.rewritten % 250
                written = [f"-A BUSY -s 203.0.113.{number}/32 -j DROP", "-A BUSY -j RETURN"]
                self._restore(":BUSY - [0:0]", *written)
                self.rewritten += 1

    def _restore(self, *lines: str) -> None:
        text = "\n".join(["*filter", *lines, "COMMIT", ""])
        self._node.run(f"{self._tool}-restore", "--noflush", "-w", stdin=text)


class Tamperer:
    """``act()`` does one thing to rules of ours, different from what ``wanted`` says, and returns its name."""

    def __init__(self, node: MiniNode, variant: Variant, wanted: Ruleset, foreigner: Foreigner, *, seed: int) -> None:
        self._node, self._variant, self._foreigner = node, variant, foreigner
        self._wanted, self._random = wanted, random.Random(seed)
        acts = [
            self._delete_rule,
            self._insert_rule,
            self._replace_rule,
            self._reorder_rules,
            self._flush_chain,
            self._flush_all,
            self._delete_chain,
            self._add_chain,
            self._remove_jumps,
            self._restore_without_us,
            *([self._delete_table] if variant == "nft" else []),
        ]
        self._acts: Iterator[Callable[[], None]] = self._forever(acts)

    def act(self) -> str:
        act = next(self._acts)
        act()
        return act.__name__.strip("_").replace("_", " ")

    def _forever(self, acts: list[Callable[[], None]]) -> Iterator[Callable[[], None]]:
        while True:
            yield from self._random.sample(acts, len(acts))

    def _write(self, table: str, *lines: str) -> None:
        text = "\n".join([f"*{table}", *lines, "COMMIT", ""])
        self._node.run(f"iptables-{self._variant}-restore", "--noflush", "-w", stdin=text)

    def _pick(self, at_least: int = 1) -> tuple[str, str, Rules]:
        """Table, chain, and its rules: so many different ones."""
        found = [
            (table, chain, rules)
            for table in TABLES
            for chain, rules in self._wanted.table(table).chains.items()
            if len(set(rules)) >= at_least
        ]
        return self._random.choice(found)

    def _junk(self) -> str:
        return self._random.choice(JUNK)

    def _delete_rule(self) -> None:
        table, chain, rules = self._pick()
        self._write(table, f"-D {chain} {self._random.randint(1, len(rules))}")

    def _insert_rule(self) -> None:
        table, chain, rules = self._pick()
        self._write(table, f"-I {chain} {self._random.randint(1, len(rules) + 1)} {self._junk()}")

    def _replace_rule(self) -> None:
        table, chain, rules = self._pick()
        self._write(table, f"-R {chain} {self._random.randint(1, len(rules))} {self._junk()}")

    def _reorder_rules(self) -> None:
        table, chain, rules = self._pick(at_least=2)
        index = next(i for i, rule in enumerate(rules) if rule != rules[-1])
        self._write(table, f"-D {chain} {index + 1}", f"-A {chain} {rules[index]}")

    def _flush_chain(self) -> None:
        table, chain, _ = self._pick()
        self._write(table, f"-F {chain}")

    def _flush_all(self) -> None:
        table = self._random.choice(TABLES)
        self._write(table, *(f"-F {chain}" for chain in self._wanted.table(table).chains))

    def _delete_chain(self) -> None:
        table, chain, _ = self._pick()
        content = self._wanted.table(table)
        referring = [
            f"-D {other} {rule}"
            for place in (content.jumps, content.chains)
            for other, rules in place.items()
            for rule in rules
            if rule.target == chain and other != chain
        ]
        self._write(table, *referring, f"-F {chain}", f"-X {chain}")

    def _add_chain(self) -> None:
        table, chain = self._random.choice(TABLES), f"KUBE-SVC-{self._random.randrange(10**15):016}"
        self._write(table, f":{chain} - [0:0]", f"-A {chain} {self._junk()}")

    def _remove_jumps(self) -> None:
        table = self._random.choice(TABLES)
        chain, rules = self._random.choice(list(self._wanted.table(table).jumps.items()))
        self._write(table, *(f"-D {chain} {rule}" for rule in rules))

    def _restore_without_us(self) -> None:
        """Somebody has a file of his rules and loads it."""
        table = self._random.choice(TABLES)
        with self._foreigner.lock:
            text = self._foreign(table, kept=MADE)
            self._node.run(f"iptables-{self._variant}-restore", "-w", stdin=text)

    def _delete_table(self) -> None:
        """All of it, and foreign rules are put back by whoever did that."""
        table = self._random.choice(TABLES)
        with self._foreigner.lock:
            text = self._foreign(table)
            self._node.run("nft", "delete", "table", "ip", table)
            self._node.run("iptables-nft-restore", "--noflush", "-w", stdin=text)

    def _foreign(self, table: str, *, kept: str = "nothing") -> str:
        """A table without what is ours, but for chains whose names begin with ``kept``."""
        saved = self._node.run(f"iptables-{self._variant}-save", "-t", table).splitlines()
        rules = [line for line in saved if line.startswith("-A ") and _is_foreign(line)]
        used = {rule.split()[1] for rule in rules}
        chains = [line for line in saved if line.startswith(":")]
        chains = [line for line in chains if line[1:].split()[0] in used or line[1:].startswith(kept)]
        return "\n".join([f"*{table}", *chains, *rules, "COMMIT", ""])


def _is_foreign(line: str) -> bool:
    _, chain, rule = line.split(" ", 2)
    return not is_ours(chain) and not Rule(rule).is_jump_of_ours
