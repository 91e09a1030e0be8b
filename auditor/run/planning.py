"""Plan a run: the order of the images, the images of each probe, unmet requirements, and the budget rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from auditor.data.dataset import Images, rank
from auditor.model.deployed import DeployedModel
from auditor.probes.base import Probe
from auditor.run.budget import GROWTH, PILOT, Budget

if TYPE_CHECKING:
    import pandas as pd


class Position(NamedTuple):
    """The position of a probe in the run, for the progress."""

    number: int
    """From 0."""
    probes: int


def random_order(images: Images, seed: int) -> list[str]:
    """Return the image ids in random order, so that an audit cut short by a budget has a fair sample."""
    return sorted(images.ids, key=lambda image_id: rank(image_id, seed))


def images_of(probe: Probe, order: Sequence[str], others: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the ids that a probe measures: the first ones of the random order, and its extra images.

    ``others`` holds the records of the probes that it depends on.
    """
    sample = list(order[: probe.samples or None])
    if len(sample) == len(order) or not probe.adds_images:
        return sample
    known = set(order)
    extra = [image_id for image_id in probe.extra_images(others) if image_id in known]
    return list(dict.fromkeys([*sample, *extra]))


def unmet_requirement(probe: Probe, classifier: DeployedModel, images: Images) -> str:
    """Return why a probe does not apply to this model and data; empty if it does."""
    needs = probe.meta.needs
    if classifier.input_kind not in probe.meta.input_kinds:
        kinds = {"images": "image input", "rows": "tabular data"}
        required = " or ".join(kinds[kind] for kind in sorted(probe.meta.input_kinds))
        found = "images" if classifier.input_kind == "images" else f"{classifier.shape[0]} tabular features"
        return f"requires {required}; this model takes {found}"
    if "labels" in needs and images.labels is None:
        return "requires labels; the data has no labels"
    if "gradients" in needs and classifier.access == "black-box":
        return f"requires gradients; the model is a black box: {classifier.access_reason}"
    if "groups" in needs and not images.groups:
        return "requires groups; the data has no group columns"
    return ""


class Measurement(NamedTuple):
    """What an increment of a probe took."""

    seconds: float
    images: int


Advance = Callable[[str, int, Position], Measurement]
"""Measure the probe with this id up to a number of images."""


def measure_in_rounds(budget: Budget, wanted: Mapping[str, int], *, n_later: int, advance: Advance) -> dict[str, int]:
    """Measure probes in rounds, each as far as the budget allows, until the time or the images are used up.

    ``wanted`` is the number of images by probe id. ``n_later`` probes measure after these and get an equal share of the
    time. A probe that breaks is dropped; it breaks again when it is concluded, which reports the error. Returns the
    measured images of the other probes.
    """
    left, done = dict(wanted), dict.fromkeys(wanted, 0)
    reserved = budget.left * n_later / max(1, n_later + len(left))
    reach = PILOT
    while left:
        plan, progressed = budget.plan(left, done, budget.left - reserved), False
        for index, probe_id in enumerate(list(left)):
            limit = min(left[probe_id], reach)
            if reach > PILOT:
                limit = min(limit, plan[probe_id])
            if limit <= done[probe_id] or (reach > PILOT and budget.left <= reserved):
                continue
            try:
                taken = advance(probe_id, limit, Position(index, len(left)))
            except (Exception, SystemExit):
                left.pop(probe_id)
                continue
            budget.charge(probe_id, taken.seconds, taken.images)
            done[probe_id], progressed = limit, True
        # a share too small for one image goes to another probe in the next round
        if budget.left <= reserved or (reach >= max(left.values(), default=0) and not progressed):
            break
        reach *= GROWTH
    return {probe_id: done[probe_id] for probe_id in left}
