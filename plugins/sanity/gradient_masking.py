"""Gradient masking: may the attacks of this audit be believed, or do the gradients mislead them?

The signs are those of Athalye, Carlini and Wagner 2018, arXiv:1802.00420, section 3.1, of Carlini et al. 2019,
arXiv:1902.06705, section 4, and of Pintor et al. 2022, arXiv:2106.09947. Each is a share of images that
should be small; a sign is seen when its whole 95 % interval lies above the limit. The model's own answer on the clean
image is the label here, so the checks need none.

Of the six indicators of Pintor et al. five are here: unavailable gradients (zero, tiny), unstable predictions,
incomplete optimization (unfinished, convergence, step size), transfer failure (an attack without gradients breaks it)
and failure without a bound. Silent success cannot be: every search keeps the best point that it visited. AutoAttack's
own warnings are among them: probabilities for logits, zero gradients, and Square breaking what gradients left. Chance
in the answers is ``sanity.determinism``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from auditor import Conclusion, Finding, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.findings.evidence import Evidence
from auditor.findings.formatting import norm_name
from auditor.findings.metric import n_of_255, percent
from auditor.probes.levels import size

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_ENOUGH = 20
"""With fewer images no share says anything."""

_ONE_STEP = "attacks.fgsm"

_SHARED = {"attacks.universal"}
"""One perturbation for all images: a larger one need not break the images that a smaller one broke."""

_REACH = 0.1
"""A gradient is tiny when moving every pixel across the whole range would, to first order, change the margin by less
than this share of it."""

_RISING = 0.1
"""A loss still rises when so large a share of its rise falls into the last quarter of the steps (Pintor et al. 2022,
incomplete optimization); a step from a random start reaches every corner of the ball before that."""

_CHANCE = 0.5
"""A loss is unstable when random steps of an eighth of epsilon change it by so large a share of what the attack raised
it by (Pintor et al. 2022, unstable predictions)."""
_NEIGHBOURS = 4

_FACTOR = 10.0
"""The rise along the gradient may differ from its first-order prediction by this factor."""


class _Check(NamedTuple):
    """One sign of masked gradients."""

    id: str
    text: str
    """What is counted: images for which this is so."""
    limit: float
    """The share that an honest model may have; conventions of this project."""


_OWN: Sequence[_Check] = (
    _Check("zero-gradient", "the gradient of the margin is zero at more than 99 % of the inputs", 0.02),
    _Check("tiny-gradient", "the gradient is too small to change the answer even across the whole pixel range", 0.05),
    _Check("random-step", "a small step along the gradient raises the loss no more than a random step", 0.1),
    _Check("first-order", f"that rise is off its first-order prediction by more than a factor {_FACTOR:g}", 0.2),
    _Check("unbounded", "the attack fails even at epsilon 1, where every image is allowed", 0.05),
    _Check("rising-loss", "a larger epsilon gives a smaller loss", 0.05),
    _Check("random-start", "one random start breaks it and another does not", 0.1),
    _Check("convergence", "four times as many steps break it and the usual number does not", 0.05),
    _Check("step-size", "PGD with a quarter or four times its step breaks it and with the usual step does not", 0.05),
    _Check("unfinished", "the attack fails and its loss still rises in its last quarter", 0.1),
    _Check("unstable", "around the attack's result the loss changes by chance as much as the attack moved it", 0.1),
    _Check("noise", "random noise of the same size breaks it and the attack does not", 0.02),
    _Check("softmax", "the copy's logits are not negative and sum to 1: probabilities, taken for logits", 0.5),
)
_SQUARE = _Check("square", "of AutoAttack's components only Square, which takes no gradients, breaks it", 0.02)
_BLACK_BOX = _Check("black-box", "an attack without gradients breaks it and none with gradients does", 0.02)
_STEP = _Check("one-step", "one gradient step breaks it and no attack of many steps does", 0.02)
_LARGER = _Check("larger-epsilon", "{attack} breaks it at one epsilon and fails at a larger one", 0.05)


class _Seen(NamedTuple):
    """What a check found."""

    check: str
    text: str
    share: Metric
    limit: float

    @property
    def verdict(self) -> str:
        """Judged on the interval."""
        value, low = self.share.value, self.share.low
        if value is None or low is None:
            return "not measured"
        if low > self.limit:
            return "masked"
        return "no sign" if value <= self.limit else "cannot tell"


@dataclass(frozen=True, kw_only=True)
class GradientMasking(Probe):
    """Indicators of attack failure, from measurements of its own and from the records of all attacks."""

    meta = Meta(
        id="sanity.gradient-masking",
        title="Checks of the gradients",
        area="sanity",
        why="An attack that fails shows robustness only if it would have succeeded on a model that is not robust. Where"
        " gradients are masked it would not, and its figures are void.",
        references=(
            "https://arxiv.org/abs/1802.00420",
            "https://arxiv.org/abs/1902.06705",
            "https://arxiv.org/abs/2106.09947",
        ),
        needs=frozenset({"gradients"}),
        version=2,
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*",)
    samples: int = 64
    epsilon: float = 8 / 255
    """L-infinity size at which the checks are made."""
    l2_epsilon: float = 0.5
    l1_epsilon: float = 12.0
    """Sizes of the noise that attacks in L2 and L1 are compared with."""
    iterations: int = 20

    def __post_init__(self) -> None:
        """Refuse what cannot be checked."""
        if not 0 < self.epsilon <= 0.5 or min(self.l2_epsilon, self.l1_epsilon) <= 0 or self.iterations < 1:
            raise ValueError("epsilon must lie between 0 and 0.5, the others above 0, iterations be at least 1")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image: for each check of its own whether the sign is seen."""
        import numpy as np
        import torch

        from auditor.algorithms.apgd import apgd
        from auditor.algorithms.balls import Ball
        from auditor.algorithms.best_points import MARGIN_TOLERANCE, BestPoints
        from auditor.algorithms.losses import margin

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.predictions).to(clean.device)
        first, second, step = (_signs(rng, batch, name) for name in ("start", "other start", "step"))
        seen = self._slopes(classifier, clean, labels, classifier.tensor(step))

        def search(noise: NDArray[np.float32], epsilon: float, iterations: int = self.iterations) -> BestPoints:
            start = classifier.tensor(noise * np.float32(epsilon))
            return apgd(
                classifier.logits, clean, labels, ball=Ball("linf", epsilon), start=start, iterations=iterations,
                objective=lambda logits, rows: margin(logits, labels[rows]),
            )  # fmt: skip

        found = search(first, self.epsilon)
        at, below, above = found.margin, search(first, self.epsilon / 2).margin, search(first, self.epsilon * 2).margin
        other = search(second, self.epsilon).margin
        longer = search(first, self.epsilon, 4 * self.iterations).margin
        # from half-way to the corners: what is flat at the image itself is seen by other checks
        anything = search(0.5 * first, 1.0, 2 * self.iterations)
        seen |= self._descents(classifier, clean, labels, first, step)
        capped = [margins.clamp_max(MARGIN_TOLERANCE) for margins in (below, at, above)]
        tolerance = 0.01 * (capped[1].abs() + MARGIN_TOLERANCE)
        seen["rising-loss"] = (capped[1] < capped[0] - tolerance) | (capped[2] < capped[1] - tolerance)
        seen["random-start"] = (at > MARGIN_TOLERANCE) != (other > MARGIN_TOLERANCE)
        seen["convergence"] = (longer > MARGIN_TOLERANCE) & ~(at > MARGIN_TOLERANCE)
        columns = {name: flags.cpu().numpy() for name, flags in seen.items()}

        def broken(images: Any) -> NDArray[np.bool_]:
            wrong: NDArray[np.bool_] = classifier.predict(images).argmax(axis=1) != batch.predictions
            return wrong

        columns["unbounded"] = ~broken(anything.images.cpu().numpy())
        by_chance = {
            norm: broken((clean + Ball(norm, epsilon).surface(classifier.tensor(step))).clamp(0, 1).cpu().numpy())
            for norm, epsilon in self._sizes().items()
        }
        columns["noise"] = by_chance["linf"] & ~broken(found.images.cpu().numpy())
        return {check.id: columns[check.id] for check in _OWN} | {
            f"noise_{norm}": flags for norm, flags in by_chance.items()
        }

    def _descents(
        self,
        classifier: Classifier,
        clean: torch.Tensor,
        labels: torch.Tensor,
        start: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> dict[str, torch.Tensor]:
        """The checks of the steps, on PGD, which does not adapt its own."""
        import numpy as np
        import torch

        from auditor.algorithms.balls import Ball
        from auditor.algorithms.best_points import MARGIN_TOLERANCE
        from auditor.algorithms.losses import margin
        from auditor.algorithms.pgd import pgd, usual_step

        ball, usual = Ball("linf", self.epsilon), usual_step(self.epsilon, self.iterations)
        begin = classifier.tensor(start * np.float32(self.epsilon / 2))

        def search(step: float, iterations: int) -> Any:
            return pgd(classifier.logits, clean, labels, ball=ball, start=begin, iterations=iterations, step=step)

        found, early = search(usual, self.iterations), search(usual, max(1, self.iterations * 3 // 4))
        others = [search(factor * usual, self.iterations).broken for factor in (0.25, 4.0)]
        with torch.no_grad():
            before = margin(classifier.logits(clean), labels)
            changes = []
            for turn in range(_NEIGHBOURS):
                moved = classifier.tensor(np.roll(noise, turn, axis=3) * np.float32(self.epsilon / 8))
                near = margin(classifier.logits((found.images + moved).clamp(0, 1)), labels)
                changes.append((near - found.margin).abs())
        rise = (found.margin - before).clamp_min(0)
        return {
            "step-size": (others[0] | others[1]) & ~found.broken,
            "unfinished": ~found.broken & (found.margin - early.margin > _RISING * rise.clamp_min(MARGIN_TOLERANCE)),
            "unstable": torch.stack(changes).mean(0) > _CHANCE * rise.clamp_min(MARGIN_TOLERANCE),
        }

    def _slopes(
        self, classifier: Classifier, clean: torch.Tensor, labels: torch.Tensor, random: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The checks of the gradient at the image itself."""
        import torch

        from auditor.algorithms.losses import margin

        x = clean.clone().requires_grad_()
        logits = classifier.logits(x)
        before = margin(logits, labels)
        (slope,) = torch.autograd.grad(before.sum(), x)
        before, scores = before.detach(), logits.detach()
        size = self.epsilon / 4
        with torch.no_grad():
            moved = (clean + size * slope.sign()).clamp(0, 1)
            gain = margin(classifier.logits(moved), labels) - before
            chance = margin(classifier.logits((clean + size * random).clamp(0, 1)), labels) - before
        predicted = ((moved - clean) * slope).flatten(1).sum(1)
        ratio = gain / predicted.clamp_min(1e-30)
        flat = slope.flatten(1)
        return {
            "zero-gradient": (flat == 0).float().mean(1) > 0.99,
            "tiny-gradient": flat.abs().sum(1) < _REACH * before.abs(),
            "random-step": gain <= chance,
            # where the step was clipped away there is nothing to predict
            "first-order": (predicted > 0) & ((ratio < 1 / _FACTOR) | (ratio > _FACTOR)),
            "softmax": (scores.amin(1) >= 0) & ((scores.sum(1) - 1).abs() < 1e-3),
        }

    def conclude(self, records: Records) -> Conclusion:
        """Every check with its share, and how many signs are seen."""
        frame = records.frame
        if len(frame) < _ENOUGH:
            return Conclusion(inconclusive=f"{len(frame)} images are too few to check gradients on; at least {_ENOUGH}")
        seen = [self._judge(check, frame[check.id]) for check in _OWN] + self._from_attacks(records)
        masked = [check for check in seen if check.verdict == "masked"]
        open_ones = [check for check in seen if check.verdict == "cannot tell"]
        signs = Metric(name="masking_signs", value=len(masked), n=len(frame), unit="count")
        if masked:
            said = "; ".join(f"for {percent(check.share)} of the images {check.text}" for check in masked[:3])
            said = f"{len(masked)} of {len(seen)} checks find signs of masked gradients: {said}"
        else:
            said = f"None of {len(seen)} checks finds a sign of masked gradients"
        if open_ones:
            said += f"; {len(open_ones)} cannot tell"
        finding = Finding(
            id=f"{self.meta.id}/signs",
            title="Signs of masked gradients",
            statement=f"{said} (n = {len(frame)}, epsilon {n_of_255(self.epsilon)}).",
            metric=signs,
            evidence=[_table(seen), *self._baseline(records)],
        )
        return Conclusion(metrics=[signs, *(check.share for check in seen)], findings=[finding])

    def _judge(self, check: _Check, flags: Any, attack: str = "") -> _Seen:
        from auditor import statistics

        at = {"check": check.id} | ({"attack": attack} if attack else {})
        share = statistics.proportion("masking_share", flags, at=at)
        return _Seen(check.id, check.text.format(attack=attack), share, check.limit)

    def _from_attacks(self, records: Records) -> list[_Seen]:
        """The checks that compare attacks with each other, where there are two to compare."""
        from auditor.probes.distances import attack_records

        attacks = attack_records(records.others)
        knows = {name: records.threats[name].knowledge for name in attacks if name in records.threats}
        white = [name for name, knowledge in knows.items() if knowledge == "white-box"]
        black = [name for name, knowledge in knows.items() if knowledge == "black-box"]
        many = [name for name in white if name != _ONE_STEP]
        found = []
        for check, weak, strong in ((_BLACK_BOX, black, white), (_STEP, [n for n in white if n not in many], many)):
            flags = self._beaten({n: attacks[n] for n in weak}, {n: attacks[n] for n in strong})
            if flags is not None:
                found.append(self._judge(check, flags))
        autoattack = attacks.get("attacks.autoattack")
        if autoattack is not None:
            attacked = autoattack[autoattack["epsilon"] > 0]
            if len(attacked):
                alone = (attacked["component"] == "Square") & attacked["success"].astype(bool)
                found.append(self._judge(_SQUARE, alone.to_numpy()))
        for name in many:
            flags = None if name in _SHARED else _fails_at_more(attacks[name])
            if flags is not None:
                found.append(self._judge(_LARGER, flags, name))
        return found

    def _beaten(self, weak: Mapping[str, pd.DataFrame], strong: Mapping[str, pd.DataFrame]) -> Any:
        """Of the images that both attacked, which the weak attacks broke and the strong ones did not; None where the
        two have nothing in common."""
        from auditor.probes.distances import smallest

        tried = [e for frame in strong.values() for e in frame.loc[frame["norm"] == "linf", "epsilon"].unique()]
        # a search for the smallest perturbation has no budget
        tried += [self.epsilon for frame in strong.values() if frame["searched"].any()]
        # as far as the strong attacks went, and no further
        limit = max((e for e in tried if e <= self.epsilon * 1.001), default=0.0)
        ours, theirs = (smallest(attacks, "linf")["distance"] for attacks in (weak, strong))
        common = ours.index.intersection(theirs.index)
        ours, theirs = ours[common], theirs[common]
        attacked = theirs > 0
        if not limit or not attacked.any():
            return None
        within = limit + 1e-6
        return ((ours <= within) & (theirs > within))[attacked]

    def _baseline(self, records: Records) -> list[Evidence]:
        """Every attack against noise of equal size in its norms, on the same images."""
        from auditor import statistics
        from auditor.probes.distances import attack_records, norms_of, smallest

        noise = records.frame.set_index("image_id")
        rows: list[list[Any]] = []
        for name, frame in attack_records(records.others).items():
            for norm in norms_of({name: frame}):
                epsilon, tried = self._sizes()[norm], frame[frame["norm"] == norm]
                searched = tried["searched"].any()
                distance = smallest({name: frame}, norm)["distance"]
                common = distance.index[distance > 0].intersection(noise.index)
                if not len(common) or not (searched or tried["epsilon"].max() >= epsilon * 0.999):
                    continue
                attack = statistics.proportion("attack_success_rate", distance[common] <= epsilon + 1e-6)
                chance = statistics.proportion("attack_success_rate", noise.loc[common, f"noise_{norm}"])
                where = f"{norm_name(norm)} {size(norm, epsilon)}"
                rows.append([name, where, attack.cell(), chance.cell(), len(common)])
        if not rows:
            return []
        return [
            Table(
                title="Attacks against random noise of equal size",
                columns=["attack", "size", "success of the attack", "success of noise", "n"],
                formats=["text", "text", "percent", "percent", "count"],
                rows=rows,
                caption="On the images that the model gets right without an attack. An attack that is no better than"
                " noise has shown nothing.",
            )
        ]

    def _sizes(self) -> dict[str, float]:
        """At which size noise is tried in each norm."""
        return {"linf": self.epsilon, "l2": self.l2_epsilon, "l1": self.l1_epsilon}


def _signs(rng: Randomness, batch: Batch, purpose: str) -> NDArray[np.float32]:
    """Random corners of the unit ball, (n, c, h, w)."""
    import numpy as np

    shape = batch.pixels.shape[1:]
    draws = [rng(image_id, purpose).integers(0, 2, shape) for image_id in batch.ids]
    return (2 * np.stack(draws) - 1).astype(np.float32)


def _fails_at_more(frame: pd.DataFrame) -> Any:
    """Per attacked image whether the attack succeeded in L-infinity and failed with a larger budget; None without two
    budgets."""
    attacked = frame[(frame["norm"] == "linf") & (frame["epsilon"] > 0)]
    if attacked["epsilon"].nunique() < 2:
        return None
    first = attacked[attacked["success"]].groupby("image_id")["epsilon"].min()
    last_failure = attacked[~attacked["success"].astype(bool)].groupby("image_id")["epsilon"].max()
    every = attacked["image_id"].unique()
    return (last_failure.reindex(every).fillna(0.0) > first.reindex(every).fillna(float("inf"))).to_numpy()


def _table(seen: Sequence[_Seen]) -> Table:
    return Table(
        title="Every check: for how many images is it so?",
        columns=["sign of masked gradients", "share of images", "expected at most", "verdict", "n"],
        formats=["text", "percent", "percent", "text", "count"],
        rows=[[check.text, check.share.cell(), check.limit, check.verdict, check.share.n] for check in seen],
        caption="Judged on the 95 % interval: masked when all of it lies above what is expected at most.",
    )


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [GradientMasking]
