"""What the user asks for, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for; every field is an option of ``auditor run``."""

    model: Path
    suite: str = "standard"
    data: Path | None = None
    out: Path | None = None
    probes: Sequence[str] = ()
    skip: Sequence[str] = ()
    samples: int | None = None
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    budget: float | None = None
    """Seconds for measuring, or None for no limit."""
    policy: str = "default"
    formats: Sequence[str] = ("html", "pdf", "json")
    paper: Literal["a4", "letter"] = "a4"
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    """Workers of the engine "ray"; None for one per core."""
    surrogates: Sequence[Path] = ()
    """Other models for the same classes: the setting ``surrogates`` of every probe that has one."""
    fresh: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What the command line says about the model, in the tables and keys of the sidecar."""
    trust_model: bool = False
    """Open the model file without trying it in a child process first, whatever is in it."""
    command: str = ""


class Progress(Protocol):
    """Who wants to know how far the audit is."""

    def say(self, message: str) -> None:
        """Something happened that is worth a line."""

    def begin(self, probe_id: str, images: int, position: int, probes: int) -> None:
        """A probe begins to measure this many images."""

    def advance(self, images: int) -> None:
        """So many images more are measured."""

    def end(self, record: Mapping[str, Any]) -> None:
        """A probe has ended, as it will stand in audit.json."""


class Silent:
    """Nobody wants to know."""

    def say(self, message: str) -> None:
        """Say nothing."""

    def begin(self, probe_id: str, images: int, position: int, probes: int) -> None:
        """Show nothing."""

    def advance(self, images: int) -> None:
        """Show nothing."""

    def end(self, record: Mapping[str, Any]) -> None:
        """Show nothing."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: what was measured is on disk."""

    def __init__(self, out: Path) -> None:
        super().__init__(str(out))
        self.out = out


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished audit."""

    audit: dict[str, Any]
    out: Path
    files: list[Path]
    incomplete: bool
    """A probe, a plugin or a report format broke: exit status 3."""
    problems: list[str] = field(default_factory=list)
