"""The proxy's loop: informers fill a World; each tick, what is news goes down the pipeline, and the kernel follows.

Nothing is written before Services and EndpointSlices are both known completely: half a picture would refuse connections
that worked. Events that come while a sync runs are served together by the next one; there is never more than one at a
time. A sync that fails is tried again after 1, 2, 4 ... 30 seconds. When the kernel tells that somebody else wrote to
the tables, our rules among those touched are compared and repaired; now and then all of them are, whatever was told.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from lightkube.resources.core_v1 import Node as NodeResource
from lightkube.resources.core_v1 import Service as ServiceResource
from lightkube.resources.discovery_v1 import EndpointSlice as SliceResource

from agent.kube.client import Client
from agent.kube.events import Recorder, Ref
from agent.kube.informer import Change, Informer, resource_path
from agent.kube.tick import Tick
from agent.proxy.dataplane import Dataplane, Outcome
from agent.proxy.decode import OwnedSlice, OwnNode, decode_node, decode_service, decode_slice
from agent.proxy.healthchecks import HealthChecks, listening_ranges, revise_checks
from agent.proxy.metrics import Metrics
from agent.proxy.options import Options
from agent.proxy.traffic_meter import TrafficCollector, TrafficMeter, routes
from agent.proxy.web import Health, serve
from agent.proxy.world import News, World
from agent.telemetry import PROXY_SAW, RULES_IN_KERNEL, Timeline
from rules.iptables.diff import Plan
from rules.iptables.engines import EngineError
from rules.policy import Frontends, HealthCheck, resolve_frontends
from rules.snapshot import Node, Service, ServiceName

log = logging.getLogger(__name__)

RETRY = (1.0, 30.0)  # seconds: the first pause after a failure, the last
LOOK = (30.0, 600.0)  # seconds between two looks at all of the rules, at least and at most
LOOK_SHARE = 0.01  # of one CPU, for looking, at most
MANY_RULES = 200  # beyond which a repair is not told rule by rule
TOLD = (0.02, 1.0)  # seconds between two looks at what the kernel told of, at least and at most
IDLE = 10.0  # the same, where there was nothing to see


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
        self._meter = TrafficMeter()
        self._metrics.registry.register(TrafficCollector(self._meter))
        self._checks = HealthChecks(
            is_healthy=lambda: self._health.is_healthy, tell=self._check_failed, count=self._metrics.health_check_ports
        )
        self._serving = Frontends(Node(options.node_name))
        self._wanted_checks: Mapping[ServiceName, HealthCheck] = {}
        self._notes = _Notes()
        self._known: dict[ServiceName, str] = {}  # the uid of each Service that was seen together with its endpoints
        self._complained: dict[ServiceName, tuple[str, ...]] = {}
        self._is_live = False  # what came with the first lists is not news
        self._settled = False
        self._descriptors: list[int] = []
        self._look_pause, self._told_pause = LOOK[0], TOLD[0]
        self._told_at: float | None = None  # since when something waits to be looked at (monotonic seconds)
        self._looked_at = -math.inf  # when the last look ended
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
                    for informer in (services, slices, nodes):
                        group.create_task(informer.run())
                    for part in (self._recorder, self._checks, self._meter):
                        group.create_task(part.run())
                    addresses = [address for address in (self._options.web, self._options.healthz) if address]
                    group.create_task(serve(addresses, self._health, self._metrics, routes(self._meter)))
                    await asyncio.gather(*(informer.synced.wait() for informer in (services, slices, nodes)))
                    await self._follow(thread)
            finally:
                self._deaf()
                thread.submit(self._dataplane.close)
                self._meter.close()

    async def _follow(self, thread: ThreadPoolExecutor) -> None:
        """Sync when something changed or has to be tried again; look at the kernel when it told of something, or when
        nothing happened for long."""
        pause, poked = RETRY[0], True
        while True:
            self._deaf()
            try:
                busy = self._world.has_news or not self._settled
                if busy:
                    self._settled = await self._sync(thread)
                if not busy or self._has_waited():
                    await self._check(thread, thorough=not (busy or poked))
            except EngineError as error:
                log.error("%s: trying again in %g s", error, pause)
                self._settled = False
            self._listen()
            poked = await self._tick.wait(self._look_pause if self._settled else pause)
            pause = RETRY[0] if self._settled or poked else min(pause * 2, RETRY[1])

    def _has_waited(self) -> bool:
        """What the kernel told of has waited long enough, though there is always something else to do."""
        return self._told_at is not None and time.monotonic() - self._told_at >= TOLD[1]

    async def _sync(self, thread: ThreadPoolExecutor) -> bool:
        """One change of the kernel. False if some Services were refused and have to be tried again."""
        notes, self._notes = self._notes, _Notes()
        news = self._world.take_news()
        self._metrics.began()
        began = time.monotonic()
        try:
            part, outcome = await asyncio.get_running_loop().run_in_executor(thread, self._bring_about, news)
        except EngineError:
            self._world.give_back(news)
            self._notes.fresh |= notes.fresh
            self._notes.triggered += notes.triggered
            for family, refusals in self._dataplane.refusals.items():
                self._metrics.failed(family, time.monotonic() - began, full=not self._settled, refusals=refusals)
            raise
        self._remember(part, news.changed)
        self._report(part, outcome, notes)
        self._is_live = True
        ready, self._ready = self._ready, _nothing
        ready()
        return not self._dataplane.refused

    def _bring_about(self, news: News) -> tuple[Frontends, Outcome]:
        """In the kernel's thread: to resolve 10,000 Services takes a second, in which others want to be answered."""
        part = resolve_frontends(news.snapshot)
        return part, self._dataplane.sync(part, changed=news.changed)

    def _remember(self, part: Frontends, changed: frozenset[ServiceName] | None) -> None:
        """Keep what is served up to date, for those who ask: they look at it from other threads, so it is a new value
        each time (copying a mapping of 10,000 takes 50 us, looking into it would take longer)."""
        services = dict(self._serving.services)
        for name in services.keys() - part.services.keys() if changed is None else changed:
            services.pop(name, None)
        services.update(part.services)
        revised = services.keys() | self._wanted_checks.keys() if changed is None else changed
        self._serving = replace(part, services=services)
        self._wanted_checks = revise_checks(self._wanted_checks, self._serving, revised)
        self._meter.follow(self._serving, changed)

    def _listen(self) -> None:
        """Be told when somebody writes to the tables: once, until the next look. Who did while we wrote has been
        noticed already."""
        if self._dataplane.is_suspicious:
            self._was_told()
            return
        self._descriptors = self._dataplane.watched()
        for descriptor in self._descriptors:
            asyncio.get_running_loop().add_reader(descriptor, self._was_told)

    def _was_told(self) -> None:
        self._deaf()
        now = time.monotonic()
        self._told_at = self._told_at or now
        pause = max(TOLD[0], self._looked_at + self._told_pause - now)  # between two looks, not before the first
        asyncio.get_running_loop().call_later(pause, self._tick.poke)

    def _deaf(self) -> None:
        for descriptor in self._descriptors:
            asyncio.get_running_loop().remove_reader(descriptor)
        self._descriptors = []

    def _report(self, frontends: Frontends, outcome: Outcome, notes: _Notes) -> None:
        """Tell everybody who wants to know: the log, the timeline, metrics, health, and the objects concerned."""
        now = time.time()
        if outcome.rules or outcome.applied:
            count = len(outcome.applied)
            log.info("%d Services changed, %d rules written, %.0f ms", count, outcome.rules, outcome.seconds * 1e3)
        installed = self._dataplane.rules()
        for family in installed:
            self._metrics.synced(
                family,
                outcome.seconds,
                full=not self._settled,
                written=outcome.written[family],
                installed=installed[family],
                refusals=self._dataplane.refusals[family],
            )
            ended, took = outcome.ended[family]
            self._metrics.conntrack_reconciled(family, took, deleted=ended)
        self._metrics.committed(self._serving, triggered=notes.triggered, refused=len(self._dataplane.refused))
        self._checks.update(self._wanted_checks, listening_ranges(self._serving))
        self._health.synced()
        for name in sorted(notes.fresh - outcome.refused.keys()):
            self._timeline.mark(RULES_IN_KERNEL, *name, at=now)
        for problem in frontends.problems:
            log.warning("settings: %s", problem)
        self._complain(frontends.services, outcome)

    def _complain(self, changed: Iterable[ServiceName], outcome: Outcome) -> None:
        """Events on Services of which something cannot be served; each complaint once, until it changes."""
        for name in sorted({*changed, *outcome.refused, *outcome.applied}):
            service = self._serving.services.get(name)
            problems = service.problems if service is not None else ()
            if name in outcome.refused:
                problems += (outcome.refused[name],)
            if problems and self._complained.get(name) != problems:
                reason = "RulesRefused" if name in outcome.refused else "NotServed"
                message = "cannot serve all of this Service: " + "; ".join(problems)
                log.warning("%s: %s", name, message)
                self._recorder.event(Ref("Service", *name, uid=self._world.uid(name)), "Warning", reason, message)
            self._complained.pop(name, None)
            if problems:
                self._complained[name] = problems

    def _check_failed(self, name: ServiceName, message: str) -> None:
        """A health check port that cannot be had. The reason is kube-proxy's."""
        log.warning("%s: %s", name, message)
        ref = Ref("Service", *name, uid=self._world.uid(name))
        self._recorder.event(ref, "Warning", "FailedToStartServiceHealthcheck", message)

    async def _check(self, thread: ThreadPoolExecutor, *, thorough: bool) -> None:
        """Repair what somebody changed. A repair that does not hold is not repeated at full speed: somebody else has
        the opposite in mind, or this iptables prints rules in another form than it was given them."""
        began = time.monotonic()
        check, self._told_at = partial(self._dataplane.check, thorough=thorough), None
        plan = await asyncio.get_running_loop().run_in_executor(thread, check)
        self._looked_at = time.monotonic()
        elapsed = self._looked_at - began
        self._metrics.checked(elapsed, repaired=bool(plan))
        text = _brief(plan) if plan else ""
        again, self._last_repair = bool(text) and text == self._last_repair, text or self._last_repair
        if thorough:
            least = self._look_pause * 2 if again else max(LOOK[0], elapsed / LOOK_SHARE)
            self._look_pause = min(LOOK[1], least)
        else:
            self._told_pause = self._next_pause(elapsed, found=bool(plan), again=again)
        if plan:
            log.warning("somebody changed our rules; repaired:\n%s", text)

    def _next_pause(self, elapsed: float, *, found: bool, again: bool) -> float:
        """Until what is told next is looked at. A look that found nothing was told of somebody else's business (legacy
        tables have one lock for all namespaces): many such looks shall not take more than a tenth of a CPU."""
        if not found:
            return min(IDLE, max(TOLD[0], elapsed * 9))
        return min(TOLD[1], self._told_pause * 2 if again else max(TOLD[0], elapsed * 2))

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


def _brief(plan: Plan) -> str:
    """A plan for the log: a flushed table is not told rule by rule."""
    if plan.rules > MANY_RULES:
        return "\n".join(f"{table.table}: {len(table.chains)} chains, {table.rules} rules" for table in plan.tables)
    return str(plan)


def _nothing() -> None:
    pass
