"""Wrap the differentiable copy for other libraries: a module that returns logits."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class Copy(nn.Module):
    """A classifier's copy with its preprocessing, (n, c, h, w) in [0, 1] to (n, k), in torch's default layout."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.module = copy.deepcopy(classifier.copy).to(memory_format=torch.contiguous_format)
        self.prepared = classifier.preprocessing.differentiable

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (logits,) = self.module(self.prepared(x))
        return logits
