"""An API server under test: a real process on a free port of the loopback, with a folder and keys of its own."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from agent.config import Config, dump_config
from agent.pki import ensure_pki
from tests.harness.node import REPOSITORY, command


@dataclass
class ApiServer:
    """A running server. ``stop`` and ``start`` may be called in between: the port and the store stay the same."""

    folder: Path
    config: Config
    listener: socket.socket
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        host, port = self.listener.getsockname()[:2]
        return f"https://{host}:{port}"

    @property
    def token(self) -> str:
        return (self.config.paths.pki / "token").read_text()

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.config.paths.pki / "ca.crt"))

    def start(self) -> None:
        path = self.folder / "config.json"
        path.write_bytes(dump_config(self.config))
        log = (self.folder / "log").open("a")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.harness.serve_api", str(path), str(self.listener.fileno())],
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=[self.listener.fileno()],
            )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            self.stop()
            raise AssertionError(f"the API server did not start:\n{self.log()}")

    def stop(self, *, kill: bool = False) -> int:
        """End the process; returns its exit code."""
        assert self.process is not None
        (self.process.kill if kill else self.process.terminate)()
        code = self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def client(self) -> httpx2.Client:
        """A client that may do everything. Close it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.Client(base_url=self.url, verify=self.tls, headers=headers, timeout=30, trust_env=False)

    def kubectl(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        """The user's own kubectl; with ``check`` False what it says on standard error is part of the answer."""
        env = {"KUBECONFIG": str(self.config.paths.kubeconfig), "HOME": str(self.folder)}
        return command("kubectl", *argv, env=env, stdin=stdin, check=check)


class Kubectl:
    """The user's own kubectl, in a namespace of its own."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server, self.namespace = server, namespace

    def __call__(self, *argv: str, stdin: str = "") -> str:
        return self.server.kubectl("--namespace", self.namespace, *argv, stdin=stdin)

    def refused(self, *argv: str, stdin: str = "") -> str:
        """What it says when it fails; a success fails the test."""
        try:
            said = self(*argv, stdin=stdin)
        except AssertionError as failure:
            return str(failure)
        raise AssertionError(f"kubectl {' '.join(argv)} was expected to fail, and said: {said}")


@contextmanager
def running_apiserver(folder: Path) -> Iterator[ApiServer]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        config = Config(state_dir=folder, node_name="node-under-test")
        ensure_pki(config, loopback_port=listener.getsockname()[1])
        server = ApiServer(folder, config, listener)
        server.start()
        try:
            yield server
        finally:
            if server.process is not None:
                server.stop()
