"""The request for an audit, its progress and its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from auditor.errors import BadInput
from auditor.findings.record import AuditRecord, Json, ProbeRecord

if TYPE_CHECKING:
    from auditor.data.augmentations import Augmentations
    from auditor.data.location import Uri
    from auditor.data.maite import MaiteDataset

PROBE_TIMEOUT = 3600.0
"""Default of ``Request.probe_timeout``. Chosen, not measured: a step of an hour is taken for a hang."""


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Python objects in place of files; only one process can audit them."""

    model: Any = None
    """A model of MAITE or a torch module."""
    data: MaiteDataset | None = None
    augmentations: Augmentations | None = None
    effects: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What identifies each augmentation, by name and severity."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """An audit to run; every field is an option of ``auditor run``."""

    model: Path
    suite: str = "standard"
    data: Path | Uri | None = None
    out: Path | None = None
    probes: Sequence[str] = ()
    skip: Sequence[str] = ()
    samples: int | None = None
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    budget: float | Literal["none"] | None = None
    """Time limit in seconds, "none" for no limit, or None for the limit of the suite."""
    queries: int | None = None
    """Largest number of queries of an endpoint, divided among the probes; None for no limit."""
    probe_timeout: float = PROBE_TIMEOUT
    """Seconds that one step of a probe may take in a supervised audit: its preparation, a batch, its conclusion."""
    probe_memory: int | None = None
    """Bytes of memory that a supervised audit may use, or None for 95 % of the machine's."""
    wait: bool = False
    """Wait for another audit that writes to the same folder, instead of refusing."""
    policy: str = "default"
    formats: Sequence[str] = ("html", "pdf", "json")
    paper: Literal["a4", "letter"] = "a4"
    pdf: Literal["short", "full"] = "full"
    """Whether the PDF has its appendix."""
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    """The Ray cluster that measures: HOST:PORT of its head node, or "auto" for the one that this machine is part of."""
    workers: int | None = None
    """Processes that measure; None for one with the engine "local", for one per core with "ray"."""
    surrogates: Sequence[Path] = ()
    """Other models for the same classes, for every probe that accepts surrogates."""
    unknown: Path | Uri | None = None
    """Images that belong to no class, for every probe that needs them."""
    pixel_cache: Path | None = None
    """Folder for decoded images, which several audits may share; None to read those again that memory does not hold."""
    fresh: bool = False
    overrides: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """Properties of the model from the command line, in the tables and keys of the sidecar."""
    trust_model: bool = False
    """Load the model file directly, without the sandbox."""
    objects: Objects = field(default_factory=Objects)
    command: str = ""

    def __post_init__(self) -> None:
        """Raise BadInput for options that have no effect together."""
        if self.address is not None and self.engine != "ray":
            raise BadInput(f"--address {self.address}: has no effect without --engine ray; add it, or leave it out")


class Position(NamedTuple):
    """The position of a probe in the run, for the progress."""

    number: int
    """From 0."""
    probes: int
    seconds: float | None = None
    """Time limit of the probe."""
    left: float | None = None
    """Time that is left for measuring all probes."""


class Progress(Protocol):
    """An observer of an audit."""

    def say(self, message: str) -> None:
        """Report an event in one line."""

    def begin(self, probe_id: str, images: int, position: Position) -> None:
        """Report that a probe begins to measure this many images."""

    def advance(self, images: int) -> None:
        """Report that this many more images are measured."""

    def end(self, record: ProbeRecord) -> None:
        """Report that a probe has ended, with its record in audit.json."""


class Silent:
    """A progress that ignores everything."""

    def say(self, message: str) -> None:
        """Ignore the event."""

    def begin(self, probe_id: str, images: int, position: Position) -> None:
        """Ignore the event."""

    def advance(self, images: int) -> None:
        """Ignore the event."""

    def end(self, record: ProbeRecord) -> None:
        """Ignore the event."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; everything measured so far is on disk."""

    def __init__(self, out: Path) -> None:
        super().__init__(str(out))
        self.out = out


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished audit."""

    audit: AuditRecord
    out: Path
    files: list[Path]
    incomplete: bool
    """True if a probe, a plugin or a report format broke: exit status 3."""
    problems: list[str] = field(default_factory=list)
    """Reports that were not written, and why."""
