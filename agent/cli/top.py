"""``podwire top svc``: who uses which Service, how much, and how that is spread over its endpoints.

The node's proxy counts (see ``agent.proxy.traffic``); here it is asked over HTTP, from within the node's network
namespace, and what it says is laid out as kubectl would.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click
import msgspec

from agent.cli.kubectl.tables import render_rows
from agent.cli.options import fail, node_options, paths_of
from agent.supervisor.state import NodeStatus, read_status
from netns.errors import NetnsError
from netns.namespaces import inside

if TYPE_CHECKING:  # loading the proxy takes longer than most commands
    from agent.proxy.traffic import PortRow, Report, Tally

INTERVAL = 2.0  # seconds between two looks of --watch
TIMEOUT = 30.0  # seconds for the proxy to answer: listing a hundred thousand connections takes it some
CLEAR = "\x1b[H\x1b[2J"
KINDS = ("svc", "service", "services")

Key = tuple[str, ...]


class TopError(Exception):
    """The proxy does not tell; the message says why and what to do."""


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", required=False)
@node_options
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("-A", "--all-namespaces", is_flag=True, help="Services of all namespaces.")
@click.option("-w", "--watch", is_flag=True, help=f"Look again every {INTERVAL:g} s, and show rates.")
@click.option("-o", "--output", type=click.Choice(["json"]), help="For machines: one document per look.")
def top(
    kind: str,
    name: str | None,
    state_dir: Path | None,
    node_netns: str | None,
    namespace: str,
    all_namespaces: bool,
    watch: bool,
    output: str | None,
) -> None:
    """Show who uses which Service: connections and bytes, per endpoint, as counted by this node's proxy.

    IN is from clients to the Service. Bytes are those of IP packets, headers included. Counting began with the proxy.
    """
    query = {"namespace": "" if all_namespaces else namespace, "service": name or ""}
    before: Report | None = None
    try:
        while True:
            report = _ask(state_dir, node_netns, query)
            if name and not report.ports and before is None:
                where = "any namespace" if all_namespaces else f"namespace {namespace}"
                fail(f"no Service {name} in {where} has ports that this node's proxy serves")
            _show(report, before, namespaces=all_namespaces, output=output, watch=watch)
            if not watch:
                return
            before = report
            time.sleep(INTERVAL)
    except TopError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _show(report: Report, before: Report | None, *, namespaces: bool, output: str | None, watch: bool) -> None:
    if output == "json":
        click.echo(msgspec.json.encode(report))
        return
    on_screen = watch and sys.stdout.isatty()
    text = render_report(report, before, namespaces=namespaces, rates=watch) or "No Services found.\n"
    click.echo((CLEAR if on_screen else "") + text, nl=watch and not on_screen)
    for note in render_notes(report):
        click.echo(f"podwire: {note}", err=True)


def render_report(
    report: Report, before: Report | None = None, *, namespaces: bool = False, rates: bool = False
) -> str:
    """A line per Service port, and one below it per endpoint. ``rates``: columns of what happened since ``before``."""
    if not report.ports:
        return ""
    head = ["SERVICE", "PORT", "CONNECTIONS", "OPEN", "BYTES IN", "BYTES OUT"]
    head += ["CONN/S", "IN/S", "OUT/S"] if rates else []
    known = _totals(before) if before is not None else {}
    seconds = report.at - before.at if before is not None else 0.0
    rows = [head]
    for row in report.ports:
        for key, label, port, total in _lines(row):
            cells = [label, port, str(total.connections), str(total.open)]
            cells += [render_bytes(total.bytes_in), render_bytes(total.bytes_out)]
            rows.append(cells + (_rates(total, known.get(key), seconds) if rates else []))
    if namespaces:
        names = ["NAMESPACE", *(row.namespace for row in report.ports for _ in _lines(row))]
        rows = [[namespace, *cells] for namespace, cells in zip(names, rows, strict=True)]
    return render_rows(rows)


def render_notes(report: Report) -> Iterator[str]:
    """What a reader of the numbers has to know besides."""
    yield from report.problems
    if report.lost:
        yield f"{report.lost} connections ended uncounted, because too many did at once: the numbers are at least these"
    if report.forgotten:
        total = report.forgotten
        size = f"{render_bytes(total.bytes_in)} in, {render_bytes(total.bytes_out)} out"
        yield f"{total.connections} more connections ({size}) were to Services deleted long ago"


def render_bytes(count: float) -> str:
    """``512B``, ``1.5KiB``, ``23MiB``: two digits at least, binary units."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1023.5 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.1f}{units[0]}" if units[0] != "B" and size < 9.95 else f"{size:.0f}{units[0]}"


def _lines(row: PortRow) -> Iterator[tuple[Key, str, str, Tally]]:
    """Key, first column, PORT and numbers of each line."""
    key = (row.namespace, row.service, row.port_name, str(row.port), row.protocol)
    port = f"{row.port_name}:{row.port}/{row.protocol}" if row.port_name else f"{row.port}/{row.protocol}"
    yield key, row.service if row.exists else f"{row.service} (deleted)", port, row.total
    for endpoint in row.endpoints:
        place = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        leaving = "" if endpoint.current else " (leaving)"
        yield (*key, place, str(endpoint.port)), f"  {place}:{endpoint.port}{leaving}", "", endpoint.total
    if row.gone:
        yield (*key, "gone"), "  (gone endpoints)", "", row.gone


def _totals(report: Report) -> Mapping[Key, Tally]:
    return {key: total for row in report.ports for key, _, _, total in _lines(row)}


def _rates(total: Tally, before: Tally | None, seconds: float) -> list[str]:
    """Per second since ``before``; unknown the first time, and when a sum fell because what it was made of changed."""
    if before is None or seconds <= 0 or total.connections < before.connections:
        return ["-", "-", "-"]
    sizes = ((total.bytes_in, before.bytes_in), (total.bytes_out, before.bytes_out))
    rates = [f"{(total.connections - before.connections) / seconds:.1f}"]
    return rates + [render_bytes(max(0, now - then) / seconds) for now, then in sizes]


def _ask(state_dir: Path | None, node_netns: str | None, query: Mapping[str, str]) -> Report:
    """What the proxy of the node says. Raises TopError."""
    paths = paths_of(state_dir, node_netns)
    status = read_status(paths)
    if status is None:
        raise TopError(f"no node runs with the state directory {paths.state_dir}; start one with 'podwire up'")
    try:
        code, body = _visit(status, "/traffic?" + urlencode(query))
    except (OSError, http.client.HTTPException) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise TopError(f"the proxy of {_place(status)} does not answer: {reason}; see 'podwire status'") from error
    except NetnsError as error:
        raise TopError(f"cannot ask the proxy: {error}") from error
    return _read(status, code, body)


def _read(status: NodeStatus, code: int, body: bytes) -> Report:
    from agent.proxy.traffic import Report

    try:
        if code == 200:
            return msgspec.json.decode(body, type=Report)
    except msgspec.DecodeError as error:
        raise TopError(f"the proxy of {_place(status)} says something else than expected: {error}") from error
    raise TopError(
        f"the proxy of {_place(status)} does not count traffic (HTTP {code}); "
        "was it started by another version? 'podwire down' and 'podwire up' start this one"
    )


def _visit(status: NodeStatus, path: str) -> tuple[int, bytes]:
    """HTTP from within the node's namespace: nobody else needs to have a route to the node."""

    from agent.proxy.options import METRICS_PORT

    def ask() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(status.node_ip, METRICS_PORT, timeout=TIMEOUT)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    return inside(status.node_netns, ask) if status.node_netns else ask()


def _place(status: NodeStatus) -> str:
    from agent.proxy.options import METRICS_PORT

    return f"node {status.node_name} ({status.node_ip}:{METRICS_PORT})"
