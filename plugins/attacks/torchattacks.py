"""Every attack of torchattacks (Kim 2020, arXiv:2010.01950), as a probe, if torchattacks is installed.

    [[torchattacks]]  # in a suite
    attack = "MIFGSM"
    steps = 20

An attack that takes ``eps`` runs within that budget; any other one searches for the smallest perturbation. White-box
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
    "GN": "adds noise without a budget; use attacks.noise",
    "LGV": "trains a surrogate on training data, which an audit does not have",
    "MultiAttack": "combines other attacks; name them one by one",
    "VANILA": "returns the image itself",
}
"""Attacks of torchattacks 3.5 that cannot audit an image classifier one image at a time, and why."""


@hookimpl
def auditor_probe_families() -> list[ProbeFamily]:
    """Return the attacks of torchattacks."""
    return [ProbeFamily(name="torchattacks", area="attacks", members=_members, probe=_probe)]


def _members() -> Sequence[str]:
    """Return the names of all attacks. Raises BadInput if torchattacks is not installed."""
    require("torchattacks", "torchattacks")
    from auditor.plugins.attacks._torchattacks_probes import attacks

    return list(attacks())


def _probe(attack: str) -> type[Probe]:
    """Return the probe of an attack. Raises BadInput for one that cannot audit an image classifier."""
    from auditor.plugins.attacks._torchattacks_probes import torchattacks_probe

    refuse("torchattacks'", attack, EXCLUDED, "foolbox-torchattacks.md")
    return torchattacks_probe(attack)
