"""One node for all tests that want one; each test removes by name what it made on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.node import Node, running_node
from tests.leaks import assert_no_leaks


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    with assert_no_leaks(), running_node() as ready:
        yield ready


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows the end of the node's logs."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    node = getattr(item, "funcargs", {}).get("node")
    if report.failed and isinstance(node, Node):
        report.sections.append(("node logs", node.logs()))
