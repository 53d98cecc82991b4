"""Options that several node commands share, and how errors reach the person at the terminal."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from agent.config import Config, ConfigError, Paths, default_state_dir, load_config

F = TypeVar("F", bound=Callable[..., Any])


def fail(message: str) -> NoReturn:
    """One line on standard error, exit code 1."""
    click.echo(f"podwire: {message}", err=True)
    sys.exit(1)


def node_options(command: F) -> F:
    """``--node-netns`` and ``--state-dir``: which node of this machine."""

    @click.option("--node-netns", metavar="NAME", help="Network namespace the node lives in (default: the host's own).")
    @click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="PODWIRE_STATE_DIR",
        help="Where the node keeps its state (default: /var/lib/podwire, or /var/lib/podwire-NAME with --node-netns).",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def state_dir_of(state_dir: Path | None, node_netns: str | None) -> Path:
    _refuse_path(node_netns)
    return state_dir.absolute() if state_dir is not None else default_state_dir(node_netns)


def paths_of(state_dir: Path | None, node_netns: str | None) -> Paths:
    return Paths(state_dir_of(state_dir, node_netns))


def config_of(config_file: Path | None, **flags: Any) -> Config:
    """The node's configuration; exits with a message where it cannot be used."""
    _refuse_path(flags.get("node_netns"))
    if flags.get("state_dir") is not None:
        flags["state_dir"] = flags["state_dir"].absolute()
    try:
        return load_config(config_file, **flags)
    except ConfigError as error:
        fail(str(error))


def _refuse_path(node_netns: str | None) -> None:
    if node_netns and "/" in node_netns:
        fail(f"cannot use --node-netns {node_netns}: expected a name as `ip netns list` shows them")


def need_root(what: str) -> None:
    if os.geteuid() != 0:
        fail(f"{what} needs root: it makes network namespaces and programs netfilter; try it with sudo")
