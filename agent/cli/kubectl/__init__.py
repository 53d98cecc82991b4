"""kubectl's verbs, for the API of this or of any other cluster.

``commands`` is what ``podwire`` adds to its own.
"""

from __future__ import annotations

import click

commands: tuple[click.Command, ...] = ()
