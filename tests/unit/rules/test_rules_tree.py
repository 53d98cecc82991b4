"""Trees: whatever happened to one, it is the tree that would be built anew, and every line in it can be found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hypothesis import given
from hypothesis import strategies as st

from rules.iptables.tree import Fork, Leaf, Place, Tree

KEY = 4  # digits
Nodes = dict[str, Leaf[str] | Fork]

keys = st.text(alphabet="0af", min_size=KEY, max_size=KEY)
places = st.builds(Place, keys, st.tuples(st.integers(0, 1)))
lines = st.lists(st.text(alphabet="xyz", max_size=2), max_size=5).map(tuple)
edits = st.lists(st.tuples(places, lines), max_size=25)
leaves = st.integers(1, 6)


def follow(nodes: Nodes, tree: Tree[str]) -> None:
    """Do to ``nodes`` what the tree says has changed."""
    for prefix, content in tree.changed():
        if content is None:
            nodes.pop(prefix, None)
        else:
            nodes[prefix] = content


def built(model: Mapping[Place, tuple[str, ...]], leaf: int) -> Nodes:
    tree: Tree[str] = Tree(leaf)
    for place, content in model.items():
        tree.put(place, content)
    nodes: Nodes = {}
    follow(nodes, tree)
    return nodes


@given(st.lists(edits, max_size=4), leaves)
def test_any_history_leads_to_the_tree_built_anew(
    history: list[list[tuple[Place, tuple[str, ...]]]], leaf: int
) -> None:
    tree: Tree[str] = Tree(leaf)
    nodes: Nodes = {}
    model: dict[Place, tuple[str, ...]] = {}
    for batch in history:
        for place, content in batch:
            tree.put(place, content)
            model[place] = content
        follow(nodes, tree)
        assert nodes == built({place: content for place, content in model.items() if content}, leaf)


@given(st.dictionaries(places, lines, max_size=30), st.randoms(use_true_random=False), leaves)
def test_the_order_of_puts_does_not_matter(model: dict[Place, tuple[str, ...]], random: object, leaf: int) -> None:
    shuffled = list(model)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert built({place: model[place] for place in shuffled}, leaf) == built(model, leaf)


def walk(nodes: Nodes, key: str, prefix: str = "") -> Iterator[str]:
    """The nodes that a packet with this key comes through."""
    yield prefix
    content = nodes[prefix]
    if isinstance(content, Fork):
        for child, _ in content.children:
            if key.startswith(child):
                yield from walk(nodes, key, child)


@given(st.dictionaries(places, lines.filter(bool), max_size=40), leaves)
def test_every_line_can_be_reached(model: dict[Place, tuple[str, ...]], leaf: int) -> None:
    nodes = built(model, leaf)
    for key in {place.key for place in model}:
        *_, last = walk(nodes, key)
        content = nodes[last]
        assert isinstance(content, Leaf)
        expected = [line for place in sorted(model) if place.key.startswith(last) for line in model[place]]
        assert list(content.lines) == expected
    reached = {prefix for place in model for prefix in walk(nodes, place.key)}
    assert set(nodes) == reached | {""}  # and nothing is there for nothing


@given(st.dictionaries(places, lines.filter(bool), max_size=40), leaves)
def test_the_shape(model: dict[Place, tuple[str, ...]], leaf: int) -> None:
    for prefix, content in built(model, leaf).items():
        beneath = sum(len(found) for place, found in model.items() if place.key.startswith(prefix))
        if isinstance(content, Leaf):
            assert len(content.lines) == beneath
            assert beneath <= leaf or len(prefix) == KEY  # a key's digits used up: whatever is left
        else:
            assert sum(count for _, count in content.children) == beneath > leaf
            assert len(content.children) > 1 or prefix == ""
            assert all(len(child) > len(prefix) and child.startswith(prefix) for child, _ in content.children)


def test_a_node_that_decides_nothing_is_left_out() -> None:
    nodes = built({Place(f"0a60{number:02x}00"): ("x",) for number in range(33)}, leaf=32)
    assert nodes[""] == Fork((("0a60", 33),))
    assert nodes["0a60"] == Fork((("0a600", 16), ("0a601", 16), ("0a602", 1)))
    assert set(nodes) == {"", "0a60", "0a600", "0a601", "0a602"}


def test_what_did_not_change_is_not_told() -> None:
    tree: Tree[str] = Tree(1)
    assert list(tree.changed()) == [("", Leaf(()))]  # the root is always there
    assert list(tree.changed()) == []
    for key in ("a0", "b0", "b1"):
        tree.put(Place(key), ("x",))
    assert {prefix for prefix, _ in tree.changed()} == {"", "a", "b", "b0", "b1"}
    tree.put(Place("a0"), ("y",))
    assert list(tree.changed()) == [("", Fork((("a", 1), ("b", 2)))), ("a", Leaf(("y",)))]
    tree.put(Place("c0"), ())  # it never was there
    assert list(tree.changed()) == [("", Fork((("a", 1), ("b", 2)))), ("c", None)]
    tree.put(Place("b1"), ())
    assert dict(tree.changed()) == {"": Fork((("a", 1), ("b", 1))), "b": Leaf(("x",)), "b0": None, "b1": None}


def test_many_lines_of_one_place_go_at_once() -> None:
    tree: Tree[str] = Tree(2)
    tree.put(Place("a0"), ("x",) * 5)
    tree.put(Place("b0"), ("y",))
    nodes: Nodes = {}
    follow(nodes, tree)
    assert nodes == {"": Fork((("a0", 5), ("b", 1))), "a0": Leaf(("x",) * 5), "b": Leaf(("y",))}
    tree.put(Place("a0"), ())
    follow(nodes, tree)
    assert nodes == {"": Leaf(("y",))}
