"""Plan a run: the order of the images, the images of each probe, unmet requirements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from auditor.data.dataset import Images, rank
from auditor.model.deployed import DeployedModel
from auditor.probes.base import Probe

if TYPE_CHECKING:
    import pandas as pd


def random_order(ids: Iterable[str], seed: int) -> list[str]:
    """Return the image ids in random order, so that an audit cut short by a budget has a fair sample."""
    return sorted(ids, key=lambda image_id: rank(image_id, seed))


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
    if "scores" in needs and not classifier.artefact.gives_scores:
        return "requires scores; the endpoint answers with labels only"
    if "groups" in needs and not images.groups:
        return "requires groups; the data has no group columns"
    if "epsilons" in needs and images.epsilons is None:
        return "requires an epsilon for each image (column epsilon); the data has none"
    if "unknown" in needs and images.unknown is None:
        return "requires images that belong to no class (--unknown DIR); none were given"
    if "augmentations" in needs and images.augmentations is None:
        return "requires augmentations of MAITE (auditor.audit(..., augmentations=...)); none were given"
    return ""
