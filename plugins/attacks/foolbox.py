"""Every attack of Foolbox (Rauber, Brendel and Bethge 2017, arXiv:1707.04131), as a probe, if Foolbox is installed.

    [[foolbox]]  # in a suite
    attack = "DDNAttack"
    steps = 50

An attack with a fixed epsilon runs within that budget; any other one searches for the smallest perturbation. White-box
attacks run on the differentiable copy, black-box attacks query the deployed model. Each image is attacked alone and has
its own random numbers, so that an image gives the same rows in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor import ProbeFamily, hookimpl
from auditor.plugins.attacks._library_members import refuse, require

if TYPE_CHECKING:
    from auditor import Probe

EXCLUDED = {
    "BinarizationRefinementAttack": "refines the results of another attack, which a suite cannot state",
    "DatasetAttack": "tries the other images of the data; use attacks.hopskipjump",
    "GenAttack": "searches a chosen class; the audit attacks without a target",
    "NewtonFoolAttack": "divides by the gradient of the softmax, which is zero for confident answers; use ART's",
    "SpatialAttack": "moves and turns images, without an L-p norm; use attacks.spatial",
}
"""Attacks of Foolbox 3.3 that cannot audit an image classifier one image at a time, and why."""


@hookimpl
def auditor_probe_families() -> list[ProbeFamily]:
    """Return the attacks of Foolbox."""
    return [ProbeFamily(name="foolbox", area="attacks", members=_members, probe=_probe)]


def _members() -> Sequence[str]:
    """Return the names of all attacks. Raises BadInput if Foolbox is not installed."""
    require("Foolbox", "foolbox")
    from auditor.plugins.attacks._foolbox_probes import attacks

    return list(attacks())


def _probe(attack: str) -> type[Probe]:
    """Return the probe of an attack. Raises BadInput for one that cannot audit an image classifier."""
    from auditor.plugins.attacks._foolbox_probes import foolbox_probe

    refuse("Foolbox's", attack, EXCLUDED, "foolbox-torchattacks.md")
    return foolbox_probe(attack)
