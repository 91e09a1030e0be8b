"""DeepFool: from linearisation to linearisation straight to the nearest border of the class.

At every point the model is taken for linear: of the planes f_k = z_k - z_y = 0 the one at the least distance
|f_k| / ||w_k||_q (w_k the gradient of f_k, q dual to the norm) is stepped on, and so on until the answer changes.
Moosavi-Dezfooli, Fawzi and Frossard 2016, arXiv:1511.04599, algorithm 2; for other norms than L2 the end of section 3.
Beyond the paper, slopes are taken without what points out of [0, 1], where no pixel can go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, Probe, ThreatModel, hookimpl
from auditor.algorithms.balls import inwards, length
from auditor.algorithms.losses import DUAL, margin, per_image

if TYPE_CHECKING:
    import torch

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness

_OVERSHOOT = 1.02
"""How far beyond the plane a step is taken, so that it is crossed (the paper's eta = 0.02)."""


@dataclass(frozen=True, kw_only=True)
class DeepFool(MinimumNorm):
    """All images at once, on the device; an image leaves when its answer has changed."""

    meta = Meta(
        id="attacks.deepfool",
        title="DeepFool",
        area="attacks",
        why="The classic estimate of how far the nearest error is; cheap, and exact for a linear model.",
        references=("https://arxiv.org/abs/1511.04599",),
        needs=frozenset({"gradients"}),
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    norms: Sequence[str] = ("l2", "linf")
    """Of l2, linf."""
    iterations: int = 50
    """Linearisations at most."""
    candidates: int = 10
    """Classes that are tried at every point: those with the largest logits on the clean image."""

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        super().__post_init__()
        if "l1" in self.norms:
            raise ValueError("norms: DeepFool knows l2 and linf")
        if self.iterations < 1 or self.candidates < 2:
            raise ValueError("iterations must be at least 1 and candidates at least 2")

    def threat_model(self) -> ThreatModel:
        """Any distance, a few linearisations."""
        return ThreatModel(
            goal="untargeted misclassification, as near as possible", knowledge="white-box",
            norm=" and ".join(self.norms),
            budget=f"any distance; at most {self.iterations} steps towards one of {self.candidates} classes",
        )  # fmt: skip

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Per image the first point that the copy gets wrong."""
        del rng
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        result, way = clean.clone(), torch.zeros_like(clean)
        left = torch.arange(len(clean), device=clean.device)
        rivals = torch.zeros((len(clean), 0), dtype=torch.long, device=clean.device)
        for iteration in range(self.iterations + 1):
            x = (clean[left] + _OVERSHOOT * way).clamp(0, 1).requires_grad_()
            logits = classifier.logits(x)
            if iteration == 0:
                others = logits.detach().scatter(1, labels[:, None], -torch.inf)
                rivals = others.topk(min(self.candidates, logits.shape[1]) - 1, dim=1).indices
            wrong = margin(logits.detach(), labels[left]) > 0
            result[left[wrong]] = x.detach()[wrong]
            if iteration == self.iterations or bool(wrong.all()):
                break
            step = _to_nearest_plane(x, logits, labels[left], rivals[left], norm)
            left, way = left[~wrong], (way + step)[~wrong]
        found: Pixels = result.cpu().numpy()
        return found


def _to_nearest_plane(
    x: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, rivals: torch.Tensor, norm: str
) -> torch.Tensor:
    """The shortest step (n, c, h, w) onto one of the planes where the linearised logits of label and a rival meet."""
    import torch

    own = logits.gather(1, labels[:, None])[:, 0]
    shortest = torch.full((len(x),), torch.inf, device=x.device)
    best, steepness = torch.zeros_like(x), torch.ones_like(shortest)
    for number in range(rivals.shape[1]):
        lead = logits.gather(1, rivals[:, number, None])[:, 0] - own
        (slope,) = torch.autograd.grad(lead.sum(), x, retain_graph=number + 1 < rivals.shape[1])
        slope = inwards(slope, x.detach())
        steep = length(slope, DUAL[norm]).clamp_min(1e-12)
        distance = lead.detach().abs() / steep
        nearer = distance < shortest
        shortest = torch.where(nearer, distance, shortest)
        steepness = torch.where(nearer, steep, steepness)
        best = torch.where(per_image(nearer), slope, best)
    direction = best.sign() if norm == "linf" else best / per_image(steepness)
    return per_image(shortest) * direction


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [DeepFool]
