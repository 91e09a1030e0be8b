"""DeepFool: repeated linearisation, with a step to the nearest boundary of the linear model.

At every point the model is linearised: of the planes f_k = z_k - z_y = 0, step onto the one at the least distance
|f_k| / ||w_k||_q (w_k the gradient of f_k, q dual to the norm), until the answer changes.
Moosavi-Dezfooli, Fawzi and Frossard 2016, arXiv:1511.04599, algorithm 2; for other norms than L2 the end of section 3.
Unlike in the paper, gradients exclude components that point out of [0, 1], since clipping would undo them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, ThreatModel
from auditor.algorithms.balls import inwards, length
from auditor.algorithms.losses import DUAL, margin, per_image

if TYPE_CHECKING:
    import torch

    from auditor import Batch, Classifier, Pixels, Randomness

_OVERSHOOT = 1.02
"""Factor by which a step crosses the plane (the paper's eta = 0.02)."""


@dataclass(frozen=True, kw_only=True)
class DeepFool(MinimumNorm):
    """Attack all images at once; an image leaves the batch when its answer changes."""

    meta = Meta(
        id="attacks.deepfool",
        title="DeepFool",
        area="attacks",
        why="The classic estimate of the adversarial distance: cheap, and exact for a linear model.",
        references=("https://arxiv.org/abs/1511.04599",),
        needs=frozenset({"gradients"}),
        version=2,
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    norms: Sequence[str] = ("l2", "linf")
    """Any of l2, linf."""
    iterations: int = 50
    """Largest number of linearisations."""
    candidates: int = 10
    """Classes considered at every point: those with the largest logits on the clean image."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        super().__post_init__()
        if "l1" in self.norms:
            raise ValueError("norms: DeepFool supports l2 and linf")
        if self.iterations < 1 or self.candidates < 2:
            raise ValueError("iterations must be at least 1 and candidates at least 2")

    def threat_model(self) -> ThreatModel:
        """Return any distance and a few linearisations."""
        return ThreatModel(
            goal="untargeted misclassification, as near as possible",
            knowledge="white-box",
            norm=" and ".join(self.norms),
            budget=f"any distance; at most {self.iterations} steps towards one of {self.candidates} classes",
        )

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the first point that the differentiable copy misclassifies."""
        del rng
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        result, delta = clean.clone(), torch.zeros_like(clean)
        left = torch.arange(len(clean), device=clean.device)
        rivals = torch.zeros((len(clean), 0), dtype=torch.long, device=clean.device)
        for iteration in range(self.iterations + 1):
            x = (clean[left] + _OVERSHOOT * delta).clamp(0, 1).requires_grad_()
            logits = classifier.scaled_logits(x)
            if iteration == 0:
                others = logits.detach().scatter(1, labels[:, None], -torch.inf)
                rivals = others.topk(min(self.candidates, logits.shape[1]) - 1, dim=1).indices
            wrong = margin(logits.detach(), labels[left]) > 0
            result[left[wrong]] = x.detach()[wrong]
            if iteration == self.iterations or bool(wrong.all()):
                break
            step = _step_to_nearest_plane(x, logits, labels[left], rivals[left], norm)
            left, delta = left[~wrong], (delta + step)[~wrong]
        images: Pixels = result.cpu().numpy()
        return images


def _step_to_nearest_plane(
    x: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, rivals: torch.Tensor, norm: str
) -> torch.Tensor:
    """Return the shortest step (n, c, h, w) that makes the linearised logits of the label and a rival equal."""
    import torch

    own = logits.gather(1, labels[:, None])[:, 0]
    shortest = torch.full((len(x),), torch.inf, device=x.device)
    best_gradient, best_slope = torch.zeros_like(x), torch.ones_like(shortest)
    for i in range(rivals.shape[1]):
        lead = logits.gather(1, rivals[:, i, None])[:, 0] - own
        (gradient,) = torch.autograd.grad(lead.sum(), x, retain_graph=i + 1 < rivals.shape[1])
        gradient = inwards(gradient, x.detach())
        slope = length(gradient, DUAL[norm]).clamp_min(1e-12)
        distance = lead.detach().abs() / slope
        nearer = distance < shortest
        shortest = torch.where(nearer, distance, shortest)
        best_slope = torch.where(nearer, slope, best_slope)
        best_gradient = torch.where(per_image(nearer), gradient, best_gradient)
    direction = best_gradient.sign() if norm == "linf" else best_gradient / per_image(best_slope)
    return per_image(shortest) * direction
