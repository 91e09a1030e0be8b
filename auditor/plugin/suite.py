"""A suite: which probes run, with which settings, on how many images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auditor.errors import BadInput
from auditor.plugin.duration import seconds
from auditor.plugin.registry import Registry
from auditor.policy.published import PublishedNumber, check_probes
from auditor.toml import Count, decode, nearest, read_toml


@dataclass(frozen=True, kw_only=True)
class SuiteFile:
    """What a suite file may contain."""

    probes: tuple[str, ...]
    """Ids or globs of the probes to run, for example ["attacks.*"]."""
    title: str = ""
    """One line about the suite."""
    samples: Count | None = None
    """Number of images to audit; all by default."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings by probe: one table ``[settings."attacks.fgsm"]`` per probe."""
    time_limit: str = ""
    """Time limit without --budget, for example "30m"; none by default."""
    reduced: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of a probe, in addition to ``settings``, if one image takes too long within the time limit."""
    documented: tuple[PublishedNumber, ...] = ()
    """Published numbers to show next to the measured ones."""

    def __post_init__(self) -> None:
        """Raise ValueError if no probe is named."""
        if not self.probes:
            raise ValueError('probes is empty; expected ids or globs, for example ["attacks.*"]')
        if self.time_limit:
            seconds(self.time_limit)


@dataclass(frozen=True)
class Suite:
    """A suite that has been read and checked."""

    name: str
    title: str
    probes: Sequence[str]
    """Ids or globs."""
    samples: int | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    documented: Sequence[PublishedNumber] = ()
    time_limit: float | None = None
    """Seconds."""
    reduced: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def find_suite(name: str, registry: Registry) -> Suite:
    """Read the suite called ``name``, or the file ``name``.

    Raises:
        BadInput: for an unknown suite or a file that is not one.
    """
    suites = registry.suites()
    path = suites.get(name) or Path(name)
    if path.suffix != ".toml" or not path.is_file():
        hint = nearest(name, suites)
        raise BadInput(f"--suite {name}: no such suite{hint}; expected one of {', '.join(suites)} or a TOML file")
    return read_suite(path, registry)


def read_suite(path: Path, registry: Registry) -> Suite:
    """Read a suite file.

    Raises:
        BadInput: for unknown keys, probes and settings.
    """
    where = str(path)
    content = decode(SuiteFile, read_toml(path), where)
    registry.select(content.probes, option=f"{where}: probes:")
    for probe_id in {**content.settings, **content.reduced}:
        if probe_id not in registry.probes:
            hint = nearest(probe_id, registry.probes)
            raise BadInput(f"{where}: settings of {probe_id!r}; no such probe{hint} (see `auditor probes`)")
        settings = content.settings.get(probe_id, {})
        registry.configure(probe_id, settings, where=where)
        registry.configure(probe_id, {**settings, **content.reduced.get(probe_id, {})}, where=f"{where}: reduced")
    check_probes(content.documented, registry.probes, where)
    return Suite(
        name=path.stem,
        title=content.title or path.stem,
        probes=content.probes,
        samples=content.samples,
        settings=content.settings,
        documented=content.documented,
        time_limit=seconds(content.time_limit) if content.time_limit else None,
        reduced=content.reduced,
    )
