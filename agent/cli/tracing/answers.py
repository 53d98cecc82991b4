"""One run of ``podwire trace``: what has to be read, in which order, and what is made of it."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.cli.kubectl.connection import Cluster, open_cluster
from agent.cli.kubectl.errors import ApiError
from agent.cli.options import paths_of
from agent.cli.tracing.live import Sighting, witness
from agent.cli.tracing.node import (
    Installed,
    Place,
    TraceFailure,
    read_addresses,
    read_installed,
    read_memory,
    read_route,
)
from agent.cli.tracing.places import (
    Pod,
    Source,
    Target,
    parse_pod,
    parse_words,
    resolve_source,
    resolve_target,
)
from agent.cli.tracing.probe import Sender, alone, outside_address, outsider, pod_namespace
from agent.config import read_resolved
from agent.kube.client import KubeError, connect
from agent.lifetime import resolve_reason
from agent.proxy import Options
from agent.proxy.snapshots import take_snapshot
from rules.explain import Branch, explain
from rules.iptables.lower import lower_frontends
from rules.meeting import family_of, find_meeting
from rules.policy import Backend, Frontends, resolve_frontends
from rules.policy.addresses import parse_network
from rules.snapshot import Family, ServiceName, Snapshot
from rules.trace import Outcome, Packet, trace_packet


@dataclass(frozen=True, slots=True)
class Answer:
    """``wanted``: how the installed rules differ from what the objects call for; empty: they do not."""

    source: Source
    target: Target
    packet: Packet
    installed: Installed
    branches: tuple[Branch, ...]
    wanted: str = ""
    sightings: tuple[Sighting, ...] = ()


@dataclass
class Tracing:
    """One run: what has been read so far, and in which order the rest is."""

    place: Place
    options: Options
    kubeconfig: Path | None
    namespace: str
    _cluster: Cluster | None = field(default=None, repr=False)
    _pods: tuple[Pod, ...] | None = field(default=None, repr=False)

    def answer(self, source_text: str, target_text: str, *, live: int) -> Answer:
        """Raises TraceFailure and others, see ``trace``."""
        words, target_words = parse_words(source_text), parse_words(target_text)
        snapshot = self._snapshot()
        frontends = resolve_frontends(snapshot)
        target = resolve_target(
            target_words, snapshot=snapshot, frontends=frontends, objects=self, namespace=self.namespace
        )
        family = Family(ipaddress.ip_address(target.address).version)
        installed = read_installed(self.place, family)
        local = read_addresses(self.place)
        source = resolve_source(words, family=family, objects=self, local=local, namespace=self.namespace)
        source = self._addressed(source, target, family)
        packet = self._packet(source, target, frozenset(local), snapshot, frontends)
        outcomes = trace_packet(installed.ruleset, packet)
        known = self._known(packet, snapshot, frontends)
        branches = explain(packet, outcomes, frontends=frontends, snapshot=snapshot, known=known)
        wanted = _difference(outcomes, packet, frontends, snapshot)
        answer = Answer(source, target, packet, installed, branches, wanted)
        return self._live(answer, live, snapshot, frontends, known) if live else answer

    # --- objects ---

    def find_pod(self, namespace: str, name: str) -> Pod | None:
        try:
            return parse_pod(self._api().get(f"/api/v1/namespaces/{namespace}/pods/{name}"))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    def pods_here(self) -> Iterable[Pod]:
        if self._pods is None:
            selector = {"fieldSelector": f"spec.nodeName={self.options.node_name}"}
            items = self._api().get("/api/v1/pods", params=selector)["items"]
            self._pods = tuple(parse_pod(item) for item in items)
        return self._pods

    def _api(self) -> Cluster:
        if self._cluster is None:
            file = str(self.kubeconfig) if self.kubeconfig is not None else None
            self._cluster = open_cluster(kubeconfig=file, context=None, namespace=self.namespace)
        return self._cluster

    def _snapshot(self) -> Snapshot:
        self._api().get("/version")  # says in plain words why a server cannot be reached; informers would wait for it

        async def take() -> Snapshot:
            client = connect(self.kubeconfig, field_manager="podwire-trace")
            try:
                async with asyncio.timeout(30):
                    return await take_snapshot(client, self.options)
            finally:
                await client.close()

        try:
            return asyncio.run(take())
        except (KubeError, TimeoutError) as error:
            raise TraceFailure(f"cannot read Services from the API: {resolve_reason(error)}") from error

    def _known(self, packet: Packet, snapshot: Snapshot, frontends: Frontends) -> dict[str, str]:
        """Who has which address: the pods of this node, and the endpoints of the Service that is met."""

        known = {a: f"{pod}, here" for pod in self.pods_here() for a in pod.addresses if not pod.host_network}
        meeting = find_meeting(frontends, snapshot, packet)
        if meeting is not None:
            known.update(self._endpoints(meeting.service.name))
        return known

    def _endpoints(self, service: ServiceName) -> Iterator[tuple[str, str]]:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{service.namespace}/endpointslices"
        found = self._api().get(path, params={"labelSelector": f"kubernetes.io/service-name={service.name}"})
        for piece in found["items"]:
            for endpoint in piece.get("endpoints") or []:
                reference = endpoint.get("targetRef") or {}
                node = endpoint.get("nodeName")
                where = "here" if node == self.options.node_name else f"on node {node}" if node else "on no node"
                if reference.get("kind") == "Pod":
                    name = f"pod {reference.get('namespace', service.namespace)}/{reference['name']}"
                    yield from ((address, f"{name}, {where}") for address in endpoint.get("addresses") or [])

    # --- the packet ---

    def _addressed(self, source: Source, target: Target, family: Family) -> Source:
        """The address of who has none yet: an outsider, and the node, which takes that of its route."""

        if source.address:
            return source
        if source.kind == "outside":
            return replace(source, address=outside_address(family))
        route = read_route(self.place, target.address)
        if route is None or not route.source:
            raise TraceFailure(f"node {self.options.node_name} has no route to {target.address}: it cannot send there")
        return replace(source, address=route.source)

    def _packet(
        self, source: Source, target: Target, local: frozenset[str], snapshot: Snapshot, frontends: Frontends
    ) -> Packet:

        packet = Packet(
            source.address,
            target.address,
            target.port,
            target.protocol,
            local=local,
            from_node=source.kind == "node",
            member_of=read_memory(self.place, source.address),
        )
        meeting = find_meeting(frontends, snapshot, packet)
        beyond = [target.address] if meeting is None else _outside_pods(meeting.port.cluster, self.options)
        routes = {address: read_route(self.place, address) for address in beyond}
        return replace(packet, leaves={address: route.link for address, route in routes.items() if route is not None})

    # --- real packets ---

    def _live(
        self, answer: Answer, count: int, snapshot: Snapshot, frontends: Frontends, known: dict[str, str]
    ) -> Answer:

        seen: list[Outcome] = []

        def predict() -> Sequence[Outcome]:
            packet = replace(answer.packet, member_of=read_memory(self.place, answer.packet.source))
            outcomes = trace_packet(answer.installed.ruleset, packet)
            seen.extend(outcome for outcome in outcomes if outcome not in seen)
            return outcomes

        with alone(self.place), self._sender(answer) as sender:
            with witness(self.place, answer.installed, predict) as observer:
                sightings = tuple(observer.watch(sender, answer.packet) for _ in range(count))
        later = explain(answer.packet, seen, frontends=frontends, snapshot=snapshot, known=known)
        first = {outcome for branch in answer.branches for outcome in branch.outcomes}
        new = (branch for branch in later if not first.issuperset(branch.outcomes))
        more = tuple(replace(branch, remembered=True) for branch in new)  # the first packet made it known
        return replace(answer, sightings=sightings, branches=(*answer.branches, *more))

    @contextmanager
    def _sender(self, answer: Answer) -> Iterator[Sender]:
        source = answer.source
        if source.kind == "node":
            yield Sender(self.place, source.address)
        elif source.kind == "outside":
            with outsider(self.place, source.address) as sender:
                yield sender
        elif source.pod is not None:
            yield Sender(pod_namespace(source.pod.uid, source.address), source.address)
        else:
            raise TraceFailure(
                f"cannot send from {source.address}: it is no address of this node or of its pods;"
                " 'outside' sends as somebody beyond the node"
            )


def find_node(
    state_dir: Path | None,
    node_netns: str | None,
    kubeconfig: Path | None,
    node_name: str | None,
    flags: dict[str, Any],
) -> tuple[Place, Options, Path | None]:
    """Which node: a podwire one by its state directory, or the one that a proxy alone serves."""

    if node_name is not None:
        flags["localhost_node_ports"] = flags.pop("iptables_localhost_nodeports")
        return Place(node_netns), Options.from_flags(node_name=node_name, **flags), kubeconfig
    if kubeconfig is not None or any(flags.values()):
        raise TraceFailure("give --node-name too: the Node object that this machine is in that cluster")
    paths = paths_of(state_dir, node_netns)
    if not paths.resolved_config.exists():
        raise TraceFailure(
            f"no node was started with the state directory {paths.state_dir}: start one with 'podwire up',"
            " or give --kubeconfig and --node-name for a proxy alone"
        )
    config = read_resolved(paths.resolved_config)
    return Place(config.node_netns), Options.from_config(config), paths.kubeconfig


def _outside_pods(backends: Iterable[Backend], options: Options) -> list[str]:
    """Endpoints that are no pods: only for them it matters through which link a packet leaves."""

    networks = [parse_network(cidr) for cidr in options.cluster_cidrs]
    addresses = {backend.address for backend in backends}
    return [a for a in sorted(addresses) if not any(ipaddress.ip_address(a) in network for network in networks)]


def _difference(outcomes: Sequence[Outcome], packet: Packet, frontends: Frontends, snapshot: Snapshot) -> str:
    """What the packet would meet if the rules were what the objects call for; empty: the same. (Only the Service that
    it meets is lowered: others have other addresses or ports.)"""
    meeting = find_meeting(frontends, snapshot, packet)
    met = {} if meeting is None else {meeting.service.name: frontends.services[meeting.service.name]}
    ruleset = lower_frontends(replace(frontends, services=met), family_of(packet))
    have, want = _ways(outcomes), _ways(trace_packet(ruleset, packet))
    if have == want:
        return ""
    return "; ".join(sorted(want - have)) or f"not {'; '.join(sorted(have - want))}"


def _ways(outcomes: Iterable[Outcome]) -> set[str]:
    """Outcomes as people tell them apart, however the rules are laid out."""
    verbs = {"ACCEPT": "goes", "DROP": "is dropped", "REJECT": "is refused"}
    return {
        f"{verbs[o.verdict]}{f' to {o.endpoint}' if o.endpoint and o.verdict == 'ACCEPT' else ''}"
        f"{', masqueraded' if o.masqueraded else ''} ({100 * o.probability:.1f} %)"
        for o in outcomes
    }
