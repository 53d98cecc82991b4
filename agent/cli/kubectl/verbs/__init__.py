"""The commands. Each module is one verb: its flags, and the few lines that join the pure parts to the connection.

A verb's module is imported when the verb is used: ``podwire get`` pays for ``get`` and for nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click


class Lazy(click.Command):
    """Stands for a command in another module until it is called."""

    def __init__(self, name: str, attribute: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self.attribute = attribute

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        return self.load().make_context(info_name, args, parent=parent, **extra)

    def load(self) -> click.Command:
        module, _, attribute = self.attribute.partition(":")
        command = getattr(import_module(f"{__name__}.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command


# In the order in which the document needs them.
commands: tuple[Lazy, ...] = (
    Lazy("create", "create:create", "Make the objects of files, or one from flags."),
    Lazy("get", "get:get", "Show objects, as a table or as they are (-o yaml)."),
    Lazy("expose", "expose:expose", "Make a Service that leads to the pods of a ReplicaSet, Pod or Service."),
    Lazy("describe", "describe:describe", "Show an object in detail, with its events."),
    Lazy("exec", "exec:exec_", "Run a command in a container."),
    Lazy("logs", "logs:logs", "Show what containers wrote."),
    Lazy("delete", "delete:delete", "Delete objects."),
    Lazy("apply", "apply:apply", "Make or change objects so that they are as files say."),
    Lazy("run", "run:run", "Run one pod."),
    Lazy("scale", "scale:scale", "Change the number of replicas."),
    Lazy("label", "label:label", "Set and remove labels."),
    Lazy("annotate", "label:annotate", "Set and remove annotations."),
    Lazy("patch", "patch:patch", "Change fields of an object."),
    Lazy("edit", "patch:edit", "Change objects in an editor."),
    Lazy("wait", "wait:wait", "Wait until objects are ready, gone, or as a field says."),
    Lazy("attach", "exec:attach", "Join the running process of a container."),
    Lazy("api-resources", "info:api_resources", "Which types there are, and their short names."),
    Lazy("api-versions", "info:api_versions", "Which groups and versions there are."),
    Lazy("version", "info:version", "Versions of this client and of the server."),
    Lazy("cluster-info", "info:cluster_info", "Where the control plane and the DNS Service are."),
)
