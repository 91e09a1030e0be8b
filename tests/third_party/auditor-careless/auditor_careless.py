"""One probe for every rule that a plugin can break and still load."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from auditor import Attack, Conclusion, Corruption, Finding, Meta, MinimumNorm, Probe, ThreatModel, hookimpl

_WHY = "It is a test."
_THREAT = ThreatModel(goal="any", knowledge="black-box", norm="linf", budget="8/255")


@dataclass(frozen=True, kw_only=True)
class Restless(Corruption):
    meta = Meta(id="corruptions.restless", area="corruptions", title="Another draw every time", why=_WHY)

    def levels(self):
        return [{"noise": "any", "size": 0.1}]

    def perturb(self, classifier, batch, rng, level):
        return batch.pixels + np.random.default_rng().normal(0, 0.1, batch.pixels.shape)


@dataclass(frozen=True, kw_only=True)
class Sociable(Restless):
    meta = Meta(id="corruptions.sociable", area="corruptions", title="Looks at its neighbours", why=_WHY)

    def perturb(self, classifier, batch, rng, level):
        return 0.5 * batch.pixels + 0.5 * batch.pixels.mean(axis=0)


@dataclass(frozen=True, kw_only=True)
class Rude(Restless):
    meta = Meta(id="corruptions.rude", area="corruptions", title="Changes its input", why=_WHY)

    def perturb(self, classifier, batch, rng, level):
        batch.pixels[:] = 0.5
        return batch.pixels.copy()


@dataclass(frozen=True, kw_only=True)
class Wordless(Restless):
    meta = Meta(id="corruptions.wordless", area="corruptions", title="Says nothing of n", why="no sentence")

    def perturb(self, classifier, batch, rng, level):
        return 1 - batch.pixels

    def conclude(self, records):
        return Conclusion(findings=[Finding(id="corruptions.wordless/x", title="x", statement="Fine.", metric=None)])


@dataclass(frozen=True, kw_only=True)
class Unbound(Restless):
    meta = Meta(id="corruptions.unbound", area="corruptions", title="Leaves the range", why=_WHY)

    def perturbed(self, classifier, batch, rng, level):
        return batch.pixels * 255


@dataclass(frozen=True, kw_only=True)
class Unset(Restless):
    meta = Meta(id="corruptions.unset", area="corruptions", title="A setting that JSON changes", why=_WHY)
    sizes: dict = field(default_factory=lambda: {1: 0.5})

    def perturb(self, classifier, batch, rng, level):
        return 1 - batch.pixels


@dataclass(frozen=True, kw_only=True)
class Timid(Attack):
    meta = Meta(id="attacks.timid", area="attacks", title="No better than noise", why=_WHY)
    epsilons: Sequence[float] = (8 / 255,)

    def threat_model(self):
        return _THREAT

    def levels(self):
        return [{"norm": "linf", "epsilon": epsilon} for epsilon in self.epsilons]

    def perturb(self, classifier, batch, rng, level):
        return batch.pixels + level["epsilon"] / 8


@dataclass(frozen=True, kw_only=True)
class Idle(MinimumNorm):
    meta = Meta(id="attacks.idle", area="attacks", title="Finds nothing", why=_WHY)

    def threat_model(self):
        return _THREAT

    def search(self, classifier, batch, rng, norm):
        return batch.pixels


@dataclass(frozen=True, kw_only=True)
class Clumsy(Probe):
    meta = Meta(id="metrics.clumsy", area="metrics", title="Breaks", why=_WHY)

    def measure(self, classifier, batch, rng):
        return {"size": pd.Series(np.zeros(len(batch) + 1))}

    def conclude(self, records):
        raise KeyError("size")


@hookimpl
def auditor_probes():
    return [Restless, Sociable, Rude, Wordless, Unbound, Unset, Timid, Idle, Clumsy]
