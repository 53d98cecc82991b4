"""``expose``: a Service for what an object's selector chooses."""

from __future__ import annotations

from typing import Any

import click

from agent.cli.kubectl.command import dry_run_option, file_options, output_option, the_cluster, verb
from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.generate import ExposeFlags, exposing_service
from agent.cli.kubectl.output import parse_output
from agent.cli.kubectl.targets import fetch, targets_of
from agent.cli.kubectl.verbs.create import create_object


@verb()
@click.argument("words", nargs=-1, metavar="(TYPE NAME | TYPE/NAME)")
@file_options
@click.option("--name", default="", metavar="NAME", help="Of the Service (default: the object's).")
@click.option("--port", default="", metavar="PORT", help="The Service's port (default: the object's).")
@click.option("--target-port", default="", metavar="PORT", help="The pods' port, number or name (default: the same).")
@click.option("--protocol", default="", metavar="TCP|UDP|SCTP")
@click.option("--type", default="", metavar="TYPE", help="ClusterIP, NodePort, LoadBalancer or ExternalName.")
@click.option("-l", "--labels", default="", metavar="A=B,...", help="Of the Service (default: the object's).")
@click.option("--selector", default="", metavar="A=B,...", help="Which pods (default: the object's).")
@click.option("--cluster-ip", default="", metavar="ADDRESS", help="A ClusterIP of your choice, or None (headless).")
@click.option("--external-ip", default="", metavar="ADDRESS", help="One more address that leads to the Service.")
@click.option("--session-affinity", default="", metavar="None|ClientIP")
@output_option
@dry_run_option
def expose(
    words: tuple[str, ...], files: tuple[str, ...], recursive: bool, output: str | None, dry_run: str, **flags: Any
) -> None:
    """Make a Service that leads to the pods of a ReplicaSet, Pod or Service."""
    shown, cluster = parse_output(output), the_cluster()
    targets = targets_of(cluster, words, files, recursive=recursive)
    if not targets or any(not target.name for target in targets):
        raise client_error("resource(s) were provided, but no name was specified" if targets else "nothing to expose")
    for target in targets:
        service = exposing_service(fetch(cluster, target), ExposeFlags(**flags))
        create_object(cluster, service, done="exposed", output=shown, dry_run=dry_run)
