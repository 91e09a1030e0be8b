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

_LIBRARIES = {
    "art": ("ART", "NewtonFool"),
    "foolbox": ("Foolbox", "DDNAttack"),
    "torchattacks": ("torchattacks", "PGD"),
}
"""Name of each library, and one of its attacks."""


@dataclass(frozen=True, kw_only=True)
class SuiteFile:
    """What a suite file may contain."""

    probes: tuple[str, ...] = ()
    """Ids or globs of the probes to run, for example ["attacks.*"]."""
    art: tuple[Mapping[str, Any], ...] = ()
    """Attacks of the Adversarial Robustness Toolbox to run, one table ``[[art]]`` for each: ``attack``, the name of its
    class, and its parameters."""
    foolbox: tuple[Mapping[str, Any], ...] = ()
    """Attacks of Foolbox to run, if it is installed: tables ``[[foolbox]]`` like ``[[art]]``."""
    torchattacks: tuple[Mapping[str, Any], ...] = ()
    """Attacks of torchattacks to run, if it is installed: tables ``[[torchattacks]]`` like ``[[art]]``."""
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
        if not (self.probes or any(self.attacks.values())):
            raise ValueError('probes is empty; expected ids or globs, for example ["attacks.*"]')
        if self.time_limit:
            seconds(self.time_limit)

    @property
    def attacks(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The tables of attacks by the name of their family of probes."""
        return {"art": self.art, "foolbox": self.foolbox, "torchattacks": self.torchattacks}


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
    generated = _generated(content, registry, where)
    registry.select(content.probes, option=f"{where}: probes:")
    every_setting = {**content.settings, **generated}
    for probe_id in {**every_setting, **content.reduced}:
        if not registry.has(probe_id):
            hint = registry.similar(probe_id)
            raise BadInput(f"{where}: settings of {probe_id!r}; no such probe{hint} (see `auditor probes`)")
        settings = every_setting.get(probe_id, {})
        registry.configure(probe_id, settings, where=where)
        registry.configure(probe_id, {**settings, **content.reduced.get(probe_id, {})}, where=f"{where}: reduced")
    check_probes(content.documented, registry.probes, where)
    return Suite(
        name=path.stem,
        title=content.title or path.stem,
        probes=(*content.probes, *generated),
        samples=content.samples,
        settings=every_setting,
        documented=content.documented,
        time_limit=seconds(content.time_limit) if content.time_limit else None,
        reduced=content.reduced,
    )


def _generated(content: SuiteFile, registry: Registry, where: str) -> dict[str, dict[str, Any]]:
    """Return the settings of the attacks that tables such as ``[[art]]`` name, by probe id.

    Raises BadInput for unknown attacks.
    """
    found: dict[str, dict[str, Any]] = {}
    for family, tables in content.attacks.items():
        for number, table in enumerate(tables, 1):
            place = f"{where}: [[{family}]] {number}"
            if not isinstance(attack := table.get("attack"), str):
                library, example = _LIBRARIES[family]
                raise BadInput(
                    f'{place}: has no attack; expected the name of a class of {library}, as in attack = "{example}"'
                )
            probe_id = registry.member_id(family, attack, place)
            if probe_id in found or probe_id in content.settings:
                raise BadInput(f"{place}: {attack} has settings already; state all settings of {probe_id} in one table")
            found[probe_id] = {key: value for key, value in table.items() if key != "attack"}
    return found
