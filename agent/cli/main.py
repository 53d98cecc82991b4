"""The ``podwire`` command."""

from __future__ import annotations

import click

from agent.cli import node
from agent.cli.demo import demo
from agent.cli.kubectl import commands as kubectl_commands
from agent.cli.kubectl import register
from agent.cli.sequence import sequence
from agent.cli.top import top
from agent.cli.trace import trace


class Sections(click.Group):
    """Commands listed under headings, in the order in which a newcomer needs them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, names in SECTIONS.items():
            rows = [(name, self.commands[name].get_short_help_str(90)) for name in names]
            with formatter.section(heading):
                formatter.write_dl(rows)


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="podwire", message="podwire %(version)s")
def main() -> None:
    """Real Kubernetes Services on a Linux box."""


_NODE = (*node.commands, sequence, trace, top, demo)
for _command in _NODE:
    main.add_command(_command)
register(main)

SECTIONS = {
    "The node": [command.name or "" for command in _NODE],
    "Objects (kubectl's verbs)": [command.name or "" for command in kubectl_commands],
}

if __name__ == "__main__":
    main()
