"""The commands of a node: up, status, down, clean, check; and proxy and dns alone, against any cluster."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import config_of, fail, need_root, node_options, paths_of
from agent.config import Config, ConfigError, Paths
from agent.supervisor.state import NodeStatus, SupervisorError, read_status

if TYPE_CHECKING:
    from agent.kube.client import Client

START_TIMEOUT = 60.0  # seconds that --detach and status --wait wait for a node to be ready


@click.command()
@node_options
@click.option("--node-name", metavar="NAME", help="Name of the Node object (default: the host name).")
@click.option("--node-ip", metavar="ADDRESS", help="The node's address where its namespace has several.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file (docs/configuration.md).",
)
@click.option("--proxy-mode", type=click.Choice(["iptables"]), help="How Services are programmed.")
@click.option("--detach", is_flag=True, help="Return when the node is ready and leave it running.")
@click.option("--verbose", is_flag=True, default=None, help="Log every command that is run.")
def up(detach: bool, config_file: Path | None, **flags: Any) -> None:
    """Start a node: API server, controllers, pods, proxy, DNS."""
    need_root("podwire up")
    config = config_of(config_file, **flags)
    if detach:
        _detach(config)
        return
    from agent.supervisor.daemon import run_node
    from agent.telemetry import setup_logging

    setup_logging("supervisor", verbose=config.verbose)
    try:
        run_node(config, _announce)
    except SupervisorError as error:
        fail(str(error))


def _announce(status: NodeStatus) -> None:
    seconds = time.time() - status.started
    click.echo(
        f"podwire: node {status.node_name} ({status.node_ip}) is ready in {seconds:.1f} s; "
        f"export KUBECONFIG={status.kubeconfig}"
    )


def _detach(config: Config) -> None:
    """Start the same command in a session of its own, and wait until it is ready or dead."""
    paths = config.paths
    if (status := read_status(paths)) is not None:
        fail(f"cannot start: podwire already runs with the state directory {paths.state_dir} (pid {status.pid})")
    paths.logs.mkdir(parents=True, exist_ok=True)
    log_file = paths.logs / "supervisor.log"
    argv = [
        sys.executable,
        "-P",
        "-m",
        "agent.cli.main",
        *(argument for argument in sys.argv[1:] if argument != "--detach"),
    ]
    with log_file.open("ab") as log:
        position = log.tell()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    status = _wait_ready(paths, process)
    if status is None:
        said = log_file.read_bytes()[position:].decode(errors="replace").strip()
        fail(f"the node did not start; {log_file} says:\n{said}")
    if not status.ready:
        fail(
            f"the node runs (pid {status.pid}) but is not ready after {START_TIMEOUT:g} s:\n"
            f"{_render(status)}\nlogs: {paths.logs}"
        )
    _announce(status)


def _wait_ready(paths: Paths, process: subprocess.Popen[bytes] | None = None) -> NodeStatus | None:
    """The status of a node that is ready, or of one that is not after all this time; None if it has ended. What keeps
    it from being ready is told as it happens.
    """
    deadline = time.monotonic() + START_TIMEOUT
    status, told = None, set[str]()
    while time.monotonic() < deadline:
        status = read_status(paths)
        if status is not None and status.ready:
            return status
        for trouble in _troubles(status) - told:
            click.echo(f"podwire: {trouble}; trying again", err=True)
            told.add(trouble)
        if process is not None and process.poll() is not None:
            return None
        time.sleep(0.05)
    return status


def _troubles(status: NodeStatus | None) -> set[str]:
    """Why processes that are not ready have died."""
    return {f"{c.name} died: {c.why}" for c in (status.children if status else ()) if c.why and c.state != "ready"}


@click.command()
@node_options
@click.option("--wait", is_flag=True, help="Wait until the node is ready.")
def status(state_dir: Path | None, node_netns: str | None, wait: bool) -> None:
    """Show the node's processes; exit code 0 when all are ready."""
    paths = paths_of(state_dir, node_netns)
    found = _wait_ready(paths) if wait else read_status(paths)
    if found is None:
        fail(f"no node runs with the state directory {paths.state_dir}; start one with 'podwire up'")
    click.echo(_render(found))
    sys.exit(0 if found.ready else 1)


def _render(status: NodeStatus) -> str:
    place = f"network namespace {status.node_netns}" if status.node_netns else "the host's network namespace"
    lines = [f"node {status.node_name}, address {status.node_ip}, in {place}", f"kubeconfig {status.kubeconfig}", ""]
    lines.append(f"{'PROCESS':<12}{'STATE':<10}{'PID':<9}{'RESTARTS':<10}SINCE")
    rows: list[tuple[str, str, int | None, int, float, str]] = [
        ("supervisor", "running", status.pid, 0, status.started, "")
    ]
    rows += [(c.name, c.state, c.pid, c.restarts, c.since, c.why) for c in status.children]
    for name, state, pid, restarts, since, why in rows:
        ago = f"{max(0, time.time() - since):.0f}s ago"
        lines.append(f"{name:<12}{state:<10}{pid or '-':<9}{restarts:<10}{ago}{f' (last run: {why})' if why else ''}")
    return "\n".join(lines)


@click.command()
@node_options
@click.option("--drain", is_flag=True, help="Stop the pods too; they start again with the next 'podwire up'.")
def down(state_dir: Path | None, node_netns: str | None, drain: bool) -> None:
    """Stop a node's processes. Pods and rules stay, connections go on."""
    need_root("podwire down")
    from agent.supervisor import clean as cleaning

    paths = paths_of(state_dir, node_netns)
    try:
        stopped = cleaning.stop(paths)
        if drain:
            cleaning.drain(paths, node_netns=node_netns)
    except SupervisorError as error:
        fail(str(error))
    what = "stopped" if stopped else "was not running"
    click.echo(
        f"podwire: {what}; pods {'are stopped' if drain else 'and rules stay'} ('podwire clean' removes everything)"
    )


@click.command()
@node_options
@click.option("--keep-state", is_flag=True, help="Keep the objects, keys and logs.")
def clean(state_dir: Path | None, node_netns: str | None, keep_state: bool) -> None:
    """Stop a node and remove all that podwire made, and only that. Safe after a crash."""
    need_root("podwire clean")
    from agent.supervisor import clean as cleaning

    paths = paths_of(state_dir, node_netns)
    if not paths.state_dir.exists() and not paths.run_dir.exists():
        click.echo(f"podwire: nothing to clean: {paths.state_dir} does not exist")
        return
    try:
        if cleaning.stop(paths):
            click.echo("podwire: stopped")
        for line in cleaning.clean(paths, node_netns=node_netns, keep_state=keep_state):
            click.echo(f"podwire: {line}")
    except SupervisorError as error:
        fail(str(error))


@click.command()
@node_options
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file, as of podwire up.",
)
def check(state_dir: Path | None, node_netns: str | None, config_file: Path | None) -> None:
    """Look at this machine: can a node run here, what would it use, and who else is here?"""
    from agent.cli.checks import run_checks

    config = config_of(config_file, state_dir=state_dir, node_netns=node_netns)
    sys.exit(0 if run_checks(config) else 1)


# Flags of ``podwire proxy`` that are called as kube-proxy calls them, and the fields of its Options.
PROXY_FIELDS = {
    "iptables_variant": "variant",
    "iptables_localhost_nodeports": "localhost_node_ports",
    "metrics_bind_address": "web",
    "healthz_bind_address": "healthz",
}


def _host_and_port(_: click.Context, __: click.Parameter, value: str) -> str:
    host, _colon, port = value.rpartition(":")
    if value and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise click.BadParameter(f"{value!r} is not HOST:PORT, as in 0.0.0.0:10256 or [::]:10256")
    return value


@click.command()
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The cluster (default: in-cluster, $KUBECONFIG).",
)
@click.option("--node-name", required=True, metavar="NAME", help="The Node object this machine is.")
@click.option("--node-netns", metavar="NAME", help="Network namespace to program (default: the caller's).")
@click.option(
    "--cluster-cidr",
    multiple=True,
    metavar="CIDR[,CIDR]",
    help="Pod addresses: traffic to a ClusterIP from elsewhere is masqueraded. An IPv6 one turns IPv6 on.",
)
@click.option("--masquerade-all", is_flag=True, help="Masquerade all traffic to ClusterIPs, that of pods too.")
@click.option(
    "--masquerade-egress",
    is_flag=True,
    help="Masquerade what pods send out of the pod network, if nothing else on this node does (needs --cluster-cidr).",
)
@click.option(
    "--nodeport-addresses",
    multiple=True,
    metavar="CIDR[,CIDR]|primary",
    help="Where NodePorts answer: the node's addresses in these ranges, or its primary ones (default: all it has).",
)
@click.option("--iptables-localhost-nodeports", is_flag=True, help="NodePorts answer on 127.0.0.1 as well.")
@click.option("--engine", type=click.Choice(["auto", "libiptc", "restore"]), default="auto", show_default=True)
@click.option("--iptables-variant", type=click.Choice(["auto", "nft", "legacy"]), default="auto", show_default=True)
@click.option(
    "--metrics-bind-address",
    metavar="HOST:PORT",
    default="127.0.0.1:10249",
    show_default=True,
    callback=_host_and_port,
    help="Where /metrics is served; empty: nowhere.",
)
@click.option(
    "--healthz-bind-address",
    metavar="HOST:PORT",
    default="0.0.0.0:10256",
    show_default=True,
    callback=_host_and_port,
    help="Where /healthz and /livez are served; empty: nowhere.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be changed and exit.")
@click.option("--cleanup", is_flag=True, help="Remove all rules and exit.")
@click.option("--verbose", is_flag=True)
def proxy(
    kubeconfig: Path | None, node_netns: str | None, verbose: bool, cleanup: bool, dry_run: bool, **flags: Any
) -> None:
    """Program Services, and nothing else, for one node of any Kubernetes cluster."""
    from agent import proxy as component

    for flag, field in PROXY_FIELDS.items():
        flags[field] = flags.pop(flag)
    try:
        options = component.Options.from_flags(**flags)
    except ConfigError as error:
        fail(str(error))
    if cleanup and dry_run:
        fail("cannot both clean up and try: give --cleanup or --dry-run")
    need_root("podwire proxy")
    _enter(node_netns, "proxy", verbose)
    if cleanup:
        component.cleanup(options)
        return
    if dry_run:
        _run_alone("proxy", lambda client: _print(component.dry_run(client, options)), kubeconfig)
        return
    _run_alone(
        "proxy",
        lambda client: component.run(client, options, ready=lambda: click.echo("podwire: rules are in place")),
        kubeconfig,
    )


@click.command()
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The cluster (default: in-cluster, $KUBECONFIG).",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    default=("127.0.0.1",),
    show_default=True,
    help="May be given several times.",
)
@click.option("--port", default=53, show_default=True)
@click.option("--cluster-domain", default="cluster.local", show_default=True)
@click.option(
    "--upstream",
    multiple=True,
    metavar="ADDRESS[:PORT]",
    help="Where other names are asked (default: /etc/resolv.conf).",
)
@click.option("--node-netns", metavar="NAME", help="Network namespace to listen in (default: the caller's).")
@click.option("--verbose", is_flag=True)
def dns(
    kubeconfig: Path | None,
    node_netns: str | None,
    verbose: bool,
    listen: tuple[str, ...],
    upstream: tuple[str, ...],
    **flags: Any,
) -> None:
    """Answer service names, and nothing else, for any Kubernetes cluster."""
    _enter(node_netns, "dns", verbose)
    from agent import dns as component

    try:
        options = component.Options(listen=listen, upstreams=upstream, **flags)
    except ConfigError as error:
        fail(str(error))
    _run_alone(
        "dns",
        lambda client: component.run(client, options, ready=lambda: click.echo("podwire: names are answered")),
        kubeconfig,
    )


async def _print(text: Awaitable[str]) -> None:
    click.echo(await text)


def _enter(node_netns: str | None, process: str, verbose: bool) -> None:
    from agent.telemetry import setup_logging

    setup_logging(process, verbose=verbose)
    if node_netns:
        from netns.namespaces import enter

        need_root("--node-netns")
        enter(node_netns)


def _run_alone(name: str, component: Callable[[Client], Coroutine[None, None, None]], kubeconfig: Path | None) -> None:
    """Run one component until it is told to stop; what keeps it from doing its job is one line."""
    from agent.kube.client import connect
    from agent.lifetime import resolve_reason, run_until_told

    async def main() -> None:
        client = connect(kubeconfig, field_manager=f"podwire-{name}")
        try:
            await component(client)
        finally:
            await client.close()

    try:
        run_until_told(main())
    except Exception as error:
        logging.getLogger(name).debug("failed", exc_info=error)
        fail(resolve_reason(error))


commands: tuple[click.Command, ...] = (up, status, down, clean, check, proxy, dns)
