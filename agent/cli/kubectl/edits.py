"""What a command is about to do to one object."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.cli.kubectl.objects import Obj
from agent.cli.kubectl.targets import Target


@dataclass(frozen=True, slots=True)
class Edit:
    """An object as it is (None: there is none), as the server would store it (None: deleted), and as it was written.

    ``done`` is created, configured, unchanged or deleted.
    """

    target: Target
    done: str
    before: Obj | None
    after: Obj | None
    manifest: Obj = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.target.resource.kind

    @property
    def group(self) -> str:
        return self.target.resource.group

    @property
    def namespace(self) -> str:
        return self.target.namespace or ""

    @property
    def name(self) -> str:
        return self.target.name
