"""Networks of the recipes: wide residual networks, torchvision's with a new last layer, small ones."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import nn

from auditor.errors import BadInput
from auditor.reference_models.common.finish import load_weights
from auditor.reference_models.common.parseval import Convex

Join = Literal["sum", "convex"]


class _Block(nn.Module):
    """Pre-activation residual block of two 3x3 convolutions (He et al. 2016, arXiv:1603.05027).

    If the width or resolution changes, the skip is a 1x1 convolution of the activated input.
    """

    def __init__(self, before: int, width: int, stride: int, dropout: float, join: Join) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        changes = before != width or stride != 1
        self.skip = nn.Conv2d(before, width, 1, stride, bias=False) if changes else None
        self.join = Convex() if join == "convex" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, before, h, w) to (n, width, h / stride, w / stride)."""
        active = torch.relu(self.norm1(x))
        short: torch.Tensor = x if self.skip is None else self.skip(active)
        long: torch.Tensor = self.conv2(self.dropout(torch.relu(self.norm2(self.conv1(active)))))
        return short + long if self.join is None else self.join(short, long)


class WideResNet(nn.Module):
    """WRN-depth-k (Zagoruyko and Komodakis 2016, arXiv:1605.07146), with ``depth`` = 6 ``blocks`` + 4.

    Three groups of widths 16k, 32k, 64k, average pooling, one linear layer.
    """

    def __init__(
        self, *, blocks: int, width: int, classes: int, channels: int = 3, dropout: float = 0.0, join: Join = "sum"
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        layers: list[nn.Module] = []
        before = 16
        for group, stride in enumerate((1, 2, 2)):
            after = 16 * width * 2**group
            for block in range(blocks):
                layers.append(_Block(before, after, stride if block == 0 else 1, dropout, join))
                before = after
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(before)
        self.last = nn.Linear(before, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) of (n, channels, h, w)."""
        features = torch.relu(self.norm(self.blocks(self.stem(x))))
        logits: torch.Tensor = self.last(features.mean((2, 3)))
        return logits


def pretrained(
    name: Literal["resnet18", "resnet101", "vgg16"], weights: str, replace_last: Callable[[nn.Module], None]
) -> nn.Module:
    """Load a torchvision network and replace its last layer with ``replace_last``.

    ``weights`` is "pretrained" (ImageNet's, downloaded once), "none" or a file with a state_dict. Raises BadInput if
    the weights are unavailable.
    """
    from torchvision import models

    if weights != "pretrained":
        network: nn.Module = models.get_model(name, weights=None)
        replace_last(network)
        if weights != "none":
            load_weights(network, weights)
        return network
    network = models.get_model(name, weights=None)
    network.load_state_dict(download(name))
    replace_last(network)
    return network


def download(name: str) -> Mapping[str, torch.Tensor]:
    """Return ImageNet's weights of a torchvision network; they are downloaded once. Raises BadInput if that fails."""
    from torchvision.models import get_model_weights

    try:
        state: Mapping[str, torch.Tensor] = get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise BadInput(
            f"the pretrained weights of {name} cannot be downloaded ({type(error).__name__}); pass a file with them"
            " (--weights FILE), or train from scratch (--weights none)"
        ) from None
    return state


def new_last_layer(network: nn.Module, *, classes: int) -> None:
    """Replace the last layer of a torchvision ResNet, in place."""
    last = network.fc
    assert isinstance(last, nn.Linear)
    network.fc = nn.Linear(last.in_features, classes)
