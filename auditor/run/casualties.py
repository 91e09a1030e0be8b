"""What a run has lost because its process ended: probes, images, plugins, reports.

A supervised audit runs in a child process. When the child ends without a result, the supervisor knows what it was
doing, adds it to the casualties and starts another child, which leaves the casualties out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Stage = Literal["open", "plugin", "check", "predict", "prepare", "measure", "conclude", "report"]
"""Opening model and data; importing a plugin; checking the model; the model's own predictions; the three stages of a
probe; writing a report."""

MODEL = ""
"""Stands for the model instead of a probe id: its predictions for the images as they are."""

EVERY = ""
"""Stands for every image instead of an image id."""

_SPLIT = 8
"""A batch that ended the process is measured again in this many parts, which are split again if they do, too."""

_UNPROVEN = 2
"""Images that may end the process before a probe that has not measured any is an error."""

_MOST_IMAGES = 16
"""Images that may end the process before their probe, or for the model the whole audit, is an error."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the process is doing."""

    stage: Stage
    subject: str = ""
    """Probe id, plugin name or report file."""
    images: Sequence[str] = ()


@dataclass(frozen=True)
class Ending:
    """How a process ended without a result."""

    text: str
    """Continues "the process ..."."""
    timed_out: bool = False


def stopped_after(seconds: float) -> Ending:
    """Return the ending of a process whose step took longer than ``--probe-timeout``."""
    return Ending(f"was stopped after {_duration(seconds)} (--probe-timeout)", timed_out=True)


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


@dataclass(frozen=True, kw_only=True)
class Casualties:
    """What the earlier processes of this run lost; each maps a name to the reason."""

    restarts: int = 0
    workers: int = 0
    """Processes on other machines that were lost for any reason and replaced."""
    probes: Mapping[str, str] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    """Probes with an error that did not end the process; a restart would only repeat it."""
    plugins: Mapping[str, str] = field(default_factory=dict)
    reports: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By probe id or ``MODEL``: the images that end the process."""
    largest_batch: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By probe id or ``MODEL``: the largest batch for an image id or ``EVERY``."""
    suspect_model: bool = False
    """The check of the model ended the process: predict the images before it, to find those that do."""
    fatal: str = ""
    """Why the run cannot continue."""

    def after(self, work: Work, ending: Ending, *, proven: bool) -> Casualties:
        """Return the casualties after a process that ended during ``work``.

        ``proven`` is whether ``work.subject`` has measured an image before.
        """
        told = replace(self, restarts=self.restarts + 1)
        reason = f"the process {ending.text} {_during(work)}"
        if work.stage == "plugin":
            return replace(told, plugins={**self.plugins, work.subject: reason})
        if work.stage == "report":
            return replace(told, reports={**self.reports, work.subject: reason})
        if work.stage in {"prepare", "conclude"}:
            return told._without_probe(work.subject, reason)
        if work.stage == "check" and not self.suspect_model:
            return replace(told, suspect_model=True)
        if work.stage in {"open", "check"}:
            return replace(told, fatal=reason)
        if len(work.images) > 1:
            sizes = _smaller(work.images, ending, proven=proven)
            known = self.largest_batch.get(work.subject, {})
            return replace(told, largest_batch={**self.largest_batch, work.subject: {**known, **sizes}})
        return told._without_image(work, ending, reason, proven=proven)

    def _without_probe(self, probe_id: str, reason: str) -> Casualties:
        return replace(self, probes={**self.probes, probe_id: reason})

    def _without_image(self, work: Work, ending: Ending, reason: str, *, proven: bool) -> Casualties:
        lost = {**self.images.get(work.subject, {}), work.images[0]: f"the process {ending.text}"}
        again = work.images[0] in self.images.get(work.subject, {})
        if (
            again
            or len(lost) > (_MOST_IMAGES if proven else _UNPROVEN) - 1
            or (ending.timed_out and work.subject != MODEL)
        ):
            named = ", ".join(list(lost)[:3])
            reason = f"{reason.removesuffix(f' of image {work.images[0]}')}; images: {named}"
            return replace(self, fatal=reason) if work.subject == MODEL else self._without_probe(work.subject, reason)
        return replace(self, images={**self.images, work.subject: lost})

    def piece(self, subject: str, ids: Sequence[str], largest: int) -> Sequence[str]:
        """Return the first of ``ids`` that are measured together: at most ``largest``, less for suspects."""
        limits = self.largest_batch.get(subject, {})
        size = min(largest, limits.get(EVERY, largest))
        for count, image_id in enumerate(ids[:size]):
            limit = min(size, limits.get(image_id, size))
            if count >= limit:
                return ids[:count]
            size = limit
        return ids[:size]

    def is_suspect(self, subject: str, ids: Sequence[str]) -> bool:
        """Return whether one of ``ids`` was part of a batch that ended the process."""
        limits = self.largest_batch.get(subject, {})
        return any(image_id in limits for image_id in (EVERY, *ids))

    def described(self) -> list[str]:
        """Return one sentence for each casualty."""
        named = [*self.plugins.items(), *self.probes.items(), *self.reports.items()]
        lines = [f"{name}: {reason}" for name, reason in named]
        return lines + [
            f"{subject or 'the model'}: {reason} on image {image_id}, which is left out"
            for subject, lost in self.images.items()
            if subject not in self.probes
            for image_id, reason in lost.items()
        ]


def _smaller(images: Sequence[str], ending: Ending, *, proven: bool) -> dict[str, int]:
    """Return the largest batches for a second try: one image alone, which may prove the probe, the rest in parts."""
    part = -(-(len(images) - 1) // _SPLIT)
    if ending.timed_out:
        # the other batches would take too long, too
        return {EVERY: part if proven else 1}
    return {images[0]: 1} | dict.fromkeys(images[1:], part)


def _during(work: Work) -> str:
    images = f" of image {work.images[0]}" if len(work.images) == 1 else ""
    texts: Mapping[Stage, str] = {
        "open": "while opening the model and the data",
        "plugin": "while importing the plugin",
        "check": "while checking the model",
        "predict": f"during the model's prediction{images}",
        "prepare": "while preparing the probe",
        "measure": f"during the measurement{images}",
        "conclude": "while concluding",
        "report": "while writing the report",
    }
    return texts[work.stage]
