"""Probes: is the container started, ready, alive?

A startup probe comes first and holds back the other two; readiness decides whether Services send traffic here; a
liveness or startup probe that fails for good condemns the container. ``Tally`` counts results against the thresholds
and ``looks`` says when to look (both pure); ``Prober`` looks. Checks run in this process, which lives in the node's
network namespace, so a probe reaches the pod's address as the real kubelet's does.

When to look: every ``periodSeconds``, from ``initialDelaySeconds`` on. Two things are ours, for a node that shall be
quick and quiet at once. Until its first success, a readiness or startup probe also looks in between during its first
period, at growing distances (0.05 s, 0.1 s, 0.2 s, ...), so that a pod is Ready when it is ready and not up to a period
later; a failure of such an early look is neither counted nor told. And a liveness probe without a delay begins one
period after the start (upstream's begins at a random moment within it), so that no container is blamed for booting.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import httpx2

from agent.kubelet.pod import ProbeState
from agent.kubelet.spec import ContainerSpec, ExecAction, HttpGet, Port, Probe, TcpSocket

log = logging.getLogger(__name__)

Kind = Literal["startup", "readiness", "liveness"]
AGENT = "kube-probe/1.33"
FIRST_LOOK = 0.05  # seconds between the first two early looks
REDIRECTS = 10
SHOWN = 1024  # characters of a command's output that an Event carries

RunCommand = Callable[[Sequence[str], float], Awaitable[tuple[int, str]]]
"""Run a command in the container for at most so many seconds; its exit code and output. TimeoutError when not done."""


class ProbeError(Exception):
    """The probe itself cannot be made; its result says nothing about the container."""


@dataclass(frozen=True, slots=True)
class Look:
    """Look after ``pause`` seconds; a failure of an early look does not count."""

    pause: float
    early: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """Equal results in a row. ``verdict`` is what the probe says now: None until a threshold is reached."""

    verdict: bool | None = None
    last: bool | None = None
    run: int = 0


def count(tally: Tally, success: bool, probe: Probe) -> Tally:
    """The tally after one more result."""
    run = tally.run + 1 if tally.last is success else 1
    reached = run >= (probe.success_threshold if success else probe.failure_threshold)
    return Tally(verdict=success if reached else tally.verdict, last=success, run=run)


def looks(kind: Kind, probe: Probe) -> Iterator[Look]:
    """When to look until the first success; without end."""
    delay, period = float(probe.initial_delay_seconds), float(max(1, probe.period_seconds))
    if kind == "liveness":
        yield Look(delay or period, early=False)
    else:
        yield Look(delay, early=True)
        elapsed, pause = 0.0, FIRST_LOOK
        while elapsed + pause < period:
            yield Look(pause, early=True)
            elapsed, pause = elapsed + pause, pause * 2
        yield Look(period - elapsed, early=False)
    yield from steady(probe)


def steady(probe: Probe) -> Iterator[Look]:
    """When to look after the first success."""
    return itertools.repeat(Look(float(max(1, probe.period_seconds)), early=False))


def resolve_port(port: int | str, ports: Sequence[Port]) -> int:
    """A number, or the name of one of the container's ports. Raises ProbeError."""
    named = next((p.container_port for p in ports if port and p.name == port), None)
    number = named if named is not None else int(port) if str(port).isdecimal() else None
    if number is None or not 0 < number < 65536:
        raise ProbeError(f"no port {port!r}: it is neither a number nor the name of one of the container's ports")
    return number


class Checker:
    """Makes single checks. One for all pods: it holds the HTTP client. ``close`` it."""

    def __init__(self) -> None:
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._http = httpx2.AsyncClient(verify=False, trust_env=False, limits=limits, timeout=None)

    async def close(self) -> None:
        await self._http.aclose()

    async def check(
        self, probe: Probe, *, address: str, ports: Sequence[Port], run_command: RunCommand
    ) -> tuple[bool, str]:
        """Success or not, and what to tell about it. Raises ProbeError."""
        seconds = float(max(1, probe.timeout_seconds))
        if probe.exec is not None:
            return await _execute(probe.exec, run_command, seconds)
        try:
            async with asyncio.timeout(seconds):
                if probe.http_get is not None:
                    return await self.http_get(probe.http_get, address=address, ports=ports)
                if probe.tcp_socket is not None:
                    return await _connect(probe.tcp_socket, address=address, ports=ports)
        except TimeoutError:
            return False, f"no answer within {seconds:g} s"
        if probe.grpc is not None:
            raise ProbeError("gRPC probes are not supported; use httpGet, tcpSocket or exec")
        raise ProbeError("the probe has no httpGet, tcpSocket or exec")

    async def http_get(self, action: HttpGet, *, address: str, ports: Sequence[Port]) -> tuple[bool, str]:
        """GET; 200 to 399 is success. Redirects are followed on the same host only; one that leads away is success."""
        url = _url(action, address=address, ports=ports)
        headers = [("User-Agent", AGENT), ("Accept", "*/*"), ("Connection", "close")]
        own = {header.name.lower() for header in action.http_headers}
        headers = [h for h in headers if h[0].lower() not in own] + [(h.name, h.value) for h in action.http_headers]
        try:
            for _ in range(REDIRECTS):
                async with self._http.stream("GET", url, headers=headers) as response:
                    status, onward = response.status_code, response.next_request
                if onward is None or onward.url.host != url.host:
                    return 200 <= status < 400, f"HTTP probe failed with statuscode: {status}"
                url = onward.url
            return False, f'Get "{url}": stopped after {REDIRECTS} redirects'
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return False, f'Get "{url}": {_plain(error)}'


class Prober:
    """Watches one running container. ``state`` is what its probes say; ``changed`` is called when that changes.

    ``unhealthy(kind, message)`` is called for each failure that counts. ``known`` is the state before the first result:
    a kubelet that starts anew goes on with what it said last.
    """

    def __init__(
        self,
        spec: ContainerSpec,
        check: Callable[[Probe], Awaitable[tuple[bool, str]]],
        *,
        known: ProbeState,
        changed: Callable[[], None],
        unhealthy: Callable[[Kind, str], None],
    ) -> None:
        self._spec, self._check, self._changed, self._unhealthy = spec, check, changed, unhealthy
        self.state = known
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to look. Must be called in the event loop."""
        if self._spec.startup_probe is not None and not self.state.started:
            self._spawn("startup", self._spec.startup_probe)
        else:
            self._begin()

    async def stop(self) -> None:
        """Stop all looks."""
        await self._cancel("startup", "readiness", "liveness")

    async def spare(self) -> None:
        """The pod is being deleted: nothing condemns its containers any more, readiness is still told."""
        await self._cancel("startup", "liveness")

    async def _cancel(self, *kinds: str) -> None:
        tasks = [self._tasks.pop(kind) for kind in kinds if kind in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self) -> None:
        if self._spec.readiness_probe is not None:
            self._spawn("readiness", self._spec.readiness_probe)
        if self._spec.liveness_probe is not None:
            self._spawn("liveness", self._spec.liveness_probe)

    def _spawn(self, kind: Kind, probe: Probe) -> None:
        self._tasks[kind] = asyncio.create_task(self._watch(kind, probe), name=f"{kind} probe of {self._spec.name}")

    async def _watch(self, kind: Kind, probe: Probe) -> None:
        """Look until the container is condemned, or for a startup probe until it has started."""
        tally = Tally(verdict=self.state.ready if kind == "readiness" else None)
        schedule = looks(kind, probe)
        due = asyncio.get_running_loop().time()
        while True:
            look = next(schedule)
            due = max(due + look.pause, asyncio.get_running_loop().time())
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            success = await self._look(kind, probe, early=look.early)
            if success is None:
                continue
            if success and tally.last is not True:
                schedule = steady(probe)
            tally = count(tally, success, probe)
            if self._conclude(kind, tally.verdict):
                return

    async def _look(self, kind: Kind, probe: Probe, *, early: bool) -> bool | None:
        """One look: success, failure, or None where the result does not count."""
        try:
            success, message = await self._check(probe)
        except ProbeError as error:
            if not early:
                self._unhealthy(kind, f"{kind.capitalize()} probe errored: {error}")
            return None
        if success:
            return True
        if early:
            return None
        self._unhealthy(kind, f"{kind.capitalize()} probe failed: {message}")
        return False

    def _conclude(self, kind: Kind, verdict: bool | None) -> bool:
        """Turn a verdict into state; True when this probe has nothing more to say."""
        if verdict is None:
            return False
        if kind == "readiness":
            self._set(replace(self.state, ready=verdict))
            return False
        if not verdict:
            self._set(replace(self.state, failed=kind, ready=False))
            return True
        if kind == "startup":
            self._begin()
            self._set(replace(self.state, started=True, ready=self._spec.readiness_probe is None))
            return True
        return False

    def _set(self, state: ProbeState) -> None:
        if state != self.state:
            self.state = state
            self._changed()


def _url(action: HttpGet, *, address: str, ports: Sequence[Port]) -> httpx2.URL:
    host = action.host or address
    bracketed = f"[{host}]" if ":" in host else host
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    try:
        return httpx2.URL(f"{action.scheme.lower()}://{bracketed}:{resolve_port(action.port, ports)}{path}")
    except httpx2.InvalidURL as error:
        raise ProbeError(f"cannot ask {host}{path}: {error}") from error


async def _connect(action: TcpSocket, *, address: str, ports: Sequence[Port]) -> tuple[bool, str]:
    host, port = action.host or address, resolve_port(action.port, ports)
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return False, f"dial tcp {host}:{port}: {_plain(error)}"
    writer.close()
    try:
        await writer.wait_closed()
    except OSError as error:  # it was open, and that was the question
        log.debug("tcp probe of %s:%d: closing: %s", host, port, error)
    return True, ""


async def _execute(action: ExecAction, run_command: RunCommand, seconds: float) -> tuple[bool, str]:
    try:
        code, output = await run_command(action.command, seconds)
    except TimeoutError:
        return False, f"command timed out after {seconds:g} s: {' '.join(action.command)}"
    return code == 0, output[:SHOWN] or f"exit code {code}"


def _plain(error: Exception) -> str:
    """The reason without Python's wrapping: ``connection refused``."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
