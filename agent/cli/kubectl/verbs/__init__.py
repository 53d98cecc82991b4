"""The commands. Each module is one verb: its flags, and the few lines that join the pure parts to the connection."""

from __future__ import annotations

import click

from agent.cli.kubectl.verbs.apply import apply
from agent.cli.kubectl.verbs.create import create
from agent.cli.kubectl.verbs.delete import delete
from agent.cli.kubectl.verbs.describe import describe
from agent.cli.kubectl.verbs.exec import attach, exec_
from agent.cli.kubectl.verbs.expose import expose
from agent.cli.kubectl.verbs.get import get
from agent.cli.kubectl.verbs.info import api_resources, api_versions, cluster_info, version
from agent.cli.kubectl.verbs.label import annotate, label
from agent.cli.kubectl.verbs.logs import logs
from agent.cli.kubectl.verbs.patch import edit, patch
from agent.cli.kubectl.verbs.run import run
from agent.cli.kubectl.verbs.scale import scale
from agent.cli.kubectl.verbs.wait import wait

# In the order in which the document needs them.
commands: tuple[click.Command, ...] = (
    create,
    get,
    expose,
    describe,
    exec_,
    logs,
    delete,
    apply,
    run,
    scale,
    label,
    annotate,
    patch,
    edit,
    wait,
    attach,
    api_resources,
    api_versions,
    version,
    cluster_info,
)
