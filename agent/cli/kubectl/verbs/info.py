"""What the server is and offers: ``api-resources``, ``api-versions``, ``version``, ``cluster-info``."""

from __future__ import annotations

import click

from agent.cli.kubectl.command import output_option, the_cluster, verb
from agent.cli.kubectl.discovery import Resource
from agent.cli.kubectl.errors import KubectlError, client_error
from agent.cli.kubectl.objects import go_json
from agent.cli.kubectl.tables import render_rows


@verb("api-resources")
@click.option("--namespaced/--no-namespaced", default=None, help="Only those that live in namespaces, or that do not.")
@click.option("--api-group", default=None, metavar="GROUP", help="Only those of a group.")
@click.option("--no-headers", is_flag=True)
@output_option
def api_resources(namespaced: bool | None, api_group: str | None, no_headers: bool, output: str | None) -> None:
    """Which types there are, and their short names."""
    if output not in (None, "", "wide", "name"):
        raise client_error(f"--output {output} is not available, expected one of: wide, name")
    chosen = [
        resource
        for resource in the_cluster().catalog().resources
        if namespaced in (None, resource.namespaced) and api_group in (None, resource.group)
    ]
    chosen.sort(key=lambda resource: (resource.group, resource.name))
    if output == "name":
        click.echo("".join(f"{resource.qualified}\n" for resource in chosen), nl=False)
        return
    wide = output == "wide"
    head = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND", *(["VERBS", "CATEGORIES"] if wide else [])]
    rows = [_row(resource, wide=wide) for resource in chosen]
    click.echo(render_rows(rows if no_headers else [head, *rows]), nl=False)


def _row(resource: Resource, *, wide: bool) -> list[str]:
    row = [
        resource.name,
        ",".join(resource.short_names),
        resource.api_version,
        str(resource.namespaced).lower(),
        resource.kind,
    ]
    return [*row, ",".join(sorted(resource.verbs)), ",".join(resource.categories)] if wide else row


@verb("api-versions")
def api_versions() -> None:
    """Which groups and versions there are."""
    versions = {resource.api_version for resource in the_cluster().catalog().resources}
    click.echo("".join(f"{version}\n" for version in sorted(versions)), nl=False)


@verb()
@click.option("--client", is_flag=True, help="Only podwire's own.")
@click.option("-o", "--output", type=click.Choice(["json"]), default=None)
def version(client: bool, output: str | None) -> None:
    """Versions of this client and of the server."""
    own = f"podwire {_installed()}"
    server = None if client else the_cluster().get("/version")
    if output == "json":
        versions: dict[str, object] = {"clientVersion": {"gitVersion": own}}
        click.echo(go_json({**versions, **({"serverVersion": server} if server else {})}, indent=2))
        return
    click.echo(f"Client Version: {own}")
    if server is not None:
        click.echo(f"Server Version: {server.get('gitVersion', 'unknown')}")


def _installed() -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("podwire")
    except PackageNotFoundError:
        return "(not installed: run from its source tree)"


@verb("cluster-info")
def cluster_info() -> None:
    """Where the control plane and the DNS Service are."""
    cluster = the_cluster()
    cluster.get("/version")
    click.echo(f"Kubernetes control plane is running at {cluster.server}")
    try:
        address = cluster.get("/api/v1/namespaces/kube-system/services/kube-dns")["spec"]["clusterIP"]
    except KubectlError:
        return  # a cluster need not have one of this name
    click.echo(f"DNS is running at {address}:53, inside the cluster")
