"""How a model's raw output is read: logits or probabilities, what it passed last, one score for two classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from auditor.errors import BadInput

if TYPE_CHECKING:
    import torch

Outputs = Literal["logits", "probabilities"]
Activation = Literal["none", "softmax", "log-softmax", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class OutputDecoder:
    """From what a model gives to one score per class, on the original and, under autograd, on its copy.

    One score z for two classes is the logits (0, z), or the probabilities (1 - z, z). A sigmoid per class gives numbers
    that need not sum to 1: they are divided by their sum, as scikit-learn's OneVsRestClassifier does, which leaves the
    label as it is; the logits of that are log(sigmoid(z)).
    """

    outputs: Outputs
    activation: Activation = "none"
    """What the output passed last, as far as it was recognised."""
    cut: bool = False
    """The copy gives what goes into the activation."""
    single: bool = False
    """One score for two classes."""

    def scores(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """The original's raw output, (n, ...) of any number type, as scores (n, k)."""
        given = _from_integers(raw, self.outputs, single=self.single).reshape(len(raw), -1)
        if self.single:
            first = np.zeros_like(given) if self.outputs == "logits" else 1 - given
            return np.concatenate([first, given], axis=1)
        if self.activation == "sigmoid":
            given /= np.maximum(given.sum(axis=1, keepdims=True), np.float32(1e-30))
        return given

    def logits(self, given: torch.Tensor) -> torch.Tensor:
        """What the copy gives, (n, ...), as logits (n, k) whose softmax are the model's probabilities."""
        import torch

        given = given.flatten(1).float()
        probabilities = self.outputs == "probabilities" and not self.cut
        if self.single and probabilities:
            given = torch.cat([1 - given, given], dim=1)
        elif self.single:
            return torch.cat([torch.zeros_like(given), given], dim=1)
        elif self.activation == "sigmoid" and self.cut:
            return torch.nn.functional.logsigmoid(given)
        # the smallest normal float keeps the logarithm and its gradient finite
        return given.clamp_min(1.2e-38).log() if probabilities else given

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (n, k) as probabilities."""
        return scores if self.outputs == "probabilities" else softmax(scores)

    def comparable(self, logits: torch.Tensor) -> torch.Tensor:
        """The copy's logits as the scores that the original gives."""
        if self.outputs == "probabilities":
            return logits.softmax(1)
        return logits.log_softmax(1) if self.activation == "log-softmax" and self.cut else logits


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities from logits (n, k), in double precision inside."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def look_at_outputs(scores: NDArray[Any]) -> Outputs:
    """Whether rows of scores are probabilities (not negative, sum 1; of a single score: from 0 to 1) or logits."""
    sums = scores.astype(np.float64).sum(axis=1)
    if scores.shape[1] == 1:
        return "probabilities" if scores.min() >= 0 and scores.max() <= 1 else "logits"
    return "probabilities" if scores.min() >= 0 and np.abs(sums - 1).max() < 1e-2 else "logits"


def class_scores(scores: Any, batch: int) -> NDArray[np.float32]:
    """The raw output as (n, k), k = 1 for a single score, or BadInput when it is no classifier's."""
    array = np.asarray(scores)
    squeezed = array.reshape(array.shape[:2]) if array.ndim > 2 and set(array.shape[2:]) == {1} else array
    if squeezed.ndim == 1:
        squeezed = squeezed[:, None]
    if squeezed.ndim != 2 or len(squeezed) != batch:
        raise BadInput(
            f"the model's output has shape {list(array.shape)} for a batch of {batch}; expected [{batch}, classes],"
            " one score per class (detectors and segmenters cannot be audited)"
        )
    if not np.issubdtype(squeezed.dtype, np.number):
        raise BadInput(f"the model's output holds {squeezed.dtype}; expected numbers, one score per class")
    return squeezed.astype(np.float32)


def _from_integers(scores: NDArray[Any], outputs: Outputs, *, single: bool) -> NDArray[np.float32]:
    """Scores as float32; a quantised model's integer probabilities are counted from their least value and sum to 1."""
    if outputs == "logits" or not np.issubdtype(scores.dtype, np.integer):
        return scores.astype(np.float32)
    limits = np.iinfo(scores.dtype)
    counts = scores.astype(np.float32).reshape(len(scores), -1) - limits.min
    whole = limits.max - limits.min if single else np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares: NDArray[np.float32] = (counts / whole).astype(np.float32)
    return shares
