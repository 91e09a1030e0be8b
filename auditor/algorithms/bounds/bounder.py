"""Lower bounds of the margins of a classifier's answers over a ball around each image."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from auditor.algorithms.bounds.backward import minimum
from auditor.algorithms.bounds.ball import Ball
from auditor.algorithms.bounds.network import Network
from auditor.algorithms.bounds.ranges import Ranges, find_ranges, rows_at_once
from auditor.errors import NotApplicable

if TYPE_CHECKING:
    from auditor.model.classifier import Classifier


class Bounder:
    """A classifier's differentiable copy, prepared for bounding. Raises NotApplicable if it has no bounds."""

    def __init__(self, classifier: Classifier, *, refine: int) -> None:
        """Prepare the copy; at most ``refine`` elements of each activation get linear bounds."""
        module = classifier.copy
        if not isinstance(module, fx.GraphModule):
            raise NotApplicable("the copy is a TorchScript module, which has no operator graph; audit the ONNX file")
        if classifier.artefact.precision != "float32" or classifier.preprocessing.dtype != "float32":
            raise NotApplicable(
                f"the model computes in {classifier.artefact.precision} from {classifier.preprocessing.dtype}, whose"
                " rounding errors are not bounded"
            )
        # MPS has no double precision
        self._device = "cpu" if classifier.device.startswith("mps") else classifier.device
        self._module = copy.deepcopy(module).to(self._device).double()
        self._calls = classifier.calls
        self._preprocess = classifier.preprocessing.differentiable
        self._batch = classifier.fixed_batch or 1
        self._refine = refine
        self._network = self._trace(self._module, classifier.shape, torch.float64)
        # GPUs multiply float32 in lower precision than assumed in the bounds of rounding errors
        self._fast = self._network
        if self._device == "cpu":
            self._fast = self._trace(copy.deepcopy(module).float(), classifier.shape, torch.float32)

    def _trace(self, module: fx.GraphModule, shape: tuple[int, ...], dtype: torch.dtype) -> Network:
        return Network(module, self._preprocess, torch.zeros(shape, dtype=dtype, device=self._device), self._batch)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return scores (n, k) of pixels (n, c, h, w), in double precision."""
        x = pixels.to(self._device).double()
        with torch.no_grad():
            return torch.cat([self._scores(part) for part in x.split(self._batch)])

    def _scores(self, x: Tensor) -> Tensor:
        """Return scores of at most ``batch`` images."""
        filled = torch.cat([x, x[:1].expand(self._batch - len(x), *x.shape[1:])])
        result = self._module(self._preprocess(filled))
        scores: Tensor = (result[0] if isinstance(result, tuple) else result).flatten(1)
        return scores[: len(x)]

    def margins(self, pixels: Tensor, labels: Tensor, epsilon: Tensor, norm: str) -> Tensor:
        """Return lower bounds (n,) of the label's score minus the largest other score, over the ball.

        pixels (n, c, h, w) in [0, 1]; labels (n,); epsilon (n,), the radius of each image's ball; norm "linf" or "l2".
        """
        x, y, e = (part.to(self._device) for part in (pixels.double(), labels, epsilon.double()))
        self._calls.forward += len(x)
        self._calls.backward += len(x)
        with torch.no_grad():
            ranges = find_ranges(self._network, self._fast, Ball(x, e, norm), self._refine)
            return self._plain_margins(ranges, y).amin(1).to(pixels.device)

    def _plain_margins(self, ranges: Ranges, labels: Tensor) -> Tensor:
        """Return bounds (n, k) of the label's score minus that of each class; infinity for the label itself."""
        shape = self._network.shapes[self._network.scores]
        n, k = len(labels), shape.numel() // self._batch
        rows = torch.eye(k, shape.numel(), dtype=torch.float64, device=labels.device)
        pieces = []
        for classes in torch.arange(k, device=labels.device).split(rows_at_once(self._network, n)):
            slope = (rows[labels][:, None] - rows[classes][None]).reshape(n, len(classes), *shape)
            lower = minimum(
                self._network,
                self._network.scores,
                slope,
                ranges.ball,
                ranges.relaxations,
                magnitudes=ranges.magnitudes,
            )
            pieces.append(torch.where(classes[None] == labels[:, None], torch.inf, lower))
        return torch.cat(pieces, 1)
