"""Probes that are generated on demand, such as one for every attack of a library."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.findings.finding import Area

if TYPE_CHECKING:
    from auditor.probes.base import Probe


@dataclass(frozen=True, kw_only=True)
class ProbeFamily:
    """Probes that exist once something names them: their id, or the suite table that is named after the family.

    The id of a member is ``area.family-member``, its name in lower case with hyphens: the attack NewtonFool of the
    family "art" is ``attacks.art-newton-fool``.
    """

    name: str
    """The name of the suite table, for example "art"."""
    area: Area
    members: Callable[[], Sequence[str]]
    """Return the names of all members, as the library spells them; called only if a member is asked for."""
    probe: Callable[[str], type[Probe]]
    """Return the probe of a member. Raises BadInput, with the reason, for one that cannot audit a classifier."""

    @property
    def prefix(self) -> str:
        """How the ids of its probes begin."""
        return f"{self.area}.{self.name}-"

    def probe_id(self, member: str) -> str:
        """Return the id of a member's probe."""
        return self.prefix + re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", member).lower()

    def member(self, probe_id: str) -> str | None:
        """Return the member with this probe id; None if there is none."""
        if not probe_id.startswith(self.prefix):
            return None
        return next((member for member in self.members() if self.probe_id(member) == probe_id), None)
