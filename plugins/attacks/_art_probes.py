"""The attacks of ART as they are: parameters, norms, requirements, and how ART checks and runs them."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Probe
from auditor.algorithms.pgd import usual_step
from auditor.plugins.attacks._library_probes import LibraryAttack, field_type, library_probe, papers_of
from auditor.plugins.attacks._library_run import NORMS, Attacker
from auditor.probes.base import Need

if TYPE_CHECKING:
    from auditor import Classifier, Pixels

_OWNED = frozenset({"estimator", "classifier", "targeted", "batch_size", "verbose", "summary_writer", "norm", "eps"})
"""Parameters that the probe sets itself: attacks are untargeted, and norm and eps are those of the level."""

_WHITE_BOX = frozenset({"AutoAttack"})
"""Attacks that use gradients although ART does not state it."""

_DECISIONS = frozenset({"BoundaryAttack", "HopSkipJump", "SignOPTAttack", "SpatialTransformation"})
"""Black-box attacks that only need labels; the others need scores."""

_PROBABILITIES = frozenset({"NewtonFool"})
"""White-box attacks that require probabilities; the others take logits."""

_OWN_TARGETS = frozenset({"SaliencyMapMethod"})
"""Attacks that read a label as the target; without one they draw a target at random."""

_ONLY_NORMS: Mapping[str, Sequence[str]] = {
    # without a parameter for the norm
    "BasicIterativeMethod": ("linf",),
    "VirtualAdversarialMethod": ("l2",),
    # in L1, ART returns the clean image
    "SquareAttack": ("linf", "l2"),
}
"""Norms of attacks whose own check does not tell."""

_NO_BUDGET = frozenset({"Wasserstein"})
"""Attacks whose ``eps`` is not the size of a perturbation in an L-p norm."""

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # by default ART's attack moves nothing
    "SpatialTransformation": {
        "max_translation": 10.0,
        "num_translations": 5,
        "max_rotation": 30.0,
        "num_rotations": 5,
    }
}


@dataclass(frozen=True, kw_only=True)
class ArtAttack(LibraryAttack):
    """An attack of ART."""

    library: ClassVar[str] = "ART"
    package: ClassVar[str] = "art"
    home: ClassVar[str] = "https://github.com/Trusted-AI/adversarial-robustness-toolbox"

    def check(self, values: Mapping[str, Any], norm: str, epsilon: float | None) -> None:
        """Raise ValueError if ART refuses the parameters; no model is needed for that."""
        _check(self.attack, self._arguments(values, norm, epsilon))

    def attacker(self, values: Mapping[str, Any], norm: str, epsilon: float | None, classifier: Classifier) -> Attacker:
        """Attack the differentiable copy, or the probabilities of the deployed model."""
        import numpy as np

        from auditor.algorithms.art import ArtClassifier, ArtCopy

        softmax = self.name in _PROBABILITIES
        estimator = ArtCopy(classifier, softmax=softmax) if self.gradients else ArtClassifier(classifier)
        arguments = self._arguments(values, norm, epsilon)

        def attack(image: Pixels, label: int, seed: int) -> Any:
            del seed
            target = None if self.name in _OWN_TARGETS else np.eye(classifier.n_classes, dtype=np.float32)[[label]]
            return self.attack(estimator, **arguments).generate(image, target)

        return attack

    def _arguments(self, values: Mapping[str, Any], norm: str, epsilon: float | None) -> dict[str, Any]:
        """Return the parameters; a step of 0 is the usual one."""
        found = {**values, **({"norm": NORMS[norm]} if _takes_norm(self.attack) else {})}
        if epsilon is None:
            return _accepted(self.attack, found)
        if found.get("eps_step") == 0:
            iterations = int(found.get("max_iter", 0))
            # the automatic ones begin with twice epsilon and halve it themselves
            automatic = self.name.startswith(("Auto", "Rescaling"))
            found["eps_step"] = 2 * epsilon if automatic else min(epsilon, usual_step(epsilon, iterations or 1))
        return _accepted(self.attack, {**found, "eps": epsilon})


@functools.cache
def art_probe(name: str) -> type[Probe]:
    """Return the probe of the attack of ART whose class has this name."""
    from auditor.algorithms.art import evasion_attacks, uses_gradients

    attack = evasion_attacks()[name]
    gradients = name in _WHITE_BOX or uses_gradients(attack)
    needs: frozenset[Need] = frozenset({"gradients"} if gradients else set() if name in _DECISIONS else {"scores"})
    budget = "eps" in attack.attack_params and name not in _NO_BUDGET
    norms = _supported_norms(attack) if budget or _takes_norm(attack) else tuple(NORMS)
    found = ArtAttack(
        attack=attack,
        parameters=_parameters(attack, eps=not budget),
        within_budget=budget,
        norms=norms,
        needs=needs,
        papers=papers_of(attack),
    )
    return library_probe(found, art_probe, "auditor.plugins.attacks.art")


def _parameters(attack: type[Any], *, eps: bool) -> dict[str, tuple[Any, Any]]:
    """Return type and default of the parameters in ``attack_params`` that TOML can state.

    ``eps`` is one of them if it is not the budget.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name, parameter in inspect.signature(attack.__init__).parameters.items():
        own = name in attack.attack_params and (name not in _OWNED or (name == "eps" and eps))
        if name == "norm" and not _takes_norm(attack) and isinstance(parameter.default, str):
            own = True
        default = _DEFAULTS.get(attack.__name__, {}).get(name, parameter.default)
        if own and (hint := field_type(str(parameter.annotation), default)) is not None:
            # ART's steps fit its own eps of 0.3
            found[name] = (hint, 0.0 if name == "eps_step" and not eps else default)
    return found


def _supported_norms(attack: type[Any]) -> Sequence[str]:
    """Return the norms of an attack: those that its own check accepts, unless that does not tell."""
    if attack.__name__ in _ONLY_NORMS:
        return _ONLY_NORMS[attack.__name__]
    accepted = []
    for name, value in NORMS.items():
        with contextlib.suppress(ValueError):
            _check(attack, _accepted(attack, {"norm": value}))
            accepted.append(name)
    return tuple(accepted)


def _takes_norm(attack: type[Any]) -> bool:
    """Whether the attack has a parameter for the L-p norm."""
    parameter = inspect.signature(attack.__init__).parameters.get("norm")
    return parameter is not None and not isinstance(parameter.default, str)


def _check(attack: type[Any], arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if ART's own check refuses the arguments."""
    trial = object.__new__(attack)
    signature = inspect.signature(attack.__init__).parameters
    defaults = {name: each.default for name, each in signature.items() if each.default is not inspect.Parameter.empty}
    for name, value in {**defaults, **arguments}.items():
        # some are read-only properties of a hidden attribute
        trial.__dict__[name] = trial.__dict__[f"_{name}"] = value
    try:
        trial._check_params()
    except (ValueError, TypeError) as error:
        raise ValueError(f"ART's {attack.__name__}: {error}") from None
    except Exception:
        # a check that reads the model; the attack itself repeats it
        return


def _accepted(attack: type[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Add what every run sets: untargeted, one image at a time, silent."""
    fixed = {"targeted": False, "batch_size": 1, "verbose": False}
    known = inspect.signature(attack.__init__).parameters
    return {**{name: value for name, value in fixed.items() if name in known}, **parameters}
