"""``logs``: what containers wrote, of one pod or of all that a selector chooses."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from agent.cli.kubectl.command import selector_option, the_cluster, verb
from agent.cli.kubectl.errors import KubectlError, client_error
from agent.cli.kubectl.objects import Obj, name_of, namespace_of
from agent.cli.kubectl.podpick import best_pod, container_names, pick_container, pods_of
from agent.cli.kubectl.targets import fetch, one_target
from agent.cli.kubectl.waiting import parse_duration

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster, Params

SELECTED_TAIL = 10  # lines of each pod that a selector chose, where --tail does not say


@dataclass(frozen=True, slots=True)
class Source:
    """One container's log."""

    path: str
    container: str
    prefix: bytes


@verb()
@click.argument("words", nargs=-1, metavar="(POD | TYPE/NAME) [CONTAINER]")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is written.")
@click.option("-c", "--container", metavar="NAME", help="Which container (default: the first).")
@click.option("-p", "--previous", is_flag=True, help="Of the container's run before this one.")
@click.option("--tail", type=int, default=None, metavar="LINES", help="Only the last lines (-1: all).")
@click.option("--since", metavar="TIME", help="Only what is newer: 10s, 5m, 1h.")
@click.option("--since-time", metavar="TIME", help="Only what is newer than an RFC 3339 time.")
@click.option("--timestamps", is_flag=True, help="When each line was written.")
@click.option("--limit-bytes", type=int, default=0, metavar="BYTES")
@click.option("--all-containers", is_flag=True, help="Of every container of the pod.")
@click.option("--prefix", is_flag=True, help="Where each line comes from.")
@click.option("--max-log-requests", type=int, default=5, metavar="NUMBER", help="How many logs to follow at once.")
@click.option("--ignore-errors", is_flag=True, help="A log that cannot be read does not end the others.")
@selector_option
def logs(words: tuple[str, ...], selector: str | None, **flags: Any) -> None:
    """Show what containers wrote."""
    if bool(words) == bool(selector):
        raise client_error("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]' or a selector")
    cluster = the_cluster()
    asked = flags["container"] or (words[1] if len(words) > 1 else None)
    pods = _pods(cluster, words[0] if words else None, selector)
    several = flags["all_containers"]
    sources = [
        _source(pod, name, with_prefix=flags["prefix"])
        for pod in pods
        for name in (container_names(pod) if several else [pick_container(pod, asked)])
    ]
    params = log_params(flags, selected=selector is not None)
    if not flags["follow"] or len(sources) == 1:
        for source in sources:
            _copy(cluster, source, params, ignore_errors=flags["ignore_errors"])
    else:
        _follow(cluster, sources, params, flags)


def _pods(cluster: Cluster, word: str | None, selector: str | None) -> list[Obj]:
    if word is None:
        path = f"/api/v1/namespaces/{cluster.namespace}/pods"
        found: list[Obj] = cluster.get(path, params={"labelSelector": selector or ""}).get("items") or []
        if not found:
            click.echo(f"No resources found in {cluster.namespace} namespace.", err=True)
        return found
    target = one_target(cluster, word, default="pods")
    obj = fetch(cluster, target)
    if target.resource.kind == "Pod":
        return [obj]
    pods = pods_of(cluster, obj)
    if not pods:
        raise client_error(f"no pod found for {target}")
    chosen = best_pod(pods)
    if len(pods) > 1:
        click.echo(f"Found {len(pods)} pods, using pod/{name_of(chosen)}", err=True)
    return [chosen]


def _source(pod: Obj, container: str, *, with_prefix: bool) -> Source:
    path = f"/api/v1/namespaces/{namespace_of(pod)}/pods/{name_of(pod)}/log"
    prefix = f"[pod/{name_of(pod)}/{container}] " if with_prefix else ""
    return Source(path, container, prefix.encode())


def log_params(flags: dict[str, Any], *, selected: bool) -> dict[str, str | int]:
    """The query of a pod's log, from the flags that were given."""
    params: dict[str, str | int] = {}
    for name in ("follow", "previous", "timestamps"):
        if flags[name]:
            params[name] = "true"
    tail = flags["tail"] if flags["tail"] is not None else SELECTED_TAIL if selected else -1
    if tail >= 0:
        params["tailLines"] = tail
    if flags["since"] and flags["since_time"]:
        raise client_error("at most one of `sinceTime` or `sinceSeconds` may be specified")
    if flags["since"]:
        params["sinceSeconds"] = max(1, int(parse_duration(flags["since"])))
    if flags["since_time"]:
        params["sinceTime"] = flags["since_time"]
    if flags["limit_bytes"]:
        params["limitBytes"] = flags["limit_bytes"]
    return params


def _copy(cluster: Cluster, source: Source, params: Params, *, ignore_errors: bool = False) -> None:
    """Copy one log to standard output, whole lines at a time where they carry a prefix."""
    try:
        rest = b""
        for data in cluster.stream(source.path, params={**params, "container": source.container}):
            if not source.prefix:
                _write(data)
                continue
            *lines, rest = (rest + data).split(b"\n")
            _write(b"".join(source.prefix + line + b"\n" for line in lines))
        if rest:
            _write(source.prefix + rest + b"\n")
    except KubectlError as error:
        if not ignore_errors:
            raise
        click.echo(str(error), err=True)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _follow(cluster: Cluster, sources: Sequence[Source], params: Params, flags: dict[str, Any]) -> None:
    """Follow several logs, a thread each; the first error is raised when all have ended."""
    if len(sources) > flags["max_log_requests"]:
        raise client_error(
            f"you are attempting to follow {len(sources)} log streams, but maximum allowed concurrency is "
            f"{flags['max_log_requests']}, use --max-log-requests to increase the limit"
        )
    errors: list[BaseException] = []

    def copy(source: Source) -> None:
        try:
            _copy(cluster, source, params, ignore_errors=flags["ignore_errors"])
        except (KubectlError, BrokenPipeError) as error:
            errors.append(error)

    threads = [threading.Thread(target=copy, args=(source,), daemon=True) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
