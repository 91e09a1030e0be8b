"""Every attack of the Adversarial Robustness Toolbox (ART; Nicolae et al. 2018, arXiv:1807.01069), as a probe.

    [[art]]  # in a suite
    attack = "NewtonFool"
    max_iter = 50

An attack that takes ``eps`` runs within that budget; any other one searches for the smallest perturbation. White-box
attacks run on the differentiable copy, black-box attacks query the deployed model. Each image is attacked alone and has
its own random numbers, so that an image gives the same rows in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor import BadInput, ProbeFamily, hookimpl
from auditor.plugins.attacks._library_members import refuse

if TYPE_CHECKING:
    from auditor import Probe

_DETECTORS = "attacks object detectors"
_SPEECH = "attacks speech recognition"
_VIDEO = "attacks videos"
_TENSORFLOW = "requires a TensorFlow model; the attack of the same name for NumPy or PyTorch runs"
_PATCH = "trains one patch for many images; use attacks.patch"
_UNIVERSAL = "trains one perturbation for many images; use attacks.universal"
_LAYERS = "moves an image towards the inner layers of another image, which a suite cannot state"
_STICKER = "searches a sticker that imitates another image, which a suite cannot state"

EXCLUDED = {
    "AdversarialPatch": _PATCH,
    "AdversarialPatchNumpy": _PATCH,
    "AdversarialPatchPyTorch": _PATCH,
    "AdversarialPatchTensorFlowV2": _PATCH,
    "AdversarialTexturePyTorch": _VIDEO,
    "CarliniWagnerASR": _SPEECH,
    "DPatch": _DETECTORS,
    "DecisionTreeAttack": "attacks decision trees of scikit-learn",
    "FeatureAdversariesNumpy": _LAYERS,
    "FeatureAdversariesPyTorch": _LAYERS,
    "FeatureAdversariesTensorFlowV2": _LAYERS,
    "FrameSaliencyAttack": _VIDEO,
    "GRAPHITEBlackbox": _STICKER,
    "GRAPHITEWhiteboxPyTorch": _STICKER,
    "GeoDA": "calls numpy.mat, which NumPy 2 no longer has",
    "HighConfidenceLowUncertainty": "attacks Gaussian processes of GPy",
    "ImperceptibleASR": _SPEECH,
    "ImperceptibleASRPyTorch": _SPEECH,
    "LaserAttack": "requires Python objects as parameters, which a suite cannot state",
    "LowProFool": "attacks tabular data with an importance for each feature, which a suite cannot state",
    "MalwareGDTensorFlow": "attacks malware detectors",
    "OverTheAirFlickeringPyTorch": _VIDEO,
    "OverloadPyTorch": _DETECTORS,
    "ProjectedGradientDescentTensorFlowV2": _TENSORFLOW,
    "RobustDPatch": _DETECTORS,
    "SNAL": _DETECTORS,
    "TargetedUniversalPerturbation": _UNIVERSAL,
    "UniversalPerturbation": _UNIVERSAL,
}
"""Attacks of ART 1.20 that cannot audit an image classifier one image at a time, and why."""

PACKAGES = {"AutoAttack": "multiprocess", "CompositeAdversarialAttackPyTorch": "kornia", "ThresholdAttack": "cma"}
"""Packages that attacks import and ART does not install."""


@hookimpl
def auditor_probe_families() -> list[ProbeFamily]:
    """Return the attacks of ART."""
    return [ProbeFamily(name="art", area="attacks", members=_members, probe=_probe)]


def _members() -> Sequence[str]:
    from auditor.algorithms.art import evasion_attacks

    return list(evasion_attacks())


def _probe(attack: str) -> type[Probe]:
    """Return the probe of an attack. Raises BadInput for one that cannot audit an image classifier."""
    from importlib.util import find_spec

    from auditor.plugins.attacks._art_probes import art_probe

    refuse("ART's", attack, EXCLUDED, "art.md")
    package = PACKAGES.get(attack)
    if package is not None and find_spec(package) is None:
        raise BadInput(f"ART's {attack} requires the package {package}, which ART does not install; install {package}")
    return art_probe(attack)
