"""The proxy's loop: informers fill a World; each tick, a Snapshot goes down the pipeline, and the kernel follows.

Nothing is written before Services and EndpointSlices are both known completely: half a picture would refuse connections
that worked. Events that come while a sync runs are served together by the next one; there is never more than one at a
time. A sync that fails is tried again after 1, 2, 4 ... 30 seconds. Between changes the rules are compared with the
kernel's and repaired, every two seconds or less often where reading them is expensive.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from lightkube.resources.core_v1 import Node as NodeResource
from lightkube.resources.core_v1 import Service as ServiceResource
from lightkube.resources.discovery_v1 import EndpointSlice as SliceResource

from agent.kube.client import Client
from agent.kube.events import Recorder, Ref
from agent.kube.informer import Change, Informer, resource_path
from agent.kube.tick import Tick
from agent.proxy.dataplane import Dataplane, Outcome
from agent.proxy.decode import OwnedSlice, OwnNode, decode_node, decode_service, decode_slice
from agent.proxy.healthchecks import HealthChecks, listening_ranges, wanted_checks
from agent.proxy.metrics import Metrics
from agent.proxy.options import Options
from agent.proxy.web import Health, serve
from agent.proxy.world import World
from agent.telemetry import PROXY_SAW, RULES_IN_KERNEL, Timeline
from rules.iptables.engines import EngineError
from rules.policy import Frontends, Memo, resolve_frontends
from rules.snapshot import Service, ServiceName

log = logging.getLogger(__name__)

RETRY = (1.0, 30.0)  # seconds: the first pause after a failure, the last
CHECK = 2.0  # seconds between two looks at the kernel, at least
CHECK_SHARE = 0.02  # of one CPU, for looking, at most
CHECK_LIMIT = 300.0


@dataclass(slots=True)
class _Notes:
    """What happened since the last sync."""

    fresh: set[ServiceName] = field(default_factory=set)  # new Services, to be marked on the timeline once served
    triggered: list[float] = field(default_factory=list)  # when the endpoint changes happened, if that is known


class Proxy:
    """One node's proxy, between its informers and its dataplane."""

    def __init__(self, client: Client, options: Options, *, dataplane: Dataplane, ready: Callable[[], None]) -> None:
        self._client, self._options, self._dataplane, self._ready = client, options, dataplane, ready
        self._world = World(options.node_name, options.settings)
        self._tick = Tick(options.min_interval)
        self._timeline = Timeline(options.timeline)
        self._recorder = Recorder(client, "podwire-proxy", host=options.node_name)
        self._metrics = Metrics(options.families)
        self._health = Health(options.health_timeout)
        self._checks = HealthChecks(
            is_healthy=lambda: self._health.is_healthy, tell=self._check_failed, count=self._metrics.health_check_ports
        )
        self._memo = Memo()
        self._notes = _Notes()
        self._known: dict[ServiceName, str] = {}  # the uid of each Service that was seen together with its endpoints
        self._complained: dict[ServiceName, tuple[str, ...]] = {}
        self._is_live = False  # what came with the first lists is not news
        self._settled = False
        self._check_pause = CHECK
        self._last_repair = ""

    async def run(self) -> None:
        """Until cancelled; rules stay."""
        services = Informer(self._client, resource_path(ServiceResource), decode_service)
        slices = Informer(self._client, resource_path(SliceResource), decode_slice)
        fields = f"metadata.name={self._options.node_name}"
        nodes = Informer(self._client, resource_path(NodeResource), decode_node, fields=fields)
        services.subscribe(self._on_service)
        slices.subscribe(self._on_slice)
        nodes.subscribe(self._on_node)
        with ThreadPoolExecutor(1, thread_name_prefix="xtables") as thread:
            try:
                async with asyncio.TaskGroup() as group:
                    for task in (services.run(), slices.run(), nodes.run(), self._recorder.run(), self._checks.run()):
                        group.create_task(task)
                    addresses = [address for address in (self._options.web, self._options.healthz) if address]
                    group.create_task(serve(addresses, self._health, self._metrics))
                    await asyncio.gather(*(informer.synced.wait() for informer in (services, slices, nodes)))
                    await self._follow(thread)
            finally:
                thread.submit(self._dataplane.close)

    async def _follow(self, thread: ThreadPoolExecutor) -> None:
        """Sync when something changed or has to be tried again; look at the kernel in between."""
        pause, changed = RETRY[0], True
        while True:
            try:
                if changed or not self._settled:
                    self._settled = await self._sync(thread)
                else:
                    await self._check(thread)
            except EngineError as error:
                log.error("%s: trying again in %g s", error, pause)
                self._settled = False
            changed = await self._tick.wait(self._check_pause if self._settled else pause)
            pause = RETRY[0] if self._settled or changed else min(pause * 2, RETRY[1])

    async def _sync(self, thread: ThreadPoolExecutor) -> bool:
        """One change of the kernel. False if some Services were refused and have to be tried again."""
        notes, self._notes = self._notes, _Notes()
        frontends = resolve_frontends(self._world.snapshot(), self._memo)
        self._metrics.began()
        began = time.monotonic()
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(thread, self._dataplane.sync, frontends)
        except EngineError:
            self._notes.fresh |= notes.fresh
            self._notes.triggered += notes.triggered
            for family in self._options.families:
                self._metrics.failed(family, time.monotonic() - began, full=not self._settled)
            raise
        self._report(frontends, outcome, notes)
        self._is_live = True
        ready, self._ready = self._ready, _nothing
        ready()
        return not outcome.refused

    def _report(self, frontends: Frontends, outcome: Outcome, notes: _Notes) -> None:
        """Tell everybody who wants to know: the log, the timeline, metrics, health, and the objects concerned."""
        now = time.time()
        if outcome.rules or outcome.applied:
            count = len(outcome.applied)
            log.info("%d Services changed, %d rules written, %.0f ms", count, outcome.rules, outcome.seconds * 1e3)
        for family in self._options.families:
            first = family is self._options.families[0]  # Outcome counts the rules of all families together
            self._metrics.synced(
                family,
                outcome.seconds,
                full=not self._settled,
                written={"nat": outcome.rules} if first else {},
                installed=self._dataplane.rules() if first else {},
            )
        self._metrics.committed(frontends, triggered=notes.triggered, refused=len(outcome.refused))
        self._checks.update(wanted_checks(frontends), listening_ranges(frontends))
        self._health.synced()
        for name in sorted(notes.fresh - outcome.refused.keys()):
            self._timeline.mark(RULES_IN_KERNEL, *name, at=now)
        for problem in frontends.problems:
            log.warning("settings: %s", problem)
        self._complain(frontends, outcome)

    def _complain(self, frontends: Frontends, outcome: Outcome) -> None:
        """Events on Services of which something cannot be served; each complaint once, until it changes."""
        found = {name: service.problems for name, service in frontends.services.items() if service.problems}
        for name, reason in outcome.refused.items():
            found[name] = (*found.get(name, ()), reason)
        for name in sorted(found):
            if self._complained.get(name) != found[name]:
                reason = "RulesRefused" if name in outcome.refused else "NotServed"
                message = "cannot serve all of this Service: " + "; ".join(found[name])
                log.warning("%s: %s", name, message)
                self._recorder.event(Ref("Service", *name, uid=self._world.uid(name)), "Warning", reason, message)
        self._complained = found

    def _check_failed(self, name: ServiceName, message: str) -> None:
        """A health check port that cannot be had. The reason is kube-proxy's."""
        log.warning("%s: %s", name, message)
        ref = Ref("Service", *name, uid=self._world.uid(name))
        self._recorder.event(ref, "Warning", "FailedToStartServiceHealthcheck", message)

    async def _check(self, thread: ThreadPoolExecutor) -> None:
        """Repair what somebody changed. A repair that does not hold is not repeated at full speed: perhaps this
        iptables prints rules in another form than it was given them."""
        began = time.monotonic()
        plan = await asyncio.get_running_loop().run_in_executor(thread, self._dataplane.check)
        elapsed = time.monotonic() - began
        pause = min(CHECK_LIMIT, max(CHECK, elapsed / CHECK_SHARE))
        self._metrics.checked(elapsed, repaired=bool(plan))
        if plan:
            again, self._last_repair = str(plan) == self._last_repair, str(plan)
            pause = min(CHECK_LIMIT, self._check_pause * 2) if again else pause
            log.warning("somebody changed our rules; repaired (next look in %.0f s):\n%s", pause, plan)
        else:
            self._last_repair = ""
        self._check_pause = pause

    def _on_service(self, change: Change[Service]) -> None:
        name = self._world.take_service(change)
        self._metrics.service_changed(name)
        self._changed({name})

    def _on_slice(self, change: Change[OwnedSlice]) -> None:
        touched = self._world.take_slice(change)
        self._metrics.endpoints_changed(touched)
        if change.new is not None and change.new.triggered is not None and self._is_live:
            self._notes.triggered.append(change.new.triggered)
        self._changed(touched)

    def _on_node(self, change: Change[OwnNode]) -> None:
        if self._world.take_node(change):
            self._changed(set())
        self._health.node_eligible = self._world.node_eligible

    def _changed(self, names: set[ServiceName]) -> None:
        """Something to do. A Service is new to the timeline when it and its endpoints are both known."""
        for name in names:
            if not self._world.knows(name):
                continue
            if self._world.uid(name) != self._known.get(name) and self._is_live:
                self._timeline.mark(PROXY_SAW, *name)
                self._notes.fresh.add(name)
            self._known[name] = self._world.uid(name)
        self._metrics.queued()
        self._health.queued()
        self._tick.poke()


def _nothing() -> None:
    pass
