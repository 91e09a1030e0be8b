"""Carlini and Wagner's L2 attack: minimise distance and margin together, weighted by a constant c per image.

min_w ||x(w) - x||_2^2 + c max(-margin(x(w)), 0) with x(w) = (tanh(w) + 1) / 2, which keeps pixels in [0, 1]. Optimised
by Adam (Kingma and Ba 2015); c by bisection, since the smallest successful c gives the least distance.
Carlini and Wagner 2017, arXiv:1608.04644, sections V and VI-A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, ThreatModel
from auditor.algorithms.losses import margin, per_image

if TYPE_CHECKING:
    import torch

    from auditor import Batch, Classifier, Pixels, Randomness

_TANH_RANGE = 0.999
"""Black and white are mapped to this share of tanh's range, since its gradient is zero at the ends. The published code
has 0.999999, with which a black pixel needs hundreds of steps to become visible."""

_DECAY, _SQUARE_DECAY, _TINY = 0.9, 0.999, 1e-8
"""Adam's usual constants (arXiv:1412.6980, section 2)."""

_STALLED = 0.9999
"""An image stops if its loss is above this share of its loss a tenth of the steps ago (abort_early of the published
code)."""


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(MinimumNorm):
    """Attack all images at once, each with its own c."""

    meta = Meta(
        id="attacks.carlini-wagner",
        title="Carlini-Wagner attack",
        area="attacks",
        why="The attack that defeated defensive distillation: it succeeds on models that only appear robust to steps"
        " along the sign of the gradient.",
        references=("https://arxiv.org/abs/1608.04644",),
        needs=frozenset({"gradients"}),
        version=2,
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    iterations: int = 100
    """Adam steps for each c."""
    search_steps: int = 6
    """Number of values of c."""
    first_constant: float = 1.0
    """First value of c; it is multiplied by ten until it suffices."""
    rate: float = 0.05
    """Adam's step size in w."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        super().__post_init__()
        if tuple(self.norms) != ("l2",):
            raise ValueError("norms: this is the attack in l2")
        if min(self.iterations, self.search_steps) < 1 or min(self.first_constant, self.rate) <= 0:
            raise ValueError("iterations and search_steps must be at least 1, first_constant and rate above 0")

    def threat_model(self) -> ThreatModel:
        """Return any distance and many gradient steps."""
        return ThreatModel(
            goal="untargeted misclassification, as near as possible",
            knowledge="white-box",
            norm="l2",
            budget=f"any distance; {self.search_steps} x {self.iterations} gradient steps",
        )

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the nearest iterate that the differentiable copy misclassifies, over all c."""
        del rng, norm
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.labels).to(clean.device)
        best, shortest = clean.clone(), torch.full((len(clean),), torch.inf, device=clean.device)
        constant = torch.full_like(shortest, self.first_constant)
        low, high = torch.zeros_like(shortest), torch.full_like(shortest, torch.inf)
        for _ in range(self.search_steps):
            nearest, size = self._descend(classifier, clean, labels, constant)
            wrong, nearer = size.isfinite(), size < shortest
            best, shortest = torch.where(per_image(nearer), nearest, best), torch.where(nearer, size, shortest)
            high, low = torch.where(wrong, constant, high), torch.where(wrong, low, constant)
            constant = torch.where(high.isinf(), 10 * constant, (low + high) / 2)
        result: Pixels = best.cpu().numpy()
        return result

    def _descend(
        self, classifier: Classifier, clean: torch.Tensor, labels: torch.Tensor, constant: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run Adam once.

        Returns:
            The nearest misclassified iterate of each image (n, c, h, w), and its distance (n,), infinite if there is
            none.
        """
        import torch

        best, shortest = clean.clone(), torch.full_like(constant, torch.inf)
        rows = torch.arange(len(clean), device=clean.device)
        w = torch.atanh((2 * clean - 1) * _TANH_RANGE)
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        before = torch.full_like(shortest, torch.inf)
        for iteration in range(self.iterations + 1):
            w = w.detach().requires_grad_()
            x = (torch.tanh(w) + 1) / 2
            values = margin(classifier.scaled_logits(x), labels[rows])
            squared = (x - clean[rows]).square().flatten(1).sum(1)
            loss = squared + constant[rows] * (-values).clamp_min(0)
            size = squared.detach().sqrt()
            nearer = (values.detach() > 0) & (size < shortest[rows])
            best[rows[nearer]], shortest[rows[nearer]] = x.detach()[nearer], size[nearer]
            if iteration == self.iterations:
                break
            (gradient,) = torch.autograd.grad(loss.sum(), w)
            mean = _DECAY * mean + (1 - _DECAY) * gradient
            square = _SQUARE_DECAY * square + (1 - _SQUARE_DECAY) * gradient.square()
            unbiased_mean = mean / (1 - _DECAY ** (iteration + 1))
            unbiased_square = square / (1 - _SQUARE_DECAY ** (iteration + 1))
            w = w.detach() - self.rate * unbiased_mean / (unbiased_square.sqrt() + _TINY)
            if iteration % max(1, self.iterations // 10) == 0:
                going = loss.detach() <= _STALLED * before[rows]
                before[rows] = loss.detach()
                if not bool(going.all()):
                    rows, w, mean, square = rows[going], w[going], mean[going], square[going]
                if not len(rows):
                    break
        return best, shortest
