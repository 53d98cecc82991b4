"""``run``: one pod from flags; ``run -it --rm`` joins it and cleans up after itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from agent.cli.kubectl.command import dry_run_option, output_option, the_cluster, verb
from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.generate import ExposeFlags, PodFlags, exposing_service, pod
from agent.cli.kubectl.objects import Obj, meta, name_of, namespace_of
from agent.cli.kubectl.output import parse_output
from agent.cli.kubectl.targets import Target
from agent.cli.kubectl.verbs.create import create_object
from agent.cli.kubectl.verbs.exec import finish, join
from agent.cli.kubectl.waiting import For, TimedOut, parse_duration, parse_for, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.cli.kubectl.connection import Cluster

A_DAY = 24 * 3600.0


@verb()
@click.argument("name")
@click.argument("args", nargs=-1, metavar="[--] [ARGS...]")
@click.option("--image", required=True, metavar="IMAGE", help="What the container runs.")
@click.option("--command", is_flag=True, help="The arguments are the command, not arguments to the image's.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="An environment variable.")
@click.option("--port", type=int, default=None, metavar="PORT", help="A port the container listens on.")
@click.option("--expose", is_flag=True, help="Make a ClusterIP Service for the port as well.")
@click.option("-l", "--labels", default=None, metavar="A=B,...", help="Labels (default: run=NAME).")
@click.option("--restart", type=click.Choice(["Always", "OnFailure", "Never"]), default="Always")
@click.option("-i", "--stdin", is_flag=True, help="Keep standard input open, and join the container.")
@click.option("-t", "--tty", is_flag=True, help="Give the container a terminal.")
@click.option("--attach", is_flag=True, help="Join the container.")
@click.option("--rm", is_flag=True, help="Delete the pod when it has ended.")
@click.option("-q", "--quiet", is_flag=True, help="Print only what the container prints.")
@click.option("--pod-running-timeout", default="1m", metavar="TIME", help="How long to wait for the container.")
@output_option
@dry_run_option
def run(name: str, args: tuple[str, ...], output: str | None, dry_run: str, **flags: Any) -> None:
    """Run one pod."""
    joining = flags["attach"] or flags["stdin"]
    if flags["rm"] and not joining:
        raise client_error("--rm should only be used for attached containers")
    if flags["tty"] and not flags["stdin"]:
        raise client_error("-i/--stdin is required for containers with -t/--tty=true")
    if flags["expose"] and not flags["port"]:
        raise client_error("--port must be set when exposing a service")
    shown = parse_output(output)
    wanted = pod(name, PodFlags(args=args, **{key: flags[key] for key in _POD_FLAGS}))
    cluster = the_cluster()
    if flags["expose"]:
        service = exposing_service(wanted, ExposeFlags(port=str(flags["port"])))
        create_object(cluster, service, done="created", output=shown, dry_run=dry_run)
    if not joining or dry_run != "none":
        create_object(cluster, wanted, done="created", output=shown, dry_run=dry_run)
        return
    made = cluster.create(f"/api/v1/namespaces/{cluster.namespace}/pods", wanted)
    try:
        code = _join(cluster, made, flags)
    finally:
        if flags["rm"]:
            _remove(cluster, made, quiet=flags["quiet"])
    finish(code)


_POD_FLAGS = ("image", "command", "env", "port", "labels", "restart", "stdin", "tty")


def _join(cluster: Cluster, made: Obj, flags: dict[str, Any]) -> int:
    """Wait until the container runs, join it, and wait for its exit code; a pod that restarts has none."""
    target = _target(cluster, made)
    started = For(lambda obj: _phase(obj) in ("Running", "Succeeded", "Failed"))
    try:
        wait_for(cluster, target, started, timeout=parse_duration(flags["pod_running_timeout"]))
    except TimedOut:
        raise client_error(f"timed out waiting for the condition on pods/{target.name}") from None
    current = cluster.get(target.path)
    if _phase(current) == "Running":
        if flags["tty"] and not flags["quiet"]:
            click.echo("If you don't see a command prompt, try pressing enter.", err=True)
        container = [("container", target.name)]
        join(cluster, current, "attach", container, stdin=flags["stdin"], tty=flags["tty"], quiet=flags["quiet"])
    else:
        for data in cluster.stream(f"{target.path}/log", params={"container": target.name}):
            click.echo(data, nl=False)
    if flags["restart"] == "Always":
        return 0
    wait_for(cluster, target, For(lambda obj: _phase(obj) in ("Succeeded", "Failed")), timeout=A_DAY)
    return _exit_code(cluster.get(target.path))


def _target(cluster: Cluster, made: Obj) -> Target:
    return Target(cluster.find_resource("pods"), namespace_of(made), name_of(made))


def _phase(obj: Mapping[str, Any] | None) -> str:
    return str(((obj or {}).get("status") or {}).get("phase") or "")


def _exit_code(obj: Mapping[str, Any]) -> int:
    for status in (obj.get("status") or {}).get("containerStatuses") or []:
        if terminated := (status.get("state") or {}).get("terminated"):
            return int(terminated.get("exitCode") or 0)
    return 0


def _remove(cluster: Cluster, made: Obj, *, quiet: bool) -> None:
    target = _target(cluster, made)
    cluster.delete(target.path, {"propagationPolicy": "Background"})
    if not quiet:
        click.echo(f'pod "{target.name}" deleted')
    wait_for(cluster, target, parse_for("delete"), timeout=A_DAY, uid=str(meta(made).get("uid", "")))
