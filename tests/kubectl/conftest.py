"""An API server alone, for what kubectl does with objects. What needs pods has the whole ``node`` instead."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.harness.apiserver import ApiServer, Kubectl, running_apiserver


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@pytest.fixture
def kubectl(apiserver: ApiServer) -> Kubectl:
    namespace = f"test-{secrets.token_hex(4)}"
    apiserver.kubectl("create", "namespace", namespace)
    return Kubectl(apiserver, namespace)
