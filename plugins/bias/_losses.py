"""Images that attacks and corruptions turn into errors, for ``bias.robustness``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from auditor import Records
from auditor.findings.formatting import norm_name
from auditor.probes.levels import size

if TYPE_CHECKING:
    import pandas as pd


class Loss(NamedTuple):
    """The correctly classified images that an attack or corruption turns into errors."""

    probe_id: str
    definition: str
    """When an image counts as lost."""
    frame: pd.DataFrame
    """One row per image that is correct without it: ``lost``, groups, and for attacks ``distance`` and ``norm``."""


def find_losses(records: Records, epsilon: float) -> list[Loss]:
    """Return the losses of every attack (at L-infinity size ``epsilon``) and corruption with records."""
    found = []
    for probe_id, frame in records.others.items():
        if {"norm", "success", "epsilon"} <= set(frame.columns):
            loss = _attack_loss(probe_id, frame, epsilon)
        elif {"perturbed_prediction", "image_id"} <= set(frame.columns):
            loss = _corruption_loss(probe_id, frame)
        else:
            continue
        correct = (loss.frame["prediction"] == loss.frame["label"]).to_numpy()
        if correct.any():
            found.append(loss._replace(frame=loss.frame[correct].reset_index(drop=True)))
    return found


def _attack_loss(probe_id: str, frame: pd.DataFrame, epsilon: float) -> Loss:
    """Count images misclassified within ``epsilon``, or within the median size of another norm."""
    import numpy as np

    from auditor.probes.attack import breaking_epsilon

    norm = "linf" if (frame["norm"] == "linf").any() else str(frame["norm"].iloc[0])
    attacked = frame[frame["norm"] == norm]
    clean = attacked[attacked["epsilon"] == 0].drop_duplicates("image_id")
    sizes = attacked["epsilon"][attacked["epsilon"] > 0].unique()
    limit = epsilon if norm == "linf" or not len(sizes) else float(np.median(sizes))
    distance = breaking_epsilon(attacked) if len(clean) else np.zeros(0)
    per_image = clean.assign(lost=distance <= limit + 1e-6, distance=distance)
    return Loss(probe_id, f"misclassified within {size(norm, limit)} ({norm_name(norm)})", per_image)


def _corruption_loss(probe_id: str, frame: pd.DataFrame) -> Loss:
    """Count images misclassified under more than half of the levels."""
    wrong = (frame["perturbed_prediction"] != frame["label"]).groupby(frame["image_id"]).mean()
    once = frame.drop_duplicates("image_id").set_index("image_id", drop=False)
    per_image = once.assign(lost=(wrong.reindex(once.index) > 0.5).to_numpy()).reset_index(drop=True)
    return Loss(probe_id, "misclassified under more than half of the levels", per_image)
