"""Choose smaller settings for probes that would take too long for a single image within a time limit.

Suites state them (``[reduced."attacks.simba"]``): fewer iterations are another, weaker measurement, and a reviewer must
be able to read which one it was.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from auditor.errors import OutOfTime
from auditor.plugin.registry import Registry
from auditor.plugin.suite import Suite
from auditor.probes.base import Probe, RunContext
from auditor.run.measuring import Measurer, run_context
from auditor.run.request import Position, Progress

_CERTAIN_PASSES = 20_000
"""Passes for an image that no probe exceeds: if they fit, nothing needs to be tried."""

_TRIAL = 0.25
"""Share of a probe's time that one image may take with the full settings."""


_PATIENCE = 4.0
"""Factor by which a trial may exceed the cost of its passes: it also imports and compiles, once in a process."""


def too_slow(
    probes: Sequence[Probe],
    suite: Suite,
    measurer: Measurer,
    order: Sequence[str],
    *,
    seconds: float,
    progress: Progress,
) -> list[str]:
    """Return the ids of the probes for which one image does not fit into a part of their time.

    Only probes for which the suite states smaller settings are tried, each on the first image that the model classifies
    correctly. ``seconds`` is the time of all probes.
    """
    trial = _TRIAL * seconds / len(probes)
    candidates = [probe for probe in probes if probe.meta.id in suite.reduced]
    if not candidates or _CERTAIN_PASSES * sum(measurer.price) < trial:
        return []
    image = _first_correct(measurer, order)

    progress.say(f"Trying {len(candidates)} expensive probes on one image each ...")
    slow = []
    for number, probe in enumerate(candidates):
        progress.begin(probe.meta.id, 1, Position(number, len(candidates)))
        context = run_context(probe, probes, measurer, order[: probe.samples or None])
        if not _fits(probe, context, measurer, image, trial):
            slow.append(probe.meta.id)
    return slow


def reduce(probes: Sequence[Probe], ids: Sequence[str], suite: Suite, plugins: Registry) -> list[Probe]:
    """Return the probes, those of ``ids`` with the smaller settings of the suite."""

    def smaller(probe: Probe) -> Probe:
        settings: Mapping[str, Any] = suite.reduced[probe.meta.id]
        # configured, because a suite writes values as TOML, for example "8/255"
        values = plugins.configure(probe.meta.id, settings, where=f"suite {suite.name}")
        return replace(probe, **{name: getattr(values, name) for name in settings})

    return [smaller(probe) if probe.meta.id in ids else probe for probe in probes]


def _fits(probe: Probe, run: RunContext, measurer: Measurer, image: str, seconds: float) -> bool:
    """Whether the passes for an image fit into the time; a probe that breaks is reported when it is measured."""
    try:
        calls = measurer.classifier.calls
        with calls.at_most(measurer.price, seconds), calls.until(time.monotonic() + _PATIENCE * seconds):
            measurer.begin(probe)
            return measurer.measure(probe.prepare(run), [image]).images > 0
    except OutOfTime:
        return False
    except Exception:
        return True


def _first_correct(measurer: Measurer, order: Sequence[str]) -> str:
    batch = measurer.batch(order[: measurer.classifier.batch_size])
    correct = (batch.predictions == batch.labels).nonzero()[0]
    return batch.ids[int(correct[0]) if len(correct) else 0]
