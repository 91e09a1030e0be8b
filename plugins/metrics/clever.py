"""CLEVER: how far the nearest error may be, estimated from the steepest slope of the margin around the image.

A margin g with slopes of at most L (in the dual norm) within a ball of radius R stays positive up to g / L, as long as
that is within R. CLEVER draws points from the ball, takes the largest slope of every batch of them, and estimates L as
the end of the law that such largest values follow (Weng et al. 2018, arXiv:1801.10578, theorem 3.2 and algorithm 1).
It is an estimate: neither a guarantee nor an attack (Goodfellow 2018, arXiv:1804.07870, shows how masked gradients
mislead it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from auditor import (
    Axis,
    Conclusion,
    Finding,
    Level,
    Meta,
    Metric,
    Point,
    Probe,
    Records,
    Scatter,
    Series,
    Table,
    hookimpl,
)
from auditor.findings.formatting import norm_name
from auditor.findings.metric import percent
from auditor.probes.levels import size

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_AIMS = ("runner_up", "random", "least_likely")
"""The targets of Weng et al. 2018, section 5.1: the likeliest other class, any, and the least likely."""

_FITS = 0.05
"""P-value of the Kolmogorov-Smirnov test from which on the law counts as fitting (Weng et al. 2018, section 5.2)."""

_TOGETHER = 16
"""Images whose laws are fitted at once: one by one each would wait for the same few steps."""


class _Seen(NamedTuple):
    """What the points around one image say of each target class."""

    others: list[int]
    aims: tuple[int, ...]
    """Where in ``others`` the classes of ``_AIMS`` are."""
    margins: NDArray[np.float64]
    largest: list[NDArray[np.float64]]
    """For each pair of ``batches`` and ``batch_samples`` the largest slope of every batch, (targets, batches)."""


@dataclass(frozen=True, kw_only=True)
class Clever(Probe):
    """CLEVER scores of the images that the model gets right, in several norms, beside what the attacks found."""

    meta = Meta(
        id="metrics.clever",
        title="CLEVER score",
        area="metrics",
        why="It estimates how far the nearest error may be without knowing any attack; where an attack needs less than"
        " it says, one of the two is not to be believed.",
        references=("https://arxiv.org/abs/1801.10578", "https://arxiv.org/abs/1804.07870"),
        needs=frozenset({"gradients"}),
        version=2,
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*",)
    norms: tuple[str, ...] = ("linf", "l2")
    """Some of "linf", "l2", "l1"."""
    batches: int = 50
    """Largest slopes to fit the law to."""
    batch_samples: int = 100
    """Points of which each is the largest."""
    radius_linf: float = 0.3
    radius_l2: float = 3.0
    radius_l1: float = 30.0
    """Radius of the ball in each norm; no score is larger."""
    smaller: Sequence[Sequence[int]] = ()
    """Pairs of ``batches`` and ``batch_samples`` to score with besides, on the first of the same points: how far the
    score depends on their number."""
    targets: int = 10
    """So many of the likeliest other classes, and a random and the least likely one, whose scores are told apart, too;
    the score is the smallest over all of them."""
    pooled: bool = False
    """Draw all batches from one pool of points and fit the law as ART does: for comparison only. Batches from one pool
    say nothing new about the end, and the fit depends on where it starts."""
    pool_factor: int = 10
    """Size of that pool, in batches: ART's default."""

    def __post_init__(self) -> None:
        if not set(self.norms) <= {"linf", "l2", "l1"} or not self.norms:
            raise ValueError(f"norms {list(self.norms)}: expected some of linf, l2, l1")
        if self.batches < 2 or self.batch_samples < 1 or self.targets < 1 or self.pool_factor < 1:
            raise ValueError("expected at least two batches of one sample, one target class and a pool of one batch")
        for pair in self.smaller:
            if len(pair) != 2 or min(pair) < 1 or pair[0] < 2 or self._needs(*pair) > self._needs():
                raise ValueError(
                    f"smaller has {list(pair)}; expected pairs of batches (at least two) and samples that need no more"
                    " points than batches and batch_samples"
                )
        if min(self.radius_linf, self.radius_l2, self.radius_l1) <= 0:
            raise ValueError("every radius must be above 0")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image that the model gets right and norm."""
        import numpy as np

        right = np.flatnonzero(batch.predictions == batch.labels).tolist()
        rows: list[dict[str, Any]] = []
        for norm in self.norms:
            for start in range(0, len(right), _TOGETHER):
                some = right[start : start + _TOGETHER]
                scores = self._score(classifier, batch.take(some), rng, norm)
                rows += [{"row": row, "norm": norm, **each} for row, each in zip(some, scores, strict=True)]
        kinds: dict[str, Any] = {"row": np.int64, "norm": "U4", "clever_target": np.int64}
        names = (
            "row", "norm", "clever", *(f"clever_{aim}" for aim in _AIMS), "clever_target", "spread", "ks", "shape",
            "slope", "margin", *(_column(pair) for pair in self.smaller),
        )  # fmt: skip
        return {name: np.array([row[name] for row in rows], dtype=kinds.get(name, np.float64)) for name in names}

    def _score(self, classifier: Classifier, images: Batch, rng: Randomness, norm: str) -> list[dict[str, Any]]:
        """The scores of each image; the laws of all of them are fitted at once."""
        import numpy as np

        from auditor.algorithms.extreme_values import Fit, fit_end, fit_end_as_art

        fit_of = fit_end_as_art if self.pooled else fit_end
        seen = [self._see(classifier, images.take([i]), rng, norm) for i in range(len(images))]
        ends = np.cumsum([len(each.margins) for each in seen])[:-1]

        def laws(number: int) -> list[Fit]:
            fit = fit_of(np.concatenate([each.largest[number] for each in seen]))
            return [Fit(*columns) for columns in zip(*(np.split(column, ends) for column in fit), strict=True)]

        fits = laws(0)
        scores = [self._scores(each.margins, fit.end, norm) for each, fit in zip(seen, fits, strict=True)]
        less = [
            [self._scores(each.margins, fit.end, norm).min() for each, fit in zip(seen, laws(1 + i), strict=True)]
            for i in range(len(self.smaller))
        ]
        best = [int(each.argmin()) for each in scores]
        # two halves of the batches share no point: they are two seeds
        largest = np.stack([each.largest[0][target] for each, target in zip(seen, best, strict=True)])
        margin = np.array([each.margins[target] for each, target in zip(seen, best, strict=True)])
        one, other = (self._scores(margin, fit_of(half).end, norm) for half in np.array_split(largest, 2, axis=1))
        return [
            {
                "clever": scores[i][target],
                **{f"clever_{aim}": scores[i][at] for aim, at in zip(_AIMS, seen[i].aims, strict=True)},
                "clever_target": seen[i].others[target],
                "spread": abs(one[i] - other[i]) / max(scores[i][target], 1e-12),
                "ks": fits[i].ks[target],
                "shape": fits[i].shape[target],
                "slope": fits[i].end[target],
                "margin": margin[i],
                **{_column(pair): found[i] for pair, found in zip(self.smaller, less, strict=True)},
            }
            for i, target in enumerate(best)
        ]

    def _see(self, classifier: Classifier, image: Batch, rng: Randomness, norm: str) -> _Seen:
        """Margins and slopes of one image."""
        import numpy as np
        import torch

        label = int(image.labels[0])
        with torch.no_grad():
            logits = classifier.logits(classifier.tensor(image.pixels))[0].double().cpu().numpy()
        ranked = [int(k) for k in np.argsort(-logits, kind="stable") if k != label]
        chance = int(rng(image.ids[0], "random target").choice(ranked))
        others = list(dict.fromkeys([*ranked[: self.targets], chance, ranked[-1]]))
        slopes = self._slopes(classifier, image, rng, norm, others)
        pairs = [(self.batches, self.batch_samples), *self.smaller]
        return _Seen(
            others=others,
            aims=(0, others.index(chance), others.index(ranked[-1])),
            margins=logits[label] - logits[others],
            largest=[self._largest(slopes, image, rng, norm, pair) for pair in pairs],
        )

    def _needs(self, batches: int = 0, samples: int = 0) -> int:
        """How many points so many batches of so many samples are taken of; by default the main ones."""
        return (samples or self.batch_samples) * (self.pool_factor if self.pooled else batches or self.batches)

    def _scores(self, margins: NDArray[np.float64], ends: NDArray[np.float64], norm: str) -> NDArray[np.float64]:
        """The score of each margin: by its largest slope, between 0 and the radius."""
        import numpy as np

        scores: NDArray[np.float64] = (margins / np.maximum(ends, 1e-300)).clip(0, self._radius(norm))
        return scores

    def _radius(self, norm: str) -> float:
        return {"linf": self.radius_linf, "l2": self.radius_l2, "l1": self.radius_l1}[norm]

    def _slopes(
        self, classifier: Classifier, image: Batch, rng: Randomness, norm: str, others: Sequence[int]
    ) -> NDArray[np.float64]:
        """For each other class the slope at every point, (targets, points)."""
        import numpy as np

        pieces = [
            _slopes(classifier, pixels, int(image.labels[0]), others, norm)
            for pixels in self._points(image, rng, norm, self._needs(), classifier.batch_size)
        ]
        return np.concatenate(pieces, axis=1)

    def _largest(
        self, slopes: NDArray[np.float64], image: Batch, rng: Randomness, norm: str, pair: Sequence[int]
    ) -> NDArray[np.float64]:
        """For each other class the largest slope of every batch, (targets, batches)."""
        batches, samples = pair
        slopes = slopes[:, : self._needs(batches, samples)]
        if self.pooled:
            again = rng(image.ids[0], f"pool {norm}")
            slopes = slopes[:, again.integers(0, slopes.shape[1], batches * samples)]
        largest: NDArray[np.float64] = slopes.reshape(len(slopes), batches, -1).max(axis=2)
        return largest

    def _points(self, image: Batch, rng: Randomness, norm: str, n: int, step: int) -> Iterator[NDArray[np.float32]]:
        """Points drawn evenly from the ball, cut to [0, 1], in pieces that fit into the memory.

        L2 and L1 by Barthe, Guedon, Mendelson and Naor 2005 (Annals of Probability 33, theorem 1): directions from the
        density exp(-|x|^p), shortened by an exponential variable that stands for one more coordinate.
        """
        import numpy as np

        directions, lengths = rng(image.ids[0], f"directions {norm}"), rng(image.ids[0], f"lengths {norm}")
        dims = image.pixels[0].size
        for start in range(0, n, step):
            shape = min(step, n - start), dims
            if norm == "linf":
                offsets = directions.uniform(-1, 1, shape)
            elif norm == "l2":
                offsets = directions.standard_normal(shape) * np.sqrt(0.5)
                offsets /= np.sqrt((offsets**2).sum(axis=1) + lengths.exponential(size=shape[0]))[:, None]
            else:
                offsets = directions.laplace(size=shape)
                offsets /= (np.abs(offsets).sum(axis=1) + lengths.exponential(size=shape[0]))[:, None]
            pixels = image.pixels + (offsets * self._radius(norm)).reshape(-1, *image.pixels.shape[1:])
            yield pixels.clip(0, 1).astype(np.float32)

    def conclude(self, records: Records) -> Conclusion:
        """Per norm the median score, and on how many images it lies below the distance that an attack found."""
        from auditor.probes.distances import attack_records, smallest

        attacks = attack_records(records.others)
        metrics: list[Metric] = []
        findings: list[Finding] = []
        for norm in self.norms:
            rows = records.frame[records.frame["norm"] == norm] if len(records.frame) else records.frame
            if not len(rows):
                continue
            distance = smallest(attacks, norm)["distance"].reindex(rows["image_id"])
            found, finding = self._conclude_norm(rows.assign(distance=distance.to_numpy()), norm, len(records.classes))
            metrics += found
            findings.append(finding)
        if not findings:
            return Conclusion(inconclusive="the model gets none of the images right, so there is no margin to estimate")
        return Conclusion(metrics=metrics, findings=findings)

    def _conclude_norm(self, rows: pd.DataFrame, norm: str, classes: int) -> tuple[list[Metric], Finding]:
        import numpy as np

        from auditor import statistics

        at = {"norm": norm}
        score, distance = rows["clever"].to_numpy(), rows["distance"].to_numpy()
        known = np.isfinite(distance) & (distance > 0)
        below = score < distance
        median = statistics.median("clever_median", score, unit=norm, at=at)
        share = statistics.proportion("clever_below_distance", below[known], at=at)
        spread = statistics.median("clever_spread", rows["spread"], unit="1", at=at)
        tested = rows["ks"].notna()
        fits = statistics.proportion("clever_fits", rows["ks"][tested] > _FITS, at=at)
        capped = statistics.proportion("clever_at_radius", score >= self._radius(norm), at=at)
        less = [(pair, *self._with_less(rows, norm, pair, known, distance)) for pair in self.smaller]
        over = "all other classes" if self.targets >= classes - 1 else f"the {self.targets} likeliest other classes"
        statement = (
            f"The median CLEVER score over {over} is {size(norm, float(np.median(score)))} ({norm_name(norm)},"
            f" n = {len(rows)}), an estimate and no guarantee; "
            + (
                f"it is below the smallest perturbation that an attack found on {percent(share)} of the"
                f" {share.n} images that an attack broke."
                if share.n
                else "no attack broke any of these images, so there is nothing to compare it with."
            )
        )
        finding = Finding(
            id=f"{self.meta.id}/{norm}", title=f"CLEVER score, {norm_name(norm)}", statement=statement, metric=median,
            evidence=[
                _scatter(norm, score, distance, known, below),
                _trust(norm, median, rows, [share, fits, capped, spread]),
                *([_by_number(norm, [*less, ((self.batches, self.batch_samples), median, share)])] if less else []),
            ],
        )  # fmt: skip
        return [median, share, spread, fits, capped, *(metric for _, *pair in less for metric in pair)], finding

    def _with_less(
        self, rows: pd.DataFrame, norm: str, pair: Sequence[int], known: Any, distance: Any
    ) -> tuple[Metric, Metric]:
        """Median score, and share below the distance, with fewer points."""
        from auditor import statistics

        at: Level = {"norm": norm, "batches": pair[0], "batch_samples": pair[1]}
        score = rows[_column(pair)].to_numpy()
        return (
            statistics.median("clever_median", score, unit=norm, at=at),
            statistics.proportion("clever_below_distance", (score < distance)[known], at=at),
        )


def _column(pair: Sequence[int]) -> str:
    """Of the score with fewer points."""
    return f"clever_{pair[0]}x{pair[1]}"


def _slopes(
    classifier: Classifier, pixels: NDArray[np.float32], label: int, others: Sequence[int], norm: str
) -> NDArray[np.float64]:
    """Dual norms of the slopes of the margins at points, (targets, points): one forward pass for all target classes."""
    import numpy as np
    import torch

    x = classifier.tensor(pixels).requires_grad_()
    logits = classifier.logits(x)
    slopes = []
    for k in others:
        margin = (logits[:, label] - logits[:, k]).sum()
        (slope,) = torch.autograd.grad(margin, x, retain_graph=k != others[-1])
        slopes.append(_dual_norm(slope.flatten(1), norm).double().cpu().numpy())
    result = np.stack(slopes)
    if not np.isfinite(result).all():
        raise ArithmeticError("the copy's gradient is NaN or infinite near an image")
    return result


def _dual_norm(slopes: torch.Tensor, norm: str) -> torch.Tensor:
    """Lengths of slopes (n, d) in the dual norm."""
    if norm == "linf":
        return slopes.abs().sum(1)
    return slopes.norm(dim=1) if norm == "l2" else slopes.abs().amax(1)


def _scatter(norm: str, score: Any, distance: Any, known: Any, below: Any) -> Scatter:
    style: Any = "n/255" if norm == "linf" else "number"
    clouds = [("below the distance", known & below), ("not below", known & ~below)]
    return Scatter(
        title=f"CLEVER score against the smallest perturbation found, {norm_name(norm)}",
        caption="One point per image that an attack broke. A score that is not below the distance was wrong there: it"
        " promised more than the image withstood.",
        x=Axis(label="smallest perturbation found", unit=norm, format=style, low=0),
        y=Axis(label="CLEVER score", unit=norm, format=style, low=0),
        series=[
            Series(name=name, points=[
                Point(x=float(x), y=float(y)) for x, y in zip(distance[some], score[some], strict=True)
            ])
            for name, some in clouds if some.any()
        ],
    )  # fmt: skip


def _by_number(norm: str, rows: Sequence[tuple[Sequence[int], Metric, Metric]]) -> Table:
    return Table(
        title=f"By the number of batches and samples, {norm_name(norm)}",
        columns=["batches x samples", "median score", "below the distance found", "images"],
        formats=["text", "text", "percent", "count"],
        rows=[
            [f"{batches} x {samples}", "not measured" if median.value is None else size(norm, median.value),
             share.cell(), share.n]
            for (batches, samples), median, share in rows
        ],
        caption="The more slopes are seen, the larger the largest of them: the score falls with the effort, and what is"
        " below the distance may be so by effort alone.",
    )  # fmt: skip


def _trust(norm: str, median: Metric, rows: pd.DataFrame, shares: Sequence[Metric]) -> Table:
    from auditor import statistics
    from auditor.algorithms.extreme_values import SHAPES

    below, fits, capped, spread = shares
    aims = [statistics.median(f"clever_{aim}", rows[f"clever_{aim}"], unit=norm) for aim in _AIMS]
    tells = statistics.proportion("tells", rows["shape"][rows["shape"].notna()] < SHAPES[1] - 1e-6)

    def shown(metric: Metric) -> str:
        if metric.value is None:
            return "not measured"
        return percent(metric) if metric.unit == "fraction" else size(metric.unit, metric.value)

    lines: list[list[Any]] = [
        ["median score", shown(median), median.n],
        *(
            [f"median score, targeted: {said}", shown(aim), aim.n]
            for said, aim in zip(
                ("the likeliest other class", "a random class", "the least likely class"), aims, strict=True
            )
        ),
        ["below the distance found", shown(below), below.n],
        ["the law fits (KS test, p > 0.05)", shown(fits), fits.n],
        ["the largest slopes tell where they end (shape below 5)", shown(tells), tells.n],
        ["half the batches against the other half, median relative difference", shown(spread), spread.n],
        ["as large as the radius allows", shown(capped), capped.n],
    ]
    return Table(
        title=f"How far the scores can be trusted, {norm_name(norm)}", columns=["", "value", "images"],
        formats=["text", "text", "count"], rows=lines,
        caption="The law is fitted to the same values that the test sees, so it fits too easily; where it does not"
        " fit all the same, the score means little.",
    )  # fmt: skip


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Clever]
