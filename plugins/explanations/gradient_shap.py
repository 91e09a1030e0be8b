"""Expected gradients: Shapley values through the gradient, by shap's GradientExplainer (Erion et al. 2021,
arXiv:1906.10670; Lundberg and Lee 2017, arXiv:1705.07874).

The baseline of each sample is a random other image of the audit, or another row of the table. shap's DeepExplainer
needs the framework's own modules, which neither the rebuilt graph of an ONNX file nor a TorchScript module has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Explanation, Meta, NotApplicable, Probe
from auditor.plugins.explanations._shap_values import gradient_values
from auditor.probes.explanation import library_seeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness
    from auditor.probes.base import RunContext


@dataclass(frozen=True, kw_only=True)
class GradientShap(Explanation):
    """Attribute the prediction's logit to pixels, with other images as baselines."""

    meta = Meta(
        id="explanations.gradient-shap",
        title="Gradient SHAP",
        area="explanations",
        why="Compares the image with other images, where other methods compare it with a uniform one. The map is"
        " random; check its stability.",
        references=("https://arxiv.org/abs/1906.10670", "https://shap.readthedocs.io/"),
        needs=frozenset({"gradients"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    by_gradient: ClassVar[bool] = True
    randomness: ClassVar[bool] = True
    samples: int = 16
    evaluations: int = 100
    """Gradients per image."""
    others: int = 20
    """Baseline images; tabular data uses the background rows instead."""

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.evaluations < 1 or self.others < 1:
            raise ValueError("evaluations and others must be at least 1")

    def prepare(self, run: RunContext) -> Probe:
        """Return the probe with the baseline images."""
        if run.classifier.input_kind == "rows":
            return self
        drawn = sorted(run.ids, key=lambda image_id: run.rng(image_id, "other").random())[: self.others]
        return _Prepared(**vars(self), drawn=run.batch(drawn).pixels)

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """Return the sum over the channels, (n, h, w)."""
        import numpy as np

        of_image = partial(
            gradient_values, classifier, batch, baselines=self._baselines(classifier), evaluations=self.evaluations
        )
        values = np.stack([of_image(i, seed) for i, seed in enumerate(library_seeds(batch, rng, "samples"))])
        return values.sum(axis=1) if classifier.input_kind == "images" else values

    def _baselines(self, classifier: Classifier) -> NDArray[Any]:
        from auditor.probes.cells import background

        if classifier.input_kind == "images":
            raise NotApplicable("the probe was not prepared with baseline images")
        return background(classifier)


@dataclass(frozen=True, kw_only=True)
class _Prepared(GradientShap):
    """The probe with its baseline images."""

    drawn: NDArray[Any] = field(repr=False)

    def _baselines(self, classifier: Classifier) -> NDArray[Any]:
        return self.drawn
