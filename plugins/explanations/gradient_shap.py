"""Expected gradients: Shapley values through the gradient, by shap's GradientExplainer (Erion et al. 2021,
arXiv:1906.10670; Lundberg and Lee 2017, arXiv:1705.07874).

The covered state is drawn anew for every sample: another image of the audit, or another row of the table. shap's
DeepExplainer is not offered: it needs the framework's own modules, which neither the rebuilt graph of an ONNX file nor
a TorchScript module has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Explanation, Meta, NotApplicable, Probe, hookimpl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness, Run


@dataclass(frozen=True, kw_only=True)
class GradientShap(Explanation):
    """Which pixels add to the answer's logit, compared with other images."""

    meta = Meta(
        id="explanations.gradient-shap",
        title="SHAP values by gradients",
        area="explanations",
        why="Asks what this image has that others have not, where other methods compare it with a grey one. Random:"
        " read its stability with it.",
        references=("https://arxiv.org/abs/1906.10670", "https://shap.readthedocs.io/"),
        needs=frozenset({"gradients"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    by_gradient: ClassVar[bool] = True
    randomness: ClassVar[bool] = True
    samples: int = 16
    evaluations: int = 100
    """Gradients for each image."""
    others: int = 20
    """Images to compare with; of rows the table's usual rows are taken."""

    def __post_init__(self) -> None:
        """Refuse what cannot explain."""
        if self.evaluations < 1 or self.others < 1:
            raise ValueError("evaluations and others must be at least 1")

    def prepare(self, run: Run) -> Probe:
        """Draw the images to compare with."""
        if run.classifier.input_kind == "rows":
            return self
        drawn = sorted(run.ids, key=lambda image_id: run.rng(image_id, "other").random())[: self.others]
        return _Prepared(**vars(self), drawn=run.batch(drawn).pixels)

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """Sum over the channels, (n, h, w)."""
        import numpy as np

        seeds = [int(rng(image_id, "samples").integers(2**31)) for image_id in batch.ids]
        return np.stack([self.values(classifier, batch, i, seed).sum(axis=0) for i, seed in enumerate(seeds)])

    def values(self, classifier: Classifier, batch: Batch, index: int, seed: int) -> NDArray[Any]:
        """What shap gives for one image and this ``seed``, (c, h, w)."""
        import warnings

        import numpy as np
        import torch

        with warnings.catch_warnings():
            # at import, of matplotlib's future
            warnings.simplefilter("ignore")
            import shap

        answer = int(batch.predictions[index])

        class Answer(torch.nn.Module):
            """The answer's logit, (n, 1)."""

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return classifier.logits(x)[:, answer : answer + 1]

        explainer = shap.GradientExplainer(
            Answer(), classifier.tensor(self._others(classifier)), batch_size=classifier.batch_size
        )
        # shap seeds numpy's global generator, which is not ours to leave changed
        state = np.random.get_state()
        try:
            found = explainer.shap_values(
                classifier.tensor(batch.pixels[index : index + 1]), nsamples=self.evaluations, rseed=seed
            )
        finally:
            np.random.set_state(state)
        return np.asarray(found).reshape(batch.pixels.shape[1:])

    def _others(self, classifier: Classifier) -> NDArray[Any]:
        from auditor.probes.explanation import background

        if classifier.input_kind == "images":
            raise NotApplicable("the probe was not prepared with images to compare with")
        usual = background(classifier)
        return usual.reshape(len(usual), *classifier.shape)


@dataclass(frozen=True, kw_only=True)
class _Prepared(GradientShap):
    """With images to compare with."""

    drawn: NDArray[Any] = field(repr=False)

    def _others(self, classifier: Classifier) -> NDArray[Any]:
        return self.drawn


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [GradientShap]
