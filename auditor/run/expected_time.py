"""How long an audit will take: the measured price of a pass, times the passes that each probe takes for an image.

``passes.json`` has these passes for the settings of the built-in suites; ``benchmarks/passes.py`` writes it from
finished audits of two models. Most probes take a number of passes that their settings fix. Searches that stop at a
success take few on a model that is easily fooled and many on one that is not, so the forecast is a range.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

from auditor.files import digest
from auditor.findings.encoding import plain
from auditor.model.deployed import Price
from auditor.plugin.duration import spoken
from auditor.probes.base import Probe
from auditor.run.budget import Budget

UNCERTAINTY = 1.5
"""Factor by which the machine may be faster or slower than while the passes were priced. Chosen, not measured."""

_NAMED = 3
"""Probes without known passes that are named."""


class Passes(NamedTuple):
    """What a probe takes for an image, at least and at most, and once."""

    fewest_predictions: float
    fewest_gradients: float
    predictions: float
    gradients: float
    seconds: float
    """Seconds for everything else: imports, conclusions, pictures."""


def settings_digest(settings: object) -> str:
    """Return what identifies the settings of a probe in ``passes.json``."""
    return digest(settings)[:12]


@cache
def _table() -> Mapping[str, Mapping[str, Sequence[float]]]:
    table: Mapping[str, Mapping[str, Sequence[float]]] = json.loads(
        Path(__file__).with_name("passes.json").read_text(encoding="utf-8")
    )
    return table


def passes_of(probe: Probe) -> Passes | None:
    """Return the passes of a probe, with its settings or else with the first ones measured; None if it is unknown."""
    measured = _table().get(probe.meta.id)
    if not measured:
        return None
    found = measured.get(settings_digest(plain(asdict(probe))))
    return Passes(*(found or next(iter(measured.values()))))


@dataclass(frozen=True)
class Load:
    """The expected work of a probe."""

    images: int
    fast: float
    """Seconds for an image of a model that is easily fooled."""
    slow: float
    """Seconds for an image of a model that is not."""
    once: float
    """Seconds that do not depend on the number of images."""

    @property
    def image(self) -> float:
        """Seconds for an image of a model in between."""
        return math.sqrt(self.fast * self.slow)

    @property
    def seconds(self) -> float:
        """Seconds for everything, of a model in between."""
        return self.images * self.image + self.once

    @property
    def span(self) -> tuple[float, float]:
        """Seconds for everything, at least and at most."""
        return self.images * self.fast + self.once, self.images * self.slow + self.once


def loads(probes: Sequence[Probe], price: Price, images: int) -> tuple[list[Load], list[str]]:
    """Return the expected work of probes on this many images, and the ids of those without known passes."""
    known, unknown = [], []
    for probe in probes:
        passes = passes_of(probe)
        if passes is None:
            unknown.append(probe.meta.id)
        else:
            fast = passes.fewest_predictions * price.forward + passes.fewest_gradients * price.gradient
            slow = passes.predictions * price.forward + passes.gradients * price.gradient
            known.append(Load(min(probe.samples or images, images), min(fast, slow), max(fast, slow), passes.seconds))
    return known, unknown


def forecast(probes: Sequence[Probe], price: Price, images: int, budget: Budget | None) -> list[str]:
    """Return the sentences about the expected time of the audit; ``price`` is measured, in seconds for an image."""
    known, unknown = loads(probes, price, images)
    total = sum(load.seconds for load in known)
    least, most = (sum(ends) for ends in zip((0.0, 0.0), *(load.span for load in known), strict=True))
    text = (
        f"Forecast: about {spoken(total)} ({spoken(least / UNCERTAINTY)} to {spoken(most * UNCERTAINTY)}) for"
        f" {images} images; a prediction takes {_duration(price.forward)} and a gradient {_duration(price.gradient)} an"
        " image"
    )
    if budget is not None:
        text += f". Within {budget.name}, {_fitting(known, budget.left)}"
    lines = [f"{text}."]
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        lines.append(f"The forecast leaves out what is unknown: the passes of {', '.join(unknown[:_NAMED])}{more}.")
    return lines


def _fitting(known: Sequence[Load], seconds: float) -> str:
    """Say how many images of each probe fit, if every probe has an equal share and passes on what it does not need."""
    measuring = [load for load in known if load.image > 0]
    share = _share(sorted(load.seconds for load in measuring), seconds)
    fit = sorted(
        min(load.images, int(max(0.0, share - load.once) / load.image) if load.seconds > share else load.images)
        for load in measuring
    )
    if not fit:
        return "everything fits"
    if share >= max(load.seconds for load in measuring):
        return "all images of every probe fit"
    return f"about {median(fit):.0f} images per probe fit ({fit[0]} to {fit[-1]})"


def _share(needed: Sequence[float], seconds: float) -> float:
    """Return the share of each probe; ``needed`` are the seconds that they need, in ascending order."""
    for number, need in enumerate(needed):
        share = seconds / (len(needed) - number)
        if need > share:
            return share
        seconds -= need
    return max(needed, default=0.0)


def _duration(seconds: float) -> str:
    return f"{float(f'{1000 * seconds:.2g}'):g} ms" if seconds < 1 else f"{seconds:.2g} s"
