"""Make a probe of an attack of ART: its parameters become settings, ``perturb`` or ``search`` runs it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from auditor import Attack, Level, Meta, MinimumNorm, Probe, ThreatModel
from auditor.algorithms.pgd import usual_step
from auditor.plugins.attacks._art_run import NORMS, accepted_norms, check, run
from auditor.probes.levels import budget_text

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness

_OWNED = frozenset({"estimator", "classifier", "targeted", "batch_size", "verbose", "summary_writer", "norm", "eps"})
"""Parameters that the probe sets itself: attacks are untargeted, and norm and eps are those of the level."""

_WHITE_BOX = frozenset({"AutoAttack"})
"""Attacks that use gradients although ART does not state it."""

_DECISIONS = frozenset({"BoundaryAttack", "HopSkipJump", "SignOPTAttack", "SpatialTransformation"})
"""Black-box attacks that only need labels; the others need scores."""

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

_EPSILONS: Mapping[str, Sequence[float]] = {
    "linf": (2 / 255, 4 / 255, 8 / 255, 16 / 255),
    "l2": (0.25, 0.5, 1.0, 2.0),
    "l1": (3.0, 6.0, 12.0, 25.0),
}
"""Standard epsilons, among them those of common benchmarks: 8/255, 0.5 and 12."""

_WHY = (
    "An attack of the Adversarial Robustness Toolbox that the suite names. It searches in another way than the built-in"
    " attacks, so an image that they left robust may fail here."
)
_ART = "https://github.com/Trusted-AI/adversarial-robustness-toolbox"
_PLAIN = {"bool": bool, "int": int, "float": float, "str": str}


class _ArtProbe:
    """What all probes of ART's attacks share."""

    art_class: ClassVar[type[Any]]
    owned_eps: ClassVar[bool]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the name of the attack and the settings: the class itself is made on demand."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return _restored, (self.art_class.__name__, settings)

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """Return the version of ART, which the rows depend on."""
        del probes
        import art

        return {"art": art.__version__}

    @property
    def parameters(self) -> dict[str, Any]:
        """The attack's own parameters."""
        own = _parameters(self.art_class, eps=not self.owned_eps)
        return {name: value for name in own if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class ArtAttack(_ArtProbe, Attack):
    """An attack within a budget."""

    owned_eps: ClassVar[bool] = True
    norm: Literal["linf", "l2", "l1"] = "linf"
    epsilons: Sequence[float] = ()
    """Sizes of the budget; empty for the standard ones of the norm."""

    def __post_init__(self) -> None:
        """Refuse settings that ART refuses."""
        known = supported_norms(self.art_class)
        if self.norm not in known:
            raise ValueError(f"norm is {self.norm!r}; ART's {self.art_class.__name__} supports {', '.join(known)}")
        for level in self.levels():
            check(self.art_class, self._at(level))

    def threat_model(self) -> ThreatModel:
        """Return the budget."""
        sizes = {norm: self.epsilons or _EPSILONS[norm] if norm == self.norm else () for norm in NORMS}
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box" if "gradients" in self.meta.needs else "black-box",
            norm=self.norm,
            budget=f"{budget_text(sizes['linf'], sizes['l2'], sizes['l1'])}; ART's {self.art_class.__name__}",
        )

    def levels(self) -> Sequence[Level]:
        """Return every epsilon."""
        return [{"norm": self.norm, "epsilon": epsilon} for epsilon in self.epsilons or _EPSILONS[self.norm]]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Return what ART finds within the budget."""
        return run(self.art_class, self._at(level), classifier, batch, rng, gradients="gradients" in self.meta.needs)

    def _at(self, level: Level) -> dict[str, Any]:
        """Return the parameters at one level; a step of 0 is the usual one."""
        epsilon, values = float(level["epsilon"]), self.parameters
        if values.get("eps_step") == 0:
            automatic = self.art_class.__name__.startswith(("Auto", "Rescaling"))
            iterations = int(values.get("max_iter", 0))
            # the automatic ones begin with twice epsilon and halve it themselves
            step = 2 * epsilon if automatic else min(epsilon, usual_step(epsilon, iterations or 1))
            values["eps_step"] = step
        norm = {"norm": NORMS[self.norm]} if _takes_norm(self.art_class) else {}
        return {**values, **norm, "eps": epsilon}


@dataclass(frozen=True, kw_only=True)
class ArtSearch(_ArtProbe, MinimumNorm):
    """A search without a budget: what it finds is moved as near to the clean image as the deployed model confirms."""

    owned_eps: ClassVar[bool] = False
    failure_text: ClassVar[str] = "ART's search found nothing"

    def __post_init__(self) -> None:
        """Refuse settings that ART refuses."""
        super().__post_init__()
        for norm in self.norms:
            check(self.art_class, self._in(norm))

    def threat_model(self) -> ThreatModel:
        """Return any distance."""
        return self.any_distance(f"ART's {self.art_class.__name__}")

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return what ART finds."""
        return run(self.art_class, self._in(norm), classifier, batch, rng, gradients="gradients" in self.meta.needs)

    def _in(self, norm: str) -> dict[str, Any]:
        return {**self.parameters, **({"norm": NORMS[norm]} if _takes_norm(self.art_class) else {})}


@functools.cache
def art_probe(name: str) -> type[Probe]:
    """Return the probe of the attack of ART whose class has this name."""
    from auditor.algorithms.art import evasion_attacks, uses_gradients
    from auditor.plugin.family import ProbeFamily

    attack = evasion_attacks()[name]
    family = ProbeFamily(name="art", area="attacks", members=tuple, probe=art_probe)
    gradients = name in _WHITE_BOX or uses_gradients(attack)
    meta = Meta(
        id=family.probe_id(name),
        title=f"{name} of ART",
        area="attacks",
        why=_WHY,
        references=_references(attack),
        needs=frozenset({"gradients"} if gradients else set() if name in _DECISIONS else {"scores"}),
    )
    budget = "eps" in attack.attack_params and name not in _NO_BUDGET
    base: type[Any] = ArtAttack if budget else ArtSearch
    namespace: dict[str, Any] = {
        # the description of the probe is that of the family
        "__module__": "auditor.plugins.attacks.art",
        "__doc__": f"{name} of ART.",
        "meta": meta,
        "art_class": attack,
    }
    fields: list[Any] = [
        (key, hint, dataclasses.field(default=default))
        for key, (hint, default) in _parameters(attack, eps=not budget).items()
    ]
    if budget:
        fields.append(("norm", Literal["linf", "l2", "l1"], supported_norms(attack)[0]))
    elif _takes_norm(attack):
        namespace["supported_norms"] = supported_norms(attack)
    return dataclasses.make_dataclass(name, fields, bases=(base,), namespace=namespace, frozen=True, kw_only=True)


def _restored(name: str, settings: Mapping[str, Any]) -> Probe:
    """Return the probe of the attack called ``name`` with these settings; unpickling calls it."""
    return art_probe(name)(**settings)


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
        if own and (hint := _hint(str(parameter.annotation), default)) is not None:
            # ART's steps fit its own eps of 0.3
            found[name] = (hint, 0.0 if name == "eps_step" and not eps else default)
    return found


def _hint(annotation: str, default: Any) -> Any:
    """Return the type of a parameter; None if TOML cannot state it."""
    if isinstance(default, int) and not isinstance(default, bool) and "float" in annotation:
        return float
    if type(default) in {bool, int, float, str}:
        return type(default)
    if isinstance(default, tuple) and default and all(type(item) in {int, float} for item in default):
        return Sequence[int] if all(type(item) is int for item in default) else Sequence[float]
    words = [word.strip() for word in annotation.split("|")]
    plain = [_PLAIN[word] for word in words if word in _PLAIN]
    if default is None and plain and len(plain) + words.count("None") == len(words):
        return plain[0] | None
    return None


def supported_norms(attack: type[Any]) -> Sequence[str]:
    """Return the norms of an attack: those that its own check accepts, unless that does not tell."""
    return _ONLY_NORMS.get(attack.__name__) or accepted_norms(attack)


def _takes_norm(attack: type[Any]) -> bool:
    """Whether the attack has a parameter for the L-p norm."""
    parameter = inspect.signature(attack.__init__).parameters.get("norm")
    return parameter is not None and not isinstance(parameter.default, str)


def _references(attack: type[Any]) -> tuple[str, ...]:
    """Return the papers that the docstring of the attack links, and ART itself."""
    links = re.findall(r"https?://[^\s|]+", inspect.getdoc(attack) or "")
    papers = [re.sub(r"^http:", "https:", link).rstrip(".,)") for link in links]
    return tuple(dict.fromkeys([*papers, _ART]))
