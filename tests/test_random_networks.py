"""Random small networks, exported at random opsets: values agree with ONNX Runtime, gradients with torch."""

from __future__ import annotations

import io
import itertools
import logging
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from auditor.onnx.graph import import_onnx

SIDE = 12
OPSETS = (9, 11, 13, 15, 17, 18)

ACTIVATIONS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.Sigmoid,
    nn.Tanh,
    nn.SiLU,
    nn.GELU,
    nn.Hardswish,
    nn.Softplus,
    nn.ReLU6,
)
activations = st.sampled_from(ACTIVATIONS)


@st.composite
def convolutional(draw: st.DrawFn) -> nn.Module:
    """Draw convolutions of all types, normalisation, pooling, then global pooling and a linear layer."""
    channels, layers = 3, []
    for depth in range(draw(st.integers(1, 3))):
        kernel, groups = draw(st.sampled_from((1, 2, 3, 5))), draw(st.sampled_from((1, channels)))
        out = groups * draw(st.integers(1, 3))
        layers += [
            # later strides would leave too little for the pooling
            nn.Conv2d(
                channels,
                out,
                kernel,
                stride=draw(st.integers(1, 1 if depth else 2)),
                padding=kernel // 2,
                groups=groups,
                bias=draw(st.booleans()),
            ),
            draw(st.sampled_from((nn.BatchNorm2d(out), nn.GroupNorm(1, out), nn.InstanceNorm2d(out), nn.Identity()))),
            draw(activations)(),
            draw(st.sampled_from((nn.Identity(), nn.MaxPool2d(2, 1), nn.AvgPool2d(3, 2, 1), nn.Dropout2d()))),
        ]
        channels = out
    end = draw(st.sampled_from((nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1))))
    return nn.Sequential(*layers, end, nn.Flatten(), nn.Linear(channels, 4))


@st.composite
def perceptron(draw: st.DrawFn) -> nn.Module:
    """Draw linear layers."""
    sizes = [3 * SIDE * SIDE, *draw(st.lists(st.integers(2, 9), max_size=2)), 4]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=draw(st.booleans())), draw(activations)()]
    return nn.Sequential(*layers, draw(st.sampled_from((nn.Softmax(1), nn.LogSoftmax(1), nn.Identity()))))


class Attention(nn.Module):
    """Patches, one attention block with pre- or post-normalisation, and a mean or a class token."""

    def __init__(self, patch: int, heads: int, size: int, token: bool, first: bool) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, heads * size, patch, patch), nn.LayerNorm(heads * size)
        self.token = nn.Parameter(torch.randn(1, 1, heads * size)) if token else None
        self.qkv, self.head = nn.Linear(heads * size, 3 * heads * size), nn.Linear(heads * size, 4)
        self.heads, self.first = heads, first

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        n, length, size = x.shape
        y = self.norm(x) if self.first else x
        q, k, v = self.qkv(y).reshape(n, length, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-1, -2) / (size // self.heads) ** 0.5).softmax(-1)
        x = x + (weights @ v).transpose(1, 2).reshape(n, length, size)
        x = x if self.first else self.norm(x)
        scores: Tensor = self.head(x.mean(1) if self.token is None else x[:, 0])
        return scores


attention = st.builds(
    Attention,
    patch=st.sampled_from((3, 4, 6)),
    heads=st.integers(1, 3),
    size=st.integers(2, 5),
    token=st.booleans(),
    first=st.booleans(),
)


def export(network: nn.Module, opset: int, dynamic: bool) -> bytes:
    buffer = io.BytesIO()
    axes: dict[str, Any] = {"x": {0: "n"}, "y": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        torch.onnx.export(
            network,
            (torch.rand(3, 3, SIDE, SIDE),),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes=axes if dynamic else None,
        )
        logging.disable(logging.NOTSET)
    return buffer.getvalue()


# a failing network is already small; shrinking it would take minutes
@settings(
    max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(
    network=st.one_of(convolutional(), perceptron(), attention),
    opset=st.sampled_from(OPSETS),
    dynamic=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_random_networks_agree(network: nn.Module, opset: int, dynamic: bool, seed: int) -> None:
    torch.manual_seed(seed)
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.reset_parameters()
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    network.eval().requires_grad_(False)
    proto = export(network, opset, dynamic)
    module = import_onnx(onnx.load_from_string(proto))
    x = torch.rand(5 if dynamic else 3, 3, SIDE, SIDE)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    (expected,) = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"]).run(
        None, {"x": x.numpy()}
    )
    assert module.fixed_batch == (None if dynamic else 3)
    np.testing.assert_allclose(module(x)[0].numpy(), expected, rtol=1e-4, atol=2e-5)
    module.double()
    network.double()
    v, w = x.double().requires_grad_(), x.double().requires_grad_()
    weights = torch.linspace(-1, 2, 4, dtype=torch.float64)
    gradient = torch.autograd.grad((module(v)[0] * weights).sum(), v)[0]
    expected = torch.autograd.grad((network(w) * weights).sum(), w)[0]
    assert torch.linalg.norm(gradient - expected) <= 1e-5 * torch.linalg.norm(expected) + 1e-12
