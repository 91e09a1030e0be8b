"""Lower bounds of the margins of a classifier's answers over a ball around each image."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from auditor.algorithms.bounds.backward import minimum
from auditor.algorithms.bounds.ball import Ball
from auditor.algorithms.bounds.network import Network
from auditor.algorithms.bounds.ranges import Known, Ranges, find_ranges, rows_at_once
from auditor.errors import NotApplicable

if TYPE_CHECKING:
    from auditor.model.classifier import Classifier

_IMAGES = 16
"""Largest number of images bounded together: more are not faster on a processor."""

_VALUES = 1 << 22
"""Number of values of images bounded together: ranges and relaxations take about 100 bytes for each."""


class Bounder:
    """A classifier's differentiable copy, prepared for bounding. Raises NotApplicable if it has no bounds."""

    def __init__(self, classifier: Classifier, *, refine: int) -> None:
        """Prepare the copy; at most ``refine`` elements of each activation get linear bounds."""
        module = classifier.copy
        if not isinstance(module, fx.GraphModule):
            raise NotApplicable(
                "the copy is TorchScript or a Python object, which have no operator graph; audit the ONNX file"
            )
        if classifier.artefact.precision != "float32" or classifier.preprocessing.dtype != "float32":
            raise NotApplicable(
                f"the model computes in {classifier.artefact.precision} from {classifier.preprocessing.dtype}, whose"
                " rounding errors are not bounded"
            )
        # MPS has no double precision
        self._device = "cpu" if classifier.device.startswith("mps") else classifier.device
        self._module = copy.deepcopy(module).to(self._device).double().requires_grad_(False)
        self._calls = classifier.calls
        self._preprocess = classifier.preprocessing.differentiable
        self._batch = classifier.fixed_batch or 1
        self._refine = refine
        self.network = self._trace(self._module, classifier.shape, torch.float64)
        self._classes = self.network.shapes[self.network.scores].numel() // self._batch
        # GPUs multiply float32 in lower precision than assumed in the bounds of rounding errors
        self.fast = self.network
        if self._device == "cpu":
            self.fast = self._trace(copy.deepcopy(self._module).float(), classifier.shape, torch.float32)

    def _trace(self, module: fx.GraphModule, shape: tuple[int, ...], dtype: torch.dtype) -> Network:
        return Network(
            module,
            self._preprocess,
            torch.zeros(shape, dtype=dtype, device=self._device),
            self._batch,
            self._calls.check_time,
        )

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

    @property
    def images_at_once(self) -> int:
        """How many images are bounded together, so that their ranges fit into memory; at least one."""
        return max(1, min(_IMAGES, _VALUES // self.values))

    @property
    def values(self) -> int:
        """Number of values of the network for one image."""
        return self.network.values

    @torch.no_grad()
    def bounds(
        self,
        pixels: Tensor,
        labels: Tensor,
        epsilon: Tensor,
        norm: str,
        known: Known | None = None,
    ) -> tuple[Ranges, Tensor]:
        """Return the ranges of all values, and lower bounds (n, k) of the label's score minus that of each class.

        pixels (n, c, h, w) in [0, 1]; labels (n,); epsilon (n,), the radius of each image's ball; norm "linf" or "l2".
        The bound for the label itself is infinity. ``known`` are ranges of earlier balls around these images, to which
        those of these balls are added.
        """
        x, y, e = (part.to(self._device) for part in (pixels.double(), labels, epsilon.double()))
        self._calls.forward += len(x)
        self._calls.backward += len(x)
        ball, earlier = Ball(x, e, norm), {} if known is None else known.within(e)
        ranges = find_ranges(self.network, self.fast, ball, self._refine * self._batch, earlier)
        if known is not None:
            known.add(ranges)
        pieces = []
        for classes in torch.arange(self._classes, device=x.device).split(rows_at_once(self.network, len(x))):
            slope = torch.cat([self.rows(label, classes) for label in y.tolist()])
            lower = minimum(
                self.network,
                self.network.scores,
                slope,
                ranges.ball,
                ranges.relaxations,
                magnitudes=ranges.magnitudes,
            )
            # a relaxation of a very wide range may overflow
            pieces.append(torch.where(classes[None] == y[:, None], torch.inf, lower.nan_to_num(-torch.inf)))
        return ranges, torch.cat(pieces, 1)

    def rows(self, label: int, classes: Tensor) -> Tensor:
        """Return the label's score minus those of some classes as linear functions (1, classes, ...) of the scores."""
        shape = self.network.shapes[self.network.scores]
        rows = torch.zeros(1, len(classes), shape.numel(), dtype=torch.float64, device=classes.device)
        rows[:, :, label] = 1
        rows[0, torch.arange(len(classes)), classes] -= 1
        return rows.reshape(1, len(classes), *shape)
