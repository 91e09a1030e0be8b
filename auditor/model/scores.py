"""Read the raw output of a model: logits or probabilities, final activation, one score for two classes."""

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


SMALLEST = np.float32(1.2e-38)
"""The smallest normal float32, which replaces a probability of 0 in a logarithm."""


_EXCLUDED = 150.0
"""A logit of minus infinity, a class that the model excludes, becomes the least finite one less this: its probability
is 0 in float32, and differences of logits stay finite."""


@dataclass(frozen=True, kw_only=True)
class OutputDecoder:
    """From the raw output to one score per class, for the deployed model and, under autograd, for its copy.

    One score z for two classes stands for the logits (0, z), or the probabilities (1 - z, z). The outputs of one
    sigmoid per class need not sum to 1: they are divided by their sum, as in scikit-learn's OneVsRestClassifier, which
    does not change the label; the logits are then log(sigmoid(z)).
    """

    outputs: Outputs
    activation: Activation = "none"
    """The final activation, if recognised."""
    cut: bool = False
    """Whether the copy returns the input of that activation."""
    single: bool = False
    """Whether one score stands for two classes."""

    def scores(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Convert the raw output of the deployed model, (n, ...) of any number type, to scores (n, k)."""
        given = _from_integers(raw, self.outputs, single=self.single).reshape(len(raw), -1)
        if self.single:
            first = np.zeros_like(given) if self.outputs == "logits" else 1 - given
            given = np.concatenate([first, given], axis=1)
        elif self.activation == "sigmoid":
            given /= np.maximum(given.sum(axis=1, keepdims=True), np.float32(1e-30))
        if self.outputs == "logits" and np.isneginf(given).any():
            excluded = np.isneginf(given)
            least = np.where(excluded, np.float32(np.inf), given).min(axis=1, keepdims=True)
            given = np.where(excluded, least - np.float32(_EXCLUDED), given)
        return given

    def logits(self, given: torch.Tensor) -> torch.Tensor:
        """Convert the output of the copy, (n, ...), to logits (n, k) whose softmax are the model's probabilities."""
        return _finite(self._logits(given))

    def _logits(self, given: torch.Tensor) -> torch.Tensor:
        import torch

        given = given.flatten(1).float()
        probabilities = self.outputs == "probabilities" and not self.cut
        if self.single and probabilities:
            given = torch.cat([1 - given, given], dim=1)
        elif self.single:
            return torch.cat([torch.zeros_like(given), given], dim=1)
        elif self.activation == "sigmoid" and self.cut:
            return torch.nn.functional.logsigmoid(given)
        # keeps the logarithm and its gradient finite
        return given.clamp_min(float(SMALLEST)).log() if probabilities else given

    def unsaturated(self, given: torch.Tensor) -> torch.Tensor:
        """Convert the output of the copy to logits of the same order whose gradient does not vanish.

        They differ from ``logits`` for one sigmoid per class, whose logarithm is flat where the sigmoid is near 1.
        """
        if self.activation == "sigmoid" and self.cut and not self.single:
            return _finite(given.flatten(1).float())
        return self.logits(given)

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert scores (n, k) to probabilities."""
        return scores if self.outputs == "probabilities" else softmax(scores)

    def log_probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert scores (n, k) to logarithms of probabilities; those of logits differ even where the softmax is 0."""
        if self.outputs == "probabilities":
            return np.log(np.maximum(scores, SMALLEST))
        return log_softmax(scores)

    def comparable(self, logits: torch.Tensor) -> torch.Tensor:
        """Convert the logits of the copy to the kind of scores that the deployed model returns."""
        if self.outputs == "probabilities":
            return logits.softmax(1)
        return logits.log_softmax(1) if self.activation == "log-softmax" and self.cut else logits


def _finite(logits: torch.Tensor) -> torch.Tensor:
    """Replace minus infinity as ``OutputDecoder.scores`` does."""
    import torch

    # without asking whether there is any: a GPU would wait for the answer at every pass
    excluded = logits.isneginf()
    least = logits.detach().masked_fill(excluded, float("inf")).amin(1, keepdim=True)
    return torch.where(excluded, least - _EXCLUDED, logits)


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert logits (n, k) to probabilities, computed in double precision."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def log_softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert logits (n, k) to logarithms of probabilities, computed in double precision."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    logarithms: NDArray[np.float32] = (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)
    return logarithms


def look_at_outputs(scores: NDArray[Any]) -> Outputs:
    """Decide whether scores are probabilities (not negative, sum 1; a single score: from 0 to 1) or logits.

    Rows with NaN do not count.
    """
    known = ~np.isnan(scores.astype(np.float64)).any(axis=1)
    if not known.any():
        return "logits"
    scores = scores[known]
    sums = scores.astype(np.float64).sum(axis=1)
    if scores.shape[1] == 1:
        return "probabilities" if scores.min() >= 0 and scores.max() <= 1 else "logits"
    return "probabilities" if scores.min() >= 0 and np.abs(sums - 1).max() < 1e-2 else "logits"


def looks_like_sigmoids(scores: NDArray[Any]) -> bool:
    """Whether scores (n, k), k > 1, are from 0 to 1 without summing to 1, as those of one sigmoid per class.

    Scores that a server has rounded sum to 1 within the tolerance.
    """
    known = scores[~np.isnan(scores.astype(np.float64)).any(axis=1)].astype(np.float64)
    if scores.shape[1] == 1 or not len(known) or not (known.min() >= 0 and known.max() <= 1):
        return False
    return bool(np.abs(known.sum(axis=1) - 1).max() > 0.05)


def class_scores(scores: Any, batch: int) -> NDArray[np.float32]:
    """Bring the raw output to (n, k), k = 1 for a single score; raise BadInput if it is not that of a classifier."""
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
        raise BadInput(f"the model's output contains {squeezed.dtype}; expected numbers, one score per class")
    return squeezed.astype(np.float32)


def _from_integers(scores: NDArray[Any], outputs: Outputs, *, single: bool) -> NDArray[np.float32]:
    """Convert scores to float32; integer probabilities are counted from the smallest value and divided by their sum."""
    if outputs == "logits" or not np.issubdtype(scores.dtype, np.integer):
        return scores.astype(np.float32)
    limits = np.iinfo(scores.dtype)
    counts = scores.astype(np.float32).reshape(len(scores), -1) - limits.min
    whole = limits.max - limits.min if single else np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares: NDArray[np.float32] = (counts / whole).astype(np.float32)
    return shares
