"""How kubectl's flags become click's: the base class of every verb, and the options many of them share.

kubectl's flags are Go's pflag. Three of its habits are not click's, and scripts (and the document) rely on them: a
value may follow a short flag after ``=`` (``-o=yaml``), a truth value may be given to a switch (``--wait=false``),
and some flags may stand with or without a value (``--dry-run``, ``--cascade=orphan``). ``Verb`` rewrites such
arguments before click sees them.

``--namespace``, ``--kubeconfig`` and ``--context`` are understood before and after the verb (``group_options``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent.cli.kubectl.errors import KubectlError

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster

F = TypeVar("F", bound=Callable[..., Any])
AFTER_DASH = "podwire.kubectl.after_dash"  # what followed ``--``, or None where there was none


class Bare(click.Option):
    """An option whose value may be left out; ``bare`` is what it then means."""

    def __init__(self, *args: Any, bare: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bare = bare


class Verb(click.Command):
    """A command with kubectl's flag habits and kubectl's way of failing: the message, and exit code 1."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        dash = args.index("--") if "--" in args else None
        ctx.meta[AFTER_DASH] = None if dash is None else args[dash + 1 :]
        own, rest = (args, []) if dash is None else (args[:dash], args[dash:])
        return super().parse_args(ctx, rewrite_flags(own, self.get_params(ctx)) + rest)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KubectlError as error:
            sys.stdout.flush()
            click.echo(str(error), err=True)
            ctx.exit(error.code)
        except KeyboardInterrupt:
            ctx.exit(130)


class VerbGroup(Verb, click.Group):
    """A verb with its own flags and with subcommands (``create -f`` and ``create namespace``)."""

    command_class = Verb


def rewrite_flags(args: Sequence[str], params: Sequence[click.Parameter]) -> list[str]:
    """pflag's spellings as click's: ``-o=x`` as ``-o x``, ``--flag=true`` as ``--flag``, a bare option with a value."""
    options = {name: p for p in params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}
    rewritten = []
    for arg in args:
        name, equals, value = arg.partition("=")
        option = options.get(name)
        if option is None:
            rewritten.append(arg)
        elif isinstance(option, Bare) and not equals:
            rewritten.append(f"{name}={option.bare}")
        elif option.is_flag and equals:
            rewritten += _switch(option, name, value)
        elif equals and not name.startswith("--"):
            rewritten += [name, value]
        else:
            rewritten.append(arg)
    return rewritten


def _switch(option: click.Option, name: str, value: str) -> list[str]:
    if value.lower() in ("true", "1", "t"):
        return [name]
    if value.lower() in ("false", "0", "f"):
        return option.secondary_opts[:1]
    raise click.BadParameter(f'invalid argument "{value}" for "{name}" flag: expected true or false')


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[f"podwire.kubectl.{param.name}"] = value


def group_options() -> list[click.Option]:
    """``-n``, ``--kubeconfig`` and ``--context``; on a group they are understood before the verb too."""
    return [
        click.Option(["-n", "--namespace"], metavar="NAME", help="Namespace (default: the context's).", **_GLOBAL),
        click.Option(["--kubeconfig"], metavar="FILE", help="Which cluster, and as whom.", **_GLOBAL),
        click.Option(["--context"], metavar="NAME", help="Which context of the kubeconfig.", **_GLOBAL),
    ]


_GLOBAL: dict[str, Any] = {"expose_value": False, "callback": _remember}


def verb(name: str | None = None, **settings: Any) -> Callable[[Callable[..., Any]], Verb]:
    """A kubectl verb: ``@verb()`` in place of ``@click.command()``."""

    def make(function: Callable[..., Any]) -> Verb:
        made: Verb = click.command(name, cls=Verb, **settings)(function)
        made.params += group_options()
        return made

    return make


def verb_group(name: str | None = None, **settings: Any) -> Callable[[Callable[..., Any]], VerbGroup]:
    """A verb with subcommands."""

    def make(function: Callable[..., Any]) -> VerbGroup:
        made: VerbGroup = click.command(name, cls=VerbGroup, **settings)(function)
        made.params += group_options()
        return made

    return make


def the_cluster() -> Cluster:
    """The API server this command talks to; closed when the command ends."""
    from agent.cli.kubectl.connection import open_cluster

    context = click.get_current_context()
    given = {name: context.meta.get(f"podwire.kubectl.{name}") for name in ("kubeconfig", "context", "namespace")}
    cluster = open_cluster(**given)
    context.call_on_close(cluster.close)
    return cluster


def after_dash() -> list[str] | None:
    """The arguments after ``--``; None where there was no ``--``."""
    found: list[str] | None = click.get_current_context().meta.get(AFTER_DASH)
    return found


# --- options that several verbs share -------------------------------------------------------------------------


def file_options(function: F) -> F:
    function = click.option("-R", "--recursive", is_flag=True, help="Read folders and what is below them.")(function)
    return click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        metavar="FILE",
        help="File or folder of manifests; - is standard input.",
    )(function)


def selector_option(function: F) -> F:
    return click.option(
        "-l", "--selector", metavar="LABELS", help="Only objects with these labels: a=b,c!=d,e in (f,g)."
    )(function)


def field_selector_option(function: F) -> F:
    return click.option(
        "--field-selector", metavar="FIELDS", help="Only objects with these fields: status.phase=Running."
    )(function)


def all_namespaces_option(function: F) -> F:
    return click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace.")(function)


def output_option(function: F) -> F:
    return click.option(
        "-o",
        "--output",
        metavar="FORMAT",
        help="wide, yaml, json, name, jsonpath=TEMPLATE, custom-columns=NAME:PATH,...",
    )(function)


def dry_run_option(function: F) -> F:
    return _dry_run(function, "client: print what would be sent; server: have it checked, but not stored.")


def dataplane_options(function: F) -> F:
    """``--dry-run``, also as ``dataplane``, and what that wants to know."""
    function = click.option(
        "--cluster-cidr",
        "cluster_cidrs",
        multiple=True,
        metavar="CIDR",
        help="With --dry-run=dataplane: the pod network, as the node's proxy was told (default: a podwire node's own).",
    )(function)
    function = click.option(
        "--node-name",
        metavar="NAME",
        help="With --dry-run=dataplane: on which node (default: the podwire node, or the only one).",
    )(function)
    return _dry_run(
        function,
        "client: print what would be sent; server: have it checked, but not stored; dataplane: the same, and tell in "
        "words what it would do to traffic.",
        "dataplane",
    )


def _dry_run(function: F, text: str, *more: str) -> F:
    choice = click.Choice(["none", "client", "server", *more])
    return click.option("--dry-run", cls=Bare, bare="client", default="none", type=choice, help=text)(function)
