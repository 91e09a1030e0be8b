"""Make a probe of an attack of another library: its parameters become settings, ``perturb`` or ``search`` runs it."""

from __future__ import annotations

import dataclasses
import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from auditor import Attack, Level, Meta, MinimumNorm, Probe, ProbeFamily, ThreatModel
from auditor.plugins.attacks._library_run import NORMS, Attacker, one_by_one
from auditor.probes.base import Need
from auditor.probes.levels import budget_text

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness

EPSILONS: Mapping[str, Sequence[float]] = {
    "linf": (2 / 255, 4 / 255, 8 / 255, 16 / 255),
    "l2": (0.25, 0.5, 1.0, 2.0),
    "l1": (3.0, 6.0, 12.0, 25.0),
}
"""Standard epsilons, among them those of common benchmarks: 8/255, 0.5 and 12."""

_WHY = (
    "An attack of {} that the suite names. It searches in another way than the built-in attacks, so an image that they"
    " left robust may fail here."
)
_PLAIN = {"bool": bool, "int": int, "float": float, "str": str}


@dataclass(frozen=True, kw_only=True)
class LibraryAttack(ABC):
    """An attack of another library."""

    library: ClassVar[str]
    """Name of the library, for people."""
    package: ClassVar[str]
    """Name of the Python package; also that of the family of probes."""
    home: ClassVar[str]
    """https:// address."""

    attack: type[Any]
    parameters: Mapping[str, tuple[Any, Any]]
    """Type and default of the parameters that a suite may state."""
    within_budget: bool
    """Whether it runs within a budget; otherwise it searches the smallest perturbation."""
    norms: Sequence[str] = tuple(NORMS)
    """Norms that it supports, the default first."""
    needs: frozenset[Need] = frozenset({"gradients"})
    papers: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.attack.__name__

    @property
    def gradients(self) -> bool:
        """Whether it attacks the differentiable copy; otherwise it queries the deployed model."""
        return "gradients" in self.needs

    @property
    def version(self) -> str:
        """Version of the library."""
        return str(importlib.import_module(self.package).__version__)

    @abstractmethod
    def check(self, values: Mapping[str, Any], norm: str, epsilon: float | None) -> None:
        """Raise ValueError if the library refuses the parameters; ``epsilon`` is None for a search."""

    @abstractmethod
    def attacker(self, values: Mapping[str, Any], norm: str, epsilon: float | None, classifier: Classifier) -> Attacker:
        """Return the function that attacks one image of ``classifier``."""

    def run(
        self,
        values: Mapping[str, Any],
        norm: str,
        epsilon: float | None,
        *,
        classifier: Classifier,
        batch: Batch,
        rng: Randomness,
    ) -> Pixels:
        """Return what the attack makes of each image, (n, c, h, w)."""
        return one_by_one(batch, rng, self.package, self.attacker(values, norm, epsilon, classifier))


class _LibraryProbe:
    """What all probes of other libraries share."""

    of: ClassVar[LibraryAttack]
    restore: ClassVar[Callable[[str], type[Probe]]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the name of the attack and the settings: the class itself is made on demand."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return _restored, (type(self).restore, self.of.name, settings)

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """Return the version of the library, which the rows depend on."""
        del probes
        return {self.of.package: self.of.version}

    @property
    def values(self) -> dict[str, Any]:
        """The attack's own parameters."""
        return {name: value for name in self.of.parameters if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class BudgetProbe(_LibraryProbe, Attack):
    """An attack within a budget."""

    norm: Literal["linf", "l2", "l1"] = "linf"
    epsilons: Sequence[float] = ()
    """Sizes of the budget; empty for the standard ones of the norm."""

    def __post_init__(self) -> None:
        """Refuse settings that the library refuses."""
        if self.norm not in self.of.norms:
            raise ValueError(
                f"norm is {self.norm!r}; {self.of.library}'s {self.of.name} supports {', '.join(self.of.norms)}"
            )
        for level in self.levels():
            self.of.check(self.values, self.norm, float(level["epsilon"]))

    def threat_model(self) -> ThreatModel:
        """Return the budget."""
        sizes = {norm: self.epsilons or EPSILONS[norm] if norm == self.norm else () for norm in NORMS}
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="white-box" if self.of.gradients else "black-box",
            norm=self.norm,
            budget=f"{budget_text(sizes['linf'], sizes['l2'], sizes['l1'])}; {self.of.library}'s {self.of.name}",
        )

    def levels(self) -> Sequence[Level]:
        """Return every epsilon."""
        return [{"norm": self.norm, "epsilon": epsilon} for epsilon in self.epsilons or EPSILONS[self.norm]]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Return what the attack finds within the budget."""
        epsilon = float(level["epsilon"])
        return self.of.run(self.values, self.norm, epsilon, classifier=classifier, batch=batch, rng=rng)


@dataclass(frozen=True, kw_only=True)
class SearchProbe(_LibraryProbe, MinimumNorm):
    """A search without a budget: what it finds is moved as near to the clean image as the deployed model confirms."""

    failure_text: ClassVar[str] = "the library's search found nothing"

    def __post_init__(self) -> None:
        """Refuse settings that the library refuses."""
        super().__post_init__()
        for norm in self.norms:
            self.of.check(self.values, norm, None)

    def threat_model(self) -> ThreatModel:
        """Return any distance."""
        return self.any_distance(f"{self.of.library}'s {self.of.name}")

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return what the attack finds."""
        return self.of.run(self.values, norm, None, classifier=classifier, batch=batch, rng=rng)


def library_probe(attack: LibraryAttack, restore: Callable[[str], type[Probe]], module: str) -> type[Probe]:
    """Return the probe of an attack.

    Args:
        attack: the attack.
        restore: returns this probe by the name of the attack's class, for pickles.
        module: name of the plugin, whose docstring describes the probe.
    """
    family = ProbeFamily(name=attack.package, area="attacks", members=tuple, probe=restore)
    meta = Meta(
        id=family.probe_id(attack.name),
        title=f"{attack.name} of {attack.library}",
        area="attacks",
        why=_WHY.format("the Adversarial Robustness Toolbox" if attack.package == "art" else attack.library),
        references=tuple(dict.fromkeys([*attack.papers, attack.home])),
        needs=attack.needs,
    )
    namespace: dict[str, Any] = {
        "__module__": module,
        "__doc__": f"{attack.name} of {attack.library}.",
        "meta": meta,
        "of": attack,
        "restore": staticmethod(restore),
    }
    fields: list[Any] = [
        (name, hint, dataclasses.field(default=default)) for name, (hint, default) in attack.parameters.items()
    ]
    if attack.within_budget:
        fields.append(("norm", Literal["linf", "l2", "l1"], attack.norms[0]))
    else:
        namespace["supported_norms"] = attack.norms
        namespace["failure_text"] = f"{attack.library}'s search found nothing"
    base: type[Any] = BudgetProbe if attack.within_budget else SearchProbe
    return dataclasses.make_dataclass(
        attack.name, fields, bases=(base,), namespace=namespace, frozen=True, kw_only=True
    )


def _restored(restore: Callable[[str], type[Probe]], name: str, settings: Mapping[str, Any]) -> Probe:
    """Return the probe of the attack called ``name`` with these settings; unpickling calls it."""
    return restore(name)(**settings)


def field_type(annotation: str, default: Any) -> Any:
    """Return the type of a parameter by its annotation ("float | None") and default; None if TOML cannot state it."""
    if isinstance(default, int) and not isinstance(default, bool) and "float" in annotation:
        return float
    if type(default) in {bool, int, float, str}:
        return type(default)
    if isinstance(default, tuple) and default and all(type(item) in {int, float} for item in default):
        return Sequence[int] if all(type(item) is int for item in default) else Sequence[float]
    words = [word.strip() for word in re.sub(r"^typing\.Optional\[(\w+)\]$", r"\1 | None", annotation).split("|")]
    plain = [_PLAIN[word] for word in words if word in _PLAIN]
    if default is None and plain and len(plain) + words.count("None") == len(words):
        return plain[0] | None
    return None


def papers_of(attack: type[Any]) -> tuple[str, ...]:
    """Return the addresses in the docstring of an attack."""
    import inspect

    links = re.findall(r"https?://[^\s|>)\]]+", inspect.getdoc(attack) or "")
    return tuple(dict.fromkeys(re.sub(r"^http:", "https:", link).rstrip(".,") for link in links))
