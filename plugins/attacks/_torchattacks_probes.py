"""The attacks of torchattacks as they are: parameters, norms, requirements, and how they run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import NotApplicable, Probe
from auditor.algorithms.pgd import usual_step
from auditor.plugins.attacks._library_probes import LibraryAttack, field_type, library_probe, papers_of
from auditor.plugins.attacks._library_run import NORMS, Attacker, quiet, torch_model
from auditor.probes.base import Need

if TYPE_CHECKING:
    from auditor import Classifier, Pixels

_NORMS: Mapping[str, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}
"""How the parameter ``norm`` names them."""

_TAKE_NORM: Mapping[str, Sequence[str]] = {
    "APGD": ("linf", "l2"),
    "APGDT": ("linf", "l2"),
    "AutoAttack": ("linf", "l2"),
    "FAB": ("linf", "l2", "l1"),
    "Square": ("linf", "l2"),
}
"""Norms of the attacks with a parameter for it."""

_ONLY_L2 = frozenset({"PGDL2", "PGDRSL2"})

_BUDGETS = ("eps", "max_epsilon")
"""Names of the parameter that is the budget."""

_SCORES = frozenset({"OnePixel", "Pixle", "SPSA", "Square"})
"""Black-box attacks; the others need gradients."""

_COLOUR = frozenset({"PIFGSM", "PIFGSMPP", "TIFGSM"})
"""Attacks that filter with kernels of three channels."""

_OWNED = frozenset({"self", "model", "norm", "seed", "verbose", "n_classes", *_BUDGETS})
"""Parameters that the probe sets itself."""

_SINGLE_STEP = 1.25
"""Step of FFGSM as a multiple of epsilon (arXiv:2001.03994: 10/255 for an epsilon of 8/255)."""


@functools.cache
def attacks() -> Mapping[str, type[Any]]:
    """Return the attacks of the installed torchattacks by the names of their classes."""
    with quiet("torchattacks"):
        import torchattacks

    return {name: getattr(torchattacks, name) for name in torchattacks.__all__}


@dataclass(frozen=True, kw_only=True)
class TorchAttack(LibraryAttack):
    """An attack of torchattacks."""

    library: ClassVar[str] = "torchattacks"
    package: ClassVar[str] = "torchattacks"
    home: ClassVar[str] = "https://github.com/Harry24k/adversarial-attacks-pytorch"

    def check(self, values: Mapping[str, Any], norm: str, epsilon: float | None) -> None:
        """Raise ValueError for a step or a number of steps below 0; torchattacks itself refuses nothing."""
        del norm, epsilon
        for name in ("alpha", "steps", "max_iterations", "n_queries"):
            if values.get(name, 0) < 0:
                raise ValueError(f"torchattacks' {self.name}: {name} is {values[name]}; expected at least 0")

    def attacker(self, values: Mapping[str, Any], norm: str, epsilon: float | None, classifier: Classifier) -> Attacker:
        """Attack the differentiable copy, or the probabilities of the deployed model."""
        import torch

        if self.name in _COLOUR and classifier.shape[0] != 3:
            raise NotApplicable(f"torchattacks' {self.name} requires images of three channels")
        model = torch_model(classifier, gradients=self.gradients)
        arguments = self._arguments(values, norm, epsilon, classifier.n_classes)
        takes_seed = "seed" in inspect.signature(self.attack.__init__).parameters

        def attack_one(image: Pixels, label: int, seed: int) -> Any:
            attack = self.attack(model, **arguments, **({"seed": seed} if takes_seed else {}))
            if self.name == "JSMA":
                # without a target, it takes the next of ten classes
                attack.set_mode_targeted_by_function(lambda _, labels: (labels + 1) % classifier.n_classes, quiet=True)
            inputs = torch.from_numpy(image).to(classifier.device)
            return attack(inputs, torch.tensor([label], device=classifier.device)).detach().cpu().numpy()

        return attack_one

    def _arguments(self, values: Mapping[str, Any], norm: str, epsilon: float | None, n_classes: int) -> dict[str, Any]:
        """Return the parameters; a step of 0 is the usual one."""
        known = inspect.signature(self.attack.__init__).parameters
        fixed = {"norm": _NORMS[norm], "n_classes": n_classes, "verbose": False}
        found = {**values, **{name: value for name, value in fixed.items() if name in known}}
        if epsilon is None:
            return found
        if found.get("alpha") == 0:
            steps = found.get("steps")
            found["alpha"] = _SINGLE_STEP * epsilon if steps is None else min(epsilon, usual_step(epsilon, steps or 1))
        return {**found, **{name: epsilon for name in _BUDGETS if name in known}}


@functools.cache
def torchattacks_probe(name: str) -> type[Probe]:
    """Return the probe of the attack of torchattacks whose class has this name."""
    attack = attacks()[name]
    known = inspect.signature(attack.__init__).parameters
    budget = any(parameter in known for parameter in _BUDGETS)
    norms = _TAKE_NORM.get(name, ("l2",) if name in _ONLY_L2 else ("linf",)) if budget else tuple(NORMS)
    needs: frozenset[Need] = frozenset({"scores"} if name in _SCORES else {"gradients"})
    found = TorchAttack(
        attack=attack,
        parameters=_parameters(attack),
        within_budget=budget,
        norms=norms,
        needs=needs,
        papers=papers_of(attack),
    )
    return library_probe(found, torchattacks_probe, "auditor.plugins.attacks.torchattacks")


def _parameters(attack: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Return type and default of the parameters that TOML can state; there are no annotations."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, parameter in inspect.signature(attack.__init__).parameters.items():
        if name not in _OWNED and (hint := field_type("", parameter.default)) is not None:
            # the steps fit an epsilon of 8/255
            found[name] = (hint, 0.0 if name == "alpha" else parameter.default)
    return found
