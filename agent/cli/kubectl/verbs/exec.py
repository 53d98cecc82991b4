"""``exec`` and ``attach``: commands and terminals in containers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from agent.cli.kubectl.command import after_dash, the_cluster, verb
from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.objects import Obj, name_of, namespace_of
from agent.cli.kubectl.podpick import find_pod, pick_container

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster


@verb("exec")
@click.argument("pod")
@click.argument("command", nargs=-1, metavar="[--] COMMAND [ARGS...]")
@click.option("-c", "--container", metavar="NAME", help="Which container (default: the first).")
@click.option("-i", "--stdin", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-q", "--quiet", is_flag=True, help="Print only what the command prints.")
def exec_(pod: str, command: tuple[str, ...], container: str | None, stdin: bool, tty: bool, quiet: bool) -> None:
    """Run a command in a container: podwire exec POD -- COMMAND."""
    if not command:
        raise client_error("you must specify at least one command for the container")
    if after_dash() is None and not quiet:
        click.echo(
            "podwire exec [POD] [COMMAND] is DEPRECATED and will be removed in a future version. "
            "Use podwire exec [POD] -- [COMMAND] instead.",
            err=True,
        )
    cluster = the_cluster()
    found = find_pod(cluster, pod)
    phase = (found.get("status") or {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        raise client_error(f"cannot exec into a container in a completed pod; current phase is {phase}")
    chosen = pick_container(found, container, quiet=quiet)
    words = [("command", word) for word in command]
    finish(join(cluster, found, "exec", [("container", chosen), *words], stdin=stdin, tty=tty, quiet=quiet))


@verb()
@click.argument("pod")
@click.option("-c", "--container", metavar="NAME", help="Which container (default: the first).")
@click.option("-i", "--stdin", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="The container's process has a terminal.")
@click.option("-q", "--quiet", is_flag=True, help="Print only what the container prints.")
def attach(pod: str, container: str | None, stdin: bool, tty: bool, quiet: bool) -> None:
    """Join the running process of a container."""
    cluster = the_cluster()
    found = find_pod(cluster, pod)
    chosen = pick_container(found, container, quiet=quiet)
    finish(join(cluster, found, "attach", [("container", chosen)], stdin=stdin, tty=tty, quiet=quiet))


def join(
    cluster: Cluster, pod: Obj, subresource: str, params: list[tuple[str, str]], *, stdin: bool, tty: bool, quiet: bool
) -> int:
    """Join the terminal to a container; the exit code. A terminal is asked for only where there is one."""
    from agent.cli.kubectl.streams import run_stream

    if tty and not sys.stdin.isatty():
        if not quiet:
            click.echo("Unable to use a TTY - input is not a terminal or the right kind of file", err=True)
        tty = False
    switches = {"stdin": stdin, "stdout": True, "stderr": not tty, "tty": tty}
    wanted = [*params, *((name, "true") for name, on in switches.items() if on)]
    path = f"/api/v1/namespaces/{namespace_of(pod)}/pods/{name_of(pod)}/{subresource}"
    return run_stream(cluster, path, wanted, stdin=stdin, tty=tty, quiet=quiet)


def finish(code: int) -> None:
    """End with the command's own exit code."""
    if code:
        click.get_current_context().exit(code)
