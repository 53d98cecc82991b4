"""kubectl's verbs, for the API of this or of any other cluster.

The shape of every verb: arguments -> requests -> JSON -> text. Only ``connection`` and ``streams`` talk to a server;
everything that decides what is sent or shown is a pure function of JSON, testable without one:

`command` click, with kubectl's flag habits · `targets` words and files to objects · `discovery` which word means
which resource · `manifests`, `yamltext` files to objects and back · `tables`, `tabwriter`, `columns`, `jsonpath`,
`output` JSON to text · `describe/` objects and events to text · `merge` what `apply` must change · `generate` objects
from flags (`run`, `expose`, `create`) · `waiting` conditions · `verbs/` the commands, each a few lines over the rest.

``commands`` is what ``podwire`` adds to its own; ``register`` adds them to any group, with the flags before the verb.
"""

from __future__ import annotations

import click

from agent.cli.kubectl.command import group_options
from agent.cli.kubectl.verbs import commands

__all__ = ["commands", "register"]


def register(group: click.Group) -> None:
    """Add the verbs to a group, and ``-n``, ``--kubeconfig`` and ``--context`` to its own flags."""
    for command in commands:
        group.add_command(command)
    group.params += group_options()
