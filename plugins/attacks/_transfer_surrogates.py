"""Surrogates of ``attacks.transfer``: opening them, and adversarial images made on them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from auditor import BadInput, Level

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels
    from auditor.model.deployed import DeployedModel
    from auditor.probes.base import RunContext


def surrogate_digest(path: str) -> str:
    """Return the SHA-256 of a model with its separate files. Raises BadInput if a file cannot be read."""
    from auditor.model.identity import model_digest
    from auditor.model.loading.external_data import separate_files

    try:
        return model_digest(Path(path), separate_files(Path(path)))
    except OSError as error:
        raise BadInput(f"--surrogate {path}: cannot be read ({error.strerror}); expected a model file") from None


@cache
def open_surrogate(path: str, digest: str, device: str) -> DeployedModel:
    """Open a surrogate, once per process and file content."""
    del digest
    from auditor.run.opening import open_model

    # only the copy is used, which is on the device
    return open_model(Path(path), device, may_fall_back=True)


def check_surrogate(path: str, run: RunContext) -> None:
    """Raise BadInput if a surrogate does not fit the audited model or has no gradients."""
    audited = run.classifier
    surrogate = open_surrogate(path, surrogate_digest(path), audited.device)
    if (surrogate.shape, surrogate.n_classes) != (audited.shape, audited.n_classes):
        raise BadInput(
            f"--surrogate {path}: has input {surrogate.shape} and {surrogate.n_classes} classes; expected those of the"
            f" audited model, {audited.shape} and {audited.n_classes}"
        )
    named = None not in (surrogate.named_classes, audited.named_classes)
    if named and set(surrogate.classes) == set(audited.classes) and surrogate.classes != audited.classes:
        raise BadInput(f"--surrogate {path}: has the audited model's classes in another order; expected the same order")
    surrogate.verify(run.batch(run.ids[:8]).pixels)
    if surrogate.access == "black-box":
        raise BadInput(f"--surrogate {path}: gives no gradients: {surrogate.access_reason}")


def momentum_attack(model: Classifier, batch: Batch, level: Level, iterations: int) -> Pixels:
    """Run the momentum iterative method on a model (Dong et al. 2018, arXiv:1710.06081, algorithm 1).

    It continues after the model is misclassifying: barely adversarial images rarely transfer.
    """
    import torch

    from auditor.algorithms.balls import length
    from auditor.algorithms.losses import per_image, soft_margin

    clean = model.tensor(batch.pixels)
    labels = torch.from_numpy(batch.labels).to(clean.device)
    epsilon = torch.full_like(clean[:, :1, :1, :1], float(level["epsilon"]))
    if level["norm"] == "snr":
        # a step of epsilon at every one of d pixels has length epsilon sqrt(d)
        epsilon = epsilon * per_image(length(clean, "l2")) / clean[0].numel() ** 0.5
    x, momentum = clean.clone(), torch.zeros_like(clean)
    for _ in range(iterations):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(soft_margin(model.scaled_logits(x), labels).sum(), x)
        momentum = momentum + gradient / per_image(length(gradient, "l1").clamp_min(1e-30))
        x = x.detach() + epsilon / iterations * momentum.sign()
        x = (clean + (x - clean).clamp(-epsilon, epsilon)).clamp(0, 1)
    images: Pixels = x.cpu().numpy()
    return images
