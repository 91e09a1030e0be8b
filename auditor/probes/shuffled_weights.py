"""A model with shuffled weights, for the model randomisation check (Adebayo et al. 2018, arXiv:1810.03292)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from auditor.model.classifier import Classifier
    from auditor.model.scores import Outputs
    from auditor.probes.base import Randomness


def shuffled(classifier: Classifier, rng: Randomness) -> Classifier | None:
    """Return a classifier whose weight arrays have permuted entries, for predictions and gradients.

    None if the differentiable copy has no weights to permute (a frozen TorchScript module).
    """
    from dataclasses import replace

    from auditor.model.deployed import DeployedModel

    module = _shuffled_module(classifier, rng)
    if module is None:
        return None
    # the output of a copy without its final activation is logits
    outputs: Outputs = "logits" if classifier.artefact.cut else classifier.outputs
    return DeployedModel(
        # device_scores are those of the unchanged weights
        replace(classifier.artefact, copy=module, scores=_scores(module, classifier.device), device_scores=None),
        classifier.preprocessing,
        path=classifier.path,
        sha256=classifier.sha256,
        n_classes=classifier.n_classes,
        outputs=outputs,
        single=classifier.decoder.single,
        classes=classifier.named_classes,
        device=classifier.device,
        fixed_batch=classifier.fixed_batch,
    )


def _shuffled_module(classifier: Classifier, rng: Randomness) -> torch.nn.Module | None:
    """Return a deep copy of the module with the entries of each weight array permuted; None if that is impossible."""
    import copy

    import torch

    if classifier.artefact.copy is None:
        return None
    try:
        module: torch.nn.Module = copy.deepcopy(classifier.artefact.copy)
    except (RuntimeError, TypeError):
        # not every TorchScript module can be copied
        return None
    changed = False
    with torch.no_grad():
        for name, weights in module.state_dict().items():
            if weights.ndim >= 2 and weights.is_floating_point() and weights.numel() > 1:
                order = torch.from_numpy(rng("", f"shuffle {name}").permutation(weights.numel())).to(weights.device)
                weights.copy_(weights.flatten()[order].reshape(weights.shape))
                changed = True
    return module if changed else None


def _scores(module: torch.nn.Module, device: str) -> Any:
    """Return the function from model inputs to scores, both as arrays."""
    import numpy as np
    import torch

    def scores(inputs: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            output = module(torch.from_numpy(np.asarray(inputs)).to(device))
        output = output[0] if isinstance(output, tuple | list) else output
        return np.asarray(output.float().cpu().numpy())

    return scores
