"""Trees: many rules, of which a packet need only see a few.

A chain is a list, and the kernel walks it. One list of all ClusterIPs costs a new connection 0.15 ms at 1,000 Services
and a millisecond at 30,000, and each change rewrites all of it. So long lists are split: every line has a key, a string
of hexadecimal digits (an address, a port, a hash), and lines whose keys begin alike share a chain. 10,000 Services then
cost a packet some thirty rules, and a change one small chain.

The shape depends on the lines alone, never on the order in which they came, so that a tree that was changed a thousand
times is the one that would be built anew:

- a node of at most ``leaf`` lines holds them itself;
- a node of more has a child for each next digit that occurs;
- a node with one child only would decide nothing: it is left out, and its parent leads to the child.

The root (prefix ``""``) is always there. A key's digits used up, a node holds whatever is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

LEAF = 32  # lines; about what a packet can walk through in 3 us


class Place(NamedTuple):
    """Where a line belongs: its key, then its order among lines of the same key."""

    key: str
    order: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaf(Generic[T]):
    """A node's lines, in order."""

    lines: tuple[T, ...]


@dataclass(frozen=True, slots=True)
class Fork:
    """A node's children: prefix, and how many lines are beneath."""

    children: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class _Node(Generic[T]):
    """A leaf has ``lines``, a fork ``children`` by their next digit; ``count``: lines beneath."""

    prefix: str
    lines: dict[Place, tuple[T, ...]] = field(default_factory=dict)
    children: dict[str, _Node[T]] = field(default_factory=dict)
    count: int = 0


class Tree(Generic[T]):
    """Lines by key. ``changed`` tells which nodes are not as they were when it was last asked."""

    def __init__(self, leaf: int = LEAF) -> None:
        self._leaf = leaf
        self._root: _Node[T] = _Node("")
        self._touched: set[str] = {""}

    def put(self, place: Place, lines: tuple[T, ...]) -> None:
        """The lines of a place; none: it is gone."""
        path = self._path(place.key)
        holder = path[-1]
        more = len(lines) - len(holder.lines.get(place, ()))
        if lines:
            holder.lines[place] = lines
        else:
            holder.lines.pop(place, None)
        for node in path:
            node.count += more
        self._touched.update(node.prefix for node in path)
        self._settle(path)

    def changed(self) -> Iterator[tuple[str, Leaf[T] | Fork | None]]:
        """Prefix and content of each node that may have changed; None: there is no such node (any more)."""
        touched, self._touched = self._touched, set()
        for prefix in sorted(touched):
            node = self._find(prefix)
            yield prefix, self._content(node) if node is not None else None

    def _path(self, key: str) -> list[_Node[T]]:
        """The nodes from the root to the one that holds a key."""
        path = [self._root]
        while path[-1].children:
            node = path[-1]
            digit = key[len(node.prefix)]
            if digit not in node.children:
                node.children[digit] = _Node(node.prefix + digit)
            path.append(node.children[digit])
        return path

    def _settle(self, path: list[_Node[T]]) -> None:
        """Give the nodes of a path the shape that their counts ask for."""
        for parent, node in pairwise(path):
            if node.count == 0:
                del parent.children[node.prefix[-1]]
                break
        for node in path:
            if node.children and node.count <= self._leaf:
                self._merge(node)
                return
        self._burst(path[-1])

    def _merge(self, node: _Node[T]) -> None:
        beneath = list(node.children.values())
        node.children = {}
        while beneath:
            child = beneath.pop()
            self._touched.add(child.prefix)
            node.lines.update(child.lines)
            beneath += child.children.values()

    def _burst(self, node: _Node[T]) -> None:
        depth = len(node.prefix)
        if node.count <= self._leaf or any(len(place.key) == depth for place in node.lines):
            return
        for place, lines in node.lines.items():
            digit = place.key[depth]
            child = node.children.setdefault(digit, _Node(node.prefix + digit))
            child.lines[place] = lines
            child.count += len(lines)
        node.lines = {}
        for child in node.children.values():
            self._touched.add(child.prefix)
            self._burst(child)

    def _find(self, prefix: str) -> _Node[T] | None:
        """The node of a prefix, if it is there and decides something."""
        node = self._root
        while node.prefix != prefix:
            digit = prefix[len(node.prefix)]
            if digit not in node.children:
                return None
            node = node.children[digit]
        return node if not prefix or len(node.children) != 1 else None

    def _content(self, node: _Node[T]) -> Leaf[T] | Fork:
        if node.children:
            children = (_decisive(node.children[digit]) for digit in sorted(node.children))
            return Fork(tuple((child.prefix, child.count) for child in children))
        return Leaf(tuple(line for place in sorted(node.lines) for line in node.lines[place]))


def _decisive(node: _Node[T]) -> _Node[T]:
    while len(node.children) == 1:
        (node,) = node.children.values()
    return node
