"""``create``: from files, or from flags (``create namespace``, ``service``, ``configmap``, ``secret``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.kubectl import generate
from agent.cli.kubectl.command import dry_run_option, file_options, output_option, the_cluster, verb, verb_group
from agent.cli.kubectl.errors import ApiError, KubectlError, client_error
from agent.cli.kubectl.manifests import Manifest, read_manifests
from agent.cli.kubectl.merge import with_last_applied
from agent.cli.kubectl.objects import Obj
from agent.cli.kubectl.output import Output, parse_output
from agent.cli.kubectl.report import dry_run_params, say
from agent.cli.kubectl.targets import manifest_target

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster


@verb_group(invoke_without_command=True)
@file_options
@output_option
@dry_run_option
@click.option("--save-config", is_flag=True, help="Remember the manifest in an annotation, as apply does.")
@click.option("--validate", default="strict", hidden=True)
@click.pass_context
def create(
    ctx: click.Context,
    files: tuple[str, ...],
    recursive: bool,
    output: str | None,
    dry_run: str,
    save_config: bool,
    validate: str,
) -> None:
    """Make the objects of files, or one from flags (see the commands below)."""
    if ctx.invoked_subcommand is not None:
        return
    if not files:
        raise client_error("must specify one of -f and a kind to create; see: podwire create --help")
    shown, cluster = parse_output(output), the_cluster()
    manifests = read_manifests(files, recursive=recursive)
    if not manifests:
        raise client_error("no objects passed to create")
    errors = [
        error
        for manifest in manifests
        if (error := _create_one(cluster, manifest, shown, dry_run, save_config=save_config)) is not None
    ]
    if errors:
        raise KubectlError("\n".join(str(error) for error in errors))


def _create_one(
    cluster: Cluster, manifest: Manifest, shown: Output, dry_run: str, *, save_config: bool
) -> KubectlError | None:
    """One object that cannot be made does not keep the others from being made."""
    try:
        target = manifest_target(cluster, manifest)
        body = with_last_applied(manifest.obj, target.namespace) if save_config else manifest.obj
        made = body
        if dry_run != "client":
            path = target.resource.path(target.namespace)
            made = cluster.create(path, body, params=dry_run_params(dry_run))
        say(made, "created", output=shown, dry_run=dry_run)
    except ApiError as error:
        return error.while_doing(f'error when creating "{manifest.source}"')
    except KubectlError as error:
        return error
    return None


def create_object(
    cluster: Cluster, obj: Obj, *, done: str, output: Output, dry_run: str, failing: str | None = None
) -> Obj:
    """Create one generated object in the command's namespace, and say so. ``failing``: how an error begins."""
    resource = cluster.find_kind(obj["apiVersion"], obj["kind"])
    if resource is None:
        raise client_error(f'no matches for kind "{obj["kind"]}" in version "{obj["apiVersion"]}"')
    namespace = cluster.namespace if resource.namespaced else None
    made = obj
    if dry_run == "client":
        if cluster.namespace_given and resource.namespaced:
            made = {**obj, "metadata": {**obj["metadata"], "namespace": namespace}}
    else:
        try:
            made = cluster.create(resource.path(namespace), obj, params=dry_run_params(dry_run))
        except ApiError as error:
            if failing is None:
                raise
            raise client_error(f"{failing} {error.status.get('message', '')}") from error
    say(made, done, output=output, dry_run=dry_run)
    return made


def _make(obj: Obj, output: str | None, dry_run: str, *, failing: str | None = None) -> None:
    shown = parse_output(output)
    create_object(the_cluster(), obj, done="created", output=shown, dry_run=dry_run, failing=failing)


@verb()
@click.argument("name")
@output_option
@dry_run_option
def namespace(name: str, output: str | None, dry_run: str) -> None:
    """A namespace."""
    _make(generate.namespace(name), output, dry_run)


@verb_group()
def service() -> None:
    """A Service for the pods labelled app=NAME."""


@verb()
@click.argument("name")
@click.option("--tcp", multiple=True, metavar="PORT[:TARGET]", help="A port, and the pods' port where it differs.")
@click.option("--clusterip", default="", metavar="ADDRESS", help="A ClusterIP of your choice, or None (headless).")
@output_option
@dry_run_option
def clusterip(name: str, tcp: tuple[str, ...], clusterip: str, output: str | None, dry_run: str) -> None:
    """Reached inside the cluster, at a virtual address."""
    flags = generate.ServiceFlags("ClusterIP", tcp=_split(tcp), cluster_ip=clusterip)
    _make_service(name, flags, output, dry_run)


@verb()
@click.argument("name")
@click.option("--tcp", multiple=True, metavar="PORT[:TARGET]", help="A port, and the pods' port where it differs.")
@click.option("--node-port", type=int, default=0, metavar="PORT", help="The nodes' port (default: a free one).")
@output_option
@dry_run_option
def nodeport(name: str, tcp: tuple[str, ...], node_port: int, output: str | None, dry_run: str) -> None:
    """Reached from outside too, at a port of every node."""
    flags = generate.ServiceFlags("NodePort", tcp=_split(tcp), node_port=node_port)
    _make_service(name, flags, output, dry_run)


@verb()
@click.argument("name")
@click.option("--external-name", required=True, metavar="NAME", help="The DNS name it stands for.")
@click.option("--tcp", multiple=True, metavar="PORT[:TARGET]")
@output_option
@dry_run_option
def externalname(name: str, external_name: str, tcp: tuple[str, ...], output: str | None, dry_run: str) -> None:
    """Another name for a DNS name outside."""
    flags = generate.ServiceFlags("ExternalName", tcp=_split(tcp), external_name=external_name)
    _make_service(name, flags, output, dry_run)


def _make_service(name: str, flags: generate.ServiceFlags, output: str | None, dry_run: str) -> None:
    made = generate.service(name, flags)
    _make(made, output, dry_run, failing=f"failed to create {flags.type} service:")


def _split(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for value in values for part in value.split(",") if part)


@verb()
@click.argument("name")
@click.option("--from-literal", "literals", multiple=True, metavar="KEY=VALUE")
@click.option("--from-file", "sources", multiple=True, metavar="[KEY=]FILE")
@output_option
@dry_run_option
def configmap(name: str, literals: tuple[str, ...], sources: tuple[str, ...], output: str | None, dry_run: str) -> None:
    """A ConfigMap from values and files."""
    data = generate.data_from(literals, [_read(source) for source in sources])
    _make(generate.config_map(name, data), output, dry_run, failing="failed to create configmap:")


@verb_group()
def secret() -> None:
    """A Secret."""


@verb("generic")
@click.argument("name")
@click.option("--from-literal", "literals", multiple=True, metavar="KEY=VALUE")
@click.option("--from-file", "sources", multiple=True, metavar="[KEY=]FILE")
@click.option("--type", "kind", default="Opaque", metavar="TYPE")
@output_option
@dry_run_option
def generic_secret(
    name: str, literals: tuple[str, ...], sources: tuple[str, ...], kind: str, output: str | None, dry_run: str
) -> None:
    """A Secret from values and files."""
    data = generate.data_from(literals, [_read(source) for source in sources])
    _make(generate.secret(name, data, kind=kind), output, dry_run, failing="failed to create secret")


def _read(source: str) -> tuple[str, bytes]:
    key, equals, name = source.rpartition("=")
    file = Path(name)
    try:
        return (key if equals else file.name), file.read_bytes()
    except OSError as error:
        raise client_error(f"error reading {name}: {error.strerror}") from error


for _kind in (clusterip, nodeport, externalname):
    service.add_command(_kind)
secret.add_command(generic_secret)
for _made in (namespace, service, configmap, secret):
    create.add_command(_made)
for _alias, _made in (("ns", namespace), ("svc", service), ("cm", configmap)):
    create.add_command(_made, _alias)
