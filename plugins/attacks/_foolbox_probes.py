"""The attacks of Foolbox as they are: parameters, norms, requirements, and how they run."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Probe
from auditor.plugins.attacks._library_probes import LibraryAttack, field_type, library_probe, papers_of
from auditor.plugins.attacks._library_run import NORMS, Attacker, quiet, torch_model
from auditor.probes.base import Need

if TYPE_CHECKING:
    from auditor import Classifier, Pixels

_DECISIONS = frozenset(
    {
        "BinarySearchContrastReductionAttack",
        "BoundaryAttack",
        "GaussianBlurAttack",
        "HopSkipJumpAttack",
        "InversionAttack",
        "LinearSearchBlendedUniformNoiseAttack",
        "LinearSearchContrastReductionAttack",
        "PointwiseAttack",
        "SaltAndPepperNoiseAttack",
    }
)
"""Attacks that only need labels, with those that add noise or reduce the contrast; the others need gradients."""

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # the axis of an image of one channel cannot be found by its length
    "GaussianBlurAttack": {"channel_axis": 1},
    "SaltAndPepperNoiseAttack": {"channel_axis": 1},
    # without a default in Foolbox; that of the paper (arXiv:1704.03976) is 1
    "VirtualAdversarialAttack": {"steps": 1},
}

_NO_START = "init_attack failed"
"""How Foolbox begins the error of a search that found no misclassified image to start from."""


@functools.cache
def attacks() -> Mapping[str, type[Any]]:
    """Return the attacks of the installed Foolbox by the names of their classes."""
    with quiet("foolbox"):
        import foolbox

    members = inspect.getmembers(foolbox.attacks, inspect.isclass)
    # other names are abbreviations of the same classes
    return {name: each for name, each in members if each.__name__ == name and not inspect.isabstract(each)}


@dataclass(frozen=True, kw_only=True)
class FoolboxAttack(LibraryAttack):
    """An attack of Foolbox."""

    library: ClassVar[str] = "Foolbox"
    package: ClassVar[str] = "foolbox"
    home: ClassVar[str] = "https://github.com/bethgelab/foolbox"

    def check(self, values: Mapping[str, Any], norm: str, epsilon: float | None) -> None:
        """Raise ValueError if Foolbox refuses the parameters."""
        del epsilon
        try:
            self._made(values, norm)
        except (ValueError, TypeError, AssertionError) as error:
            raise ValueError(f"Foolbox's {self.name}: {error}") from None

    def attacker(self, values: Mapping[str, Any], norm: str, epsilon: float | None, classifier: Classifier) -> Attacker:
        """Attack the differentiable copy, or the deployed model."""
        import torch

        with quiet(self.package):
            from foolbox.models.pytorch import PyTorchModel

            module = torch_model(classifier, gradients=self.gradients)
            model = PyTorchModel(module, bounds=(0, 1), device=classifier.device)
        attack = self._made(values, norm)

        def attack_one(image: Pixels, label: int, seed: int) -> Any:
            del seed
            inputs = torch.from_numpy(image).to(classifier.device)
            labels = torch.tensor([label], device=classifier.device)
            try:
                _, found, _ = attack(model, inputs, labels, epsilons=epsilon)
            except ValueError as error:
                if _NO_START in str(error):
                    return image
                raise
            return found.detach().cpu().numpy()

        return attack_one

    def _made(self, values: Mapping[str, Any], norm: str) -> Any:
        """Return the attack; one whose distance is a parameter gets that of the norm."""
        import foolbox

        takes_distance = "distance" in inspect.signature(self.attack.__init__).parameters
        distance = {"distance": getattr(foolbox.distances, norm)} if takes_distance else {}
        return self.attack(**values, **distance)


@functools.cache
def foolbox_probe(name: str) -> type[Probe]:
    """Return the probe of the attack of Foolbox whose class has this name."""
    attack = attacks()[name]
    from foolbox.attacks.base import FixedEpsilonAttack

    budget = issubclass(attack, FixedEpsilonAttack)
    decisions = name in _DECISIONS or "Noise" in name or name == "L2ContrastReductionAttack"
    needs: frozenset[Need] = frozenset() if decisions else frozenset({"gradients"})
    found = FoolboxAttack(
        attack=attack,
        parameters=_parameters(attack),
        within_budget=budget,
        norms=(_norm(attack),) if budget else tuple(NORMS),
        needs=needs,
        papers=papers_of(attack),
    )
    return library_probe(found, foolbox_probe, "auditor.plugins.attacks.foolbox")


def _parameters(attack: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Return type and default of the parameters that TOML can state."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, parameter in inspect.signature(attack.__init__).parameters.items():
        default = _DEFAULTS.get(attack.__name__, {}).get(name, parameter.default)
        # tensorboard writes files, which a probe never does
        if name not in {"self", "tensorboard"} and (hint := field_type(_text(parameter.annotation), default)):
            found[name] = (hint, default)
    return found


def _text(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _norm(attack: type[Any]) -> str:
    """Return the norm of an attack within a budget: that of its distance."""
    # for some classes it is a property that needs no state
    order = object.__new__(attack).distance.p
    return "linf" if order == math.inf else f"l{int(order)}"
