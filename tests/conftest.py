"""One node for all tests that want one; each test removes by name what it made on it.

Properties are tried with a few examples, the same in each run, so that what passes and what is covered does not change
from run to run; ``HYPOTHESIS_PROFILE=thorough`` looks for new ones, many. They have no deadline: a test never fails
because a machine is slow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.harness.node import Node, running_node
from tests.leaks import assert_no_leaks

settings.register_profile("quick", max_examples=30, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


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
