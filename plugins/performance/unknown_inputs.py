"""Unknown inputs: whether a score of the model tells images of its classes from images that belong to none.

Maximum probability: the largest softmax probability (Hendrycks and Gimpel 2017, arXiv:1610.02136). Energy: the
logarithm of the sum of exp(logit), the negative of the energy at temperature 1, so that higher means known, too (Liu
et al. 2020, arXiv:2010.03759, equation 4). The audited images are the positive class; both metrics are those of these
papers: AUROC, and the false positive rate at 95 % true positives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Conclusion, Meta, MetricSpec, NotApplicable, Probe, Records
from auditor.plugins.performance._unknown_findings import score_findings
from auditor.plugins.performance._unknown_scores import KNOWN, Scored, known_columns, score_unknown, unknown_columns

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness, RunContext


@dataclass(frozen=True, kw_only=True)
class UnknownInputs(Probe):
    """Score the audited images and those of ``--unknown``, and measure how well the scores separate them."""

    meta = Meta(
        id="performance.unknown-inputs",
        title="Detection of unknown inputs",
        area="performance",
        why="A classifier assigns one of its classes to every input. An image of no class is refused only if a score"
        " tells it from the images of the classes.",
        references=("https://arxiv.org/abs/1610.02136", "https://arxiv.org/abs/2010.03759"),
        needs=frozenset({"scores", "unknown"}),
    )
    metrics = (
        MetricSpec(name="unknown_auroc", label="AUROC, known against unknown images", better="higher"),
        MetricSpec(name="unknown_fpr_at_95_tpr", label="Unknown images accepted at 95 % known ones", better="lower"),
    )

    def prepare(self, run: RunContext) -> Probe:
        """Score the unknown images; each belongs to one of the audited images, with which its row is recorded."""
        if run.unknown is None:
            raise NotApplicable("no images that belong to no class were given (--unknown DIR)")
        return _Prepared(**vars(self), unknown=score_unknown(run))

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return a row per image of the batch, and one per unknown image that belongs to it.

        ``unknown`` is the id of the unknown image, empty for an audited one, and ``unknown_unit`` its unit.
        ``confidence`` and ``energy`` are the scores, ``energy`` NaN if ``no_energy`` says why there is none.
        """
        del rng
        return known_columns(classifier, batch)

    def conclude(self, records: Records) -> Conclusion:
        """Report AUROC and false positive rate of both scores."""
        frame = records.frame
        if not len(frame) or (frame["unknown"] == KNOWN).all():
            return Conclusion(inconclusive="no unknown images were measured")
        return score_findings(records)


@dataclass(frozen=True, kw_only=True)
class _Prepared(UnknownInputs):
    """The probe with the scores of the unknown images by the audited image that they belong to."""

    unknown: Mapping[str, Sequence[Scored]]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return the rows of the batch and of the unknown images that belong to it."""
        return unknown_columns(super().measure(classifier, batch, rng), batch, self.unknown)
